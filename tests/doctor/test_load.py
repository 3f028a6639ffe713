"""Rules about the server's clients and commands: each made to fire on a real server."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace

import pytest
import redis
from django.core.checks import ERROR, WARNING

from redis_integration.doctor.readings import gather
from tests.doctor.conftest import about, say

# Some 200 ms; what a script calls the time stands still on some servers.
BUSY = "for i = 1, 30000000 do end"


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port))


def test_rejected_connections_are_told(admin, healthy):
    """Also where there is room again."""
    admin.config_set("maxclients", 1)
    with connect(healthy) as rejected:
        assert b"max number of clients" in rejected.recv(100)
    admin.config_set("maxclients", 10_000)

    assert say(tags=["load"])["D301"].msg.startswith("1 connections were rejected")


@pytest.mark.parametrize(("workers", "ids"), [(None, set()), (200, set()), (201, {"D302"})])
def test_pools_of_all_workers_are_counted(healthy, workers, ids):
    """50 connections each, and maxclients is 10,000."""
    found = say(tags=["load"], workers=workers)

    assert found.keys() - {"D305"} == ids
    assert all(found[each].level == ERROR and "MAX_CONNECTIONS to 39" in found[each].hint for each in ids)


def test_workers_that_publish_are_counted(healthy, admin, prefix):
    """Where nobody says how many there are."""
    key = f"{prefix}:##stats:{int(time.time() // 60)}"
    admin.hset(key, mapping={f"worker web:{number}": 1 for number in range(201)})

    assert "201 workers" in say(tags=["load", "tiers"])["D302"].msg


def test_crowded_server_is_told(admin, healthy):
    """Above 80 % of maxclients."""
    admin.config_set("maxclients", 55)
    with contextlib.ExitStack() as stack:
        for _ in range(45):
            stack.enter_context(connect(healthy))

        assert say(tags=["load"])["D302"].level == WARNING


@pytest.mark.parametrize("call", ["keys", "flushdb", "flushall"])
def test_harsh_commands_are_told(admin, call):
    """By name, whoever called them."""
    getattr(admin, call)()

    assert f"has called {call.upper()} 1 times" in say(tags=["load"])["D303"].msg


def test_slow_commands_are_told_without_their_arguments(admin):
    """Which may be secret."""
    admin.eval(BUSY, 0, "opensesame")

    found = say(tags=["load"])

    assert "EVAL (1, up to " in found["D304"].msg
    assert "opensesame" not in str(found)


def test_slow_command_of_yesterday_is_not_told(admin):
    """The SLOWLOG keeps it for ever."""
    admin.eval(BUSY, 0)
    reading = gather("default", {"info", "slowlog"})

    assert "D304" in about(reading)
    assert "D304" not in about(replace(reading, redis_ahead=7200.0))


@pytest.mark.parametrize(("seconds", "ids"), [(10, {"D305"}), (3600, set())])
def test_young_server_is_told(healthy, seconds, ids):
    """A server of a test is young; what it says after an hour is altered."""
    reading = gather("default", {"info"})

    assert "D305" in about(reading)
    assert about(replace(reading, info={**reading.info, "uptime_in_seconds": seconds})) & {"D305"} == ids


@pytest.mark.parametrize(("seconds", "ids"), [(0, set()), (30, {"D306"}), (31, set())])
def test_server_that_hangs_up_is_told(admin, seconds, ids):
    """Before a worker looks after its idle connections."""
    admin.config_set("timeout", seconds)

    assert say(tags=["load"]).keys() & {"D306"} == ids


@pytest.mark.parametrize(("microseconds", "ids"), [(499_000, set()), (500_000, {"D307"})])
def test_long_fork_is_told(healthy, microseconds, ids):
    """It takes a server of many GB: a reading is altered. COMMAND_TIMEOUT is 1 s."""
    reading = gather("default", {"info"})

    assert about(replace(reading, info={**reading.info, "latest_fork_usec": microseconds})) & {"D307"} == ids


def test_a_look_leaves_nothing_harsh_behind(healthy):
    """The doctor is not what it warns of, and leaves no key."""
    say()
    with redis.Redis(port=healthy.port) as client:
        calls = client.info("commandstats")
        left = [key for key in client.scan_iter() if not 0 < client.pttl(key) <= 1000]

    assert not {"cmdstat_keys", "cmdstat_flushall", "cmdstat_monitor", "cmdstat_config|set"} & calls.keys()
    assert left == []
