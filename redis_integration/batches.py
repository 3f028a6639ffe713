"""Many entries of one origin that takes a list: one round trip to read, one for the leases, one origin call, one to store.

What must be waited for, because another computes it, goes on by itself in cache_aside.py. It decides no policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from redis_integration import budget, flights, origins, pools
from redis_integration.cache_aside import MISS, find_answer, look_all, state
from redis_integration.caching import Answer, Caching, Outcome, Tiers
from redis_integration.claims import Claim
from redis_integration.computation import Computation
from redis_integration.conf import get_settings
from redis_integration.exceptions import RedisUnavailable, UnreadableEntry
from redis_integration.flights import FOUND, Flight, Landing, Pilot
from redis_integration.flow import Flow
from redis_integration.keys import Names
from redis_integration.policy import Reading, Redis, Right, decide
from redis_integration.pools import Command
from redis_integration.tiers.redis import First, RedisTier

logger = logging.getLogger("redis_integration")


class Question(NamedTuple):
    """What a flow yields that runs side by side with others: a command for Redis, and whether it may be sent twice."""

    command: Command
    idempotent: bool


def _question(alias: str, commands: Sequence[Command], *, idempotent: bool = True) -> Question:
    return Question(commands[0], idempotent)


def together(flows: Sequence[Flow[Any]], alias: str, *, is_async: bool) -> Flow[list[Any]]:
    """The results of these flows, which yield nothing but questions: those asked at a time are one round trip."""
    exchange: Any = pools.aexchange if is_async else pools.exchange
    results: list[Any] = [None] * len(flows)
    steps: dict[int, Callable[[], Any]] = {index: partial(next, flow) for index, flow in enumerate(flows)}
    try:
        while steps:
            asked: dict[int, Question] = {}
            for index, step in steps.items():
                try:
                    asked[index] = step()
                except StopIteration as stop:
                    results[index] = stop.value
            if not asked:
                break
            commands = [question.command for question in asked.values()]
            is_idempotent = all(question.idempotent for question in asked.values())
            try:
                replies, life = yield exchange(alias, commands, idempotent=is_idempotent)
            except RedisUnavailable as failure:
                steps = {index: partial(flows[index].throw, failure) for index in asked}
            else:
                answers = zip(asked, replies, strict=True)
                steps = {index: partial(flows[index].send, ((reply,), life)) for index, reply in answers}
    finally:
        for flow in flows:
            flow.close()
    return results


class Batch:
    """One call for many entries. `compute` takes the indices of those that are wanted; its Outcome is a list of values."""

    def __init__(
        self, caching: Caching, names: Sequence[Names], compute: Callable[[Sequence[int]], Any], *, is_async: bool
    ) -> None:
        self.caching = caching
        self.names = names
        self.compute = compute
        self.is_async = is_async
        self.since, self.called_at = flights.begun, monotonic()
        self.values: dict[int, Any] = {}
        self.place: origins.Place | None = None

    def answer(self) -> Flow[Outcome]:
        """All values in their order, or the origin's error. 1 round trip if all are hits, else 3."""
        with budget.granted(get_settings(self.caching.alias).request_budget):
            return (yield from self._answer())

    def _answer(self) -> Flow[Outcome]:
        while left := [index for index in range(len(self.names)) if index not in self.values]:
            error, others = yield from self._round(left)
            if error:
                return Outcome(error=error)
            if others:
                # Its entry is nearly always followed by the others'.
                answer: Answer = yield from find_answer(
                    self.caching, self.names[others[0]], partial(self._compute_one, others[0]), is_async=self.is_async
                )
                if answer.outcome.error:
                    return answer.outcome
                self.values[others[0]] = answer.outcome.value
        return Outcome([self.values[index] for index in range(len(self.names))])

    def _compute_one(self, index: int) -> Any:
        computed = self.compute([index])
        return _afirst(computed) if self.is_async else _first(computed)

    def _round(self, left: Sequence[int]) -> Flow[tuple[Any, list[int]]]:
        """Answer what can be answered: the origin's error if there is one, and what others are computing."""
        seen = yield from look_all(self.caching, [self.names[index] for index in left], is_async=self.is_async)
        self.values.update((index, value) for index, (value, _) in zip(left, seen, strict=True) if value is not MISS)
        found = {index: first for index, (value, first) in zip(left, seen, strict=True) if value is MISS}
        if not found:
            return (), []
        tiers = Tiers(self.caching.alias, is_async=self.is_async)
        every = [name for index in found for name in (self.names[index].key, *self.names[index].tags)]
        redis = yield from state(tiers, Names(every[0], tuple(every[1:])))
        if redis is Redis.UP:
            found, redis = yield from self._read(tiers, found)
        tiers.redis = RedisTier(tiers.alias, _question)  # from here on, all is asked together
        missing: dict[int, Computation] = {}
        for index, first in found.items():
            claim = yield from self._claim(index, tiers, redis, first)
            if decide(claim.reading).verb == "answer":
                self.values[index] = claim.found().outcome.value
            else:
                missing[index] = Computation(claim, partial(self.compute, [index]), {})
        if missing and tiers.redis.breaker.is_cold():
            # Before the leases, which would run out in the queue.
            self.place = yield from origins.enter(self.caching.lease_timeout, is_async=self.is_async)
        if redis is Redis.UP and missing:
            standing = yield from next(iter(missing.values())).standing()
            if not standing.is_inside:
                return (yield from self._compute_with_leases(missing))
        return (yield from self._compute([], [*missing])), []

    def _together(self, flows: Sequence[Flow[Any]]) -> Flow[list[Any]]:
        return together(flows, self.caching.alias, is_async=self.is_async)

    def _read(self, tiers: Tiers, found: dict[int, First]) -> Flow[tuple[dict[int, First], Redis]]:
        """What was found where nobody has looked yet, and what that says of Redis."""
        try:
            for first in found.values():
                if isinstance(first, RedisUnavailable):
                    raise first
            if None in found.values():
                every = yield from tiers.redis.read_all([self.names[index] for index in found])
                found = dict(zip(found, every, strict=True))
            return found, Redis.UP
        except RedisUnavailable as failure:
            logger.debug("redis_integration.batch_unread %s", failure)
            return found, Redis.SHY if tiers.redis.breaker.is_closed else Redis.DOWN

    def _claim(self, index: int, tiers: Tiers, redis: Redis, first: First) -> Flow[Claim]:
        names, reading = self.names[index], Reading(redis, asked=frozenset({"redis"}))
        claim = Claim(
            self.caching, names, tiers, reading=reading, is_refresh=False, since=self.since, called_at=self.called_at
        )
        try:
            if redis is Redis.UP:
                claim.take((yield from tiers.redis.read(names, first)), "redis")
        except UnreadableEntry as error:
            claim.refuse(error, redis=Redis.SHY)
        return claim

    def _compute_with_leases(self, missing: dict[int, Computation]) -> Flow[tuple[Any, list[int]]]:
        seats, others = [], []
        try:
            for index, each in missing.items():
                seats.append(Seat(index, each, *flights.enter(each.place("redis"), each.names)))
            pilots = [seat for seat in seats if seat.pilot is not None]
            yield from self._together([seat.computation.claim.ask() for seat in pilots])
            mine: list[Seat] = []
            bare: list[Seat] = []
            for seat in seats:
                verb = seat.verb()
                if verb == "compute":
                    (mine if seat.computation.claim.reading.right is Right.WON else bare).append(seat)
                elif verb == "answer":
                    self.values[seat.at] = seat.computation.claim.found().outcome.value
                elif seat.computation.claim.time_left():
                    others.append(seat.at)
                else:
                    bare.append(seat)
                if seat not in mine:
                    seat.land(FOUND)
            return (yield from self._compute(mine, [seat.at for seat in bare])), others
        except BaseException:  # an interrupt: all else is an outcome
            for each in missing.values():
                each.claim.let_go_soon()
            raise
        finally:
            for seat in seats:
                seat.land(seat.computation.landing)

    def _compute(self, seats: Sequence[Seat], bare: Sequence[int]) -> Flow[Any]:
        """One origin call for all of these, whose entries are stored where there is a seat. Its error, if it raised."""
        chosen = [*(seat.at for seat in seats), *bare]
        if not chosen:
            origins.free(self.place)
            return ()
        started = monotonic()
        flights.note_begun(*(seat.flight for seat in seats))
        with flights.boarding(*(seat.flight for seat in seats)), origins.held(self.place):
            outcome: Outcome = yield self.compute(chosen)
        self.caching.counts.computed += len(chosen)
        took = self.caching.counts.note_origin(monotonic() - started, outcome.error)
        # Each its own list: who answers a copy empties it.
        outcomes = (
            [Outcome(error=[*outcome.error]) for _ in chosen] if outcome.error else [*map(Outcome, outcome.value)]
        )
        fills = [seat.computation.settle(seat.flight, each, took) for seat, each in zip(seats, outcomes, strict=False)]
        answers = yield from self._together(fills)
        error: Any = ()
        for index, each in zip(chosen, [*(answer.outcome for answer in answers), *outcomes[len(seats) :]], strict=True):
            if each.error:
                error = each.error
            else:
                self.values[index] = each.value
        return error


class Seat(NamedTuple):
    """The flight of one missing entry; without its pilot it is another call's."""

    at: int  # its index
    computation: Computation
    flight: Flight
    pilot: Pilot | None

    def verb(self) -> str:
        """What the policy says about this entry, now that its lease was asked for."""
        reading = self.computation.claim.reading
        return decide(reading if self.pilot is not None else reading._replace(right=Right.HELD)).verb

    def land(self, landing: Landing) -> None:
        """End the flight, if it is ours and not over."""
        if self.pilot is not None and self.flight.landing is None:
            self.flight.land(landing)


def _first(outcome: Outcome) -> Outcome:
    return outcome if outcome.error else Outcome(outcome.value[0])


async def _afirst(computing: Any) -> Outcome:
    return _first(await computing)
