"""A loopback TCP proxy that can be cut and healed, to take Redis away without stopping it. It reads nothing it carries."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Self, cast

ANSWER_TIMEOUT = 10.0  # seconds for the proxy's own thread to do as told; it takes a few ms
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: closing sends RST instead of FIN


class CuttableProxy:
    """Carries `.port` to `host:target_port`. Leaving the context closes it, with its one thread."""

    def __init__(self, target_port: int, *, host: str = "127.0.0.1") -> None:
        self.target = (host, target_port)
        self.ends: set[End] = set()
        self.opening: set[asyncio.Task[None]] = set()
        self.frozen = False
        # Bound and never listening: nobody else gets this port while the proxy is cut.
        self._claim = _bound(0)
        self.port: int = self._claim.getsockname()[1]
        self._listener: socket.socket | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self.heal()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """Refuses new connections and resets the open ones. All of them are gone when this returns."""
        asyncio.run_coroutine_threadsafe(self._sever(), self._loop).result(ANSWER_TIMEOUT)

    def freeze(self) -> None:
        """Accepts, and carries nothing: what arrives waits for `heal`."""
        asyncio.run_coroutine_threadsafe(self._hold(), self._loop).result(ANSWER_TIMEOUT)

    def heal(self) -> None:
        """Carries again, on the same port."""
        asyncio.run_coroutine_threadsafe(self._carry_on(), self._loop).result(ANSWER_TIMEOUT)

    def close(self) -> None:
        """Cuts for good. A second call changes nothing."""
        if self._loop.is_closed():
            return
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_TIMEOUT)
        self._loop.close()
        self._claim.close()

    async def _carry_on(self) -> None:
        self.frozen = False
        for end in self.ends:
            end.flow()
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(128)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _hold(self) -> None:
        self.frozen = True
        for end in self.ends:
            end.flow()

    async def _sever(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()
        while self.ends or self.opening:  # a reset takes a turn of the loop, and an end may still appear in it
            for end in list(self.ends):
                end.reset()
            await asyncio.sleep(0)

    def _accept(self, listener: socket.socket) -> None:
        # By hand: asyncio's own server loses a connection that it is accepting while it is closed.
        with contextlib.suppress(OSError):
            near, _ = listener.accept()
            near.setblocking(False)
            self.open(self._greet(near))

    async def _greet(self, near: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: NearEnd(self), near)

    def open(self, opening: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """The task that opens a connection; `cut` waits until it has ended."""
        task = self._loop.create_task(opening)
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)
        return task


class End(asyncio.Protocol):
    """One end of a carried connection. What it receives goes to its `peer`, no faster than the peer takes it."""

    def __init__(self, proxy: CuttableProxy, peer: End | None = None) -> None:
        self.proxy = proxy
        self.peer = peer
        self.choked = False  # the other side of this end's socket reads too slowly
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.proxy.ends.add(self)

    def data_received(self, chunk: bytes) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(chunk)

    def connection_lost(self, _: Exception | None) -> None:
        self.proxy.ends.discard(self)
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()

    def pause_writing(self) -> None:
        self._choke(True)

    def resume_writing(self) -> None:
        self._choke(False)

    def _choke(self, choked: bool) -> None:
        self.choked = choked
        if self.peer is not None:
            self.peer.flow()

    def flow(self) -> None:
        """Reads if there is somewhere to write to, and waits if not."""
        if self.transport is None:
            return
        if self.peer is None or self.peer.transport is None or self.peer.choked or self.proxy.frozen:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def reset(self) -> None:
        """Closes with RST, as a machine that went away and came back does."""
        if self.transport is not None:
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.transport.abort()


class NearEnd(End):
    """The end that a client of the proxy holds: it dials the server."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flow()
        self._dialling = self.proxy.open(self._dial())

    def connection_lost(self, exc: Exception | None) -> None:
        self._dialling.cancel()
        super().connection_lost(exc)

    async def _dial(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: FarEnd(self.proxy, self), *self.proxy.target)
        except OSError:
            self.reset()


class FarEnd(End):
    """The end that the server holds."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.peer is not None:
            self.peer.peer = self
            self.peer.flow()
        self.flow()


def _bound(port: int) -> socket.socket:
    claim = socket.socket()
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    claim.bind(("127.0.0.1", port))
    return claim
