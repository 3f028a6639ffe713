from __future__ import annotations

import asyncio
import socket
import threading

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from redis_integration import pools
from redis_integration.exceptions import RedisUnavailable
from redis_integration.pools import (
    aclose_pools,
    aexchange,
    aget_pool,
    aget_redis,
    close_pools,
    exchange,
    first_failure,
    get_pool,
    get_redis,
    pack,
)
from tests.forks import in_forked_child


def connected(server, name):
    """How many connections with this client name the server sees."""
    with redis.Redis.from_url(server.url) as client:
        return sum(found["name"] == name for found in client.client_list())


def count_of_client_commands(admin):
    stats = admin.info("commandstats")
    return sum(found["calls"] for name, found in stats.items() if name.startswith("cmdstat_client"))


@pytest.fixture
def options(prefix):
    return {"CLIENT_NAME": prefix, "MAX_CONNECTIONS": 3}


def both(commands, **kwargs):
    """The replies of the sync and of the async exchange."""
    return exchange("default", commands, **kwargs)[0], asyncio.run(aexchange("default", commands, **kwargs))[0]


def test_exchange_gives_replies_in_order_and_server_errors_as_values(live, prefix):
    """One exchange carries several commands; an error among their replies does not hide the others."""
    commands = [
        ("SET", f"{prefix}:a", b"\x00\xff", "PX", 10_000),
        ("LPUSH", f"{prefix}:a", "x"),
        ("GET", f"{prefix}:a"),
    ]

    replies, areplies = both(commands)

    assert replies == [b"OK", replies[1], b"\x00\xff"]
    assert areplies == [b"OK", areplies[1], b"\x00\xff"]
    assert first_failure("default", replies).kind == "foreign key"


def test_pack_is_what_the_protocol_asks_for():
    """Strings are sent as UTF-8, numbers as text, bytes as they are."""
    assert (
        pack([("SET", "ä", 5), (b"PING",)]) == b"*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xa4\r\n$1\r\n5\r\n*1\r\n$4\r\nPING\r\n"
    )


def test_aliases_share_a_pool_only_if_all_is_equal(settings, server):
    """Two aliases with one URL and different timeouts have a pool each."""
    url = server.url
    settings.REDIS_INTEGRATION = {"a": {"URL": url}, "b": {"URL": url}, "c": {"URL": url, "COMMAND_TIMEOUT": 1}}

    assert get_pool("a") is get_pool("b")
    assert get_pool("a") is not get_pool("c")
    assert get_redis("a") is get_redis("b")


def test_unknown_alias_is_named_with_the_known_ones(settings):
    """A misspelt alias says which there are."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://localhost"}}

    with pytest.raises(ImproperlyConfigured, match="'sessions'.*'default'"):
        get_redis("sessions")


def test_changed_settings_make_new_pools(live, settings, prefix):
    """override_settings in a user's tests takes effect at once."""
    before = get_pool()

    settings.REDIS_INTEGRATION = {"default": {"URL": live.url, "KEY_PREFIX": prefix, "MAX_CONNECTIONS": 7}}

    assert get_pool() is not before
    assert get_pool().settings.max_connections == 7


def test_threads_share_one_pool_and_never_exceed_its_size(live, prefix):
    """Twenty threads on a pool of three leave three connections and get their own answers."""
    answers = []

    def read(number):
        exchange("default", [("SET", f"{prefix}:{number}", number, "PX", 60_000)])
        answers.append((number, exchange("default", [("GET", f"{prefix}:{number}")])[0]))

    threads = [threading.Thread(target=read, args=[number]) for number in range(20)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert sorted(answers) == [(number, [str(number).encode()]) for number in range(20)]
    assert 1 <= connected(live, prefix) <= 3


@pytest.mark.parametrize("options", [{"MAX_CONNECTIONS": 3, "POOL_TIMEOUT": 0.1}])
def test_full_pool_is_busy_after_pool_timeout(live):
    """A caller that finds all connections in use gets an error of its own kind, which says what to raise."""
    taken = [get_pool().take() for _ in range(3)]

    with pytest.raises(RedisUnavailable, match="Raise MAX_CONNECTIONS") as caught:
        exchange("default", [("PING",)])
    with pytest.raises(redis.exceptions.MaxConnectionsError):
        get_redis().ping()

    assert caught.value.kind == "busy"
    get_pool().give(taken[0])
    assert get_redis().ping()


@pytest.mark.parametrize("options", [{"MAX_CONNECTIONS": 3, "POOL_TIMEOUT": 0.1}])
def test_full_async_pool_is_busy_after_pool_timeout(live):
    """See the sync test."""

    async def main():
        pool = aget_pool()
        taken = [await pool.take() for _ in range(3)]
        with pytest.raises(RedisUnavailable) as caught:
            await aexchange("default", [("PING",)])
        assert caught.value.kind == "busy"
        [pool.give(connection) for connection in taken]
        return await aget_redis().ping()

    assert asyncio.run(main())


def test_waiter_gets_the_connection_that_comes_back(live, settings, prefix):
    """A connection given back while a thread waits goes to that thread."""
    settings.REDIS_INTEGRATION = {"default": {"URL": live.url, "MAX_CONNECTIONS": 1, "POOL_TIMEOUT": 20}}
    pool = get_pool()
    taken = pool.take()
    waiter_found = []
    waiter = threading.Thread(target=lambda: waiter_found.append(pool.take()))
    waiter.start()

    pool.give(taken)
    waiter.join()

    assert waiter_found == [taken]


def test_closed_idle_connection_is_replaced_for_idempotent_commands(live, prefix):
    """A server that closed an idle connection is not noticed by the caller."""
    exchange("default", [("PING",)])
    get_redis().client_kill_filter(_type="normal", skipme=True)
    with redis.Redis.from_url(live.url) as other:
        other.client_kill_filter(_type="normal", skipme=True)

    assert exchange("default", [("PING",)])[0] == [b"PONG"]


def test_commands_that_are_not_idempotent_are_not_sent_again(live, prefix):
    """An INCR whose connection broke is reported, not repeated."""
    exchange("default", [("PING",)])
    with redis.Redis.from_url(live.url) as other:
        other.client_kill_filter(_type="normal", skipme=True)

    with pytest.raises(RedisUnavailable):
        exchange("default", [("INCR", f"{prefix}:n")], idempotent=False)

    assert get_redis().get(f"{prefix}:n") is None


def test_plain_client_finds_a_closed_connection_before_it_sends(live, prefix):
    """A plain client's INCR after an idle connection was closed is executed once."""
    get_redis().ping()
    with redis.Redis.from_url(live.url) as other:
        other.client_kill_filter(_type="normal", skipme=True)

    assert get_redis().incr(f"{prefix}:n") == 1


def test_long_idle_connection_is_checked_before_use(live):
    """A connection idle for longer than HEALTH_CHECK_INTERVAL answers a PING first."""
    exchange("default", [("PING",)])
    pings = get_redis().info("commandstats")["cmdstat_ping"]["calls"]
    get_pool().slots.idle[-1].healthy_until = 0

    exchange("default", [("ECHO", "x")])

    assert get_redis().info("commandstats")["cmdstat_ping"]["calls"] == pings + 1


@pytest.mark.parametrize("options", [{"HEALTH_CHECK_INTERVAL": 0}])
def test_health_checks_can_be_switched_off(live):
    """HEALTH_CHECK_INTERVAL 0 never asks."""
    exchange("default", [("PING",)])
    pings = get_redis().info("commandstats")["cmdstat_ping"]["calls"]

    exchange("default", [("ECHO", "x")])

    assert get_redis().info("commandstats")["cmdstat_ping"]["calls"] == pings


def test_new_connection_costs_no_more_than_its_handshake(live):
    """redis-py's four further exchanges for each new connection are not made."""
    with redis.Redis.from_url(live.url) as admin:
        before = count_of_client_commands(admin)

        exchange("default", [("PING",)])

        # SETNAME. From Redis 7.0 on, each subcommand is counted by itself.
        assert count_of_client_commands(admin) - before == 1


def test_forked_child_has_connections_of_its_own(live, prefix):
    """A child never reads from its parent's socket, and the parent's connections survive the child."""
    exchange("default", [("SET", f"{prefix}:who", "parent", "PX", 60_000)])
    client = get_redis()
    parent = client.client_id()

    _, said = in_forked_child(lambda: b"%d %s" % (client.client_id(), client.get(f"{prefix}:who")))

    child_id, value = said.split()
    assert int(child_id) != parent
    assert value == b"parent"
    assert client.client_id() == parent


def test_pool_of_a_loop_is_closed_with_it(live, prefix):
    """Each asyncio.run leaves no connection behind, and one client serves them all."""
    client = aget_redis()

    assert [asyncio.run(client.echo(b"x")) for _ in range(3)] == [b"x"] * 3
    assert connected(live, prefix) == 0


def test_close_pools_closes_and_opens_again(live, prefix):
    """After close_pools() the server sees no connection; the next command opens one."""
    client = get_redis()
    client.ping()

    close_pools()

    assert connected(live, prefix) == 0
    assert client.ping()


def test_aclose_pools_closes_those_of_the_running_loop(live, prefix):
    """See the sync test."""

    async def main():
        await aget_redis().ping()
        await aclose_pools()
        remaining = connected(live, prefix)
        return remaining, await aget_redis().ping()

    assert asyncio.run(main()) == (0, True)


def test_connection_in_use_while_pools_close_is_closed_when_it_comes_back(live, prefix):
    """A connection taken before close_pools() does not return to the pool."""
    pool = get_pool()
    taken = pool.take()

    close_pools()
    pool.give(taken)

    assert not taken.is_clean()
    assert connected(live, prefix) == 0


def test_pubsub_waits_longer_than_a_command_may_take(live, settings, prefix):
    """A blocking read asks for its own timeout, which the deadline of a command does not cut."""
    settings.REDIS_INTEGRATION = {"default": {"URL": live.url, "COMMAND_TIMEOUT": 0.05}}
    with get_redis().pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(prefix)
        pubsub.get_message(timeout=1)
        threading.Timer(0.2, lambda: redis.Redis.from_url(live.url).publish(prefix, "late")).start()

        message = next(pubsub.listen())

    assert message["data"] == b"late"


class DrippingServer:
    """Answers everything with a bulk string that arrives byte by byte."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0?protocol=2"
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        connection, _ = self.listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"+OK\r\n")
            connection.recv(1000)
            for byte in b"$200\r\n" + b"x" * 200 + b"\r\n":
                if self.stopped.wait(0.03) or connection.send(bytes([byte])) == 0:
                    break

    def stop(self):
        self.stopped.set()
        self.thread.join()
        self.listener.close()


@pytest.fixture
def dripping():
    server = DrippingServer()
    yield server
    server.stop()


def test_dripping_reply_ends_at_the_deadline(settings, dripping):
    """A reply whose bytes each come in time but whose end does not is a timeout."""
    settings.REDIS_INTEGRATION = {"default": {"URL": dripping.url, "DISTRUST_RESTARTS": False}}

    with pytest.raises(RedisUnavailable, match="SLOWLOG"):
        exchange("default", [("GET", "x")])


def test_dripping_reply_ends_at_the_deadline_for_plain_clients(settings, dripping):
    """See above."""
    settings.REDIS_INTEGRATION = {"default": {"URL": dripping.url, "DISTRUST_RESTARTS": False}}

    with pytest.raises((redis.TimeoutError, TimeoutError)):
        get_redis().get("x")


def test_dripping_reply_ends_at_the_deadline_in_async_code(settings, dripping):
    """See above."""
    settings.REDIS_INTEGRATION = {"default": {"URL": dripping.url, "DISTRUST_RESTARTS": False}}

    with pytest.raises(RedisUnavailable, match="SLOWLOG"):
        asyncio.run(aexchange("default", [("GET", "x")]))


def test_refused_connection_names_the_address_and_the_remedy(settings):
    """The operator reads where Redis should be and what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings.REDIS_INTEGRATION = {"default": {"URL": f"redis://:hunter2@127.0.0.1:{port}/3"}}

    with pytest.raises(RedisUnavailable, match=f"127.0.0.1:{port}/3.*Is the server running") as caught:
        exchange("default", [("PING",)])

    assert caught.value.kind == "down"
    assert "hunter2" not in str(caught.value)


def test_frozen_server_costs_one_deadline_and_is_down(live_own):
    """A server that is stopped answers no command; the caller gets an error with a remedy."""
    exchange("default", [("PING",)])
    live_own.pause()

    with pytest.raises(RedisUnavailable, match="SLOWLOG"):
        exchange("default", [("PING",)])

    live_own.resume()
    assert exchange("default", [("PING",)])[0] == [b"PONG"]


def test_wrong_password_names_the_credentials_not_the_secret(live_own, settings):
    """NOAUTH and WRONGPASS are failures with a remedy."""
    get_redis().config_set("requirepass", "open-sesame")
    settings.REDIS_INTEGRATION = {"default": {"URL": live_own.url, "PASSWORD": "hunter2"}}

    with pytest.raises(RedisUnavailable, match="Check USERNAME and PASSWORD") as caught:
        exchange("default", [("PING",)])

    assert "hunter2" not in repr(caught.value) + str(caught.value)


def test_long_pipelines_are_read_as_short_ones(live):
    """Values of all kinds, errors among them, and a server that ends the connection amid them."""
    client = get_redis()
    client.set("a", "x" * 100_000)
    client.rpush("b", 1, 2)
    commands = [("GET", "a"), ("GET", "b"), ("LRANGE", "b", 0, -1), ("GET", "none"), ("PTTL", "a"), ("NONE",)]

    replies, _ = exchange("default", commands * 20)

    short, _ = exchange("default", commands)
    assert [(type(each), str(each)) for each in replies] == [(type(each), str(each)) for each in short] * 20
    with pytest.raises(RedisUnavailable):
        exchange("default", [("PING",)] * 40 + [("QUIT",)] + [("PING",)] * 40, idempotent=False)
    assert exchange("default", [("PING",)])[0] == [b"PONG"]


def test_parts_are_sent_before_the_replies_to_others_are_read(live):
    """All replies come, in order; each part is made when all but the one before it were answered; an interrupt closes the connection."""
    get_redis().set("a", "x" * 1_000)
    known = []

    def more(replies):
        for _ in range(3):
            known.append(len(replies))
            yield pools.pack([("GET", "a")] * 40), 40

    replies, _ = pools.exchange_packed("default", pools.pack([("PING",)]), 1, more)

    assert replies == [b"PONG"] + [b"x" * 1_000] * 120
    assert known == [0, 1, 41]

    def broken(replies):
        yield pools.pack([("GET", "a")]), 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pools.exchange_packed("default", pools.pack([("PING",)]), 1, broken)
    assert exchange("default", [("PING",)])[0] == [b"PONG"]
