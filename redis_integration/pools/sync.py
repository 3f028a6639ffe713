"""The pool of a process for sync code."""

from __future__ import annotations

import codecs
import contextlib
import threading
import time
from time import monotonic
from typing import Any

import redis

from redis_integration.conf import RedisSettings
from redis_integration.pools.connections import CONNECTIONS
from redis_integration.pools.replies import More
from redis_integration.pools.slots import PING, WAIT_SLICE, Lender, Slots, Trial, connection_arguments, exhausted

# The first look-up of a host imports it, and an interrupt amid an import leaves Python's lock for that module taken: every
# later connect would wait for ever.
codecs.lookup("idna")


class Pool(Lender, redis.ConnectionPool):
    """The connections of this process for one settings object; safe under threads, interrupts and fork.

    Never more than MAX_CONNECTIONS live; a caller waits at most POOL_TIMEOUT for one; the one used last is used next.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self.slots = Slots()
        kind = CONNECTIONS[settings.url.partition(":")[0]]
        super().__init__(kind, settings.max_connections, **connection_arguments(settings))
        self.client = redis.Redis(connection_pool=self)

    def current(self) -> Slots:
        return self.slots

    def reset(self) -> None:
        """Close this process's copies of all connections: what a forked child does with its parent's."""
        super().reset()
        inherited, self.slots = self.slots, Slots()
        # Also those in use: a pipeline or pub/sub that the child kept would speak on the parent's socket.
        for ref in list(inherited.living):
            if connection := ref():
                connection.disconnect()

    def take(self) -> Any:
        """A connected connection that owes no reply. No round trip, but for a new or a long idle one.

        Raises redis-py's errors, MaxConnectionsError where all stayed in use.
        """
        connection = self.slots.find(self) or self._wait()
        try:
            if not connection.is_clean():
                connection.connect()
                self.life = connection.life
            elif monotonic() > connection.healthy_until:
                self._check(connection)
        except BaseException:
            self.drop(connection)
            raise
        return connection

    def _wait(self) -> Any:
        slots, settings = self.slots, self.settings
        give_up = monotonic() + settings.pool_timeout
        while True:
            connection = slots.find(self)
            if connection is not None:
                return connection
            remaining = give_up - monotonic()
            if remaining <= 0:
                raise exhausted(settings)
            gate = threading.Lock()
            gate.acquire()
            slots.waiting.append(gate.release)
            try:
                gate.acquire(timeout=min(remaining, WAIT_SLICE))
            finally:
                with contextlib.suppress(ValueError):
                    slots.waiting.remove(gate.release)

    def _check(self, connection: Any) -> None:
        try:
            connection.exchange(PING, 1)
        except (redis.RedisError, OSError):
            # What has been idle for as long is as dead: one silence is paid for, not fifty.
            self.drop_idle()
            connection.disconnect()
            connection.connect()
            self.life = connection.life

    def exchange(self, packed: bytes, count: int, more: More | None = None) -> tuple[list[Any], bytes]:
        """The replies, and the life of the server that gave them. One round trip."""
        connection = self.take()
        try:
            replies = connection.exchange(packed, count, more)
        except BaseException:
            self.drop(connection)
            raise
        life: bytes = connection.life
        self.give(connection)
        return replies, life

    # What plain redis-py clients call.

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """See `take`; connecting is tried again, since nothing was sent yet."""
        trial = Trial(self.settings, retries=self.settings.retries, plain=True)
        while True:
            try:
                connection = self.take()
                connection.forget_packed()
                # A plain client's command may not be sent twice: a closed connection is found out before it is sent.
                with contextlib.suppress(redis.RedisError, OSError):
                    if not connection.can_read():
                        connection.lent_to = threading.get_ident()
                        return connection
                self.drop(connection)
                if not connection.healthy_until:
                    raise redis.ConnectionError("A new connection was closed, or sent what nobody asked for")
            except Exception as error:
                time.sleep(trial.pause_after(error))

    def release(self, connection: Any) -> None:
        # A pipeline whose reset was interrupted releases once more when it dies, when another may have the connection.
        if connection.lent_to == threading.get_ident():
            connection.lent_to = 0
            self.give(connection)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        slots, self.slots = self.slots, Slots()
        with contextlib.suppress(IndexError):
            while True:
                slots.idle.pop().disconnect()
