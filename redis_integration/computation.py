"""One call that must compute: in a flight others may join, with a lease that says whether the result may be stored.

The order of its steps is the protocol that tests/model checks. It decides no policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from redis_integration import background, flights, origins
from redis_integration.caching import Answer, Caching, Outcome, Tiers
from redis_integration.claims import Claim
from redis_integration.entries import Entry
from redis_integration.exceptions import RedisUnavailable, UnreadableEntry
from redis_integration.flights import FOUND, PRIVATE, REFUSED, Flight, Landing, Place, Verdict
from redis_integration.flow import Call, Flow
from redis_integration.keys import Names
from redis_integration.policy import Action, Reading, Redis, Right, decide
from redis_integration.transactions import Standing, fill_on_commit, has_invalidated, may_have_invalidated, stand

logger = logging.getLogger("redis_integration")

# Of a call whose standing nobody can say: as inside a transaction, of which nothing may be shared.
UNKNOWN = Standing(is_inside=True)


class Computation:
    """One call that found no copy it may answer with. `landing` is what those who joined it get.

    `looks` says how often it may still start over, after a flight that was refused and after one that found an entry.
    """

    def __init__(self, claim: Claim, compute: Callable[[], Any], looks: dict[Verdict, int]) -> None:
        self.claim = claim
        self.names, self.caching, self.tiers = claim.names, claim.caching, claim.tiers
        self.compute = compute
        self.looks = looks
        self.landing = REFUSED
        self.flights: list[Flight] = []

    def answer(self) -> Flow[Answer | None]:
        """The answer; None where it had joined a flight that came to nothing, and may look again."""
        try:
            return (yield from self._answer())
        except BaseException:  # an interrupt: all else is an answer
            self.claim.let_go_soon()
            raise
        finally:
            self.claim.leave_place()

    def _answer(self) -> Flow[Answer | None]:
        standing = yield from self.standing()
        action = decide(self.claim.reading)
        if action.verb == "refresh":
            # Inside a transaction it sees what it wrote itself, which another thread does not.
            if standing is UNKNOWN:
                return self.claim.found()
            again = partial(refresh, self.caching, self.names, self.compute, is_async=self.tiers.is_async)
            if not standing.is_inside and self.tiers.spawn(self.names.key, self.caching.name, again):
                return self.claim.found()
            self.claim.reading = self.claim.reading._replace(in_background=False)
            action = decide(self.claim.reading)
        if self.claim.reading.right is Right.UNWANTED:
            there = None if standing.is_inside else flights.find_open(self.place("redis"))
            return (yield from self._join(there) if there is not None else self._answer_alone())
        place = self.place(action.tier or "origin")
        if self.claim.reading.found is None:  # who has a copy waits for nobody
            yield from self.claim.await_place(unless=lambda: flights.is_open(place) or bool(self._find_younger()))
        if standing.is_inside:
            return (yield from self._answer_inside(standing, action))
        if (flight := self._find_younger()) is not None:
            return (yield from self._join(flight))
        if action.verb == "compute":
            return (yield from self._answer_without_lease())
        if flights.is_private(self.names.key):
            return (yield from self._answer_with_lease(None))
        flight, pilot = flights.enter(place, self.names, supersede=self.claim.is_refresh)
        if pilot is None:
            self.claim.reading = self.claim.reading._replace(right=Right.HELD)
            is_answered = decide(self.claim.reading).verb == "answer"
            return self.claim.found() if is_answered else (yield from self._join(flight))
        try:
            self.flights.append(flight)
            return (yield from self._answer_with_lease(flight))
        finally:
            flight.land(self.landing)

    def standing(self) -> Flow[Standing]:
        """Where this call stands: inside a transaction or not."""
        try:
            return (yield Call(partial(stand, self.names.key, self.claim)))  # type: ignore[no-any-return]
        except Exception as error:  # nobody can say
            logger.warning("redis_integration.transactions_unknown %s: %s", type(error).__name__, error)
            return UNKNOWN

    def place(self, target: str) -> Place:
        """Where those who compute this entry for this tier meet."""
        return self.names.key, target, self.tiers.is_async, *self.names.stamp

    def _find_younger(self) -> Flight | None:
        # At the moment Redis goes, calls of one time come here by different ways: some have waited for it, some for a connection.
        if self.claim.is_refresh or self.claim.reading.found is not None or flights.is_private(self.names.key):
            return None
        return flights.find_younger(map(self.place, ("redis", "fallback", "origin")), self.claim.since)

    def _join(self, flight: Flight) -> Flow[Answer | None]:
        if not self.flights:
            self.claim.leave_place()
        landing = yield from flights.join(flight, self.claim.time_left(), is_async=self.tiers.is_async)
        self.landing = landing
        if landing.error is not None:
            return (yield from self._answer_of(Outcome(error=[landing.error]), source="flight"))
        if landing.entry is not None:
            with suppress(UnreadableEntry):  # another function of the same key has another codec
                # Each caller gets a copy of its own, so that nobody changes another's value.
                return Answer(Outcome(self.caching.decode(landing.entry, self.names.key)), "flight")
        if self.looks.get(landing.verdict):
            self.looks[landing.verdict] -= 1
            return None
        return (yield from self._answer_alone())

    def _answer_with_lease(self, flight: Flight | None) -> Flow[Answer]:
        action = yield from self.claim.win(may_wait=flight is not None)
        if action.verb == "answer":
            # What was merely found is older than the calls that have joined since.
            self.landing = FOUND
            return self.claim.found()
        if action.tier is None:
            if flight is None:
                return (yield from self._answer_alone())
            flights.leave(flight)
            return (yield from self._answer_without_lease()) or (yield from self._answer_alone())
        return (yield from self._compute_with_lease(flight))

    def _compute_with_lease(self, flight: Flight | None) -> Flow[Answer]:
        yield from self.claim.lease_row()
        outcome, took = yield from self._call(flight)
        return (yield from self.settle(flight, outcome, took))

    def settle(self, flight: Flight | None, outcome: Outcome, took: float) -> Flow[Answer]:
        """Store what the origin gave, and let the lease go. One round trip, or 1 query, or both for a durable entry."""
        outcome, entry = self.caching.encode(outcome, took, key=self.names.key)
        if flight is not None:
            flights.leave(flight)  # it can be joined until its fill is sent
        # With a copy to answer, nobody needs to try again at once.
        hold = self.caching.error_ttl if outcome.error and self._may_answer_copy() else 0.0
        stored = entry if outcome.why_not_stored is None and not hold else None
        is_accepted = yield from self.claim.fill(stored, took, hold=hold)
        landing = self._landing(outcome, entry)
        if is_accepted or landing.verdict is Verdict.PRIVATE:
            self.landing = landing
        is_newer = outcome.why_not_stored is not None and not outcome.error and not outcome.is_own
        if is_accepted and is_newer and self.claim.reading.found is not None:
            # What is newer than the copy is not to be kept: neither is the copy.
            with suppress(RedisUnavailable):
                yield from self.tiers.redis.delete([self.names.key])
        yield from self.claim.fill_row(stored, is_older=is_newer)
        return (yield from self._answer_of(outcome, self.claim.tier if is_accepted and stored else None))

    def _may_answer_copy(self) -> bool:
        return self.caching.serves_stale and self.claim.reading.found is not None

    def _answer_of(self, outcome: Outcome, stored: str | None = None, *, source: str = "origin") -> Flow[Answer]:
        """What the origin gave; the copy, where it raised and there is one."""
        if outcome.error and (self._may_answer_copy() or (yield from self._finds_row(type(outcome.error[0])))):
            background.note_failure(self.caching.name, outcome.error.pop())
            return self.claim.found()
        if not outcome.error:
            background.note_success(self.caching.name)
        is_foreign = self.claim.is_foreign and source == "origin"
        return Answer(outcome, source, stored, is_foreign, self.claim.reading.is_stale)

    def _finds_row(self, kind: type[Exception]) -> Flow[bool]:
        """Whether there is a durable row to answer with, be it past its ttl. 1 query."""
        if not self.caching.durable or self.claim.is_refresh or kind in self.caching.negative_ttl:
            return False
        every = (self.names.key, *self.names.tags)
        try:
            if not self.tiers.fallback.is_durable or (
                may_have_invalidated(every) and (yield Call(partial(has_invalidated, every)))
            ):
                return False
            self.claim.take((yield from self.tiers.fallback.read(self.names, stale=True)), "fallback")
        except Exception as error:  # the origin's own is the answer
            logger.debug("redis_integration.row_unread %s: %s", self.names.key, error)
            return False
        return self.claim.reading.found is not None

    def refresh(self) -> Flow[None]:
        """Compute a copy anew, where nobody else does."""
        yield from self.claim.await_place()
        flight, pilot = flights.enter(self.place("redis"), self.names)
        if pilot is None:
            return
        self.landing = FOUND
        try:
            self.flights.append(flight)
            if (yield from self.claim.win(may_wait=False)) == ("compute", "redis"):
                self.landing = REFUSED
                yield from self._compute_with_lease(flight)
        except BaseException:
            self.claim.let_go_soon()
            raise
        finally:
            flight.land(self.landing)

    def _answer_without_lease(self) -> Flow[Answer | None]:
        """In a flight that can be joined only until its origin call begins: nobody gets a value older than its call."""
        if flights.is_private(self.names.key):
            return (yield from self._answer_alone())
        flight, pilot = flights.enter(self.place("origin"), self.names)
        if pilot is None:
            return (yield from self._join(flight))
        try:
            self.flights.append(flight)
            if flight.after is not None:
                yield from flights.join(flight.after, self.claim.time_left(), is_async=self.tiers.is_async)
            flights.begin(flight)
            outcome, took = yield from self._call(flight)
            entry = None
            if self._has_company():
                outcome, entry = self.caching.encode(outcome, took, key=self.names.key)
            self.landing = self._landing(outcome, entry)
            return (yield from self._answer_of(outcome))
        finally:
            flight.land(self.landing)

    def _answer_inside(self, standing: Standing, action: Action) -> Flow[Answer]:
        """Inside a transaction: nothing it computes is shared with others before it commits."""
        if standing.commit is None or action != ("lease", "redis") or self.claim.is_refresh:
            return (yield from self._answer_alone("in a transaction"))
        action = yield from self.claim.win(may_wait=standing.may_wait)
        if action.verb == "answer":
            return self.claim.found()
        if action.tier is None:
            return (yield from self._answer_alone("in a transaction"))
        outcome, took = yield from self._call(None)
        outcome, entry = self.caching.encode(outcome, took, key=self.names.key)
        if entry is None or outcome.why_not_stored is not None:
            yield from self.claim.fill(None, took)
        else:
            yield from self._fill_on_commit(outcome, entry, standing.commit)
        return (yield from self._answer_of(outcome))

    def _fill_on_commit(self, outcome: Outcome, entry: Entry, connection: BaseDatabaseWrapper) -> Flow[None]:
        try:
            yield Call(partial(fill_on_commit, self.claim.late_fill(entry), connection, outcome.commit))
        except Exception as error:
            logger.warning("redis_integration.transactions_unknown %s: %s", type(error).__name__, error)
            self.claim.let_go_soon()

    def _answer_alone(self, why_not_stored: str | None = None) -> Flow[Answer]:
        if not self.flights:
            yield from self.claim.await_place()
        outcome, _ = yield from self._call(None)
        outcome = outcome._replace(why_not_stored=outcome.why_not_stored or why_not_stored)
        return (yield from self._answer_of(outcome))

    def _call(self, flight: Flight | None) -> Flow[tuple[Outcome, float]]:
        started = monotonic()
        if flight is not None:
            flights.note_begun(flight)
        with flights.boarding(flight), origins.held(self.claim.place):
            outcome: Outcome = yield self.compute()
        return outcome, self.caching.counts.note_origin(monotonic() - started, outcome.error)

    def _has_company(self) -> bool:
        return any(flight.has_company for flight in self.flights)

    def _landing(self, outcome: Outcome, entry: Entry | None) -> Landing:
        flights.remember_private(self.names.key, is_private=entry is None and outcome.why_not_stored is not None)
        if entry is not None and not outcome.error:
            return Landing(Verdict.ACCEPTED, entry=entry)
        if outcome.error and outcome.why_not_stored is None:
            # Without company the error is kept by nobody: its traceback would hold it in a circle.
            return Landing(Verdict.ACCEPTED, error=outcome.error[0]) if self._has_company() else REFUSED
        return PRIVATE


def refresh(caching: Caching, names: Names, compute: Callable[[], Any], *, is_async: bool) -> Flow[None]:
    """Compute a copy anew in the background, unless it was refreshed or invalidated meanwhile. 3 round trips."""
    tiers = Tiers(caching.alias, is_async=is_async, durable=caching.durable)
    reading = Reading(tiers.redis.state(names), asked=frozenset({"redis"}))
    if reading.redis is not Redis.UP:
        return
    claim = Claim(caching, names, tiers, reading=reading, is_refresh=False, since=flights.begun, called_at=monotonic())
    try:
        claim.take((yield from tiers.redis.read(names)), "redis")
    except (RedisUnavailable, UnreadableEntry):
        return  # the next call says so
    claim.reading = claim.reading._replace(in_background=False)
    if claim.reading.found is not None and decide(claim.reading).verb == "lease":
        yield from Computation(claim, compute, {}).refresh()
