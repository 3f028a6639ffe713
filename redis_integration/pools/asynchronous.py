"""The pools for async code: one for each running event loop, closed with it."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator
from time import monotonic
from typing import Any

import redis
import redis.asyncio

from redis_integration.conf import RedisSettings
from redis_integration.pools.connections import ASYNC_CONNECTIONS
from redis_integration.pools.slots import PING, WAIT_SLICE, Lender, Slots, Trial, connection_arguments, exhausted

# What a forked child inherited. Even to collect it would touch the parent's event loop.
_inherited: list[object] = []


class AsyncPool(Lender, redis.asyncio.ConnectionPool):
    """The connections of each event loop of this process for one settings object.

    See the sync `Pool`. It can be made anywhere and used from every loop.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self._loops: dict[AbstractEventLoop, tuple[Slots, AsyncGenerator[None, None]]] = {}
        kind = ASYNC_CONNECTIONS[settings.url.partition(":")[0]]
        super().__init__(kind, settings.max_connections, **connection_arguments(settings))
        self.client = redis.asyncio.Redis(connection_pool=self)

    def reset(self) -> None:
        """See `Pool.reset`."""
        super().reset()  # type: ignore[no-untyped-call]
        _inherited.append(self._loops)
        self._loops = {}

    def current(self) -> Slots | None:
        found = self._loops.get(asyncio.get_running_loop())
        return None if found is None else found[0]

    async def _slots(self) -> Slots:
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            for other in list(self._loops):
                if other.is_closed():
                    self._loops.pop(other, None)
            # `asyncio.run` and its like end the async generators of a loop before they close it; nothing else tells of
            # the end of a loop while its connections can still be closed.
            ending = self._until_loop_ends(loop)
            found = self._loops[loop] = Slots(), ending
            await anext(ending)
        return found[0]

    async def _until_loop_ends(self, loop: AbstractEventLoop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.disconnect()
            self._loops.pop(loop, None)

    async def take(self) -> Any:
        """See `Pool.take`."""
        connection = await self._find()
        try:
            if not connection.is_clean():
                await connection.connect()
                self.life = connection.life
            elif monotonic() > connection.healthy_until:
                await self._check(connection)
        except BaseException:
            self.drop(connection)
            raise
        return connection

    async def _find(self) -> Any:
        slots, settings = await self._slots(), self.settings
        give_up = monotonic() + settings.pool_timeout
        while True:
            connection = slots.find(self)
            if connection is not None:
                return connection
            remaining = give_up - monotonic()
            if remaining <= 0:
                raise exhausted(settings)
            gate = asyncio.Event()
            slots.waiting.append(gate.set)
            try:
                # Not wait_for, which swallows a cancellation that comes with the wake-up (Python 3.11).
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(remaining, WAIT_SLICE)):
                        await gate.wait()
            finally:
                with contextlib.suppress(ValueError):
                    slots.waiting.remove(gate.set)

    async def _check(self, connection: Any) -> None:
        try:
            await connection.exchange(PING, 1)
        except (redis.RedisError, OSError):
            self.drop_idle()
            connection.abort()
            await connection.connect()
            self.life = connection.life

    async def exchange(self, packed: bytes, count: int) -> tuple[list[Any], bytes]:
        """See `Pool.exchange`."""
        connection = await self.take()
        try:
            replies = await connection.exchange(packed, count)
        except BaseException:
            self.drop(connection)
            raise
        life: bytes = connection.life
        self.give(connection)
        return replies, life

    # What plain redis-py clients call.

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """See `Pool.get_connection`."""
        trial = Trial(self.settings, retries=self.settings.retries, plain=True)
        while True:
            try:
                connection = await self.take()
                connection.forget_packed()
                # A plain client's command may not be sent twice: a closed connection is found out before it is sent.
                with contextlib.suppress(redis.RedisError, OSError):
                    if not await connection.can_read():
                        connection.lent_to = 1
                        return connection
                self.drop(connection)
                if not connection.healthy_until:
                    raise redis.ConnectionError("A new connection was closed, or sent what nobody asked for")
            except Exception as error:
                await asyncio.sleep(trial.pause_after(error))

    async def release(self, connection: Any) -> None:
        if connection.lent_to:
            connection.lent_to = 0
            self.give(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close what is idle on the running loop now, and what is in use when it comes back."""
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            return
        slots, ending = self._loops[loop]
        self._loops[loop] = Slots(), ending
        while slots.idle:
            with contextlib.suppress(redis.RedisError, OSError):
                await slots.idle.pop().disconnect()
