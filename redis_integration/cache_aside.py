"""The flow that carries the policy out: read what is known, ask policy.decide, act, until there is an answer.

No failure of a tier leaves it; only the origin's own error does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, NamedTuple

from redis_integration.codecs import Codec
from redis_integration.conf import get_settings
from redis_integration.entries import Entry
from redis_integration.exceptions import Kind, RedisUnavailable, UnreadableEntry, UnstorableValue
from redis_integration.flow import Call, Flow
from redis_integration.policy import Action, Reading, Redis, TierName, decide
from redis_integration.tiers import Tier
from redis_integration.tiers.fallback import FallbackTier
from redis_integration.tiers.redis import get_redis_tier
from redis_integration.transactions import open_connections

logger = logging.getLogger("redis_integration")

# A value that takes longer to send than COMMAND_TIMEOUT would look like a Redis that is down.
MAX_ENTRY_BYTES = 1_000_000


class Outcome(NamedTuple):
    """What the origin gave: a value, or an error; and in words why the value may not be stored, if so."""

    value: Any = None
    # Empty, or one error; emptied when it is raised, since the frames of its traceback hold this.
    error: list[Exception] | tuple[()] = ()
    why_not_stored: str | None = None


class Answer(NamedTuple):
    """What a call gets, and from where: a tier's name, or "origin". `stored` is the tier it was written to."""

    outcome: Outcome
    source: str
    stored: str | None = None
    is_foreign: bool = False


class Tiers:
    """The tiers of one alias, sync or async; the fallback tier is made only when it is needed."""

    def __init__(self, alias: str, *, is_async: bool) -> None:
        self.alias = alias
        self.redis = get_redis_tier(alias, is_async=is_async)

    def by_name(self, name: TierName) -> Tier:
        if name == "redis":
            return self.redis
        return FallbackTier(get_settings(self.alias), seconds_open=self.redis.breaker.seconds_open)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """How the results of one origin are cached. Below, `compute()` gives an Outcome, or an awaitable of one."""

    name: str
    ttl: float  # seconds
    codec: Codec
    alias: str = "default"

    def answer(self, key: str, compute: Callable[[], Any], *, is_async: bool, refresh: bool = False) -> Flow[Answer]:
        """The answer for this key. One round trip for a hit, 2 for a miss; with `refresh`, a copy counts as none."""
        tiers = Tiers(self.alias, is_async=is_async)
        value, is_foreign = None, False
        reading = Reading((yield from tiers.redis.state(key)))
        while True:
            action = decide(reading)
            if action.verb == "answer":
                return Answer(Outcome(value), action.tier or "")
            if action.verb == "compute":
                answer = yield from self._compute(key, compute, tiers=tiers, action=action)
                return answer._replace(is_foreign=is_foreign)
            tier = action.tier
            assert tier is not None
            reading = reading._replace(asked=reading.asked | {tier})
            try:
                entry = yield from tiers.by_name(tier).read(key)
                if entry is not None and not refresh and entry.is_fresh(time()):
                    value = self._decode(entry)
                    reading = reading._replace(found=tier)
            except RedisUnavailable as failure:
                is_foreign = failure.kind is Kind.FOREIGN
                reading = reading._replace(redis=Redis.DOWN if failure.kind is Kind.DOWN else Redis.SHY)
            except UnreadableEntry as error:
                # It may be another program's: a miss, and left alone.
                logger.warning("redis_integration.entry_unreadable %s: %s", key, error)
                is_foreign = True
                reading = reading._replace(redis=Redis.SHY)

    def _decode(self, entry: Entry) -> Any:
        if entry.codec != self.codec.number:
            raise UnreadableEntry(f"It was written by codec {entry.codec}, not by {self.codec.name!r}.")
        return self.codec.decode(entry.payload)

    def _compute(self, key: str, compute: Callable[[], Any], *, tiers: Tiers, action: Action) -> Flow[Answer]:
        started = monotonic()
        outcome: Outcome = yield compute()
        took = monotonic() - started
        if outcome.error or outcome.why_not_stored is not None or action.tier is None:
            return Answer(outcome, "origin")
        try:
            in_transaction = yield Call(open_connections)
        except Exception as error:  # nobody can say
            logger.warning("redis_integration.transactions_unknown %s: %s", type(error).__name__, error)
            in_transaction = True
        if in_transaction:
            # What a transaction sees may never be committed.
            return Answer(outcome._replace(why_not_stored="in a transaction"), "origin")
        try:
            payload = self.codec.encode(outcome.value)
            if len(payload) > MAX_ENTRY_BYTES:
                raise UnstorableValue(f"Its {len(payload):,} bytes are more than {MAX_ENTRY_BYTES:,}.")
            now = time()
            entry = Entry(payload, self.codec.number, created=now, fresh_until=now + self.ttl, took=took)
            stored = yield from tiers.by_name(action.tier).write(key, entry)
        except UnstorableValue as error:
            logger.warning(
                "redis_integration.value_unstorable %s returned a value that is not stored: %s", self.name, error
            )
            return Answer(outcome._replace(why_not_stored="unstorable value"), "origin")
        except RedisUnavailable as failure:
            logger.debug("redis_integration.store_skipped %s: %s", key, failure)
            return Answer(outcome, "origin")
        return Answer(outcome, "origin", action.tier if stored else None)


def attempt(origin: Callable[[], Any]) -> Outcome:
    """The outcome of calling this origin: an error of its own is a value here, so that no tier's error is taken for it."""
    try:
        return Outcome(origin())
    except Exception as error:
        return Outcome(error=[error])


async def aattempt(origin: Callable[[], Any]) -> Outcome:
    """See `attempt`."""
    try:
        return Outcome(await origin())
    except Exception as error:
        return Outcome(error=[error])
