"""How many origins this process calls at a time while the cache is cold: its end must not be the database's too."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
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
# Whether this code is called by an origin that has a place: to have it wait for another would be a circle.
_is_inside: ContextVar[bool] = ContextVar("redis_integration.origin", default=False)


def enter(seconds: float, *, is_async: bool) -> Flow[Place | None]:
    """A place, once one is free; after `seconds` without one: nobody is refused. None where the caller has one."""
    if _is_inside.get():
        return None
    give_up = monotonic() + seconds
    while len(_taken) >= AT_ONCE and (remaining := give_up - monotonic()) > 0:
        yield _waiters.await_until(_is_free, remaining) if is_async else _waiters.wait_until(_is_free, remaining)
    place = Place()
    _taken.add(weakref.ref(place, _taken.discard))
    return place


def _is_free() -> bool:
    return len(_taken) < AT_ONCE


@contextlib.contextmanager
def held(place: Place | None) -> Iterator[None]:
    """While this lasts, the place is taken."""
    if place is None:
        yield
        return
    _is_inside.set(True)
    try:
        yield
    finally:
        # Not by token: a flow that the garbage collector closes is in another context.
        _is_inside.set(False)
        _taken.difference_update([ref for ref in _taken.copy() if ref() is place])
        _waiters.wake()


def _start_afresh() -> None:
    _taken.clear()
    _is_inside.set(False)


run_in_child(_start_afresh)
