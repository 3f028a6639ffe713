"""How long one request may wait for Redis, all its calls together. When that is spent, the rest computes without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from time import monotonic

from redis_integration.exceptions import Kind, RedisUnavailable


class Budget:
    """Seconds left; tasks of one request that wait at the same time spend them once."""

    __slots__ = ("_since", "_waiting", "left")

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self._waiting = 0
        self._since = 0.0

    def __enter__(self) -> None:
        if self.left <= 0:
            raise RedisUnavailable(
                "This request has waited for Redis as long as it may.",
                kind=Kind.BUSY,
                remedy="Redis is slow; or raise REQUEST_BUDGET, where one request makes so many calls.",
            )
        if not self._waiting:
            self._since = monotonic()
        self._waiting += 1

    def __exit__(self, *exc: object) -> None:
        self._waiting -= 1
        if not self._waiting:
            self.left -= monotonic() - self._since


current: ContextVar[Budget | None] = ContextVar("redis_integration.budget", default=None)


@contextmanager
def granted(seconds: float) -> Iterator[None]:
    """While this lasts, no exchange with Redis begins after all of them have taken so long. Part of a larger budget if there is one."""
    larger = current.get()
    if larger is not None and larger.left < inf:
        yield
        return
    mine = Budget(seconds)
    try:
        current.set(mine)  # not before the try: an interrupt in between would leave it to this thread for ever
        yield
    finally:
        # A task that was started meanwhile, and lives on, has it for ever.
        mine.left = inf
        # Not by token: a flow that the garbage collector closes is in another context.
        current.set(None)


def forget() -> None:
    """From now on this thread or task spends nobody's budget: what it does nobody waits for."""
    current.set(None)
