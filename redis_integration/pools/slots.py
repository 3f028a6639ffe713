"""What sync and async pools share: how many connections may live, who waits for one, and when to try again."""

from __future__ import annotations

import contextlib
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import MaxConnectionsError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from redis_integration.conf import RedisSettings
from redis_integration.pools.failures import translate
from redis_integration.pools.life import UNSET_LIFE

# Full jitter, as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). Seconds.
BACKOFF_BASE = 0.01
BACKOFF_CAP = 0.1
# A waiter looks again this often, so that one whose wake-up went to an interrupted thread is not forgotten. Seconds.
WAIT_SLICE = 0.02
PING = b"*1\r\n$4\r\nPING\r\n"


class Slots:
    """The idle connections of one pool, and weak references to all living ones.

    A connection that an interrupt tears from its user frees its slot by dying; nobody has to notice. Each change is one
    operation that Python does not interrupt.
    """

    def __init__(self) -> None:
        self.idle: deque[Any] = deque()
        self.living: set[weakref.ref[Any]] = set()
        self.waiting: deque[Callable[[], object]] = deque()
        self.lock = threading.RLock()

    def find(self, pool: Any) -> Any | None:
        """The connection used last, or a new one that is not connected yet, or None where all are in use.

        Those of another life than the pool's are closed.
        """
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:  # another thread was quicker
                break
            if connection.life == pool.life:
                return connection
            self.drop(connection)
        at_most = pool.settings.max_connections
        if len(self.living) >= at_most:
            return None
        # Not under the lock: building collects garbage now and then, and what dies then may want a connection too.
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.home = self
        connection.slot = weakref.ref(connection, self.living.discard)
        with self.lock:
            self.living.add(connection.slot)
            if len(self.living) <= at_most:
                return connection
            self.living.discard(connection.slot)
            return None

    def drop(self, connection: Any) -> None:
        self.living.discard(connection.slot)
        self.wake()
        connection.abort()

    def wake(self) -> None:
        if self.waiting:
            with contextlib.suppress(IndexError):
                self.waiting.popleft()()


class Lender:
    """What sync and async pools do alike with a connection that comes back."""

    settings: RedisSettings
    current: Callable[[], Slots | None]
    # What the newest handshake learnt. It says which connections are old, and nothing about an entry: a connection in use
    # may be of another life.
    life: bytes = UNSET_LIFE

    def give(self, connection: Any) -> None:
        """Make it available, if it is whole and this pool's; else close it."""
        slots = self.current()
        if slots is not None and slots is connection.home and connection.is_clean():
            connection.healthy_until = monotonic() + (self.settings.health_check_interval or inf)
            slots.idle.append(connection)
            if slots.waiting:
                slots.wake()
        else:
            self.drop(connection)

    def drop(self, connection: Any) -> None:
        connection.home.drop(connection)

    def drop_idle(self) -> None:
        slots = self.current()
        with contextlib.suppress(IndexError):
            while slots is not None:
                self.drop(slots.idle.pop())


class Trial:
    """The tries of one call: how many are left, and until when; the pauses between them are exponential and random."""

    def __init__(self, settings: RedisSettings, *, retries: int, plain: bool = False) -> None:
        self.settings = settings
        self.plain = plain
        self.left = self.retries = retries
        self.give_up = monotonic() + settings.pool_timeout + settings.connect_timeout + settings.command_timeout

    def pause_after(self, error: Exception) -> float:
        """
        Seconds to wait before the next try. Where there is to be none, raises the error: as it is if `plain`, else as ours.

        Only a lost connection is worth one: a second timeout costs as much as the first, and a refusal stays one.
        """
        failure = translate(error, self.settings.address)
        if failure is None or not failure.lost or not self.left or monotonic() >= self.give_up:
            if failure is None or self.plain:
                raise error
            raise failure from error
        self.left -= 1
        return random.uniform(0, min(BACKOFF_CAP, BACKOFF_BASE * 2 ** (self.retries - self.left - 1)))


def connection_arguments(settings: RedisSettings) -> dict[str, Any]:
    """What connections are built with. redis-py's own retries and health checks are off: the pools have them."""
    arguments: dict[str, Any] = parse_url(settings.url)  # type: ignore[no-untyped-call]
    arguments.pop("connection_class", None)
    arguments |= dict(settings.options)
    if settings.username is not None:
        arguments["username"] = settings.username
    if settings.password is not None:
        arguments["password"] = settings.password
    return arguments | {
        "client_name": settings.client_name,
        "socket_timeout": settings.command_timeout,
        "socket_connect_timeout": settings.connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "distrust_restarts": settings.distrust_restarts,
        # Two round trips less for each new connection.
        "driver_info": None,
        # While these are on, redis-py hands a leftover reply to the next command.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def exhausted(settings: RedisSettings) -> MaxConnectionsError:
    return MaxConnectionsError(
        f"All {settings.max_connections} connections of this pool stayed in use for {settings.pool_timeout} s"
    )
