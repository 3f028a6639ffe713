"""Flights: the computations of this process that other threads and tasks may join. They store nothing and ask no tier."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from enum import StrEnum
from time import monotonic
from typing import NamedTuple

from redis_integration.entries import Entry
from redis_integration.flow import Flow
from redis_integration.keys import Names
from redis_integration.pools import run_in_child
from redis_integration.waiting import Waiters

# Keys whose last computation was nobody else's business, and for how many seconds that is believed.
PRIVATE_KEYS = 10_000
PRIVATE_FOR = 10.0
# Flights without a lease that are kept when they have landed, the last ones: as many values are in memory.
LANDED = 64

Place = tuple[object, ...]


class Verdict(StrEnum):
    """What those who joined make of a flight."""

    ACCEPTED = "accepted"  # take what it brought
    REFUSED = "refused"  # it was invalidated, or lost: start over
    FOUND = "found"  # another process's entry was there: look for yourself
    PRIVATE = "private"  # it cannot be shared, or was too slow: compute alone


class Landing(NamedTuple):
    """The end of a flight: for those who joined, the entry with the encoded value, or the origin's error."""

    verdict: Verdict
    entry: Entry | None = None
    error: Exception | None = None


REFUSED = Landing(Verdict.REFUSED)
FOUND = Landing(Verdict.FOUND)
PRIVATE = Landing(Verdict.PRIVATE)


class Pilot:
    """Held by the one flow that computes, and by nobody else: when it dies, however it dies, its flight is over."""

    __slots__ = ("__weakref__",)


class Flight(Waiters):
    """One computation. `place` is key, tier that will be written to, and whether its callers are async."""

    def __init__(self, place: Place, names: Iterable[str], pilot: Pilot) -> None:
        super().__init__()
        self.place = self.first_place = place
        self.names = frozenset(names)
        self.after: Flight | None = None
        self.waits_for: Flight | None = None
        self.is_open = True
        self.is_ended = False
        self.has_company = False
        self.landing: Landing | None = None
        self.begun_as = 0  # which origin call of this process is its own: the first, the second...; 0: not begun
        self._pilot = weakref.ref(pilot)
        # A loop that is closed leaves its tasks, and with them their pilots, to the garbage collector.
        self._loop = asyncio._get_running_loop()

    @property
    def is_over(self) -> bool:
        return self.landing is not None or self.is_dead

    @property
    def is_dead(self) -> bool:
        """Whether it will never land."""
        if self.landing is not None:
            return False
        return self._pilot() is None or (self._loop is not None and self._loop.is_closed())

    def wait(self, seconds: float) -> bool:
        """Return when the flight is over, after `seconds` at the latest; whether it is."""
        return self.wait_until(lambda: self.is_over, seconds)

    async def await_(self, seconds: float) -> bool:
        """See `wait`. The owner may be in another thread."""
        return await self.await_until(lambda: self.is_over, seconds)

    def land(self, landing: Landing) -> None:
        """End it: callers take no longer part, and those who joined go on."""
        self.landing = landing
        leave(self)
        if landing.entry is not None and self.first_place[1] == "origin":
            _keep(self)
        self.wake()


_flights: dict[Place, Flight] = {}
# How many origin calls of flights have begun in this process: an order that needs no clock.
begun = 0
# Of C, so that no interrupt comes between taking and guarding it.
_lock = threading.RLock()
# The flights whose origin calls are running here: also child tasks, and threads that asgiref starts, inherit it.
_aboard: ContextVar[tuple[Flight, ...]] = ContextVar("redis_integration.aboard", default=())
_private: dict[str, float] = {}


def enter(place: Place, names: Names, *, supersede: bool = False) -> tuple[Flight, Pilot | None]:
    """The flight to join, or a new one and its pilot. A flight that takes no more callers has the new one wait for it.

    With `supersede` always a new one: later callers join it, and not what began before.
    """
    pilot = Pilot()
    flight = Flight(place, (names.key, *names.tags), pilot)
    with _lock:
        there = _flights.get(place)
        if there is not None and not there.is_over:
            if not supersede:
                if there.is_open:
                    there.has_company = True
                    return there, None
                flight.after = there
            # It gives up its place, and stays in the table: an invalidation ends it too.
            there.place = (*place, id(there))
            _flights[there.place] = there
        _flights[place] = flight
    return flight, pilot


def _keep(flight: Flight) -> None:
    # No tier has what it brought, and at the moment Redis goes some callers wait longer than others.
    flight.place, flight._loop = ("landed", *flight.first_place), None
    with _lock:
        _flights.pop(flight.place, None)
        _flights[flight.place] = flight
        landed = [each for each in _flights.values() if each.landing]
        if len(landed) > LANDED:
            leave(landed[0])


def begin(flight: Flight) -> None:
    """From now on it takes no more callers; who comes later forms the next one, behind it."""
    with _lock:
        flight.is_open = False
    flight.after = None


def is_open(place: Place) -> bool:
    """Whether there is a flight to join."""
    there = _flights.get(place)
    return there is not None and there.is_open and not there.is_over


def find_open(place: Place) -> Flight | None:
    """The flight to join, if there is one."""
    with _lock:
        there = _flights.get(place)
        if there is None or not there.is_open or there.is_over:
            return None
        there.has_company = True
        return there


def note_begun(*mine: Flight) -> None:
    """The origin calls of these flights begin now."""
    global begun
    with _lock:
        begun += 1
        for flight in mine:
            flight.begun_as = begun


def find_younger(places: Iterable[Place], since: int) -> Flight | None:
    """A flight to join whose origin call began later than so many: what it brings, or has brought, is no older than a call of then."""
    if not _flights:
        return None
    with _lock:
        for place in places:
            for there in filter(None, map(_flights.get, (place, ("landed", *place)))):
                if not there.is_dead and there.begun_as > since:
                    there.has_company = True
                    return there
    return None


def leave(flight: Flight) -> None:
    """From now on it takes no more callers; who comes later does not wait for it."""
    with _lock:
        flight.is_open = False
        if _flights.get(flight.place) is flight:
            del _flights[flight.place]


def end(names: Iterable[str]) -> None:
    """No later caller joins a flight with one of these names, be it a key or a tag."""
    ended = frozenset(names)
    with _lock:
        for flight in [each for each in _flights.values() if each.is_dead or not ended.isdisjoint(each.names)]:
            flight.is_ended = True
            leave(flight)


def join(flight: Flight, seconds: float, *, is_async: bool) -> Flow[Landing]:
    """How the flight ended, after `seconds` at the latest. A flight that waits for its own caller is not waited for."""
    aboard = _aboard.get()
    for mine in aboard:
        mine.waits_for = flight
    try:
        if _waits_for_any(flight, aboard):
            return PRIVATE
        is_over = yield flight.await_(seconds) if is_async else flight.wait(seconds)
        return (flight.landing or REFUSED) if is_over else PRIVATE
    finally:
        for mine in aboard:
            mine.waits_for = None


def _waits_for_any(flight: Flight, aboard: tuple[Flight, ...]) -> bool:
    step: Flight | None = flight
    for _ in range(100):  # two that enter at once may have made a circle, of which each has seen one half
        if step is None or step in aboard:
            break
        step = step.waits_for
    return step is not None


@contextlib.contextmanager
def boarding(*mine: Flight | None) -> Iterator[None]:
    """While this lasts, calls for what these flights compute are their own origin's."""
    # Those that are over were left behind by an interrupt.
    before = tuple(each for each in _aboard.get() if not each.is_over)
    _aboard.set((*before, *filter(None, mine)))
    try:
        yield
    finally:
        # Not by token: a flow that the garbage collector closes is in another context.
        _aboard.set(before)


def disembark() -> None:
    """From now on this thread or task calls nothing on behalf of a flight it was started from."""
    _aboard.set(())


def remember_private(key: str, *, is_private: bool) -> None:
    """Whether the last computation of this key was nobody else's business, such as a visitor's own page."""
    if not is_private:
        _private.pop(key, None)
        return
    if len(_private) >= PRIVATE_KEYS:
        _private.clear()
    _private[key] = monotonic() + PRIVATE_FOR


def is_private(key: str) -> bool:
    """Whether to wait for somebody else's computation of this key is likely to be in vain."""
    return bool(_private) and _private.get(key, 0.0) > monotonic()


def _start_afresh() -> None:
    global _lock
    _lock = threading.RLock()
    _flights.clear()
    _aboard.set(())


run_in_child(_start_afresh)
