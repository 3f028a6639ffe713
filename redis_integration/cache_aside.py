"""The flow that carries the policy out: read what is known, ask policy.decide, act, until there is an answer.

No failure of a tier leaves it; only the origin's own error does. What must be computed goes on in computation.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from time import monotonic, time
from typing import Any

from redis_integration import budget, flights, pools, recovery
from redis_integration.caching import Answer, Caching, Tiers
from redis_integration.claims import Claim
from redis_integration.computation import Computation
from redis_integration.conf import get_settings
from redis_integration.exceptions import FallbackUnavailable, RedisUnavailable, UnreadableEntry
from redis_integration.flights import Verdict
from redis_integration.flow import Call, Flow, arun, run
from redis_integration.keys import Names
from redis_integration.policy import Reading, Redis, Right, TierName, decide
from redis_integration.tiers.redis import First, RedisTier, get_redis_tier
from redis_integration.transactions import has_invalidated, is_any_unsent, may_have_invalidated
from redis_integration.watch import watch

logger = logging.getLogger("redis_integration")

MISS = object()
# How often a call starts over before it computes alone: after a flight that was invalidated, or lost its owner; and after
# one whose owner merely found an entry, where the next look nearly always finds it too.
LOOKS = {Verdict.REFUSED: 1, Verdict.FOUND: 10}
_NO_TIER: frozenset[TierName] = frozenset()
_EVERY_TIER: frozenset[TierName] = frozenset({"redis", "fallback"})


def look(caching: Caching, names: Names) -> tuple[Any, First]:
    """The value of a plain hit; else MISS, and what `find_answer` goes on with. One round trip.

    This is the first row of the policy's table in straight code: most calls end here, and the flow would cost a third more.
    """
    tier = get_redis_tier(caching.alias, is_async=False)
    since = flights.begun
    if monotonic() > watch.overdue_at:
        run(watch.catch_up(is_async=False))
    if not tier.is_quiet or is_any_unsent():
        return MISS, None
    try:
        first = pools.exchange(caching.alias, (tier.question(names),))
    except RedisUnavailable as failure:
        failure.since = since
        return MISS, failure
    return _fresh_value(caching, names, tier, first), first


async def alook(caching: Caching, names: Names) -> tuple[Any, First]:
    """See `look`."""
    tier = get_redis_tier(caching.alias, is_async=True)
    since = flights.begun
    if monotonic() > watch.overdue_at:
        await arun(watch.catch_up(is_async=True))
    if not tier.is_quiet or is_any_unsent():
        return MISS, None
    try:
        first = await pools.aexchange(caching.alias, (tier.question(names),))
    except RedisUnavailable as failure:
        failure.since = since
        return MISS, failure
    return _fresh_value(caching, names, tier, first), first


def look_all(caching: Caching, every: Sequence[Names], *, is_async: bool) -> Flow[list[tuple[Any, First]]]:
    """See `look`; for many entries at once. One round trip."""
    tier = get_redis_tier(caching.alias, is_async=is_async)
    if monotonic() > watch.overdue_at:
        yield from watch.catch_up(is_async=is_async)
    if (
        not every
        or not tier.is_quiet
        or may_have_invalidated(name for each in every for name in (each.key, *each.tags))
    ):
        return [(MISS, None)] * len(every)
    try:
        found = yield from tier.read_all(every)
    except RedisUnavailable as failure:
        return [(MISS, failure)] * len(every)
    return [(_fresh_value(caching, each, tier, first), first) for each, first in zip(every, found, strict=True)]


def _fresh_value(caching: Caching, names: Names, tier: RedisTier, first: Any) -> Any:
    (found,), life = first
    if found is None or isinstance(found, Exception):
        return MISS
    try:
        entry = tier.judge(names, found if names.tags else (found,), life)
        if entry is not None and not entry.is_revoked and time() < caching.due_at(entry):
            value = caching.decode(entry, names.key)
            counts = caching.counts
            counts.redis += 1
            counts.saved += entry.took
            return value
    except UnreadableEntry:
        pass  # the flow reads the same reply, and says so in the log
    return MISS


def find_answer(
    caching: Caching,
    names: Names,
    compute: Callable[[], Any],
    *,
    is_async: bool,
    refresh: bool = False,
    may_store: bool = True,
    first: First = None,
) -> Flow[Answer]:
    """The answer to a call for this entry; `compute()` gives an Outcome, or an awaitable of one.

    One round trip for a hit (none if `look` has made it: `first`), 2 more for a miss; inside `atomic()` 1 more, and 1 after
    the commit. With `refresh` a copy counts as none. One that may not store computes at once, and alone, where there is no copy.
    """
    with budget.granted(get_settings(caching.alias).request_budget):
        right = Right.UNKNOWN if may_store else Right.UNWANTED
        answer = yield from _find_answer(
            caching, names, compute, is_async=is_async, refresh=refresh, right=right, first=first
        )
    # Copies count themselves.
    caching.counts.computed += answer.source == "origin"
    caching.counts.joined += answer.source == "flight"
    return answer


def _find_answer(
    caching: Caching,
    names: Names,
    compute: Callable[[], Any],
    *,
    is_async: bool,
    refresh: bool,
    right: Right,
    first: First,
) -> Flow[Answer]:
    tiers = Tiers(caching.alias, is_async=is_async, durable=caching.durable)
    looks = dict(LOOKS)
    # Of a call that waited for Redis in vain, as it was when it began to.
    since = first.since if isinstance(first, RedisUnavailable) and first.since is not None else flights.begun
    # A sync call on an event loop waits for nobody: a task that has the lease may be one of this very loop.
    called_at = monotonic() if is_async or asyncio._get_running_loop() is None else -inf
    while True:
        reading = Reading(
            (yield from state(tiers, names)),
            in_background=caching.in_background,
            asked=_EVERY_TIER if refresh else _NO_TIER,
            right=right,
        )
        claim = Claim(caching, names, tiers, reading=reading, is_refresh=refresh, since=since, called_at=called_at)
        while (action := decide(claim.reading)).verb == "ask":
            tier: TierName = "redis" if action.tier == "redis" else "fallback"
            claim.reading = claim.reading._replace(asked=claim.reading.asked | {tier})
            try:
                if tier == "redis":
                    entry = yield from tiers.redis.read(names, first)
                else:
                    entry = yield from tiers.fallback.read(names)
                claim.take(entry, tier)
            except RedisUnavailable as failure:
                claim.refuse(failure, redis=Redis.SHY if tiers.redis.breaker.is_closed else Redis.DOWN)
                # Its frames hold it, and all that this call computes, until the garbage is collected.
                failure.__traceback__ = first = None
            except FallbackUnavailable as failure:
                claim.refuse(failure, redis=Redis.SHY)
                failure.__traceback__ = None
            except UnreadableEntry as error:
                if tier == "redis":
                    # It may be another program's: a miss, and left alone. The row is ours.
                    claim.refuse(error, redis=Redis.SHY)
        if action.verb == "answer":
            return claim.found()
        answer = yield from Computation(claim, compute, looks).answer()
        if answer is not None:
            return answer
        first = None


def state(tiers: Tiers, names: Names) -> Flow[Redis]:
    """What a call for this entry knows of Redis before it asks. No round trip while Redis is well."""
    every = (names.key, *names.tags)
    if may_have_invalidated(every):
        try:
            if (yield Call(partial(has_invalidated, every))):
                # A transaction sees its own writes, and nobody else does.
                return Redis.SHY
        except Exception as error:  # nobody can say
            logger.warning("redis_integration.transactions_unknown %s: %s", type(error).__name__, error)
            return Redis.SHY
    return (yield from recovery.state(tiers.redis, names))
