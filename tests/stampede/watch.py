"""What tests see of flights: who waits, and what is left. And an origin that computes until it is let go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref

from redis_integration import flights
from tests.stampede.crew import PATIENCE

every_flight: weakref.WeakSet[flights.Flight] = weakref.WeakSet()


class WatchedFlight(flights.Flight):
    """A flight that is counted: one that takes no more callers is in no table."""

    def __init__(self, *args):
        super().__init__(*args)
        every_flight.add(self)


@contextlib.contextmanager
def watched_flights(monkeypatch):
    """Fails if a flight is left behind, or a caller that still counts as aboard."""
    monkeypatch.setattr(flights, "Flight", WatchedFlight)
    yield
    gc.collect()
    left = [flight for flight in flights._flights.values() if not flight.is_over]
    flights._flights.clear()
    flights._private.clear()
    assert left == []
    assert flights._aboard.get() == ()


def waiting():
    """How many threads and tasks wait for flights."""
    return sum(len(flight._waiting) for flight in list(every_flight) if not flight.is_over)


class Stuck(Exception):
    pass


def until(is_so, patience=PATIENCE):
    """Return once `is_so()`; fail after a time that no busy machine needs."""
    give_up = time.monotonic() + patience
    while not is_so():
        if time.monotonic() > give_up:
            raise Stuck
        time.sleep(0.002)


async def auntil(is_so):
    """See `until`."""
    give_up = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > give_up:
            raise Stuck
        await asyncio.sleep(0.002)


def results(calls):
    return [call.result(PATIENCE) for call in calls]


class Origin:
    """An origin that computes until it is let go; it counts its calls.

    A call whose number is in `outcomes` gives that, or raises it; one whose number is in `joined` also waits until so many
    callers have joined it.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.go = threading.Event()
        self.calls = self.running = 0
        self.outcomes = {}
        self.joined = {}

    def begin(self):
        with self.lock:
            self.calls += 1
            self.running += 1
            return self.calls

    def finish(self, number):
        until(lambda: waiting() >= self.joined.get(number, 0))
        with self.lock:
            self.running -= 1
        # An error in a variable of this frame would be a reference cycle of the test's own.
        if isinstance(self.outcomes.get(number), BaseException):
            raise self.outcomes[number]
        return self.outcomes.get(number, {"call": number})

    def __call__(self, pk):
        number = self.begin()
        assert self.go.wait(PATIENCE)
        return self.finish(number)

    async def compute(self, pk):
        number = self.begin()
        await auntil(self.go.is_set)
        return self.finish(number)
