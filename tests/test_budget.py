from __future__ import annotations

import asyncio
import time

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from demo_project.proxy import CuttableProxy
from redis_integration import budget, cache_aside, cache_aside_view
from redis_integration.budget import Budget, granted
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.middleware import CacheAsideMiddleware
from redis_integration.pools.sync import Pool
from redis_integration.tiers.redis import get_redis_tier


@pytest.fixture
def clock(monkeypatch):
    """Monotonic seconds of the budget, in a list."""
    now = [100.0]
    monkeypatch.setattr(budget, "monotonic", lambda: now[0])
    return now


def test_waiting_is_taken_off(clock):
    """Each exchange costs what it lasted."""
    mine = Budget(0.5)
    with mine:
        clock[0] += 0.2

    assert mine.left == pytest.approx(0.3)


def test_tasks_that_wait_together_spend_once(clock):
    """The request waits for them at the same time."""
    mine = Budget(0.5)
    with mine:
        clock[0] += 0.1
        with mine:
            clock[0] += 0.1
        clock[0] += 0.1

    assert mine.left == pytest.approx(0.2)


def test_spent_budget_begins_no_exchange(clock):
    """It is busy, which opens no breaker."""
    mine = Budget(0.1)
    with mine:
        clock[0] += 0.2

    with pytest.raises(RedisUnavailable, match="raise REQUEST_BUDGET") as failure, mine:
        pass

    assert failure.value.kind is Kind.BUSY


def test_a_call_within_a_request_spends_the_requests():
    """What grants a budget inside a larger one adds nothing."""
    with granted(0.5):
        outer = budget.current.get()
        with granted(10):
            assert budget.current.get() is outer

    assert budget.current.get() is None


def spend():
    """Have this request have waited for all of its time."""
    budget.current.get().left = 0.0


def test_task_that_outlives_its_request_has_a_budget_for_each_call(live):
    """It had the request's for ever, and once that was spent it computed everything."""
    calls = []

    @cache_aside(ttl=60, key="price")
    async def price():
        calls.append(1)

    async def live_on():
        await asyncio.sleep(0)
        await price()
        await price()

    async def page(request):
        spend()
        started.append(asyncio.create_task(live_on()))
        return HttpResponse()

    async def serve():
        await CacheAsideMiddleware(page)(RequestFactory().get("/"))
        await started.pop()

    started = []
    asyncio.run(serve())

    assert calls == [1]


def test_request_that_has_waited_enough_computes_the_rest(live):
    """And asks Redis no more; the next request does."""
    calls = []
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: calls.append(pk))
    price(1)

    def page(request):
        price(1)
        spend()
        price(1)
        price(2)
        return HttpResponse()

    CacheAsideMiddleware(page)(RequestFactory().get("/"))
    price(1)

    assert calls == [1, 1, 2]
    assert get_redis_tier("default", is_async=False).breaker.is_closed


def test_async_request_that_has_waited_enough_computes_the_rest(live):
    """The same where the view is a coroutine function."""
    calls = []

    @cache_aside(ttl=60, key="price:{pk}")
    async def price(pk):
        calls.append(pk)

    async def page(request):
        await price(1)
        spend()
        await asyncio.gather(price(1), price(2))
        return HttpResponse()

    asyncio.run(CacheAsideMiddleware(page)(RequestFactory().get("/")))

    assert sorted(calls) == [1, 1, 2]


def test_spent_budget_drops_no_invalidation(live):
    """It is pending, and repeated before the name is asked for again."""
    values = ["old", "new"]
    load = cache_aside(ttl=60, key="value")(lambda: values[0])
    load()

    with granted(1):
        spend()
        values.pop(0)
        load.invalidate()

    assert load() == "new"


def test_nested_call_shares_the_budget_of_the_outer(live):
    """Also without the middleware: the page is one call, and what it calls belongs to it."""
    calls = []
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: calls.append(pk))
    price(1)

    @cache_aside_view(ttl=60, namespace="page")
    def page(request):
        spend()
        price(1)
        return HttpResponse()

    page(RequestFactory().get("/"))

    assert calls == [1, 1]


def test_refresh_in_the_background_has_a_budget_of_its_own(live):
    """Its caller's may be spent."""
    values = iter(["first", "second"])
    load = cache_aside(ttl=60, stale_for=60, key="value")(lambda: next(values))
    load()
    load.expire()

    with granted(1):
        load()
        spend()
    give_up = time.monotonic() + 20
    while load() == "first" and time.monotonic() < give_up:
        time.sleep(0.01)

    assert load() == "second"


@pytest.fixture
def tries(monkeypatch):
    """Every exchange that was begun."""
    begun = []
    exchange = Pool.exchange

    def counted(pool, packed, *rest):
        begun.append(packed)
        return exchange(pool, packed, *rest)

    monkeypatch.setattr(Pool, "exchange", counted)
    return begun


@pytest.mark.django_db(transaction=True)
def test_frozen_redis_is_waited_for_twice(server, settings, prefix, tries):
    """Two timeouts in a row, then nobody waits: a page of fifty calls waits as long as one of two."""
    with CuttableProxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        settings.REDIS_INTEGRATION = {"default": {"URL": url, "KEY_PREFIX": prefix, "CONNECT_TIMEOUT": 5}}
        price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: pk)
        price(0)
        proxy.freeze()
        tries.clear()

        answers = [price(pk) for pk in range(50)]

    assert answers == [*range(50)]
    assert len([packed for packed in tries if b"#probe" not in packed]) == 2
