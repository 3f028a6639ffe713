"""Redis comes back with what it had, or with nothing, once or twice: functions, coroutine functions and views."""

from __future__ import annotations

import pytest
import redis

from demo_project.proxy import CuttableProxy
from redis_integration import get_redis
from redis_integration.tiers.redis import get_redis_tier
from tests.conftest import PATIENT
from tests.outage.callers import CALLERS, Source, retry_now

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["outage", "durable"])
def options(request):
    return {"FALLBACK": request.param}


@pytest.fixture
def source():
    return Source()


@pytest.fixture(params=CALLERS)
def cached(request, source, options):
    return request.param(source, durable=options["FALLBACK"] == "durable")


@pytest.fixture
def proxy(server, settings, prefix, database, options):
    with CuttableProxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        settings.REDIS_INTEGRATION = {
            "default": {"URL": url, "KEY_PREFIX": prefix, "DATABASE": database, **PATIENT, **options}
        }
        yield proxy


def come_back(proxy):
    proxy.heal()
    retry_now()


def flush(server):
    with redis.Redis(unix_socket_path=server.unixsocket) as admin:
        admin.flushall()


def restart(server):
    server.kill()
    server.start()


def test_invalidation_between_two_outages_counts_in_the_second(proxy, cached, source):
    """Redis confirmed it, so that nobody repeats it; the row of the first outage is not believed in the second."""
    load, invalidate = cached
    load()
    proxy.cut()
    during_first = [load(), load()]
    come_back(proxy)
    load()

    source.value = "second"
    invalidate()
    between = load()
    proxy.cut()
    during_second = [load(), load()]
    come_back(proxy)

    assert during_first == ["first"] * 2
    assert [between, *during_second, load()] == ["second"] * 4
    assert get_redis_tier("default", is_async=False).breaker.is_closed


def test_invalidations_of_two_outages_are_repeated_after_each(proxy, cached, source):
    """Each was made while Redis, which kept the older value, was away."""
    load, invalidate = cached
    load()
    proxy.cut()
    source.value = "second"
    invalidate()
    come_back(proxy)
    after_first = load()

    proxy.cut()
    source.value = "third"
    invalidate()
    during_second = load()
    come_back(proxy)

    assert [after_first, during_second, load(), load()] == ["second", "third", "third", "third"]


@pytest.mark.parametrize("empty", [flush, restart], ids=["FLUSHALL", "restart"])
def test_empty_redis_is_filled_again(live_own, cached, source, empty):
    """What it held is computed anew, once, and so that an invalidation ends it."""
    load, invalidate = cached
    load()
    source.value = "second"

    empty(live_own)
    refilled = [load(), load()]
    reads = source.reads
    source.value = "third"
    invalidate()

    assert refilled == ["second", "second"]
    assert reads == 2
    assert [load(), load()] == ["third", "third"]
    assert get_redis().dbsize() >= 1


def test_change_while_redis_restarts_empty_is_seen_at_once_and_afterwards(live_own, cached, source):
    """The invalidation finds nobody, and the row that was computed before it is not believed."""
    load, invalidate = cached
    load()
    live_own.kill()
    load()

    source.value = "second"
    invalidate()
    during = load()
    live_own.start()
    retry_now()

    assert [during, load(), load()] == ["second"] * 3
    assert source.reads <= 4
    assert get_redis_tier("default", is_async=False).breaker.is_closed
