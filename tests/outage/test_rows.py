"""Every row of the table of docs/outages.md, made by a real server, a socket or a proxy, for sync and async callers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from contextvars import copy_context
from pathlib import Path

import pytest
import redis

from demo_project.proxy import CuttableProxy
from demo_project.server import start_server
from redis_integration import ainvalidate, cache_aside, invalidate
from redis_integration.breaker import Breaker
from redis_integration.models import FallbackEntry
from redis_integration.pools import aget_pool, get_pool
from redis_integration.tiers.redis import get_redis_tier
from tests.conftest import PATIENT
from tests.outage.faults import (
    CONNECTIONS,
    FAULTS,
    FOREIGN,
    FULL,
    MENDED,
    PASSWORD,
    UNREADABLE,
    USER,
)

pytestmark = pytest.mark.django_db(transaction=True)

CALLS = ["warm", "cold", "warm"]
# What is invalidated: an entry by its key, or one by its tag.
WAYS = ["key", "tag"]
PAGE = Path(__file__).parent.parent.parent / "docs" / "outages.md"


def cases(*meanings):
    """The faults of these meanings, or all, each for the callers that can meet it."""
    return pytest.mark.parametrize(
        ("fault", "is_async"),
        [
            pytest.param(fault, is_async, id=f"{name}-{'async' if is_async else 'sync'}")
            for name, fault in FAULTS.items()
            for is_async in fault.is_async
            if fault.meaning in meanings or not meanings
        ],
    )


class Scene:
    """A server behind a proxy, and an origin that gives "entry" until it is told otherwise, cached in front of it."""

    def __init__(self, server, proxy, *, prefix, folder, runner=None):
        self.server, self.proxy, self.folder, self.runner = server, proxy, folder, runner
        self.admin = self.connect()
        self.pool = aget_pool() if runner else get_pool()
        self.tier = get_redis_tier("default", is_async=bool(runner))
        self.breaker = self.tier.breaker
        self.breaker.note = self.note
        self.failures = []
        self.milliseconds = []  # of each call that was met
        self.value = "entry"
        self.names = {"key": f"{prefix}:by-key:warm", "tag": f"{prefix}:#tag"}
        self.keys = {way: f"{prefix}:by-{way}:warm" for way in WAYS}

        async def aorigin(name):
            return self.value

        origin = aorigin if runner else lambda name: self.value
        self.cached = {
            "key": cache_aside(ttl=60, key="by-key:{name}")(origin),
            "tag": cache_aside(ttl=60, key="by-tag:{name}", tags=["tag"])(origin),
        }

    def run(self, result):
        """What was returned; what is awaited runs on this scene's event loop, in the context of the test."""
        return self.runner.run(result, context=copy_context()) if self.runner else result

    def load(self, name, way="key"):
        return self.run(self.cached[way](name))

    def invalidate(self, way):
        by_key, by_tag = self.cached["key"], ainvalidate if self.runner else invalidate
        by_key = by_key.ainvalidate if self.runner else by_key.invalidate
        self.run(by_key("warm") if way == "key" else by_tag(tags=["tag"]))

    def note(self, failure):
        self.failures.append((failure.kind, failure.is_short))
        Breaker.note(self.breaker, failure)

    def connect(self):
        """A client of the operator's, past the proxy."""
        return redis.Redis(unix_socket_path=self.server.unixsocket, decode_responses=True, retry=None)

    def disconnect(self):
        """End all connections but the operator's."""
        self.admin.client_kill_filter(_type="normal", skipme=True)

    def stored(self):
        """All that the server holds."""
        with redis.Redis(unix_socket_path=self.server.unixsocket) as client:
            return {key: client.dump(key) for key in client.scan_iter()}


@pytest.fixture
def scene(fault, is_async, settings, server, prefix, tmp_path):
    if tuple(map(int, server.name.split()[-1].split("."))) < fault.since:
        pytest.skip(f"{server.name} cannot be made to do this.")
    folder = tmp_path / "folder"
    folder.mkdir()
    with start_server(*USER, *fault.arguments, directory=folder) as server, CuttableProxy(server.port) as proxy:
        settings.REDIS_INTEGRATION = {
            "default": {
                "URL": fault.url.format(port=proxy.port),
                "KEY_PREFIX": prefix,
                "MAX_CONNECTIONS": CONNECTIONS,
                **PATIENT,
                "POOL_TIMEOUT": 0.01,
            }
        }
        runner = asyncio.Runner() if is_async else None
        scene = Scene(server, proxy, prefix=prefix, folder=folder, runner=runner)
        for way in WAYS:
            scene.load("warm", way)
        scene.value = "origin"
        yield scene
        scene.admin.close()
        if runner is not None:
            runner.close()


def meet(scene, name, way="key"):
    """The answer to a call that may try Redis, and whether the breaker is open then."""
    scene.breaker._due = 0
    begun = time.perf_counter()
    answer = scene.load(name, way)
    scene.milliseconds.append((time.perf_counter() - begun) * 1000)
    return answer, not scene.breaker.is_closed


@cases()
def test_calls_have_their_answers_and_the_log_its_line(scene, fault, caplog, record_property):
    """No error; what may be read is read, what may not be stored is not; it is told once, with a remedy and no secret."""
    caplog.set_level(logging.DEBUG, "redis_integration")
    before, meaning = scene.stored(), fault.meaning

    with fault.strike(scene):
        met = [meet(scene, name) for name in CALLS[: len(meaning.answers)]]
    record_property("milliseconds", scene.milliseconds)

    records = [record for record in caplog.records if record.name == "redis_integration"]
    told = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert met == list(zip(meaning.answers, meaning.is_open, strict=True))
    assert {kind for kind, _ in scene.failures} == meaning.kinds
    assert all(is_short is meaning.is_short for _, is_short in scene.failures[:1])
    assert [line.split()[0].removeprefix("redis_integration.") for line in told] == meaning.logs
    assert fault.remedy in "".join(told[-1:])
    assert PASSWORD not in "".join(record.getMessage() for record in records)
    assert (scene.stored() != before) is meaning.stores
    assert FallbackEntry.objects.exists() is any(meaning.is_open)


@pytest.mark.parametrize("way", WAYS)
@cases()
def test_invalidation_is_not_lost(scene, fault, way):
    """It raises nothing. It has reached Redis, or is repeated before Redis, which kept the entry, is believed again."""
    name = scene.names[way]

    with fault.strike(scene):
        scene.value = "new"
        scene.invalidate(way)
        is_pending = name in scene.tier.pending.values()
    is_kept = bool(scene.admin.exists(name))
    answer = meet(scene, "warm", way)

    assert (is_pending, is_kept) == (fault.meaning.is_pending,) * 2
    assert answer == ("new", False)
    assert not scene.tier.pending
    assert scene.admin.exists(scene.keys[way])


@pytest.mark.parametrize("way", WAYS)
@cases(FOREIGN, UNREADABLE)
def test_foreign_value_is_left_alone(scene, fault, way, caplog):
    """It is whoever's it is; the log names its key."""
    with fault.strike(scene):
        before = scene.stored()
        answer = scene.load("warm", way)
        after = scene.stored()

    assert answer == "origin"
    assert before[scene.keys[way].encode()] == after[scene.keys[way].encode()]
    assert caplog.messages[0].startswith(f"redis_integration.entry_unreadable {scene.keys[way]}: ")
    assert fault.remedy in caplog.messages[0]


@cases(FULL)
def test_room_is_told_once(scene, fault, caplog):
    """When something was stored again."""
    with fault.strike(scene):
        scene.load("cold")
    caplog.clear()

    scene.load("cold")
    scene.load("other")

    assert caplog.messages == ["redis_integration.redis_has_room"]


@pytest.mark.parametrize("fault", [FAULTS["reset once"]])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_replica_is_left_for_the_primary(scene, fault):
    """The address leads to the new primary, the open connection to the old one: what is refused there is done anew."""
    with start_server(*USER) as primary:
        scene.proxy.target = ("127.0.0.1", primary.port)
        scene.admin.replicaof("127.0.0.1", "1")
        answers = [meet(scene, name) for name in ("warm", "cold")]
        with redis.Redis(unix_socket_path=primary.unixsocket, decode_responses=True) as admin:
            keys = admin.keys()
        scene.value = "new"
        scene.invalidate("key")
        answers.append(meet(scene, "warm"))

    assert answers == [("entry", False), ("origin", False), ("new", False)]
    assert scene.keys["key"].replace("warm", "cold") in keys
    assert scene.failures == []


def rows():
    """First cell → what it is, and what becomes of an invalidation, of each row of the table in the docs."""
    cells = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {row[0]: (row[1].strip(), row[4].strip()) for row in cells[1:]}


def test_every_row_has_a_fault():
    """And each part of a row, as far as its failures are named."""
    parts = re.findall(r"`[A-Z]+`", "".join(rows()))

    assert [part for part in [*parts, *rows()] if not any(f.row and f.row in part for f in FAULTS.values())] == []


@pytest.mark.parametrize(
    "fault", [pytest.param(each, id=name) for name, each in FAULTS.items() if each.meaning != MENDED]
)
def test_row_says_what_its_fault_means(fault):
    """What it is called, and "pending" wherever an invalidation may be."""
    ((word, invalidations),) = [row for cell, row in rows().items() if fault.row in cell]

    assert word == fault.meaning.word
    assert invalidations.startswith("pending") or not fault.meaning.is_pending
