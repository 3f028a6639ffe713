"""What one call knows of its entry, and its way to the lease that lets it store what it computes. It computes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import uniform
from time import monotonic
from typing import Any

from redis_integration import origins
from redis_integration.caching import Answer, Caching, Outcome, Tiers
from redis_integration.entries import Entry
from redis_integration.exceptions import FallbackUnavailable, Kind, RedisUnavailable, UnreadableEntry
from redis_integration.flow import Flow, arun, run
from redis_integration.keys import Names
from redis_integration.policy import Action, Reading, Redis, Right, TierName, decide
from redis_integration.tiers import Lease, Tier
from redis_integration.tiers.leases import make_token
from redis_integration.tiers.redis import get_redis_tier
from redis_integration.transactions import LateFill

logger = logging.getLogger("redis_integration")

# Seconds between two tries for a lease that another has: from, to, and how much longer each time.
FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.25
GROWTH = 1.5

# An event loop keeps its tasks only weakly.
_tasks: set[asyncio.Task[None]] = set()


class Claim:
    """One call's knowledge: `seen` is the entry it read and cannot use, `value` that of a copy.

    `lease` is its lease in the tier that it will write to, `row` that of the row where a durable entry goes to Redis and there.
    """

    def __init__(
        self,
        caching: Caching,
        names: Names,
        tiers: Tiers,
        *,
        reading: Reading,
        is_refresh: bool,
        since: int,
        called_at: float,
    ) -> None:
        self.caching = caching
        self.names = names
        self.tiers = tiers
        self.reading = reading
        self.is_refresh = is_refresh
        self.is_foreign = False
        self.seen: Entry | None = None
        self.value: Any = None
        self.tier: TierName = "redis"
        self.lease: Lease | None = None
        self.row: Lease | None = None
        self.called_at = called_at  # monotonic seconds
        self.since = since  # `flights.begun` when it was called
        self.place: origins.Place | None = None  # its right to call the origin, while the cache is cold

    @property
    def give_up(self) -> float:
        """When all waiting of this call ends: for an owner which may itself wait for another process, and for the next one."""
        return self.called_at + 2 * self.caching.lease_timeout

    def time_left(self) -> float:
        """Seconds for which this call may still wait for others."""
        return max(0.0, self.give_up - monotonic())

    def take(self, entry: Entry | None, tier: TierName) -> None:
        """Note what this tier held. Raises the origin's error, where that is what the entry remembers."""
        self.seen = entry
        self.reading, self.value = self.caching.judge(entry, self.reading, tier, key=self.names.key)

    def refuse(self, failure: Exception, *, redis: Redis) -> None:
        """Note that the tier did not answer, or not with an entry."""
        self._note(failure)
        self.reading = self.reading._replace(redis=redis)

    def _note(self, failure: Exception) -> None:
        self.is_foreign = isinstance(failure, UnreadableEntry) or getattr(failure, "kind", None) is Kind.FOREIGN
        if self.is_foreign:
            # It may be another program's: a miss, and left alone.
            self.caching.note_unreadable(self.names.key, failure)

    def found(self) -> Answer:
        """The answer that is a copy."""
        took = self.seen.took if self.seen is not None else 0.0
        self.caching.counts.note_copy(self.reading.found or "", took, is_stale=self.reading.is_stale)
        return Answer(Outcome(self.value), self.reading.found or "", is_stale=self.reading.is_stale)

    def win(self, *, may_wait: bool) -> Flow[Action]:
        """Try for the lease until there is something else to do. No connection is held between two tries."""
        give_up = monotonic() + min(self.caching.lease_timeout, self.time_left())
        pause = FIRST_PAUSE
        while (action := decide(self.reading)).verb in ("lease", "wait"):
            if action.verb == "lease":
                self.tier = action.tier or "redis"
                yield from self.ask()
            elif not may_wait or (remaining := give_up - monotonic()) <= 0:
                self.reading = self.reading._replace(right=Right.LATE)
            else:
                self.leave_place()
                yield self.tiers.pause(min(remaining, pause * uniform(0.5, 1.0)))
                pause = min(pause * GROWTH, LONGEST_PAUSE)
                self.reading = self.reading._replace(right=Right.UNKNOWN)
        # Filled since this call read, and stale already: the next call has it refreshed.
        return Action("answer", action.tier) if action.verb == "refresh" else action

    def await_place(self, *, unless: Callable[[], bool] = lambda: False) -> Flow[None]:
        """Wait until the origin may be called, or until `unless` is so; who has a lease may call it at once.

        A lease that is taken before would run out in the queue, and what was computed would not be stored.
        """
        if self.place is None and self.lease is None and self.tiers.redis.breaker.is_cold():
            seconds, is_async = self.time_left(), self.tiers.is_async
            self.place = yield from origins.enter(seconds, unless=unless, is_async=is_async)

    def leave_place(self) -> None:
        """Let another call an origin."""
        place, self.place = self.place, None
        origins.free(place)

    def ask(self) -> Flow[None]:
        """Try for the lease once. One round trip, or at most 4 queries."""
        token = make_token()
        # Until the answer is read it may have been granted: an interrupt lets it go all the same.
        self.lease = Lease(token)
        try:
            got = yield from self._leasing_tier().lease(
                self.names,
                self.seen,
                token,
                seconds=self.caching.lease_timeout,
                kept=self.caching.kept,
                replace=self.is_refresh,
                has_copy=self.reading.found is not None,
            )
            self.lease = got if isinstance(got, Lease) else None
            if isinstance(got, Entry):
                self.take(got, self.tier)
            else:
                self.reading = self.reading._replace(right=Right.HELD if got is None else Right.WON)
        except (RedisUnavailable, FallbackUnavailable, UnreadableEntry) as failure:
            logger.debug("redis_integration.lease_refused %s: %s", self.names.key, failure)
            self.lease = None
            self.refuse(failure, redis=Redis.SHY)

    def _leasing_tier(self) -> Tier:
        return self.tiers.redis if self.tier == "redis" else self.tiers.fallback

    def lease_row(self) -> Flow[None]:
        """Take the row of a durable entry too, from whoever has it. 1 query, with tags 2; 1 more for what is missing."""
        if self.tier != "redis" or not self.tiers.fallback.is_durable:
            return
        token = make_token()
        self.row = Lease(token)
        try:
            self.row = yield from self.tiers.fallback.lease(  # type: ignore[assignment]  # no entry where it replaces
                self.names,
                None,
                token,
                seconds=self.caching.lease_timeout,
                kept=self.caching.kept,
                replace=True,
            )
        except FallbackUnavailable:
            self.row = None

    def fill_row(self, entry: Entry | None, *, is_older: bool) -> Flow[None]:
        """Store the entry in that row too; None only lets it go, and deletes what is older. 1 query, 2 where refused."""
        if self.row is None:
            return
        try:
            kept = self.caching.kept_of(entry) if entry is not None else 0.0
            yield from self.tiers.fallback.fill(self.names, self.row, entry, kept=kept)
        except FallbackUnavailable as failure:
            logger.debug("redis_integration.store_skipped %s: %s", self.names.key, failure)
        if is_older:
            yield from self.tiers.fallback.delete([self.names.key])

    def fill(self, entry: Entry | None, took: float, *, hold: float = 0.0) -> Flow[bool]:
        """Store the entry, which took so many seconds, and let the lease go; None only lets it go, after `hold` seconds.

        Whether it was accepted: the lease is mine, and no tag has changed.
        """
        assert self.lease is not None
        try:
            kept = self.caching.kept_of(entry) if entry is not None else hold
            is_accepted = yield from self._leasing_tier().fill(self.names, self.lease, entry, kept=kept)
        except (RedisUnavailable, FallbackUnavailable) as failure:
            logger.debug("redis_integration.store_skipped %s: %s", self.names.key, failure)
            self._note(failure)
            return False
        self.caching.counts.refused += not is_accepted
        if not is_accepted and took > self.caching.lease_timeout:
            logger.warning(
                "redis_integration.lease_expired %s took %.1f s, longer than its lease_timeout of %.1f s, and was not "
                "stored. Raise lease_timeout.",
                self.caching.name,
                took,
                self.caching.lease_timeout,
            )
        return is_accepted

    def late_fill(self, entry: Entry) -> LateFill:
        """The same for a commit: sync, whoever computes, since Django calls it."""
        assert self.lease is not None
        fill = partial(get_redis_tier(self.caching.alias, is_async=False).fill, self.names, self.lease)
        return LateFill(
            self.names.key,
            fill=lambda: _run_quietly(fill(entry, kept=self.caching.kept_of(entry))),
            let_go=lambda: _run_quietly(fill(None)),
        )

    def let_go_soon(self) -> None:
        """Release the leases of an interrupted call, whose flow cannot wait for anything any more."""
        is_async = self.tiers.is_async
        # Not those of the call: a list's are asked together.
        tier = get_redis_tier(self.caching.alias, is_async=is_async) if self.tier == "redis" else self.tiers.fallback
        for lease, holder in ((self.lease, tier), (self.row, self.tiers.fallback if self.row else tier)):
            with suppress(Exception):
                if lease is None:
                    continue
                release = holder.fill(self.names, lease, None)
                if not is_async:
                    run(release)
                    continue
                task = asyncio.get_running_loop().create_task(_quietly(release))
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # a loop that ends now need not wait for it
                _tasks.add(task)
                task.add_done_callback(_tasks.discard)


def _run_quietly(flow: Flow[bool]) -> None:
    with suppress(RedisUnavailable, FallbackUnavailable):
        run(flow)


async def _quietly(flow: Flow[bool]) -> None:
    with suppress(RedisUnavailable, FallbackUnavailable):
        await arun(flow)
