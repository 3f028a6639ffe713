"""Remembers that Redis is down, so that nobody waits for it. It opens on the first failure; it tries nothing itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

logger = logging.getLogger("redis_integration")

# Seconds between two tries while the breaker is open.
PAUSE = 1.0


class Breaker:
    """Closed while Redis is believed. Shared by the threads and event loops of a process; made anew after a fork.

    `clock` gives monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._due = 0.0
        self.opened_at: float | None = None

    @property
    def is_closed(self) -> bool:
        return self.opened_at is None

    def open(self, reason: object) -> None:
        """Open it, or keep it open for another pause. Logs the opening, once."""
        with self._lock:
            opens = self.opened_at is None
            now = self._clock()
            self._due = now + PAUSE
            if opens:
                self.opened_at = now
        if opens:
            logger.warning("redis_integration.redis_lost %s", reason)

    def is_due(self) -> bool:
        """Whether the caller is the one who tries Redis now: True for one caller in each pause."""
        now = self._clock()
        if now < self._due:
            return False
        with self._lock:
            if now < self._due:
                return False
            self._due = now + PAUSE
            return True

    def close(self) -> None:
        """Close it. Logs the closing, once."""
        with self._lock:
            opened_at, self.opened_at = self.opened_at, None
        if opened_at is not None:
            logger.warning("redis_integration.redis_back after %.1f s", self._clock() - opened_at)

    def seconds_open(self) -> float:
        """Seconds since it opened; 0 while it is closed."""
        opened_at = self.opened_at
        return 0.0 if opened_at is None else self._clock() - opened_at
