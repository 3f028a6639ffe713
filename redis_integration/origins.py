"""How many origins this process calls at a time while the cache is cold: its end must not be the database's too."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from time import monotonic

from redis_integration.flow import Flow
from redis_integration.pools import run_in_child
from redis_integration.waiting import Waiters

# As many as a process has database connections in a usual worker; the queries of more would wait for each other there.
AT_ONCE = 8


class Place:
    """The right to call an origin. When it dies, however it dies, it is free."""

    __slots__ = ("__weakref__",)


_waiters = Waiters()
_taken: set[weakref.ref[Place]] = set()
# Whether this code is called by an origin: to have it wait for a place would be a circle.
_is_inside: ContextVar[bool] = ContextVar("redis_integration.origin", default=False)


def enter(seconds: float, *, unless: Callable[[], bool] = lambda: False, is_async: bool) -> Flow[Place | None]:
    """A place, once one is free; after `seconds` without one: nobody is refused. None inside of an origin, and where `unless` is so.

    Who waits here holds no flight and no lease: those that have the places may be waiting for it.
    """
    if _is_inside.get():
        return None

    def is_due() -> bool:
        return len(_taken) < AT_ONCE or unless()

    give_up = monotonic() + seconds
    while not is_due() and (remaining := give_up - monotonic()) > 0:
        yield _waiters.await_until(is_due, remaining) if is_async else _waiters.wait_until(is_due, remaining)
    if unless():
        return None
    place = Place()
    _taken.add(weakref.ref(place, _taken.discard))
    return place


def free(place: Place | None) -> None:
    """Give it back before it dies, and say so to those who wait."""
    if place is not None:
        _taken.difference_update([ref for ref in _taken.copy() if ref() is place])
        _waiters.wake()


@contextlib.contextmanager
def held(place: Place | None) -> Iterator[None]:
    """While this lasts, an origin runs here; then its place is free."""
    before = _is_inside.get()
    try:
        _is_inside.set(True)
        yield
    finally:
        # Not by token: a flow that the garbage collector closes is in another context.
        _is_inside.set(before)
        free(place)


def _start_afresh() -> None:
    _taken.clear()
    _is_inside.set(False)


run_in_child(_start_afresh)
