"""Each test stands for a defect that was found in the pools; its docstring names the symptom."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
import redis

from redis_integration.conf import RedisSettings
from redis_integration.exceptions import RedisUnavailable
from redis_integration.pools import aget_pool, aget_redis, close_pools, exchange, get_pool, get_redis
from redis_integration.pools.slots import Slots
from tests.forks import in_forked_child


@pytest.fixture
def options(prefix):
    return {"CLIENT_NAME": prefix, "MAX_CONNECTIONS": 3}


def kill_all(server):
    with redis.Redis.from_url(server.url) as other:
        other.client_kill_filter(_type="normal", skipme=True)


def test_event_loops_of_several_threads_do_not_disturb_each_other(live):
    """`asyncio.run` in many threads raised "dictionary changed size during iteration"."""
    failures = []

    def work():
        try:
            [asyncio.run(aget_redis().ping()) for _ in range(40)]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert failures == []
    assert aget_pool()._loops == {}


def test_child_cannot_speak_on_a_connection_its_parent_has_in_use(live, prefix):
    """A child that left its parent's WATCH block sent UNWATCH on the parent's socket: a lost update."""
    client = get_redis()
    client.set(prefix, "1")
    pipeline = client.pipeline()
    pipeline.watch(prefix)

    in_forked_child(lambda: pipeline.reset() or b"")
    with redis.Redis.from_url(live.url) as other:
        other.set(prefix, "2")
    pipeline.multi()
    pipeline.set(prefix, "lost update")

    with pytest.raises(redis.WatchError):
        pipeline.execute()
    assert client.get(prefix) == b"2"


def test_building_a_connection_may_ask_for_another():
    """Garbage that dies while a connection is built, and uses the cache, waited for the builder's lock for ever."""
    slots = Slots()
    inner = []

    class Connection:
        def __init__(self):
            if not inner:
                inner.append(None)
                inner.append(slots.find(OnePool))

    class OnePool:
        settings = RedisSettings(url="redis://localhost", max_connections=1)
        connection_class = Connection
        connection_kwargs = {}

    outer = slots.find(OnePool)

    assert inner[1] is not None
    assert outer is None


class NoisyServer:
    """Says more than it was asked, on every connection."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections = []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            connection, _ = self.listener.accept()
            self.connections.append(connection)
            if not connection.recv(4096):
                return
            connection.sendall(b"+OK\r\n+EXTRA\r\n")

    def stop(self):
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join()
        [connection.close() for connection in self.connections]
        self.listener.close()


@pytest.fixture
def noisy():
    server = NoisyServer()
    yield server
    server.stop()


def test_server_that_talks_unasked_is_an_error(noisy, settings):
    """A new connection with something to read was replaced by a new one, for ever."""
    url = f"redis://127.0.0.1:{noisy.port}/0?protocol=2"
    settings.REDIS_INTEGRATION = {"default": {"URL": url, "DISTRUST_RESTARTS": False}}

    with pytest.raises(redis.ConnectionError, match="nobody asked for"):
        get_redis().ping()
    with pytest.raises(redis.ConnectionError, match="nobody asked for"):
        asyncio.run(aget_redis().ping())


def test_read_that_timed_out_leaves_its_reply_owed(live, prefix):
    """An async read with a timeout counted as read, and the late reply answered the next command."""

    async def main():
        pool = aget_pool()
        connection = await pool.get_connection()
        await connection.send_command("BLPOP", prefix, 0)
        nothing = await connection.read_response(timeout=0.05)
        await pool.release(connection)
        return nothing, connection.is_clean()

    assert asyncio.run(main()) == (None, False)


def test_cancelling_a_waiter_stops_it(live):
    """On Python 3.11 a cancellation that came with the wake-up was swallowed."""

    async def waiter(pool):
        pool.give(await pool.take())
        await asyncio.sleep(0)
        return "ran on"

    async def main():
        pool = aget_pool()
        taken = [await pool.take() for _ in range(3)]
        task = asyncio.ensure_future(waiter(pool))
        await asyncio.sleep(0.003)
        pool.give(taken.pop())
        task.cancel()
        result = await asyncio.gather(task, return_exceptions=True)
        [pool.give(connection) for connection in taken]
        return result

    assert isinstance(asyncio.run(main())[0], asyncio.CancelledError)


def test_cancelled_waiters_leave_no_gate_behind(live):
    """Gates of cancelled waiters ate the wake-ups of living ones."""

    async def main():
        pool = aget_pool()
        taken = [await pool.take() for _ in range(3)]
        tasks = [asyncio.ensure_future(pool.take()) for _ in range(20)]
        await asyncio.sleep(0.003)
        [task.cancel() for task in tasks]
        await asyncio.gather(*tasks, return_exceptions=True)
        waiting = len(taken[0].home.waiting)
        [pool.give(connection) for connection in taken]
        return waiting

    assert asyncio.run(main()) == 0


def test_client_kept_across_close_pools_is_still_the_only_one(live):
    """After close_pools() a kept client and a new one had a pool each, and twice MAX_CONNECTIONS."""
    client = get_redis()
    client.ping()

    close_pools()
    client.ping()

    assert get_redis() is client
    assert client.connection_pool is get_pool()


def test_loop_goes_on_with_its_pool_after_aclose(live):
    """The generator of a closed pool was finalised later and closed the new one."""

    async def main():
        await aget_redis().ping()
        await aget_pool().disconnect()
        first = await aget_redis().client_id()
        await asyncio.sleep(0.01)
        return first == await aget_redis().client_id()

    assert asyncio.run(main())


def test_one_lost_connection_ends_all_that_are_idle(live):
    """After a restart, each dead idle connection cost one more call that may not be repeated."""
    pool = get_pool()
    [pool.give(connection) for connection in [pool.take() for _ in range(3)]]
    kill_all(live)

    with pytest.raises(RedisUnavailable):
        exchange("default", [("PING",)], idempotent=False)

    assert exchange("default", [("PING",)], idempotent=False)[0] == [b"PONG"]


def test_tls_handshake_ends_with_the_time_to_connect(settings):
    """A TLS port that never answers took COMMAND_TIMEOUT; here that would be an hour."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rediss://127.0.0.1:{silent.getsockname()[1]}/0"
        settings.REDIS_INTEGRATION = {"default": {"URL": url, "CONNECT_TIMEOUT": 0.1, "COMMAND_TIMEOUT": 3600}}

        with pytest.raises(RedisUnavailable):
            exchange("default", [("PING",)])


@pytest.mark.parametrize("options", [{"COMMAND_TIMEOUT": 0.5}])
def test_monitor_lives_while_commands_come(live, prefix):
    """MONITOR ended COMMAND_TIMEOUT after its start although commands came."""
    stopped = threading.Event()

    def chatter():
        with redis.Redis.from_url(live.url) as other:
            while not stopped.wait(0.02):
                other.echo(prefix)

    thread = threading.Thread(target=chatter)
    thread.start()
    with get_redis().monitor() as monitor:
        seen = [monitor.next_command() for _ in range(60)]
    stopped.set()
    thread.join()

    assert len(seen) == 60


def test_refused_argument_costs_no_connection(live):
    """A DataError left a count of packed commands behind, and the next connection was closed for it."""
    client = get_redis()
    before = client.client_id()

    with pytest.raises(redis.DataError):
        client.set("x", object())
    client.ping()

    assert client.client_id() == before
