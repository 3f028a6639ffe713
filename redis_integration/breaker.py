"""Remembers that Redis is down, so that nobody waits for it. It tries nothing itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from random import uniform
from time import monotonic

from django.dispatch import Signal

from redis_integration.counters import Failures
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.signals import redis_back, redis_lost

logger = logging.getLogger("redis_integration")

# Seconds between two tries while it is open: the first, the longest, and how much longer each time. A try costs no request
# anything, so that Redis is found again soon: within 5 s, of an outage of any length.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 5.0
GROWTH = 1.5
# Timeouts in a row, of whatever calls: a single one is a reply that was late.
TIMEOUTS = 2
# Seconds in which a trouble that does not open it is told once.
TELL_AGAIN = 60.0
# Seconds after it has closed, in which the cache may be cold and the origins are asked by all at once.
RAMP = 10.0


class Breaker:
    """Closed while Redis is believed; open while it is not; half-open while somebody tries it.

    One for each pool, shared by the threads and event loops of a process; made anew after a fork. `alias` is who sends its
    signals; `clock` gives monotonic seconds.
    """

    def __init__(self, alias: str = "default", *, clock: Callable[[], float] = monotonic) -> None:
        self.alias = alias
        self._clock = clock
        self._lock = threading.RLock()
        self._due = 0.0
        self._is_tried = False
        self._pause = FIRST_PAUSE
        self._told: dict[Kind, float] = {}
        self._ramp_until = 0.0
        self.opened_at: float | None = None
        self.failures = Failures(alias)
        self.timeouts = 0
        self.is_full = False
        # Whether the watch tries Redis, so that no call has to.
        self.is_watched = False

    @property
    def is_closed(self) -> bool:
        return self.opened_at is None

    @property
    def state(self) -> str:
        """closed, open or half-open, for humans."""
        if self.is_closed:
            return "closed"
        return "half-open" if self._is_tried and self._clock() < self._due else "open"

    def note(self, failure: RedisUnavailable) -> None:
        """What this failure means: it opens the breaker, or it is said in the log.

        Only its text is kept: who keeps log records would keep its frames, and all that its call computes.
        """
        is_again, failure.is_noted = failure.is_noted, True
        if is_again:
            return
        self.failures.note(failure.kind)
        if failure.kind is Kind.SLOW:
            self.timeouts += 1
        if failure.kind is Kind.DOWN or self.timeouts >= TIMEOUTS:
            self.open(str(failure), is_short=failure.is_short)
        elif failure.kind is Kind.FULL:
            is_news, self.is_full = not self.is_full, True
            if is_news:
                logger.warning("redis_integration.redis_full Nothing is stored. %s", str(failure))
        elif failure.kind is not Kind.FOREIGN and self._clock() >= self._told.get(failure.kind, 0.0):
            self._told[failure.kind] = self._clock() + TELL_AGAIN
            logger.warning("redis_integration.redis_%s %s", failure.kind, str(failure))

    def note_room(self) -> None:
        """Something was stored."""
        if self.is_full:
            self.is_full = False
            logger.warning("redis_integration.redis_has_room")

    def open(self, reason: str, *, is_short: bool = False) -> None:
        """Open it, or keep it open for another, longer pause. Logs the opening, once.

        Where it `is_short`, the server says what it is waiting for, and the pauses do not grow.
        """
        with self._lock:
            opens = self.opened_at is None
            now = self._clock()
            self._is_tried = False
            if opens or is_short:
                self._pause = FIRST_PAUSE
            # Jitter, so that the processes of a site do not come back together.
            self._due = now + self._pause * uniform(0.5, 1.0)
            self._pause = min(self._pause * GROWTH, LONGEST_PAUSE)
            if opens:
                self.opened_at = now
        if opens:
            logger.warning("redis_integration.redis_lost %s", reason)
            self._send(redis_lost, reason=reason)

    def _send(self, signal: Signal, **arguments: object) -> None:
        try:
            signal.send_robust(self.alias, **arguments)
        except Exception as error:  # Django cannot call an async receiver from an event loop's thread
            logger.warning("redis_integration.signal_failed %s: %s", type(error).__name__, error)

    def is_due(self) -> bool:
        """Whether the caller is the one who tries Redis now: True for one caller in each pause."""
        now = self._clock()
        if now < self._due:
            return False
        with self._lock:
            if now < self._due:
                return False
            # Not for ever: who tries may be interrupted.
            self._due = now + FIRST_PAUSE
            self._is_tried = True
            return True

    def close(self) -> None:
        """Close it. Logs the closing, once."""
        with self._lock:
            opened_at, self.opened_at = self.opened_at, None
            self.timeouts = 0
            self._pause = FIRST_PAUSE
            if opened_at is not None:
                self._ramp_until = self._clock() + RAMP
        if opened_at is not None:
            seconds = self._clock() - opened_at
            logger.warning("redis_integration.redis_back after %.1f s", seconds)
            self._send(redis_back, seconds=seconds)

    def seconds_open(self) -> float:
        """Seconds since it opened; 0 while it is closed."""
        opened_at = self.opened_at
        return 0.0 if opened_at is None else self._clock() - opened_at

    def is_cold(self) -> bool:
        """Whether the cache may be empty, or nearly: while it is open, and for RAMP seconds afterwards."""
        return self.opened_at is not None or (self._ramp_until > 0 and self._clock() < self._ramp_until)
