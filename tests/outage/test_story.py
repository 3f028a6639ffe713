"""Redis goes and comes back under a cached function and a cached view: real servers, real sockets, sync and async."""

from __future__ import annotations

import pytest

from demo_project.proxy import CuttableProxy
from redis_integration import get_redis
from redis_integration.models import FallbackEntry
from redis_integration.tiers.redis import get_redis_tier
from tests.conftest import PATIENT
from tests.outage.callers import CALLERS, Source, retry_now

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def proxy(server, settings, prefix, database):
    """The server, behind a proxy that can be cut, and each kind of database behind that."""
    with CuttableProxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        settings.REDIS_INTEGRATION = {"default": {"URL": url, "KEY_PREFIX": prefix, "DATABASE": database, **PATIENT}}
        yield proxy


@pytest.fixture(params=CALLERS)
def cached(request, source):
    return request.param(source)


def test_cut_off_redis_is_answered_by_the_origin_then_by_its_row(proxy, cached, source, database):
    """No error; one computation, then the fallback row."""
    load, _ = cached
    load()

    proxy.cut()
    first = load()

    assert [first, load(), load()] == ["first"] * 3
    assert source.reads == 2
    assert FallbackEntry.objects.using(database).count() == 1


def test_change_made_while_redis_is_cut_off_is_seen_at_once_and_afterwards(proxy, cached, source):
    """The invalidation that Redis did not confirm is repeated before Redis, which kept the old value, is believed."""
    load, invalidate = cached
    load()
    proxy.cut()
    load()

    source.value = "second"
    invalidate()
    during = load()
    proxy.heal()
    retry_now()

    assert (during, load(), load()) == ("second", "second", "second")
    assert get_redis_tier("default", is_async=False).breaker.is_closed


def test_fallback_rows_are_not_believed_once_redis_is_back(proxy, cached, source):
    """Redis's entry answers again, and the row is not copied into Redis."""
    load, _ = cached
    proxy.cut()
    load()
    proxy.heal()
    retry_now()

    load()

    assert source.reads == 2
    assert get_redis().dbsize() >= 1


def test_frozen_redis_is_given_up_on(live_own, cached, source):
    """A server that does not answer costs a deadline once; then the breaker is open."""
    load, _ = cached
    load()
    live_own.pause()

    answers = [load(), load()]

    live_own.resume()
    assert answers == ["first", "first"]
    assert not get_redis_tier("default", is_async=False).breaker.is_closed


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client: client.config_set("requirepass", "secret"),
        lambda client: client.config_set("maxmemory", 1),
        lambda client: client.acl_setuser("default", enabled=True, nopass=True, categories=["-@all"]),
        lambda client: client.replicaof("127.0.0.1", "1"),
        lambda client: client.config_set("min-replicas-to-write", 1),
        lambda client: client.flushall(),
        lambda client: client.shutdown(nosave=True),
    ],
    ids=["NOAUTH", "OOM", "NOPERM", "READONLY", "NOREPLICAS", "FLUSHALL", "gone"],
)
def test_no_failure_of_redis_reaches_the_caller(live_own, cached, spoil):
    """Whatever the server answers, the call has its answer, and a change is seen after its invalidation."""
    load, invalidate = cached
    load()
    client = get_redis()
    client.client_kill_filter(_type="normal", skipme=True)
    spoil(client)

    answers = [load(), load(), load()]
    invalidate()

    assert [*answers, load()] == ["first"] * 4


def test_invalidation_under_refused_writes_is_not_lost(live_own, cached, source):
    """A server that serves reads and refuses UNLINK is not believed."""
    load, invalidate = cached
    load()
    get_redis().config_set("min-replicas-to-write", 1)

    source.value = "second"
    invalidate()

    assert [load(), load()] == ["second", "second"]
