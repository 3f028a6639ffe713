from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db import transaction

from redis_integration import ainvalidate, cache_aside, invalidate
from redis_integration.caching import Tiers
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.flow import run
from redis_integration.keys import Names
from redis_integration.models import FallbackEntry
from redis_integration.tiers.leases import make_token
from redis_integration.tiers.redis import RedisTier, get_redis_tier

pytestmark = pytest.mark.django_db(transaction=True)


class Boom(Exception):
    pass


def in_thread(function):
    """What a function gives in a thread of its own, which has no transaction."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.fixture
def count(live):
    """A cached count of groups."""
    return cache_aside(ttl=60, key="groups")(lambda: Group.objects.count())


def test_invalidation_waits_for_the_commit(count):
    """Others go on reading the old value until the change is committed, then never again; the transaction sees its own."""
    assert count() == 0

    with transaction.atomic():
        Group.objects.create(name="a")
        count.invalidate()
        assert count() == 1
        assert in_thread(lambda: run(get_redis_tier("default", is_async=False).read(Names(count.key_for()))))

    assert count() == 1


def test_rolled_back_change_invalidates_nothing(count):
    """After a rollback the entry is still right and still there."""
    assert count() == 0

    with pytest.raises(Boom), transaction.atomic():
        Group.objects.create(name="a")
        count.invalidate()
        raise Boom

    assert count() == 0


def test_uncommitted_value_is_never_stored(count):
    """What a transaction computed, and then rolled back, nobody else sees."""
    with pytest.raises(Boom), transaction.atomic():
        Group.objects.create(name="a")
        assert count() == 1
        raise Boom

    assert count() == 0


def test_error_of_redis_after_commit_reaches_nobody(count, live_own, settings):
    """A commit whose invalidation fails is a commit; the name is pending."""
    settings.REDIS_INTEGRATION = {"default": {"URL": live_own.url, "KEY_PREFIX": "t"}}
    count()
    live_own.kill()

    with transaction.atomic():
        Group.objects.create(name="a")
        count.invalidate()

    assert [*get_redis_tier("default", is_async=False).journal.pending] == ["t:groups"]
    assert count() == 1


def test_invalidation_during_an_outage_ends_the_fallback_row(live_own):
    """The row that answers while Redis is away goes with the entry, and the change is seen at once."""
    count = cache_aside(ttl=60, key="groups")(lambda: Group.objects.count())
    live_own.kill()
    assert [count(), count()] == [0, 0]
    assert FallbackEntry.objects.count() == 1

    Group.objects.create(name="a")
    count.invalidate()

    assert FallbackEntry.objects.count() == 0
    assert count() == 1


def test_invalidation_that_redis_did_not_confirm_ends_the_row_behind_a_closed_breaker(count, monkeypatch):
    """Another process, for which Redis is down, would answer it."""

    def busy(self, names):
        raise RedisUnavailable("The pool is exhausted.", kind=Kind.BUSY)
        yield

    names, tiers = Names(count.key_for()), Tiers("default", is_async=False)
    run(tiers.fallback.lease(names, None, make_token(), seconds=10.0, kept=60.0, replace=True))
    monkeypatch.setattr(RedisTier, "unlink", busy)

    count.invalidate()

    assert tiers.redis.breaker.is_closed
    assert not FallbackEntry.objects.exists()


def test_ainvalidate_waits_for_the_commit_of_its_thread(count):
    """Async code that is called inside atomic() invalidates after that commit."""
    assert count() == 0

    with transaction.atomic():
        Group.objects.create(name="a")
        async_to_sync(ainvalidate)(keys=[count.key_for()])
        assert in_thread(lambda: run(get_redis_tier("default", is_async=False).read(Names(count.key_for()))))

    assert count() == 1


def test_nothing_to_invalidate_is_nothing_to_do(live):
    """An empty list sends nothing."""
    invalidate(keys=[])


@pytest.mark.parametrize("rest", ["a\0", "a\n", "ä", "x" * 200])
def test_what_is_no_key_is_refused_before_anything_is_done(live, prefix, rest):
    """A database that takes no NUL, or no more than a column holds, would refuse the names beside it too."""
    with pytest.raises(
        ValueError, match=r"is no key of this alias: keys are printable ASCII, at most 200 letters.*key_for"
    ):
        invalidate(keys=[f"{prefix}:{rest}"])
