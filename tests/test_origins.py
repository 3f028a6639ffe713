from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from redis_integration import cache_aside, cache_aside_many, get_redis, origins
from redis_integration.flow import run
from redis_integration.origins import AT_ONCE, Place, enter, held
from redis_integration.tiers.redis import get_redis_tier
from tests.stampede.watch import until

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


@pytest.fixture(params=["function", "list"])
def menu(request):
    """A function that every page calls."""
    made = {
        "function": lambda: cache_aside(ttl=60, key="menu", lease_timeout=60)(lambda: "menu"),
        "list": lambda: partial(cache_aside_many(ttl=60, key="menu:{pks}", lease_timeout=60)(lambda pks: pks), [1, 2]),
    }
    return made[request.param]()


def test_who_waits_for_a_place_holds_up_nobody_inside(cold, menu):
    """The owner of a flight waited for a place, and those who had all the places had joined it: all stood for lease_timeout."""
    gate, waited_for = threading.Barrier(AT_ONCE + 1, timeout=20), threading.Event()

    @cache_aside(ttl=60, key="page:{pk}", lease_timeout=60)
    def page(pk):
        gate.wait()  # all places are taken
        waited_for.wait(20)
        return menu()

    with ThreadPoolExecutor(AT_ONCE + 1) as pool:
        pages = [pool.submit(page, pk) for pk in range(AT_ONCE)]
        gate.wait()
        outside = pool.submit(menu)
        until(lambda: origins._waiters._waiting)
        waited_for.set()

        assert {str(each.result(timeout=20)) for each in pages} == {str(outside.result(timeout=20))}


def test_who_waits_for_a_place_has_no_lease(cold, prefix, price):
    """It ran out in the queue, and what was computed was not stored."""
    places = [run(enter(0, is_async=False)) for _ in range(AT_ONCE)]

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(price, 1)
        until(lambda: origins._waiters._waiting)
        leases = list(get_redis().scan_iter(f"{{{prefix}:*"))
        places.clear()
        waiting.result(timeout=20)

    assert leases == []


def test_who_has_a_copy_waits_for_no_place(cold):
    """While another computes it anew, the stale copy is answered at once."""
    value = cache_aside(ttl=60, key="value", stale_for=60, refresh="caller", lease_timeout=60)(lambda: 1)
    value()
    value.expire()
    places = [run(enter(0, is_async=False)) for _ in range(AT_ONCE)]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(value).result(timeout=20) == 1

    places.clear()


def leases_asked_for():
    return get_redis().info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]


def test_who_waits_for_another_process_has_no_place(cold, prefix):
    """Places are for those who compute."""
    value = cache_aside(ttl=60, key="value:{pk}", lease_timeout=60)(lambda pk: pk)
    leases, before = [f"{{{prefix}:value:{pk}}}:lease" for pk in range(AT_ONCE)], leases_asked_for()
    get_redis().mset(dict.fromkeys(leases, "another's"))

    with ThreadPoolExecutor(CALLERS) as pool:
        waiting = [pool.submit(value, pk) for pk in range(AT_ONCE)]
        until(lambda: leases_asked_for() >= before + AT_ONCE)

        assert pool.submit(value, CALLERS).result(timeout=20) == CALLERS

        get_redis().delete(*leases)
        assert [each.result(timeout=20) for each in waiting] == [*range(AT_ONCE)]


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
