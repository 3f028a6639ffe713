"""One call that must compute: in a flight others may join, with a lease that says whether the result may be stored.

The order of its steps is the protocol that tests/model checks. It decides no policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from redis_integration import flights
from redis_integration.caching import Answer, Outcome
from redis_integration.claims import Claim
from redis_integration.entries import Entry
from redis_integration.flights import FOUND, PRIVATE, REFUSED, Flight, Landing, Place, Verdict
from redis_integration.flow import Call, Flow
from redis_integration.policy import Action, Right, decide
from redis_integration.transactions import Standing, fill_on_commit, stand

logger = logging.getLogger("redis_integration")


class Computation:
    """One call that found no copy it may answer with. `landing` is what those who joined it get.

    `looks` says how often it may still start over, after a flight that was refused and after one that found an entry.
    """

    def __init__(self, claim: Claim, compute: Callable[[], Any], looks: dict[Verdict, int]) -> None:
        self.claim = claim
        self.names = claim.names
        self.caching = claim.caching
        self.tiers = claim.tiers
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

    def _answer(self) -> Flow[Answer | None]:
        standing = yield from self._stand()
        action = decide(self.claim.reading)
        if standing.is_inside:
            return (yield from self._answer_inside(standing, action))
        if action.verb == "compute":
            return (yield from self._answer_without_lease(action))
        if flights.is_private(self.names.key):
            return (yield from self._answer_with_lease(None))
        flight, pilot = flights.enter(self._place("redis"), self.names, supersede=self.claim.is_refresh)
        if pilot is None:
            self.claim.reading = self.claim.reading._replace(right=Right.HELD)
            is_answered = decide(self.claim.reading).verb == "answer"
            return self.claim.found() if is_answered else (yield from self._join(flight))
        try:
            self.flights.append(flight)
            return (yield from self._answer_with_lease(flight))
        finally:
            flight.land(self.landing)

    def _stand(self) -> Flow[Standing]:
        try:
            return (yield Call(partial(stand, self.names.key, self.claim)))  # type: ignore[no-any-return]
        except Exception as error:  # nobody can say
            logger.warning("redis_integration.transactions_unknown %s: %s", type(error).__name__, error)
            return Standing(is_inside=True)

    def _place(self, target: str) -> Place:
        return self.names.key, target, self.tiers.is_async

    def _join(self, flight: Flight) -> Flow[Answer | None]:
        self.landing = landing = yield from self._wait_for(flight)
        if landing.error is not None:
            return Answer(Outcome(error=[landing.error]), "flight")
        if landing.payload is not None:
            # Each caller gets a copy of its own, so that nobody changes another's value.
            return Answer(Outcome(self.caching.decode(landing.payload, self.caching.codec.number)), "flight")
        if self.looks.get(landing.verdict):
            self.looks[landing.verdict] -= 1
            return None
        return (yield from self._answer_alone())

    def _wait_for(self, flight: Flight) -> Flow[Landing]:
        return flights.join(flight, self.claim.time_left(), is_async=self.tiers.is_async)

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
            return (yield from self._answer_without_lease(action)) or (yield from self._answer_alone())
        outcome, took = yield from self._call(flight)
        outcome, entry = self.caching.encode(outcome, took)
        if flight is not None:
            flights.leave(flight)  # it can be joined until its fill is sent
        is_accepted = yield from self.claim.fill(entry, took)
        landing = self._landing(outcome, entry)
        if is_accepted or landing.verdict is Verdict.PRIVATE:
            self.landing = landing
        stored = "redis" if is_accepted and entry is not None else None
        return Answer(outcome, "origin", stored, self.claim.is_foreign)

    def _answer_without_lease(self, action: Action) -> Flow[Answer | None]:
        """In a flight that can be joined only until its origin call begins: nobody gets a value older than its call."""
        if flights.is_private(self.names.key):
            return (yield from self._answer_alone())
        flight, pilot = flights.enter(self._place(action.tier or "origin"), self.names)
        if pilot is None:
            return (yield from self._join(flight))
        try:
            self.flights.append(flight)
            if flight.after is not None:
                yield from self._wait_for(flight.after)
            flights.begin(flight)
            outcome, took = yield from self._call(flight)
            entry = None
            if action.tier is not None or self._has_company():
                outcome, entry = self.caching.encode(outcome, took)
            self.landing = self._landing(outcome, entry)
            stored = None
            if action.tier is not None and entry is not None and not flight.is_ended:
                stored = "fallback" if (yield from self.tiers.fallback.write(self.names, entry)) else None
                if flight.is_ended:  # while it was written
                    yield from self.tiers.fallback.delete([self.names.key])  # type: ignore[unreachable]
            return Answer(outcome, "origin", stored, self.claim.is_foreign)
        finally:
            flight.land(self.landing)

    def _answer_inside(self, standing: Standing, action: Action) -> Flow[Answer]:
        """Inside a transaction: nothing it computes is shared with others before it commits."""
        if standing.commit is None or action.verb != "lease" or self.claim.is_refresh:
            return (yield from self._answer_alone("in a transaction"))
        action = yield from self.claim.win(may_wait=standing.may_wait)
        if action.verb == "answer":
            return self.claim.found()
        if action.tier is None:
            return (yield from self._answer_alone("in a transaction"))
        outcome, took = yield from self._call(None)
        outcome, entry = self.caching.encode(outcome, took)
        if entry is None:
            yield from self.claim.fill(None, took)
        else:
            yield from self._fill_on_commit(entry, standing.commit)
        return Answer(outcome, "origin", None, self.claim.is_foreign)

    def _fill_on_commit(self, entry: Entry, commit: BaseDatabaseWrapper) -> Flow[None]:
        try:
            yield Call(partial(fill_on_commit, self.claim.late_fill(entry), commit))
        except Exception as error:
            logger.warning("redis_integration.transactions_unknown %s: %s", type(error).__name__, error)
            self.claim.let_go_soon()

    def _answer_alone(self, why_not_stored: str | None = None) -> Flow[Answer]:
        outcome, _ = yield from self._call(None)
        if not outcome.error and outcome.why_not_stored is None:
            outcome = outcome._replace(why_not_stored=why_not_stored)
        return Answer(outcome, "origin", None, self.claim.is_foreign)

    def _call(self, flight: Flight | None) -> Flow[tuple[Outcome, float]]:
        started = monotonic()
        with flights.boarding(flight):
            outcome: Outcome = yield self.compute()
        return outcome, monotonic() - started

    def _has_company(self) -> bool:
        return any(flight.has_company for flight in self.flights)

    def _landing(self, outcome: Outcome, entry: Entry | None) -> Landing:
        flights.remember_private(self.names.key, is_private=outcome.why_not_stored is not None)
        if entry is not None:
            return Landing(Verdict.ACCEPTED, payload=entry.payload)
        if outcome.error:
            # Without company the error is kept by nobody: its traceback would hold it in a circle.
            return Landing(Verdict.ACCEPTED, error=outcome.error[0]) if self._has_company() else REFUSED
        return PRIVATE
