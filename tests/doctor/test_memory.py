"""Rules about the server's memory: each made to fire on a real server."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace

import pytest
from django.core.checks import ERROR, INFO, WARNING

from redis_integration.doctor.readings import gather
from tests.doctor.conftest import about, say
from tests.stampede.watch import until

MB = 1024 * 1024


@pytest.mark.parametrize(
    ("values", "rule_id", "level"),
    [
        ({"maxmemory": 0}, "D201", WARNING),
        ({"maxmemory-policy": "noeviction"}, "D202", WARNING),
        ({"maxmemory-policy": "noeviction", "maxmemory": 1_000_000}, "D202", ERROR),
        ({"maxmemory": 2**50}, "D204", WARNING),
    ],
)
def test_configuration_is_told(admin, values, rule_id, level):
    """One option of a healthy server is changed, and one rule fires."""
    for name, value in values.items():
        admin.config_set(name, value)

    found = say(tags=["memory"])

    assert {name: each.level for name, each in found.items()} == {rule_id: level}


@pytest.mark.parametrize(("count", "ids"), [(3, {"D203"}), (1, set())])
def test_keys_that_volatile_policies_cannot_evict_are_told(admin, count, ids):
    """More than a fifth that never expire."""
    admin.config_set("maxmemory-policy", "volatile-ttl")
    admin.mset({f"kept:{number}": "x" for number in range(count)})
    for number in range(8):
        admin.set(f"ending:{number}", "x", ex=60)

    found = say(tags=["memory"])

    assert found.keys() == ids
    assert all("allkeys-lru" in each.hint for each in found.values())


def test_eviction_is_told(admin):
    """While somebody writes into a server that is full."""
    admin.config_set("maxmemory", 8 * MB)
    stopping = threading.Event()

    def write():
        number = 0
        while not stopping.is_set():
            number += 1
            with contextlib.suppress(Exception):  # the server ends first, where a test has failed
                admin.set(f"page:{number}", "x" * 10_000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: admin.info("stats")["evicted_keys"])
        found = say(tags=["connection", "memory"])
    finally:
        stopping.set()
        writer.join()

    assert found["D205"].level == INFO


def test_eviction_that_cannot_keep_pace_is_told(healthy):
    """No test makes a server evict too slowly: a reading is altered."""
    reading = gather("default", {"info"})

    assert "D205" in about(replace(reading, info={**reading.info, "total_eviction_exceeded_time": 1500}))


def test_fragmentation_is_told(admin):
    """Of what was written, one of eight in each page of memory stays."""
    if "jemalloc" not in admin.info("memory")["mem_allocator"]:
        pytest.skip("This server's allocator does not tell.")
    every = [f"page:{number}" for number in range(60_000)]
    with admin.pipeline(transaction=False) as pipeline:
        for name in every:
            pipeline.set(name, "x" * 700)
        pipeline.execute()
    admin.unlink(*(name for number, name in enumerate(every) if number % 8))
    until(lambda: admin.info("memory")["allocator_frag_ratio"] > 1.4)

    assert "activedefrag" in say(tags=["memory"])["D206"].hint


def test_swapping_is_told(healthy):
    """No test makes a machine swap: a reading is altered."""
    reading = gather("default", {"info"})

    assert "D207" in about(
        replace(reading, info={**reading.info, "used_memory": 200 * MB, "used_memory_rss": 100 * MB})
    )
