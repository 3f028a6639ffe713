"""Why a call gets what it gets: one look at Redis, or at the row of the database while Redis is down.

It changes nothing: it fills, refreshes, invalidates and repeats nothing, opens and closes no breaker, and decodes no value.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from time import time
from typing import Any

from redis_integration import pools
from redis_integration.caching import ERROR, Caching, Tiers
from redis_integration.conf import get_settings
from redis_integration.entries import Entry, unpack
from redis_integration.exceptions import FallbackUnavailable, Kind, RedisUnavailable, UnreadableEntry
from redis_integration.explanations import Explanation as Explanation
from redis_integration.explanations import TagState
from redis_integration.flow import Call, Flow, arun, run
from redis_integration.keys import Names
from redis_integration.policy import Reading, Redis, Right, decide
from redis_integration.tiers.leases import lease_key, me, owner_of
from redis_integration.tiers.scripts import HOLD
from redis_integration.transactions import has_invalidated, may_have_invalidated

_NOT_OURS = "what is there is not ours, and left alone"
_LEFT_ALONE = "Redis is left alone, and nothing is stored"


def explainer(caching: Caching, names_for: Callable[[Any, Any], Names]) -> Callable[..., Explanation]:
    """`explain` of a decorated function, which takes the function's own arguments."""

    def explain(*args: Any, **kwargs: Any) -> Explanation:
        return run(explain_call(caching, names_for(args, kwargs), is_async=False))

    return explain


def aexplainer(
    caching: Caching, names_for: Callable[[Any, Any], Names]
) -> Callable[..., Coroutine[Any, Any, Explanation]]:
    """See `explainer`."""

    async def aexplain(*args: Any, **kwargs: Any) -> Explanation:
        return await arun(explain_call(caching, names_for(args, kwargs), is_async=True))

    return aexplain


def explain_call(caching: Caching, names: Names, *, is_async: bool, bypassed: str | None = None) -> Flow[Explanation]:
    """What a call for this entry would get now, and why. One round trip, or one query while Redis is down.

    `bypassed` says why such a call asks no tier, if so.
    """
    look = _Look(caching, names, Tiers(caching.alias, is_async=is_async, durable=caching.durable))
    if not get_settings(caching.alias).enabled:
        bypassed = f"'ENABLED' of {caching.alias!r} is False"
    if bypassed:
        look.note(answer_why=bypassed)
    else:
        yield from look.state()
        if look.told.redis != Redis.DOWN:
            yield from look.ask()
        if look.told.redis == Redis.DOWN:
            yield from look.ask_row()
    return look.told


class _Look:
    """One look at an entry; `told` is what it has found so far."""

    def __init__(self, caching: Caching, names: Names, tiers: Tiers) -> None:
        self.caching = caching
        self.names = names
        self.tiers = tiers
        self.told = Explanation(key=names.key, now=time(), redis="not asked")

    def note(self, **facts: Any) -> None:
        self.told = replace(self.told, **facts)

    def state(self) -> Flow[None]:
        """What a call knows of Redis before it asks; see `cache_aside.state`, which also tries to mend it."""
        tier, every = self.tiers.redis, (self.names.key, *self.names.tags)
        redis, why = Redis.UP, ""
        if may_have_invalidated(every):
            try:
                if (yield Call(partial(has_invalidated, every))):
                    redis, why = Redis.SHY, "this transaction has invalidated it, and sees its own writes"
            except Exception as error:
                redis, why = Redis.SHY, f"nobody can say what a transaction has invalidated ({type(error).__name__})"
        pending = sorted(name for name in every if name in tier.journal.pending)
        if redis is Redis.UP and not tier.breaker.is_closed:
            redis = Redis.DOWN
            why = f"for {tier.breaker.seconds_open():.1f} s; it is tried again every few seconds"
        elif redis is Redis.UP and pending:
            redis, why = Redis.SHY, f"the invalidation of {', '.join(pending)} is pending, and repeated soon"
        elif redis is Redis.UP and tier.journal.bypasses(every):
            redis, why = (
                Redis.SHY,
                "this process has yet to read the journal, or more is pending than it can know by name",
            )
        self.note(redis=redis, redis_why=why)

    def ask(self) -> Flow[None]:
        """Look at the entry, its tags and its lease in Redis. One round trip."""
        key, lease, tags = self.names.key, lease_key(self.names.key), self.names.tags
        commands = [("GET", key), ("PTTL", key), ("GET", lease), ("PTTL", lease), *([("MGET", *tags)] if tags else [])]
        exchange: Any = pools.aexchange if self.tiers.is_async else pools.exchange
        try:
            replies, life = yield exchange(self.tiers.alias, commands)
            # A value of another type is told below; what refuses one of these commands refuses a call's too.
            pools.refuse_failures(self.tiers.alias, replies, types=False)
        except RedisUnavailable as failure:
            redis = Redis.DOWN if failure.kind is Kind.DOWN else Redis.SHY
            self.note(redis=redis, redis_why=str(failure), answer_why=_LEFT_ALONE)
            return
        stored, left, token, held, *rest = replies
        self.note(
            size=len(stored) if isinstance(stored, bytes) else None,
            kept_for=left / 1000 if left > 0 else None,
            holder=_holder(token),
            held_for=held / 1000 if held > 0 else None,
        )
        entry, fault = self._judge(stored, rest[0] if rest else [], life)
        self._foresee(entry, fault, token)

    def _judge(self, stored: Any, generations: Sequence[bytes | None], life: bytes) -> tuple[Entry | None, str]:
        """The entry that may answer, or None and why there is none."""
        names = self.names
        made: Sequence[bytes | None] = [None] * len(names.tags)
        fault = "no entry"
        try:
            if isinstance(stored, Exception):
                raise UnreadableEntry(str(stored))
            entry = self.tiers.redis.judge(names, (stored, *generations), life)
            if entry is not None:
                self._describe(entry)
                made = entry.tags if len(entry.tags) == len((*names.tags, *names.stamp)) else made
        except UnreadableEntry as error:
            entry, fault = None, f"{_NOT_OURS}: {error}"
        states = [
            TagState(tag, (now or b"").hex(), now is not None and now == was)
            for tag, now, was in zip(names.tags, generations, made, strict=False)  # behind them is the version's
        ]
        self.note(tags=tuple(states))
        if entry is not None and not (fault := self._revocation(entry, life) or self._fault(entry)):
            return entry, ""
        return None, fault

    def _describe(self, entry: Entry) -> None:
        known = {self.caching.codec.number: self.caching.codec.name, ERROR: "an error of the origin"}
        self.note(
            codec=known.get(entry.codec, f"codec {entry.codec}"),
            age=self.told.now - entry.created,
            took=entry.took,
            fresh_for=entry.fresh_until - self.told.now,
        )

    def _revocation(self, entry: Entry, life: bytes) -> str:
        """Why this entry is revoked; "" where it is not."""
        if not entry.is_revoked:
            return ""
        if entry.life != life or life == pools.UNSET_LIFE:
            return "revoked, since the server restarted or failed over: it is of another life"
        if len(entry.tags) != len((*self.names.tags, *self.names.stamp)):
            return "revoked, since it was made with other tags, or by another version"
        ended = ", ".join(tag.key for tag in self.told.tags if not tag.is_current)
        return f"revoked, since {ended} was invalidated" if ended else "revoked, since it was made by another version"

    def _fault(self, entry: Entry) -> str:
        """Why this entry answers nobody; "" where it may."""
        if entry.codec == ERROR and self.caching.negative_ttl:
            return "" if entry.is_fresh(self.told.now) else "the error that was remembered is over"
        name = self.caching.codec.name
        return "" if entry.codec == self.caching.codec.number else f"{_NOT_OURS}: {self.told.codec} made it, not {name}"

    def _foresee(self, entry: Entry | None, fault: str, token: object) -> None:
        """Say what the policy makes of this."""
        now, redis = self.told.now, Redis(self.told.redis)
        is_foreign = fault.startswith(_NOT_OURS)
        reading = Reading(
            Redis.SHY if is_foreign else redis, in_background=self.caching.in_background, asked=frozenset({"redis"})
        )
        if entry is not None and redis is Redis.UP:
            is_due = now >= self.caching.due_at(entry)
            reading = reading._replace(found="redis", is_stale=not entry.is_fresh(now), is_due=is_due)
        # While the origin is held back, who has no copy tries it all the same.
        if isinstance(token, bytes) and (token != HOLD or reading.found is not None):
            reading = reading._replace(right=Right.HELD)
        verb, state = decide(reading).verb, "stale" if reading.is_stale else "due" if reading.is_due else "fresh"
        if verb in ("answer", "refresh"):
            anew = ", and computed anew in the background" if verb == "refresh" else ""
            self.note(answer="redis", answer_why=state + anew)
        elif verb == "wait":
            self.note(answer_why=f"{fault}; waited for, since another computes it")
        elif redis is Redis.SHY:
            self.note(answer_why=_LEFT_ALONE)
        else:
            self.note(answer_why=fault or f"{state}, and computed anew by the caller")

    def ask_row(self) -> Flow[None]:
        """Look at the row of the database. One query."""
        fallback = self.tiers.fallback
        try:
            row, believed = yield from fallback.look(self.names)
        except (FallbackUnavailable, UnreadableEntry) as error:
            self.note(answer_why=f"no row of the database: {error}")
            return
        if row is None or row.started is None:
            self.note(answer_why="no row of the database")
            return
        stored, left = bytes(row.body), (row.fresh_until - row.now).total_seconds()
        since = (row.now - row.started).total_seconds()
        self.note(size=len(stored), fresh_for=left)
        try:
            entry = unpack(stored, self.names.key)
        except UnreadableEntry as error:
            self.note(answer_why=f"{_NOT_OURS}: {error}")
            return
        self._describe(entry)
        self.note(fresh_for=left)
        fault = self._fault(entry) or (
            "" if believed is not None else "a tag of it was invalidated, or the version is another"
        )
        if left <= 0:
            fault = "the row is no longer fresh"
        elif believed is None and not fallback.is_durable and since > self.tiers.redis.breaker.seconds_open():
            fault = "the row is older than this outage, as this process knows it"
        self.note(**({"answer_why": fault} if fault else {"answer": "fallback", "answer_why": "fresh"}))


def _holder(token: Any) -> str:
    if token is None:
        return ""
    if not isinstance(token, bytes):
        return "what is no lease"
    if token == HOLD:
        return "held back, since the origin has just failed"
    owner = owner_of(token)
    return f"{owner} (this process)" if owner == me() else owner
