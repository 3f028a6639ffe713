"""Counts of one process: plain numbers that only grow, and what of them was published."""

from __future__ import annotations

import gc
import sys
import threading

import pytest

from redis_integration import counters
from redis_integration.counters import FIELDS, TIMES, Counts, Failures


@pytest.fixture
def counts():
    return Counts("default", "shop.price")


def test_counts_wait_until_they_are_published(counts):
    """What was confirmed is not told again; what was not, is."""
    counts.redis += 3
    counts.saved += 0.5

    assert counts.unpublished() == {"redis shop.price": 3, "saved shop.price": 500}

    counts.confirm("redis shop.price", 3)
    counts.redis += 1

    assert counts.unpublished() == {"redis shop.price": 1, "saved shop.price": 500}


def test_short_times_are_not_lost(counts):
    """Milliseconds are published, and what is shorter adds up."""
    counts.saved += 0.0006
    assert counts.unpublished() == {}

    counts.saved += 0.0006

    assert counts.unpublished() == {"saved shop.price": 1}


def test_fields_are_all_that_is_counted(counts):
    """And each of them is published."""
    assert {*counts.totals()} == {f"{field} shop.price" for field in (*FIELDS, *TIMES)}


@pytest.mark.parametrize(
    ("tier", "is_stale", "field"),
    [("redis", False, "redis"), ("fallback", False, "fallback"), ("redis", True, "stale"), ("fallback", True, "stale")],
)
def test_a_copy_counts_once(counts, tier, is_stale, field):
    """By its tier, or as stale, whatever its tier."""
    counts.note_copy(tier, 0.25, is_stale=is_stale)

    assert counts.unpublished() == {f"{field} shop.price": 1, "saved shop.price": 250}


def test_a_forked_child_publishes_its_own(counts):
    """Its parent publishes what was counted before."""
    counts.redis += 3

    counts.start_afresh()
    counts.redis += 1

    assert counts.unpublished() == {"redis shop.price": 1}


def test_failures_count_by_kind():
    failures = Failures("default")
    failures.note("slow")
    failures.note("slow")
    failures.note("down")

    assert failures.unpublished() == {"error slow": 2, "error down": 1}


def test_what_is_gone_is_not_kept():
    """A function that nobody has any more is not counted for ever."""
    counts = Counts("default", "gone")
    assert counts in counters.every

    del counts
    gc.collect()

    assert "gone" not in {getattr(each, "name", "") for each in counters.every}


def add(counts, times):
    for _ in range(times):
        counts.redis += 1


def test_threads_lose_no_count(counts):
    """Without a lock: no thread is switched between read and write of a plain increment."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=add, args=(counts, 50_000)) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    sys.setswitchinterval(before)

    assert counts.redis == 200_000


def test_functions_that_are_decorated_meanwhile_end_no_publishing(monkeypatch):
    """A set that grows while it is walked raises; the watch would log that as its own failure."""

    class Growing(list):
        def __iter__(self):
            if len(self) < 3:
                self.append("another")
                raise RuntimeError("Set changed size during iteration")
            return super().__iter__()

    monkeypatch.setattr(counters, "every", Growing(["one"]))

    assert counters.tallies() == ["one", "another", "another"]
