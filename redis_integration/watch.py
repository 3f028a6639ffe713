"""The one background thread of a process: each WATCH_INTERVAL it tries Redis and reads the journal, so that no request has to.

It starts with the first use of the cache, and anew in a forked child. Where threads do not run, calls do its work.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Iterator
from functools import partial
from math import inf
from time import monotonic

from django.db import connections

from redis_integration.conf import get_settings, is_under_test
from redis_integration.flow import Call, Flow, run
from redis_integration.pools import run_in_child
from redis_integration.pruning import prune_if_due
from redis_integration.recovery import recover
from redis_integration.stats import publish_if_due
from redis_integration.tiers.fallback import FallbackTier
from redis_integration.tiers.redis import RedisTier, get_redis_tier, used_aliases
from redis_integration.transactions import open_connections

logger = logging.getLogger("redis_integration")

# Beats that may be missing before a call does the work of one: threads do not run, or the machine is far too busy.
MISSING = 2
# Seconds for which the end of the process waits for a beat under way.
PATIENCE = 1.0


class Watch:
    """`overdue_at` (monotonic seconds) is when a call looks after it: at first at once."""

    def __init__(self) -> None:
        self.overdue_at = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> bool:
        """Start the thread, also under a test runner; whether it was started now. Raises RuntimeError where there is none to be had."""
        if self.is_running or not self._lock.acquire(blocking=False):
            return False
        try:
            self._stop.clear()
            self._thread = threading.Thread(target=self._work, name="redis_integration.watch", daemon=True)
            self._thread.start()
        finally:
            self._lock.release()
        return True

    def stop(self) -> None:
        """End the thread, and wait for it. The next use of the cache starts it again, but under a test runner."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None:
            thread.join(PATIENCE)
        self.overdue_at = 0.0

    def end(self) -> None:
        """Stop for good: in Python 3.11 who starts a thread amid the interpreter's end waits for it for ever."""
        self.stop()
        self.overdue_at = inf

    def catch_up(self, *, is_async: bool) -> Flow[None]:
        """Start the thread; where it is there and does not keep up, do its work here, unless in a transaction."""
        self.overdue_at = monotonic() + MISSING * self._interval()
        if self.overdue_at == inf or (is_under_test() and not self.is_running):
            self.overdue_at = inf
            return
        try:
            if self.start():
                for tier in self._tiers(is_async=is_async):
                    tier.breaker.is_watched = True
                return
        except RuntimeError as error:  # at the end of the interpreter, or too many
            logger.debug("redis_integration.watch_unstarted %s", error)
        try:
            is_inside = bool((yield Call(open_connections)))
        except Exception as error:  # the thread that may touch the database is busy: the next call tries
            logger.debug("redis_integration.watch_late %s: %s", type(error).__name__, error)
            return
        if not is_inside:
            yield from self._beat(is_async=is_async)

    def _interval(self) -> float:
        """Seconds from beat to beat: the shortest of the aliases in use; for ever where none is watched."""
        return min((wait for alias in used_aliases() if (wait := get_settings(alias).watch_interval)), default=inf)

    def _tiers(self, *, is_async: bool) -> Iterator[RedisTier]:
        seen = set()
        for alias in used_aliases():
            settings = get_settings(alias)
            if settings.watch_interval and settings not in seen:
                seen.add(settings)
                yield get_redis_tier(alias, is_async=is_async)

    def _beat(self, *, is_async: bool) -> Flow[None]:
        for tier in self._tiers(is_async=is_async):
            try:
                if tier.breaker.is_closed or tier.breaker.is_due():
                    yield from recover(tier)
                yield Call(tier.journal.write)
                yield from publish_if_due(tier, is_async=is_async)
                settings = get_settings(tier.alias)
                yield from FallbackTier(settings, seconds_open=tier.breaker.seconds_open).retry_unended()
                yield Call(partial(prune_if_due, tier.alias))
                self._failing = False
            except Exception as error:
                if not self._failing:
                    self._failing = True
                    logger.warning("redis_integration.watch_failed %s: %s", type(error).__name__, error, exc_info=error)

    def _work(self) -> None:
        mine = threading.current_thread()
        try:
            while self._thread is mine or self._thread is None:
                for tier in self._tiers(is_async=False):
                    tier.breaker.is_watched = True
                run(self._beat(is_async=False))
                for connection in connections.all(initialized_only=True):
                    connection.close_if_unusable_or_obsolete()
                interval = self._interval()
                self.overdue_at = monotonic() + (1 + MISSING) * interval
                if interval == inf or self._stop.wait(interval):
                    return
        finally:
            for tier in self._tiers(is_async=False):
                tier.breaker.is_watched = False
            connections.close_all()

    def start_afresh(self) -> None:
        """Forget the thread of the parent."""
        self.__init__()  # type: ignore[misc]


watch = Watch()
atexit.register(watch.end)
run_in_child(watch.start_afresh)
