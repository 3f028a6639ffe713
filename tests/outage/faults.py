"""The faults of docs/outages.md: how each is made with a real server, a socket or a proxy, and what it means for a call.

A fault is a context manager: it is made at the start, and healed at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import redis

from demo_project.proxy import End, FarEnd
from demo_project.server import free_port, start_server
from redis_integration import budget
from redis_integration.exceptions import Kind
from tests.stampede.watch import until

PASSWORD = "hunter2"
# The user of the application. Of the server, and not set later: a restart keeps it.
USER = ["--user", "app", "on", f">{PASSWORD}", "~*", "&*", "+@all"]
# So slow that a restart is still loading when the test has ended. Redis 6.2 answers nothing between 2 MB of it.
SLOW_LOADING = ["--key-load-delay", "400", "--loading-process-events-interval-bytes", "1024"]
CONNECTIONS = 3  # of the pool of a scene
SHORT = 0.2  # seconds of a timeout that is waited for
LAG = 0.1  # seconds that a slow network takes longer


class Meaning(NamedTuple):
    """What three calls meet: for an entry that Redis holds, for one that it does not hold, and for the first one again.

    `word` is what the docs call it. Each call has an answer, "entry" or "origin", and then a breaker, open or not. `logs` are
    the events at WARNING and above.
    """

    word: str
    kinds: set[Kind]
    answers: list[str]
    is_open: list[bool]
    logs: list[str]
    is_pending: bool = True  # an invalidation; else it has reached Redis
    stores: bool = False
    is_short: bool = False  # whether it is tried again soon


ORIGIN, GOES_ON = ["origin"] * 3, ["entry", "origin", "entry"]
NEVER = [False] * 3
DOWN = Meaning("down", {Kind.DOWN}, ORIGIN, [True] * 3, ["redis_lost"])
# The server says what it is waiting for.
SHORTLY_DOWN = DOWN._replace(word="down, and tried again soon", is_short=True)
# It serves what it holds, until it is asked for a lease.
REFUSES_WRITES = DOWN._replace(answers=["entry", "origin", "origin"], is_open=[False, True, True])
SLOW = Meaning("down", {Kind.SLOW}, ORIGIN, [False, True, True], ["redis_slow", "redis_lost"])
SLOW_ONCE = Meaning("slow", {Kind.SLOW}, ["origin"], [False], ["redis_slow"])
BUSY = Meaning("busy", {Kind.BUSY}, ORIGIN, NEVER, ["redis_busy"])
FULL = Meaning("full", {Kind.FULL}, GOES_ON, NEVER, ["redis_full"], is_pending=False)
MENDED = Meaning("", set(), GOES_ON, NEVER, [], is_pending=False, stores=True)
FOREIGN = Meaning("a foreign key", {Kind.FOREIGN}, ORIGIN, NEVER, ["entry_unreadable"], is_pending=False, stores=True)
UNREADABLE = FOREIGN._replace(kinds=set())


class Fault(NamedTuple):
    """`row` is how its row in the docs begins or goes on, `remedy` a part of what the log says."""

    strike: Callable[[Any], Any]
    row: str
    meaning: Meaning
    remedy: str
    url: str = f"redis://app:{PASSWORD}@127.0.0.1:{{port}}/0"
    is_async: tuple[bool, ...] = (False, True)
    arguments: list[str] = []  # of the server
    since: tuple[int, ...] = ()  # the first version of Redis that can do it
    is_unheard: bool = False  # Redis does what it is asked to, and nobody hears of it


@contextmanager
def led_to(scene, port):
    """Open connections break, and new ones lead to another port."""
    home = scene.proxy.target
    scene.proxy.cut()
    scene.proxy.target = ("127.0.0.1", port)
    scene.proxy.heal()
    try:
        yield
    finally:
        scene.proxy.cut()
        scene.proxy.target = home
        scene.proxy.heal()


@contextmanager
def refused(scene):
    scene.proxy.cut()
    yield
    scene.proxy.heal()


@contextmanager
def reset(scene):
    with led_to(scene, free_port()):  # the proxy resets what it cannot carry
        yield


@contextmanager
def reset_once(scene):
    scene.proxy.cut()
    scene.proxy.heal()
    yield


@contextmanager
def unknown_host(scene):
    def fail(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.MonkeyPatch.context() as patch, reset_once(scene):
        patch.setattr(socket, "getaddrinfo", fail)
        yield


@contextmanager
def loop_closed(scene):
    async def fail(*args):
        raise RuntimeError("Event loop is closed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.pool.connection_class, "exchange", fail)
        yield


@contextmanager
def impatient(scene, seconds=SHORT):
    """Timeouts are short: a test waits for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_socket_timeout", "_socket_connect_timeout"):
            short = property(
                lambda _: seconds, lambda connection, value, name=name: vars(connection).update({name: value})
            )
            patch.setattr(scene.pool.connection_class, name, short, raising=False)
        yield


@contextmanager
def frozen(scene):
    with impatient(scene):
        scene.proxy.freeze()
        yield
    # What it holds back never arrives.
    scene.proxy.cut()
    scene.proxy.heal()


@contextmanager
def unanswered_connect(scene):
    """Nothing comes back, not even a refusal: the queue of a listener that accepts nothing is full."""
    with contextlib.ExitStack() as stack, impatient(scene):
        scene.proxy.cut()
        hole = stack.enter_context(socket.socket())
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        hole.bind(("127.0.0.1", scene.proxy.port))
        hole.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", scene.proxy.port))
        yield
    scene.proxy.heal()


@contextmanager
def lagging(scene, *, seconds=LAG):
    """The proxy passes each answer on later."""

    def carry(end, chunk):
        asyncio.get_running_loop().call_later(seconds, End.data_received, end, chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FarEnd, "data_received", carry)
        yield


@contextmanager
def lagging_too_much(scene):
    with impatient(scene, LAG / 2), lagging(scene):
        yield


def torn(times):
    """The fault that of so many answers half arrives, and then the connection closes."""

    @contextmanager
    def fault(scene):
        torn = itertools.chain(itertools.repeat(True, times), itertools.repeat(False))

        def carry(end, chunk):
            is_torn = next(torn)
            End.data_received(end, chunk[: len(chunk) // 2] if is_torn else chunk)
            if is_torn:
                end.peer.transport.close()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FarEnd, "data_received", carry)
            yield

    return fault


class Impostor(socketserver.StreamRequestHandler):
    """Greets as a Redis does, and answers all else with the `reply` of its server, at once or a byte each `pause` seconds."""

    greetings = {
        b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n",
        b"CLIENT": b"+OK\r\n",
        b"SELECT": b"+OK\r\n",
        b"server": b"$8\r\nrun_id:a\r\n",
        b"replication": b"$15\r\nmaster_replid:b\r\n",
    }

    def handle(self):
        with contextlib.suppress(OSError):
            while head := self.rfile.readline():
                words = [self.word() for _ in range(int(head[1:]))]
                greeting = self.greetings.get(words[1] if words[0] == b"INFO" else words[0])
                if greeting or not self.server.pause:
                    self.connection.sendall(greeting or self.server.reply)
                    continue
                for byte in self.server.reply:
                    self.connection.sendall(bytes([byte]))
                    self.server.stopping.wait(self.server.pause)

    def word(self):
        self.rfile.readline()
        return self.rfile.readline().rstrip()


class ImpostorServer(socketserver.ThreadingTCPServer):
    pause = 0.0

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Impostor)
        self.reply = reply
        self.stopping = threading.Event()


def answers(reply, pause=0.0):
    """The fault that each command is answered so."""

    @contextmanager
    def fault(scene):
        with ImpostorServer(reply) as server:
            server.pause = pause
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            with led_to(scene, server.server_address[1]):
                yield
            server.stopping.set()
            server.shutdown()
            thread.join()

    return fault


@contextmanager
def dripping(scene):
    with impatient(scene), answers(b"$10000\r\n" + b"x" * 10000, pause=0.05)(scene):
        yield


def configured(name, value, *, disconnect=False):
    """The fault that an option of the server has this value."""

    @contextmanager
    def fault(scene):
        before = scene.admin.config_get(name)[name]
        if disconnect:
            scene.disconnect()
        scene.admin.config_set(name, value)
        yield
        scene.admin.config_set(name, before)

    return fault


def permitted(*rules, undo, disconnect=False):
    """The fault that these rules of its ACL hold for the user of the application."""

    @contextmanager
    def fault(scene):
        scene.admin.execute_command("ACL", "SETUSER", "app", *rules)
        if disconnect:
            scene.disconnect()
        yield
        scene.admin.execute_command("ACL", "SETUSER", "app", *undo)

    return fault


@contextmanager
def demoted(scene):
    scene.admin.replicaof("127.0.0.1", "1")
    yield
    scene.admin.replicaof("NO", "ONE")


@contextmanager
def orphaned(scene):
    with demoted(scene), configured("replica-serve-stale-data", "no")(scene):
        yield


@contextmanager
def disk_gone(scene):
    scene.admin.config_set("save", "3600 1")
    shutil.rmtree(scene.folder)
    scene.admin.bgsave()
    until(lambda: scene.admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    scene.admin.config_set("save", "")


def is_refused(admin, text):
    """Whether this server answers a PING with this error."""
    try:
        admin.ping()
    except redis.RedisError as error:
        return text in str(error)
    return False


@contextmanager
def loading(scene):
    # In another database: that of the test keeps what it had.
    fill = "redis.call('SELECT', 1) for i = 1, 40000 do redis.call('SET', i, string.rep('x', 100)) end"
    scene.admin.eval(fill, 0)
    scene.admin.save()
    scene.server.kill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.server, "_answers", lambda: is_refused(scene.admin, "loading"))
        scene.server.start()
    yield
    scene.admin.config_set("key-load-delay", 0)
    until(lambda: not is_refused(scene.admin, ""))


@contextmanager
def script_runs(scene):
    def work():
        with scene.connect() as client, contextlib.suppress(redis.ResponseError):
            client.eval("while true do end", 0)

    scene.admin.config_set("lua-time-limit", 50)
    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: is_refused(scene.admin, "BUSY"))
    try:
        yield
    finally:
        scene.admin.script_kill()
        thread.join()


@contextmanager
def cluster_without_slots(scene):
    with start_server("--cluster-enabled", "yes", *USER) as node, led_to(scene, node.port):
        yield


@contextmanager
def pool_in_use(scene):
    held = [scene.run(scene.pool.take()) for _ in range(CONNECTIONS)]
    yield
    for connection in held:
        scene.pool.drop(connection)


@contextmanager
def budget_spent(scene):
    with budget.granted(60):
        budget.current.get().left = 0.0
        yield


def occupied(*command):
    """The fault that what this command makes lies at our key."""

    @contextmanager
    def fault(scene):
        scene.admin.delete(*scene.keys.values())
        for key in scene.keys.values():
            scene.admin.execute_command(command[0], key, *command[1:])
        yield
        scene.admin.delete(*scene.keys.values())

    return fault


SERVER, CREDENTIALS, RULE, REPLICA = (
    "Is the server running",
    "Check USERNAME and PASSWORD",
    "ACL SETUSER",
    "is a replica",
)
SLOWLOG = "see SLOWLOG GET"

FAULTS = {
    "refused": Fault(refused, "connection refused", DOWN, SERVER),
    "reset": Fault(reset, "or reset", DOWN, SERVER),
    "torn": Fault(torn(1_000), "or reset", DOWN, SERVER, is_unheard=True),
    "unknown host": Fault(
        unknown_host, "unknown host", DOWN, SERVER, url=f"redis://app:{PASSWORD}@localhost:{{port}}/0"
    ),
    "event loop closed": Fault(loop_closed, "or reset", DOWN, "another event loop", is_async=(True,)),
    "frozen once": Fault(frozen, "no answer in time, once", SLOW_ONCE, SLOWLOG),
    "frozen": Fault(frozen, "no answer in time, again", SLOW, SLOWLOG),
    "connect unanswered": Fault(unanswered_connect, "no answer in time, again", SLOW, SLOWLOG),
    "lagging too much": Fault(lagging_too_much, "no answer in time, again", SLOW, SLOWLOG, is_unheard=True),
    "dripping": Fault(dripping, "no answer in time, again", SLOW, SLOWLOG),
    "NOAUTH": Fault(
        configured("requirepass", "letmein", disconnect=True),
        "`NOAUTH`",
        DOWN,
        CREDENTIALS,
        url="redis://127.0.0.1:{port}/0",
    ),
    "WRONGPASS": Fault(
        permitted("resetpass", ">changed", undo=("resetpass", f">{PASSWORD}"), disconnect=True),
        "`WRONGPASS`",
        DOWN,
        CREDENTIALS,
    ),
    "NOPERM to read": Fault(permitted("-@read", undo=("+@all",)), "`NOPERM`", DOWN._replace(is_pending=False), RULE),
    "NOPERM to write": Fault(permitted("-@write", undo=("+@all",)), "`NOPERM`", REFUSES_WRITES, RULE),
    "NOPERM to run scripts": Fault(
        permitted("-@scripting", undo=("+@all",)), "`NOPERM`", REFUSES_WRITES._replace(is_pending=False), RULE
    ),
    "READONLY": Fault(demoted, "`READONLY`", REFUSES_WRITES, REPLICA),
    "MISCONF": Fault(disk_gone, "`MISCONF`", REFUSES_WRITES, "look at the disk"),
    "NOREPLICAS": Fault(
        configured("min-replicas-to-write", 1), "`NOREPLICAS`", REFUSES_WRITES, "min-replicas-to-write"
    ),
    "LOADING": Fault(loading, "`LOADING`", SHORTLY_DOWN, "It is loading its data", arguments=SLOW_LOADING, since=(7,)),
    "MASTERDOWN": Fault(orphaned, "`MASTERDOWN`", SHORTLY_DOWN, "The replica lost its primary"),
    "CLUSTERDOWN": Fault(cluster_without_slots, "`CLUSTERDOWN`", SHORTLY_DOWN, "The cluster is not complete"),
    "TRYAGAIN": Fault(
        answers(b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"),
        "`TRYAGAIN`",
        SHORTLY_DOWN,
        "The cluster is moving slots",
    ),
    "BUSY": Fault(script_runs, "`BUSY`", SHORTLY_DOWN, "SCRIPT KILL"),
    "too many clients": Fault(
        configured("maxclients", 1, disconnect=True), "too many clients", SHORTLY_DOWN, "Raise the server's maxclients"
    ),
    "OOM": Fault(configured("maxmemory", 1), "`OOM`", FULL, "Raise maxmemory"),
    "pool in use": Fault(pool_in_use, "all connections of this process in use", BUSY, "Raise MAX_CONNECTIONS"),
    "budget spent": Fault(budget_spent, "waited enough", BUSY, "raise REQUEST_BUDGET"),
    "WRONGTYPE": Fault(occupied("RPUSH", "theirs"), "not ours", FOREIGN, "Another program owns this key"),
    "unreadable": Fault(occupied("SET", "theirs"), "not ours", UNREADABLE, "no entry of format"),
    "oversize": Fault(occupied("SET", "x" * 2_000_000), "not ours", UNREADABLE, "no entry of format"),
    "reset once": Fault(reset_once, "", MENDED, ""),
    "torn once": Fault(torn(1), "", MENDED, ""),
    "lagging": Fault(lagging, "", MENDED, ""),
}
