from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from redis_integration import cache_aside, cache_aside_many, origins
from redis_integration.flow import run
from redis_integration.origins import AT_ONCE, Place, enter, held
from redis_integration.tiers.redis import get_redis_tier

CALLERS = 3 * AT_ONCE


class Crowd:
    """How many are inside at a time, and at most."""

    def __init__(self):
        self.inside = 0
        self.most = 0
        self.lock = threading.Lock()

    def come(self):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def go(self):
        with self.lock:
            self.inside -= 1


@pytest.fixture(autouse=True)
def nobody_left():
    yield
    gc.collect()
    assert origins._taken == set()


@pytest.fixture
def crowd():
    return Crowd()


@pytest.fixture
def price(crowd):
    @cache_aside(ttl=60, key="price:{pk}")
    def price(pk):
        crowd.come()
        time.sleep(0.02)
        crowd.go()
        return pk

    return price


@pytest.fixture
def cold(live):
    """Redis was lost and has just come back: nothing is there."""
    breaker = get_redis_tier("default", is_async=False).breaker
    breaker.open("gone")
    breaker.close()


@pytest.fixture
def down(settings, prefix):
    """Nothing listens there, and nobody tries."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "KEY_PREFIX": prefix, "FALLBACK": None}}
    get_redis_tier("default", is_async=False).breaker.open("gone")


def call_all(price):
    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(price, range(CALLERS)))


@pytest.mark.parametrize("when", ["cold", "down"])
def test_cold_cache_calls_so_many_origins_at_a_time(request, when, price, crowd):
    """Of different keys, during an outage and right after it; everybody is answered."""
    request.getfixturevalue(when)

    assert call_all(price) == [*range(CALLERS)]
    assert crowd.most <= AT_ONCE


def test_cold_cache_awaits_so_many_origins_at_a_time(cold, crowd):
    """The same in tasks of one loop."""

    @cache_aside(ttl=60, key="price:{pk}")
    async def price(pk):
        crowd.come()
        await asyncio.sleep(0.01)
        crowd.go()
        return pk

    async def call():
        return await asyncio.gather(*map(price, range(CALLERS)))

    assert asyncio.run(call()) == [*range(CALLERS)]
    assert crowd.most <= AT_ONCE


def test_warm_cache_calls_as_many_as_are_asked_for(live, crowd):
    """There is nothing to protect."""
    gate = threading.Barrier(CALLERS, timeout=20)

    @cache_aside(ttl=60, key="price:{pk}")
    def price(pk):
        gate.wait()
        return pk

    assert call_all(price) == [*range(CALLERS)]


def test_list_counts_as_one(cold, crowd):
    """It is one call of its origin."""

    @cache_aside_many(ttl=60, key="price:{pks}")
    def prices(pks):
        crowd.come()
        time.sleep(0.02)
        crowd.go()
        return pks

    call_all(lambda pk: prices([pk, pk + CALLERS]))

    assert crowd.most <= AT_ONCE


def test_origin_that_calls_another_waits_for_nobody(cold):
    """Else those inside would wait for each other."""
    gate = threading.Barrier(AT_ONCE, timeout=20)
    inner = cache_aside(ttl=60, key="inner:{pk}")(lambda pk: pk)

    @cache_aside(ttl=60, key="outer:{pk}")
    def outer(pk):
        gate.wait()  # all places are taken
        return inner(pk)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert list(pool.map(outer, range(AT_ONCE))) == [*range(AT_ONCE)]


def test_nobody_is_refused():
    """Who has waited long enough goes in."""
    places = [run(enter(0, is_async=False)) for _ in range(AT_ONCE + 1)]

    assert all(isinstance(place, Place) for place in places)


def test_place_of_an_interrupted_call_is_free():
    """It dies with the call."""
    places = [run(enter(0, is_async=False)) for _ in range(AT_ONCE)]

    places.clear()

    assert not origins._taken


def test_origin_that_raises_frees_its_place():
    """It is held no longer than the call."""
    place = run(enter(0, is_async=False))

    with pytest.raises(LookupError), held(place):
        raise LookupError

    assert not origins._taken
