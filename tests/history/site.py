"""The servers and workers of one run: it starts them, has the plan carried out, and gives back the history. Nothing of it stays."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from demo_project.proxy import CuttableProxy, FarEnd, NearEnd
from demo_project.server import LocalServer, start_server
from tests.history import faults
from tests.history.plan import Plan, Strike
from tests.history.records import History, Life, Span, count_acknowledged, load
from tests.stampede.watch import until

ROOT = Path(__file__).parent.parent.parent
SOON = 0.5  # seconds from the word to the begin
PATIENCE = 60.0  # seconds for a worker to start, to settle, to end
PASSWORD = "alone"
HANDSHAKE = 3  # replies, each a chunk
PROXIED = (2, 3)  # the workers whose replies can be lost
SQLITE: dict[str, Any] = {
    "ENGINE": "django.db.backends.sqlite3",
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",
    },
}


class LosingFarEnd(FarEnd):
    chunks = 0
    carried = 0  # chunks, of a proxy that loses replies

    def data_received(self, chunk: bytes) -> None:
        self.chunks += 1
        if self.proxy.loses_replies and self.chunks > self.carried:  # type: ignore[attr-defined]
            self.reset()
        else:
            super().data_received(chunk)


class LosingNearEnd(NearEnd):
    async def _dial(self) -> None:
        loop, (host, port) = asyncio.get_running_loop(), self.proxy.target
        far = LosingFarEnd(self.proxy, self)
        far.carried = next(self.proxy.limits)  # type: ignore[attr-defined]
        try:
            await loop.create_connection(lambda: far, host, port)
        except OSError:
            self.reset()


class LosingProxy(CuttableProxy):
    """While it `loses_replies`, what it carries is executed, and then the connection breaks: some at once, some a little later."""

    loses_replies = False

    def __init__(self, target_port: int) -> None:
        self.limits = itertools.cycle((HANDSHAKE, HANDSHAKE + 3))
        super().__init__(target_port)

    async def _greet(self, near: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: LosingNearEnd(self), near)


def environment_of(setup: dict[str, Any]) -> dict[str, str]:
    """What a worker is started with."""
    environment = {**os.environ, "HISTORY_WORKER": json.dumps(setup)}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    return environment


def prepare(database: dict[str, Any]) -> None:
    """Make the tables."""
    setup = {**Life(0, 0)._asdict(), "database": database, "redis": {"URL": "redis://127.0.0.1:1/0"}}
    command = [sys.executable, "-m", "tests.history.worker", "-", "prepare"]
    subprocess.run(command, check=True, cwd=ROOT, env=environment_of(setup), timeout=PATIENCE)


class Child:
    """A worker's process. It ends when its standard input does, so also when this program is killed."""

    def __init__(self, life: Life, environment: dict[str, str], folder: Path) -> None:
        self.life = life
        self._is_ready = False
        self._log = (folder / f"log-{life.worker}-{life.number}").open("wb")
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.history.worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def say(self, word: str) -> None:
        assert self._child.stdin
        self._child.stdin.write(word + "\n")
        self._child.stdin.flush()

    def wait_until_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self.hear("ready")

    def hear(self, word: str) -> str:
        """The rest of the line that begins so. Raises AssertionError where the worker has ended."""
        assert self._child.stdout
        self.wait_until_ready()
        line = self._child.stdout.readline()
        assert line.startswith(word), f"{self.life} said {line!r} and not {word!r}"
        return line.removeprefix(word).strip()

    def kill(self) -> None:
        self._child.kill()
        self.wait()

    def wait(self) -> None:
        self._child.wait(PATIENCE)

    def close(self) -> None:
        assert self._child.stdin and self._child.stdout
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        try:
            self._child.wait(PATIENCE)
        finally:
            self.kill()
            self._child.stdout.close()
            self._log.close()


class Site:
    """The servers, and the workers of a plan. `redis_options` and `mutation` are those of every worker."""

    def __init__(self, plan: Plan, folder: Path, *, database: dict[str, Any], redis_options: dict[str, Any]) -> None:
        self.plan = plan
        self.folder = folder
        self.mutation = ""
        self.begin = 0.0
        self.faults: list[Span] = []
        self.killed: dict[Life, float] = {}
        self._database = database
        self._options = redis_options
        self._stack = contextlib.ExitStack()
        self.primary = self.start_server()
        self.port = self.primary.port
        self.replica: LocalServer | None = None
        self.proxies = [self._stack.enter_context(LosingProxy(self.port)) for _ in PROXIED]
        self.children: dict[int, Child] = {}

    def close(self) -> None:
        """End all that it has started."""
        self._stack.close()

    def start_server(self) -> LocalServer:
        """A server that knows the workers."""
        users = [
            argument
            for worker in range(len(self.plan.acts))
            for argument in ("--user", f"worker{worker}", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        ]
        return self._stack.enter_context(start_server(*users, "--repl-diskless-sync-delay", "0"))

    def start_replica(self) -> LocalServer:
        """One that follows the primary, and has caught up."""
        replica = self.start_server()
        with self.admin(replica) as admin:
            admin.replicaof("127.0.0.1", str(self.port))
            until(lambda: admin.info("replication")["master_link_status"] == "up")
        return replica

    @contextlib.contextmanager
    def admin(self, server: LocalServer | None = None) -> Iterator[redis.Redis]:
        """A client of the primary, or of another, that needs no port."""
        with redis.Redis(unix_socket_path=(server or self.primary).unixsocket) as client:
            yield client

    def setup(self, life: Life) -> dict[str, Any]:
        proxied = life.worker in PROXIED
        port = self.proxies[PROXIED.index(life.worker)].port if proxied else self.port
        url = {"URL": f"redis://127.0.0.1:{port}/0", "USERNAME": f"worker{life.worker}", "PASSWORD": PASSWORD}
        setup = {"database": self._database, "mutation": self.mutation, "settles_within": self.plan.settles_within}
        return {**life._asdict(), **setup, "redis": {**self._options, **url}}

    def start_worker(self, life: Life) -> None:
        child = Child(life, environment_of(self.setup(life)), self.folder)
        self._stack.callback(child.close)
        self.children[life.worker] = child

    def kill_worker(self, worker: int) -> None:
        self.children[worker].kill()
        self.await_death(worker)

    def await_death(self, worker: int) -> None:
        child = self.children.pop(worker)
        child.wait()
        self.killed[child.life] = time.monotonic()

    def restart_worker(self, worker: int) -> None:
        self.start_worker(Life(worker, 1 + max(life.number for life in self.killed if life.worker == worker)))
        self.children[worker].say(f"begin {self.begin}")  # once it is ready

    def run(self) -> History:
        """Carry the plan out."""
        self.plan.save(self.folder / "plan.json")
        for worker in range(len(self.plan.acts)):
            self.start_worker(Life(worker, 0))
        for child in self.children.values():
            child.wait_until_ready()
        if any(strike.kind == "failover" for strike in self.plan.faults):
            self.replica = self.start_replica()
        self.begin = time.monotonic() + SOON
        for child in self.children.values():
            child.say(f"begin {self.begin}")
        self._inject()
        if self.plan.tail is None:
            time.sleep(max(0.0, self.begin + self.plan.seconds - time.monotonic()))
        else:
            self.await_writes(self.plan.tail)
        return self._finish()

    def _inject(self) -> None:
        """Make and heal each fault in its time; they may overlap."""
        begins = [(strike.at, number, True) for number, strike in enumerate(self.plan.faults)]
        ends = [(strike.at + strike.seconds, number, False) for number, strike in enumerate(self.plan.faults)]
        with contextlib.ExitStack() as every:
            made = [every.enter_context(contextlib.ExitStack()) for _ in begins]
            for at, number, is_begin in sorted([*begins, *ends]):
                time.sleep(max(0.0, self.begin + at - time.monotonic()))
                strike = self.plan.faults[number]
                if is_begin:
                    made[number].enter_context(self._noted(strike))
                    made[number].enter_context(faults.FAULTS[strike.kind](self, strike))
                else:
                    if strike.holds is not None:
                        self.await_writes(strike.holds)
                    made[number].close()

    def await_writes(self, seconds: float) -> None:
        """Until so many seconds after all that is to be written was acknowledged."""
        until(lambda: count_acknowledged(self.folder) >= self.plan.count_writes())
        time.sleep(seconds)

    @contextlib.contextmanager
    def _noted(self, strike: Strike) -> Iterator[None]:
        start = time.monotonic()
        yield
        worker = f" (worker {strike.worker})" if strike.kind in faults.OF_ONE else ""
        self.faults.append(Span(start, time.monotonic(), f"{strike.kind}{worker}"))

    def _finish(self) -> History:
        """Everything is healed: wait until all have settled, then have each read each key."""
        children = [*self.children.values()]
        for child in children:
            child.say("settle")
        unsettled = {child.life: child.hear("settled") for child in children}
        for child in children:
            child.say("final")
        for child in children:
            child.hear("done")
        children[0].say("table")
        committed = json.loads(children[0].hear("table"))
        history = load(self.folder)
        history.committed = {(key, version): stamp for key, version, stamp in committed}
        history.faults, history.killed = self.faults, self.killed
        history.unsettled = [f"{life}: {what}" for life, what in unsettled.items() if what]
        return history
