from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from redis import ResponseError

from redis_integration import cache_aside, cache_aside_many, get_redis

SECONDS = float(os.environ.get("STORM_SECONDS", "3"))
KEYS = range(20)


def value_of(pk):
    return {"pk": pk, "price": Decimal(pk) / 4, "names": ("a" * pk, "1234567890" * 200)}


@cache_aside(ttl=60, key="single:{pk}", tags=["vandal:{pk}"], lease_timeout=0.5)
def single(pk):
    return value_of(pk)


@cache_aside(ttl=60, key="single:{pk}", tags=["vandal:{pk}"], lease_timeout=0.5)
async def asingle(pk):
    return value_of(pk)


@cache_aside_many(ttl=60, key="listed:{pks}", tags=["vandal:{pks}"], stale_for=60, codec="pickle", lease_timeout=0.5)
def listed(pks):
    return [value_of(pk) for pk in pks]


class Vandal:
    """Damages keys of ours until `until`, a monotonic time: bits, lengths, other keys' bytes, other types."""

    def __init__(self, until):
        self.until = until
        self.random = random.Random()
        self.acts = 0

    def work(self):
        redis = get_redis()
        while time.monotonic() < self.until:
            pk = self.random.choice(KEYS)
            key = self.random.choice(
                [single.key_for(pk), listed.key_for(pk), f"{single.key_for(pk).split(':')[0]}:#vandal:{pk}"]
            )
            other = self.random.choice([single.key_for, listed.key_for])(self.random.choice(KEYS))
            # Its own look at a key may be out of date when it acts.
            with contextlib.suppress(ResponseError):
                self.random.choice([self.flip, self.cut, self.swap, self.retype, self.delete])(redis, key, other)
            self.acts += 1

    def flip(self, redis, key, other):
        redis.setbit(key, self.random.randrange(2000), self.random.randrange(2)) if redis.type(
            key
        ) == b"string" else None

    def cut(self, redis, key, other):
        found = redis.get(key) if redis.type(key) == b"string" else None
        redis.set(key, (found or b"")[: self.random.randrange(100)], px=self.random.randrange(1, 300))

    def swap(self, redis, key, other):
        if redis.exists(other) and other != key:
            redis.copy(other, key, replace=True)

    def retype(self, redis, key, other):
        redis.delete(key)
        redis.rpush(key, "a list")
        redis.pexpire(key, self.random.randrange(1, 300))

    def delete(self, redis, key, other):
        redis.delete(key)


class Caller:
    """Calls until `until`, and counts answers that are wrong; an error ends it."""

    def __init__(self, until, call):
        self.until = until
        self.call = call
        self.answers = self.wrong = 0

    def work(self):
        while time.monotonic() < self.until:
            pks = random.sample(KEYS, 5)
            self.answers += 1
            self.wrong += self.call(pks) != [value_of(pk) for pk in pks]


async def await_all(pks):
    return [await asingle(pk) for pk in pks]


CALLS = {
    "single": lambda pks: [single(pk) for pk in pks],
    "many": single.many,
    "listed": listed,
    "async": lambda pks: asyncio.run(await_all(pks)),
    "amany": lambda pks: asyncio.run(asingle.amany(pks)),
}


@pytest.fixture(autouse=True)
def thousands_of_warnings_are_not_kept(caplog):
    caplog.set_level(logging.CRITICAL, "redis_integration")


@pytest.fixture
def options():
    """No row of the database: this is about Redis."""
    return {"DATABASE": None}


def test_damaged_entries_are_never_answers(live):
    """Bits flipped, bytes cut, swapped and replaced at our keys under load: right answers, and no exception."""
    until = time.monotonic() + SECONDS
    vandal = Vandal(until)
    callers = [Caller(until, call) for call in CALLS.values()]
    with ThreadPoolExecutor(len(callers) + 1) as threads:
        ended = [threads.submit(each.work) for each in (vandal, *callers)]

    assert [each.exception() for each in ended] == [None] * len(ended)
    assert [each.wrong for each in callers] == [0] * len(callers)
    assert min(vandal.acts, *(each.answers for each in callers)) > 0
    print(f"{vandal.acts} acts, {sum(each.answers for each in callers)} lists of 5 answered")


def test_no_lease_outlives_the_vandal(live):
    """What it damaged is computed and stored again as soon as it is gone."""
    vandal = Vandal(time.monotonic() + 0.2)
    thread = threading.Thread(target=vandal.work)
    thread.start()
    thread.join()
    get_redis().delete(
        *(name for pk in KEYS for name in (single.key_for(pk), f"{single.key_for(pk).split(':')[0]}:#vandal:{pk}"))
    )

    assert single.many(KEYS) == [value_of(pk) for pk in KEYS]
    assert get_redis().exists(*map(single.key_for, KEYS)) == len(KEYS)
