"""Redis connections that know whether their exchange is finished, and that carry a deadline.

redis-py's own return to a pool after an interrupt with a reply still to come, which the next command reads; these do not. They know
the life of their server. Nothing here decides what a failure means.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import Any

from redis import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as AsyncUnixConnection
from redis.connection import PythonRespSerializer
from redis.exceptions import ResponseError

from redis_integration.pools.life import ANSWERS, QUESTION, UNSET_LIFE, life_of, refusal_of
from redis_integration.pools.replies import More, go_on, read_replies


class DeadlineSocket:
    """A socket whose every send and receive ends at `deadline` (monotonic seconds).

    A plain timeout is renewed by each byte that arrives: a reply that drips made 0.25 s into 2.4 s.
    """

    __slots__ = ("_armed", "_socket", "deadline")

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._armed = inf  # the timeout of the socket
        self.deadline: float | None = deadline

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def settimeout(self, timeout: float | None) -> None:
        """A timeout asked for by name (a blocking read of pub/sub) ends the deadline."""
        self.deadline, self._armed = None, inf
        self._socket.settimeout(timeout)

    def _arm(self) -> None:
        if self.deadline is not None:
            remaining = self.deadline - monotonic()
            if remaining <= 0:
                raise TimeoutError("the deadline of this exchange has passed")
            # Up to 5 % late: to set a timeout is a system call, which most exchanges do without.
            if not remaining <= self._armed <= 1.05 * remaining:
                self._socket.settimeout(remaining)
                self._armed = remaining

    def sendall(self, content: bytes) -> None:
        self._arm()
        view = memoryview(content)[self._socket.send(content) :]
        while view:
            self._arm()
            view = view[self._socket.send(view) :]

    def recv(self, size: int, flags: int = 0) -> bytes:
        # redis-py peeks with flags at an idle connection, where no deadline counts.
        if flags:
            return self._socket.recv(size, flags)
        self._arm()
        return self._socket.recv(size)

    def recv_into(self, buffer: bytearray) -> int:
        self._arm()
        return self._socket.recv_into(buffer)


class _CountingPacker(PythonRespSerializer):
    """redis-py's Python packer, which also counts the commands it packed.

    The packer of hiredis 3.5 crashes the interpreter when a signal handler raises while it converts a number.
    """

    packed = 0

    def pack(self, *args: Any) -> Any:
        self.packed += 1
        return super().pack(*args)  # type: ignore[no-untyped-call]


class _Exchanging:
    """What sync and async connections share: `owed` replies, a deadline, and the pool they belong to.

    `owed` grows before the first byte of a command is sent and shrinks after its reply was read, so that an exception at
    any point in between leaves it above 0. A pool takes back a connection only where it is 0.
    """

    owed = 0
    life = UNSET_LIFE
    home: object = None
    lent_to = 0
    healthy_until = 0.0
    connect_by = 0.0
    # redis-py types these differently in its sync and its async half.
    _socket_connect_timeout: Any
    _socket_timeout: Any

    def __init__(self, *args: Any, distrust_restarts: bool = True, **kwargs: Any) -> None:
        self.question, self.answers = (QUESTION, ANSWERS) if distrust_restarts else (b"", 0)
        super().__init__(*args, **kwargs)

    @property
    def socket_connect_timeout(self) -> Any:
        """Seconds left to connect: redis-py asks once for each address, and would give each the whole time."""
        return max(0.001, self.connect_by - monotonic()) if self.connect_by else self._socket_connect_timeout

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: Any) -> None:
        self._socket_connect_timeout = value

    @contextmanager
    def _handshake(self) -> Iterator[None]:
        # It is an exchange too: a connection whose handshake was interrupted owes it for ever.
        self.owed = 1 + self.answers
        self.connect_by = monotonic() + self._socket_connect_timeout
        try:
            yield
        finally:
            self.connect_by = 0.0
        self.owed = 0


class _SyncExchanging(_Exchanging):
    _sock: Any
    _parser: Any
    _command_packer: Any

    def _construct_command_packer(self, packer: Any) -> Any:
        return _CountingPacker(self._buffer_cutoff, self.encoder.encode)  # type: ignore[attr-defined]

    def _connect(self) -> DeadlineSocket:
        return DeadlineSocket(super()._connect(), self.connect_by)  # type: ignore[misc]

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        # redis-py gives the TLS handshake a command's time.
        sock.settimeout(self.socket_connect_timeout)
        return super()._wrap_socket_with_ssl(sock)  # type: ignore[misc]

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if self._sock:
            return
        with self._handshake():
            super().connect_check_health(check_health=check_health, retry_socket_connect=False)  # type: ignore[misc]

    def on_connect_check_health(self, check_health: bool = True) -> None:
        # Here and no later: redis-py subscribes again at the end of `connect_check_health`.
        super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        self.send_packed_command([self.question], check_health=False)
        try:
            replies = [self.read_response() for _ in range(self.answers)]
        except ResponseError as error:
            raise refusal_of(error) from error
        self.life = life_of(replies)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        packer = self._command_packer
        count, packer.packed = packer.packed, 0
        if not self._sock:
            self.connect_check_health(check_health=False)
        self._sock.deadline = self.connect_by or monotonic() + self._socket_timeout
        self.owed += count
        super().send_packed_command(command, check_health=check_health)  # type: ignore[misc]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if self.owed <= 0 and self._sock is not None:  # nobody asked for it: MONITOR
            self._sock.deadline = monotonic() + self._socket_timeout
        try:
            response = super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError:
            self.owed -= 1
            raise
        self.owed -= 1
        return response

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        self.life = UNSET_LIFE
        super().disconnect(*args, **kwargs)  # type: ignore[misc]
        self.owed = 0

    abort = disconnect

    def is_clean(self) -> bool:
        return self.owed == 0 and self._sock is not None

    def forget_packed(self) -> None:
        """What was packed and never sent, after an argument redis-py refused."""
        self._command_packer.packed = 0

    def exchange(self, packed: bytes, count: int, more: More | None = None) -> list[Any]:
        """The `count` replies to `packed`; server errors among them are values. One round trip."""
        self.owed = count
        self._sock.deadline = monotonic() + self._socket_timeout
        self._sock.sendall(packed)
        replies = go_on(self, count, more) if more else read_replies(self._parser, count)
        self.owed = 0
        return replies


class _AsyncExchanging(_Exchanging):
    _reader: Any
    _writer: Any
    _parser: Any
    _packed = 0
    _command_by = 0.0

    @property
    def socket_timeout(self) -> Any:
        """Seconds left for this exchange: redis-py asks before each reply, and would give each the whole time."""
        by = self.connect_by or (self._command_by if self.owed > 0 else 0.0)
        return max(0.001, by - monotonic()) if by else self._socket_timeout

    @socket_timeout.setter
    def socket_timeout(self, value: Any) -> None:
        self._socket_timeout = value

    def pack_command(self, *args: Any) -> Any:
        self._packed += 1
        return super().pack_command(*args)  # type: ignore[misc]

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if self._writer:
            return
        with self._handshake():
            await super().connect_check_health(check_health=check_health, retry_socket_connect=False)  # type: ignore[misc]

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        # redis-py would send it in wait_for, which swallows a cancellation that comes with the end (Python 3.11).
        self._writer.write(self.question)
        try:
            replies = [await self.read_response() for _ in range(self.answers)]
        except ResponseError as error:
            raise refusal_of(error) from error
        self.life = life_of(replies)

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        count, self._packed = self._packed, 0
        if not self._writer:
            await self.connect_check_health(check_health=False)
        self._command_by = monotonic() + self._socket_timeout
        self.owed += count
        await super().send_packed_command(command, check_health=check_health)  # type: ignore[misc]

    async def read_response(self, disable_decoding: bool = False, timeout: float | None = None, **options: Any) -> Any:
        try:
            response = await super().read_response(disable_decoding, timeout, **options)  # type: ignore[misc]
        except ResponseError:
            self.owed -= 1
            raise
        # With a timeout of its own, None also says that nothing came.
        self.owed -= timeout is None or response is not None
        return response

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        self.life = UNSET_LIFE
        await super().disconnect(*args, **kwargs)  # type: ignore[misc]
        self.owed = 0

    def is_clean(self) -> bool:
        return self.owed == 0 and self._writer is not None

    def forget_packed(self) -> None:
        self._packed = 0

    def abort(self) -> None:
        """Close at once, without awaiting: what a cancelled task can still do."""
        writer, self._writer, self._reader = self._writer, None, None
        self.life = UNSET_LIFE
        self._parser.on_disconnect()
        if writer is not None:
            writer.transport.abort()

    async def exchange(self, packed: bytes, count: int) -> list[Any]:
        """See the sync `exchange`."""
        self.owed = count
        async with asyncio.timeout(self._socket_timeout):
            self._writer.write(packed)
            read = self._parser.read_response
            replies = [await read() for _ in range(count)]
        self.owed = 0
        return replies


def _by_scheme(ours: type, *theirs: type) -> dict[str, Any]:
    bases = zip(("redis", "rediss", "unix"), theirs, strict=True)
    return {scheme: type(f"Exchanging{base.__name__}", (ours, base), {}) for scheme, base in bases}


CONNECTIONS = _by_scheme(_SyncExchanging, Connection, SSLConnection, UnixDomainSocketConnection)
ASYNC_CONNECTIONS = _by_scheme(_AsyncExchanging, AsyncConnection, AsyncSSLConnection, AsyncUnixConnection)
