from __future__ import annotations

import asyncio
import signal
import socket
import threading

import pytest
import redis

from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.pools import (
    UNSET_LIFE,
    aexchange,
    aget_pool,
    close_pools,
    exchange,
    first_failure,
    get_pool,
    get_redis,
    pack,
)
from redis_integration.pools.life import ANSWERS, TRUSTED_LIFE

PING = [("PING",)]
CLIENT_ID = [("CLIENT", "ID")]


@pytest.fixture
def options(prefix):
    return {"CLIENT_NAME": prefix, "MAX_CONNECTIONS": 3}


def sync_exchange(commands):
    return exchange("default", commands)


def async_exchange(commands):
    return asyncio.run(aexchange("default", commands))


sync_and_async = pytest.mark.parametrize("speak", [sync_exchange, async_exchange], ids=["sync", "async"])


def become_primary_anew(server):
    """What a failover does to a replica: another history begins, the server goes on."""
    with redis.Redis.from_url(server.url) as admin:
        admin.replicaof("127.0.0.1", 1)
        admin.replicaof("NO", "ONE")


def connected(server, name):
    with redis.Redis.from_url(server.url) as admin:
        return sum(found["name"] == name for found in admin.client_list())


def count_of_info(server):
    with redis.Redis.from_url(server.url) as admin:
        return admin.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"]


def test_connections_of_one_server_have_one_life(live):
    """Sync and async connections, at once and one after another, learn the same 8 bytes."""
    first = sync_exchange(PING)[1]
    close_pools()

    assert sync_exchange(PING)[1] == async_exchange(PING)[1] == first
    assert len(first) == len(UNSET_LIFE)
    assert first not in (UNSET_LIFE, TRUSTED_LIFE)


@sync_and_async
def test_restart_that_brings_old_keys_back_is_another_life(live_own, prefix, speak):
    """A server that restarted from its snapshot, at the same address and with the same keys, is another one."""
    replies, before = speak([("SET", prefix, "old", "PX", 60_000), ("SAVE",)])
    live_own.kill()
    live_own.start()

    (value,), after = speak([("GET", prefix)])

    assert replies == [b"OK", b"OK"]
    assert value == b"old"
    assert before != after


@sync_and_async
def test_promoted_replica_is_another_life(live_own, speak):
    """A server that goes on, with a history of its own after a failover, is another one."""
    before = speak(PING)[1]
    become_primary_anew(live_own)
    close_pools()

    assert speak(PING)[1] != before


def test_connection_that_reconnects_learns_anew(live_own):
    """The life belongs to one handshake: it ends with the connection, and the next handshake asks again."""
    connection = get_pool().take()
    before = connection.life
    connection.disconnect()
    unset = connection.life
    become_primary_anew(live_own)

    connection.connect()

    assert unset == UNSET_LIFE
    assert connection.life not in (before, UNSET_LIFE)
    get_pool().drop(connection)


def test_async_connection_that_reconnects_learns_anew(live_own):
    """See the sync test."""

    async def main():
        connection = await aget_pool().take()
        before = connection.life
        connection.abort()
        unset = connection.life
        become_primary_anew(live_own)
        await connection.connect()
        after = connection.life
        await connection.disconnect()
        last = connection.life
        aget_pool().drop(connection)
        return before, unset, after, last

    before, unset, after, last = asyncio.run(main())
    assert unset == last == UNSET_LIFE
    assert after not in (before, UNSET_LIFE)


def test_connections_of_an_older_life_are_closed_when_found(live_own, prefix):
    """One new connection that learns another life ends those from before, the one used last among them."""
    pool = get_pool()
    old = [pool.take(), pool.take()]
    become_primary_anew(live_own)
    new = pool.take()
    [pool.give(connection) for connection in [new, *old]]

    life = sync_exchange(PING)[1]

    assert life == new.life != old[0].life
    assert [connection.is_clean() for connection in old] == [False, False]
    assert connected(live_own, prefix) == 1


def test_async_connections_of_an_older_life_are_closed_when_found(live_own, prefix):
    """See the sync test."""

    async def main():
        pool = aget_pool()
        old = [await pool.take(), await pool.take()]
        become_primary_anew(live_own)
        new = await pool.take()
        [pool.give(connection) for connection in [new, *old]]
        life = (await aexchange("default", PING))[1]
        await asyncio.sleep(0)
        return life == new.life, [connection.is_clean() for connection in old], connected(live_own, prefix)

    assert asyncio.run(main()) == (True, [False, False], 1)


def test_what_one_event_loop_learns_counts_in_all(live_own):
    """A life learnt in one thread's loop ends the idle connections of another's."""

    async def main():
        before = (await aexchange("default", PING))[1]
        become_primary_anew(live_own)
        elsewhere = (await asyncio.to_thread(async_exchange, PING))[1]
        return before, elsewhere, (await aexchange("default", PING))[1]

    before, elsewhere, after = asyncio.run(main())
    assert before != elsewhere == after


def test_life_of_an_answer_is_that_of_the_connection_that_gave_it(live_own):
    """What another connection learns while an older one reads does not vouch for what was read."""
    pool = get_pool()
    old = pool.take()
    before, read = old.life, old.exchange
    pool.give(old)

    def read_meanwhile(*asked):
        replies = read(*asked)
        become_primary_anew(live_own)
        pool.give(pool.take())
        return replies

    old.exchange = read_meanwhile

    assert sync_exchange(PING)[1] == before
    assert sync_exchange(PING)[1] == pool.life != before


def test_life_of_an_async_answer_is_that_of_the_connection_that_gave_it(live_own):
    """See the sync test."""

    async def main():
        pool = aget_pool()
        old = await pool.take()
        before, read = old.life, old.exchange
        pool.give(old)

        async def read_meanwhile(packed, count):
            replies = await read(packed, count)
            become_primary_anew(live_own)
            pool.give(await pool.take())
            return replies

        old.exchange = read_meanwhile
        return before, (await aexchange("default", PING))[1], (await aexchange("default", PING))[1], pool.life

    before, first, second, newest = asyncio.run(main())
    assert first == before
    assert second == newest != before


def test_long_idle_connection_that_was_replaced_is_kept(live_own):
    """The life that is learnt where a PING found a dead connection is the pool's: the next call uses the same one."""
    sync_exchange(PING)
    live_own.kill()
    live_own.start()
    get_pool().slots.idle[-1].healthy_until = 0

    assert sync_exchange(CLIENT_ID) == sync_exchange(CLIENT_ID)


def test_long_idle_async_connection_that_was_replaced_is_kept(live_own):
    """See the sync test."""

    async def main():
        await aexchange("default", PING)
        live_own.kill()
        live_own.start()
        aget_pool().current().idle[-1].healthy_until = 0
        return await aexchange("default", CLIENT_ID) == await aexchange("default", CLIENT_ID)

    assert asyncio.run(main())


@pytest.mark.parametrize(
    "write",
    [("SET", "x", "y"), ("EVAL", "return redis.call('SET', KEYS[1], 'y')", 1, "x")],
    ids=["command", "script"],
)
def test_readonly_closes_the_connections_of_both_pools(live_own, write):
    """A demoted primary's address may lead elsewhere by now: sync and async code connect anew."""

    async def main():
        before = [sync_exchange(CLIENT_ID)[0], (await aexchange("default", CLIENT_ID))[0]]
        get_redis().replicaof("127.0.0.1", 1)
        failure = first_failure("default", sync_exchange([("GET", "x"), write])[0])
        after = [sync_exchange(CLIENT_ID)[0], (await aexchange("default", CLIENT_ID))[0]]
        return failure.kind, set(map(tuple, before)) & set(map(tuple, after))

    assert asyncio.run(main()) == (Kind.DOWN, set())


def test_readonly_inside_a_script_of_redis_6_2_is_seen(live):
    """Redis 6.2 wraps it; the connections are closed all the same."""
    before = sync_exchange(CLIENT_ID)[0]
    text = "Error running script (call to f_0): @user_script:1: @user_script: 1: -READONLY It is a replica."

    failure = first_failure("default", [b"OK", redis.ResponseError(text)])

    assert failure.kind is Kind.DOWN
    assert sync_exchange(CLIENT_ID)[0] != before


def test_other_refusals_close_nothing(live, prefix):
    """A WRONGTYPE says nothing about the server: the connection stays."""
    before = sync_exchange(CLIENT_ID)[0]

    replies = sync_exchange([("LPUSH", prefix, 1), ("GET", prefix), ("UNLINK", prefix)])[0]

    assert first_failure("default", replies).kind is Kind.FOREIGN
    assert sync_exchange(CLIENT_ID)[0] == before


@pytest.fixture
def without_info(live_own, settings, options):
    """Makes the alias speak as an ACL user who may do all but INFO."""
    with redis.Redis.from_url(live_own.url) as admin:
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">hunter2", "~*", "+@all", "-info")

    def configure(**more):
        user = {"USERNAME": "shop", "PASSWORD": "hunter2"}
        settings.REDIS_INTEGRATION = {"default": {"URL": live_own.url, **options, **user, **more}}

    return configure


@sync_and_async
def test_user_who_may_not_ask_is_told_both_remedies(without_info, speak):
    """INFO refused by an ACL is a failure that names the rule to add and the option to set instead."""
    without_info()

    with pytest.raises(RedisUnavailable, match=r"INFO was refused: .*\+info.*DISTRUST_RESTARTS = False") as caught:
        speak(PING)

    assert caught.value.kind is Kind.DOWN
    assert not caught.value.lost


@sync_and_async
def test_user_who_may_not_ask_can_trust_instead(without_info, speak):
    """With DISTRUST_RESTARTS = False every server has one and the same life, which is not unset."""
    without_info(DISTRUST_RESTARTS=False)

    assert speak(PING) == ([b"PONG"], TRUSTED_LIFE)
    assert TRUSTED_LIFE != UNSET_LIFE


def test_new_connection_asks_once_and_a_hit_never(live_own):
    """A connection costs two commands in one exchange; what follows on it costs nothing more."""
    before = count_of_info(live_own)

    [sync_exchange(PING) for _ in range(3)]

    # The measuring INFO is counted when it has ended.
    assert count_of_info(live_own) - before == ANSWERS + 1


def test_new_async_connection_asks_once_and_a_hit_never(live_own):
    """See the sync test."""
    before = count_of_info(live_own)

    async def main():
        [await aexchange("default", PING) for _ in range(3)]

    asyncio.run(main())
    assert count_of_info(live_own) - before == ANSWERS + 1


@pytest.mark.parametrize("options", [{"DISTRUST_RESTARTS": False}])
@sync_and_async
def test_trust_asks_nothing(live_own, speak):
    """With DISTRUST_RESTARTS = False no INFO is sent."""
    before = count_of_info(live_own)

    speak(PING)

    assert count_of_info(live_own) - before == 1


def test_subscription_that_reconnects_is_not_disturbed(live_own, prefix):
    """The question is asked before redis-py subscribes again: its answer is not taken for a confirmation."""
    with get_redis().pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(prefix)
        pubsub.get_message(timeout=1)
        with redis.Redis.from_url(live_own.url) as admin:
            admin.client_kill_filter(_type="pubsub")
            with pytest.raises(redis.ConnectionError):
                pubsub.get_message(timeout=1)
            pubsub.get_message(timeout=1)
            admin.publish(prefix, "late")

        assert pubsub.get_message(timeout=10)["data"] == b"late"


class FakeServer:
    """Says OK to the first request of each connection, and what it was told to say to the second."""

    def __init__(self, reply, on_question=lambda: None):
        self.reply = reply
        self.on_question = on_question
        self.question = b""
        self.asked = threading.Event()
        self.closed = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0?protocol=2"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            connection, _ = self.listener.accept()
            with connection:
                if not connection.recv(4096):
                    return
                connection.sendall(b"+OK\r\n")
                self.question = connection.recv(4096)
                self.asked.set()
                self.on_question()
                connection.sendall(self.reply)
                connection.recv(4096)
                self.closed.set()

    def stop(self):
        socket.create_connection(self.listener.getsockname()).close()
        self.thread.join()
        self.listener.close()


@pytest.fixture
def fake(settings):
    """Starts a fake server and makes it the alias "default"."""
    servers = []

    def start(reply, *on_question):
        server = FakeServer(reply, *on_question)
        servers.append(server)
        # COMMAND_TIMEOUT must not bound a handshake; a test that waits for it waits for ever.
        settings.REDIS_INTEGRATION = {
            "default": {"URL": server.url, "CONNECT_TIMEOUT": 0.2, "COMMAND_TIMEOUT": 3600, "RETRIES": 0}
        }
        return server

    yield start
    close_pools()
    [server.stop() for server in servers]


@pytest.mark.parametrize(
    ("reply", "message", "kind"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n" * 2, "It is loading its data", Kind.DOWN),
        (b"-BUSY Valkey is busy running a script.\r\n" * 2, "SCRIPT KILL", Kind.DOWN),
        (b"-ERR unknown command 'INFO'\r\n" * 2, "unknown command.*DISTRUST_RESTARTS", Kind.DOWN),
        (b"-NOPERM this user has no permissions\r\n" * 2, "no permissions.*DISTRUST_RESTARTS", Kind.DOWN),
        (b"$14\r\nproxy_uptime:1\r\n" * 2, "no run_id.*DISTRUST_RESTARTS", Kind.DOWN),
        (b"$8\r\nrun_id:a\r\n" + b"$-1\r\n", "no run_id and master_replid.*DISTRUST_RESTARTS", Kind.DOWN),
        (b"+run_id:\r\n" + b"+master_replid:b\r\n", "no run_id.*DISTRUST_RESTARTS", Kind.DOWN),
        (b"$8\r\nrun_id:a\r\n", "SLOWLOG", Kind.SLOW),
    ],
    ids=["loading", "busy", "unknown", "noperm", "proxy", "half", "empty", "silent"],
)
@sync_and_async
def test_life_that_is_not_told_is_a_failure_to_connect(fake, speak, reply, message, kind):
    """Whatever is answered instead is a failure of its own kind with a remedy, and the connection is closed."""
    server = fake(reply)

    with pytest.raises(RedisUnavailable, match=message) as caught:
        speak(PING)

    assert caught.value.kind is kind
    assert server.closed.wait(10)


@sync_and_async
def test_both_commands_are_one_exchange(fake, speak):
    """The question is sent in one piece."""
    server = fake(b"-ERR\r\n" * 2)

    with pytest.raises(RedisUnavailable):
        speak(PING)

    assert server.question == pack([("INFO", "server"), ("INFO", "replication")])


class Interrupted(BaseException):
    pass


@pytest.fixture
def interrupt():
    """A function that interrupts the main thread, as a soft time limit of a task queue does."""

    def strike(*args):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, strike)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("reply", [b"", b"$8\r\nrun_id:a\r\n"], ids=["before the reply", "amid the replies"])
def test_interrupt_while_it_asks_leaves_the_connection_closed(fake, interrupt, settings, reply):
    """What was asked and not answered is nobody's next reply."""
    server = fake(reply, interrupt)
    settings.REDIS_INTEGRATION = {"default": {"URL": server.url, "CONNECT_TIMEOUT": 60, "RETRIES": 0}}

    with pytest.raises(Interrupted):
        exchange("default", PING)

    assert server.closed.wait(10)
    assert list(get_pool().slots.idle) == []
    assert get_pool().life == UNSET_LIFE


def test_cancelled_task_that_asks_leaves_the_connection_closed(fake, settings):
    """See the sync test."""
    server = fake(b"$8\r\nrun_id:a\r\n")
    settings.REDIS_INTEGRATION = {"default": {"URL": server.url, "CONNECT_TIMEOUT": 60, "RETRIES": 0}}

    async def main():
        task = asyncio.create_task(aexchange("default", PING))
        await asyncio.to_thread(server.asked.wait)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        return type(result), list(aget_pool().current().idle), aget_pool().life

    assert asyncio.run(main()) == (asyncio.CancelledError, [], UNSET_LIFE)
    assert server.closed.wait(10)
