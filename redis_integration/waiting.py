"""How threads and tasks wait for something that happens in this process.

No condition variable and no concurrent.futures.Future: an interrupt between taking their lock and guarding it leaves them
locked for ever (so hung redis-py's blocking pool). Here a waiter owns its gate, and looks again every WAIT_SLICE.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

# Seconds. Only for a wake-up that was lost with an interrupted thread.
WAIT_SLICE = 0.1


class Waiters:
    """Those who wait until something is true."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()

    def wait_until(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """Return when it is true, after `seconds` at the latest; whether it is."""
        gate, give_up = threading.Lock(), monotonic() + seconds
        gate.acquire()
        self._waiting.append(gate.release)
        while not is_so() and (remaining := give_up - monotonic()) > 0:
            if gate.acquire(timeout=min(remaining, WAIT_SLICE)):
                self._waiting.append(gate.release)  # woken, and perhaps another was quicker
        return is_so()

    async def await_until(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """See `wait_until`. It may become true in another thread; to cancel this wait disturbs nobody else's."""
        gate, give_up = asyncio.Event(), monotonic() + seconds
        self._waiting.append(partial(_wake, asyncio.get_running_loop(), gate))
        while not is_so() and (remaining := give_up - monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(remaining, WAIT_SLICE)):
                    await gate.wait()
                    gate.clear()
                    self._waiting.append(partial(_wake, asyncio.get_running_loop(), gate))
        return is_so()

    def wake(self) -> None:
        """Have all look whether it is true now."""
        with contextlib.suppress(IndexError):
            # As many as there are now: who waits on is woken by the next.
            for _ in range(len(self._waiting)):
                self._waiting.popleft()()


def _wake(loop: asyncio.AbstractEventLoop, gate: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # a loop that was closed has nobody waiting
        loop.call_soon_threadsafe(gate.set)
