"""`durable=True`: a row beside each entry, on SQLite, PostgreSQL and MariaDB, with Redis up, gone, and back."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta

import pytest
from django.db import connections, transaction
from django.db.models.functions import Now
from django.http import HttpResponse
from django.test import RequestFactory

from redis_integration import cache_aside, cache_aside_view, invalidate
from redis_integration.caching import Tiers
from redis_integration.flow import run
from redis_integration.keys import Names
from redis_integration.models import FallbackEntry
from redis_integration.tiers.leases import make_token
from redis_integration.tiers.redis import get_redis_tier
from tests.databases import added_databases

pytestmark = pytest.mark.django_db(transaction=True)


class Boom(Exception):
    pass


class Gone(Exception):
    pass


class Source:
    """What an origin reads, or raises; counts the calls."""

    def __init__(self):
        self.value, self.error, self.calls = "first", None, 0

    def read(self):
        self.calls += 1
        if self.error:
            raise self.error
        return self.value


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def options(database):
    return {"DATABASE": database, "FALLBACK": "durable", "FALLBACK_TTL": 0.001}


@pytest.fixture
def rows(database):
    return FallbackEntry.objects.using(database)


@pytest.fixture
def redis(live):
    """Redis as this process knows it: `go` and `come` are the beginning and the end of an outage."""
    return Known()


class Known:
    def __init__(self):
        self.breaker = get_redis_tier("default", is_async=False).breaker

    def go(self):
        self.breaker.open("gone")
        self.breaker._due = float("inf")

    def come(self):
        self.breaker._due = 0.0


def cached_function(source, **options):
    load = cache_aside(ttl=60, key="value", tags=["t"], durable=True, **options)(lambda: source.read())
    return load, load.invalidate


def cached_coroutine(source, **options):
    @cache_aside(ttl=60, key="value", tags=["t"], durable=True, **options)
    async def load():
        return source.read()

    return lambda: asyncio.run(load()), lambda: asyncio.run(load.ainvalidate())


def cached_view(source):
    request = RequestFactory().get("/page/")
    view = cache_aside_view(ttl=60, namespace="page", tags=["t"], durable=True)(
        lambda request: HttpResponse(source.read())
    )
    return lambda: view(request).content.decode(), lambda: view.invalidate(request)


@pytest.fixture(params=[cached_function, cached_coroutine, cached_view])
def cached(request, source, redis):
    return request.param(source)


def past_its_ttl(rows):
    rows.update(fresh_until=Now() - timedelta(seconds=1))


def test_page_that_was_computed_before_the_outage_answers_in_it(cached, source, redis):
    """And not only for FALLBACK_TTL: every invalidation would have ended its row."""
    load, _ = cached
    load()
    redis.go()
    time.sleep(0.01)

    assert [load(), load()] == ["first", "first"]
    assert source.calls == 1


def test_page_that_is_computed_in_the_outage_is_stored_for_its_ttl(cached, source, redis):
    """The row lease and the fill are those of any row."""
    redis.go()
    load, _ = cached
    load()
    time.sleep(0.01)

    assert load() == "first"
    assert source.calls == 1


def test_confirmed_invalidation_ends_the_row(cached, source, redis):
    """By the time it returns: a process that finds Redis down a moment later computes."""
    load, forget = cached
    load()
    source.value = "second"

    forget()
    redis.go()

    assert load() == "second"


def test_confirmed_invalidation_by_tag_ends_the_row(cached, source, redis):
    """The generation goes with one statement, whatever the number of rows."""
    load, _ = cached
    load()
    source.value = "second"

    invalidate(tags=["t"])
    redis.go()

    assert load() == "second"


@pytest.mark.parametrize("by_tag", [False, True])
def test_what_was_computed_before_the_write_is_not_stored_after_it(source, redis, by_tag):
    """The row is leased before the origin, so that an invalidation meanwhile has something to end."""
    load, forget = cached_function(source)

    def read():
        source.read = lambda: "second"
        invalidate(tags=["t"]) if by_tag else forget()
        return "first"

    source.read = read
    assert load() == "first"
    redis.go()

    assert load() == "second"


def test_row_past_its_ttl_is_the_answer_where_the_origin_raises(cached, source, rows, redis):
    """With Redis gone, and when it is back and empty."""
    load, _ = cached
    load()
    past_its_ttl(rows)
    source.error = Boom()
    redis.go()

    assert load() == "first"
    assert source.calls == 2


def test_row_past_its_ttl_answers_while_redis_is_up_and_empty(cached, source, rows, redis, live):
    """Whatever Redis says, what was not invalidated is better than an error."""
    load, _ = cached
    load()
    past_its_ttl(rows)
    source.error = Boom()
    flush_redis()

    assert load() == "first"


def flush_redis():
    from redis_integration import get_redis

    get_redis().flushdb()


@pytest.mark.parametrize("by_tag", [False, True])
def test_invalidated_row_is_no_answer_where_the_origin_raises(cached, source, redis, by_tag):
    """The origin's own error is."""
    load, forget = cached
    load()
    invalidate(tags=["t"]) if by_tag else forget()
    source.error = Boom()

    with pytest.raises(Boom):
        load()


def test_listed_error_is_no_reason_to_answer_the_row(source, redis, rows):
    """What does not exist any more is not shown; an error that nobody listed is covered by the row."""
    load, _ = cached_function(source, negative_ttl={Gone: 5})
    load()
    flush_redis()
    source.error = Boom()
    assert load() == "first"
    source.error = Gone("deleted")

    with pytest.raises(Gone):
        load()


def test_transaction_that_has_invalidated_gets_no_row(source, redis, database):
    """It would not see its own write."""
    load, forget = cached_function(source)
    load()

    with transaction.atomic(using=database):
        forget()
        source.error = Boom()
        with pytest.raises(Boom):
            load()


def test_joined_flight_that_raises_is_answered_by_the_row(source, redis, rows, database):
    """Who joined asks for the row as who computed does."""
    load, _ = cached_function(source)
    load()
    flush_redis()
    begun, go, answers = threading.Event(), threading.Event(), []

    def fail():
        source.calls += 1
        begun.set()
        go.wait(10)
        raise Boom

    source.read = fail

    def call():
        answers.append(load())
        connections[database].close()

    threads = [threading.Thread(target=call) for _ in range(3)]
    threads[0].start()
    begun.wait(10)
    [thread.start() for thread in threads[1:]]
    time.sleep(0.1)
    go.set()
    [thread.join(10) for thread in threads]

    assert answers == ["first"] * 3


def test_refresh_answers_no_row(source, redis):
    """Who asks for the value of now gets it, or the error."""
    load, _ = cached_function(source)
    load()
    source.error = Boom()

    with pytest.raises(Boom):
        load.refresh()


def test_result_that_is_not_stored_leaves_no_older_row(source, redis, rows):
    """What `cache_if` refuses is newer than the row."""
    load, _ = cached_function(source, cache_if=lambda value: value == "first")
    load()
    flush_redis()
    source.value = "second"

    assert load() == "second"
    assert not rows.exists()


def test_nothing_is_leased_inside_a_transaction(source, redis, rows, database):
    """The row lock would be held until the commit."""
    load, _ = cached_function(source)

    with transaction.atomic(using=database):
        load()
    redis.go()
    with transaction.atomic(using=database):
        load()

    assert not rows.exists()


def test_row_is_read_inside_a_transaction(source, redis, database):
    """Which locks nothing."""
    load, _ = cached_function(source)
    load()
    redis.go()

    with transaction.atomic(using=database):
        assert load() == "first"
    assert source.calls == 1


@pytest.mark.parametrize(("tags", "first", "later"), [([], 3, 2), (["t"], 5, 3)])
def test_queries_of_a_miss(source, redis, database, django_assert_num_queries, tags, first, later):
    """With Redis up: 2 where the row exists, 3 with tags; the first time 1 more, with new tags 2 more."""
    load = cache_aside(ttl=60, key="value", tags=tags, durable=True)(source.read)
    using = {"connection": connections[database]}

    with django_assert_num_queries(first, **using):
        load()
    with django_assert_num_queries(0, **using):
        load()
    flush_redis()
    with django_assert_num_queries(later, **using):
        load()


def test_queries_of_an_invalidation(source, redis, database, django_assert_num_queries):
    """One for keys, one for tags, and 1 for a hit of the row."""
    load, forget = cached_function(source)
    load()
    using = {"connection": connections[database]}

    with django_assert_num_queries(1, **using):
        forget()
    with django_assert_num_queries(1, **using):
        invalidate(tags=["t"])
    load()
    redis.go()
    with django_assert_num_queries(1, **using):
        load()


def test_invalidation_inside_a_transaction_ends_the_row_after_the_commit(source, redis, rows, database):
    """Not before, since others would store the old value again; and not inside, since that would lock."""
    load, forget = cached_function(source)
    load()

    with transaction.atomic(using=database):
        forget()
        assert rows.exists()

    assert not rows.exists()


def test_commit_of_another_database_ends_the_row_with_the_later_commit(source, redis, rows, database):
    """The first commit comes while this thread is in a transaction on DATABASE, where nothing may be locked."""
    load, forget = cached_function(source)
    load()
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}

    with added_databases({"other": sqlite}), transaction.atomic(using=database):
        with transaction.atomic(using="other"):
            forget()
        assert rows.exists()
        # Until then this process does not believe it.
        redis.go()
        source.value = "second"
        assert load() == "second"

    assert not rows.exists()
    assert load() == "second"


def test_rollback_after_the_commit_of_another_database_ends_the_row_when_it_is_retried(source, redis, rows, database):
    """Nobody sends again: until the next beat of the watch this process knows that the row is not to be believed."""
    load, forget = cached_function(source)
    load()
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}

    with added_databases({"other": sqlite}), pytest.raises(Boom), transaction.atomic(using=database):
        with transaction.atomic(using="other"):
            forget()
        raise Boom
    redis.go()
    source.value = "second"

    assert load() == "second"
    run(Tiers("default", is_async=False).fallback.retry_unended())
    assert not rows.exists()


def test_expired_row_is_computed_anew(source, redis):
    """`expire` reaches the row too."""
    load, _ = cached_function(source)
    load()
    source.value = "second"

    load.expire()
    redis.go()

    assert load() == "second"


def test_interrupted_computation_lets_the_row_go(source, redis, rows):
    """Its next caller need not wait for the end of the lease."""
    load, _ = cached_function(source)
    source.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        load()
    source.error = None
    redis.go()
    assert not rows.held().exists()

    assert load() == "first"
    assert rows.get().started is not None


def test_row_that_another_process_computes_is_waited_for(source, redis, database):
    """With Redis gone one computes, in whichever process."""
    load, _ = cached_function(source)
    redis.go()
    names = Names(load.key_for(), (f"{load.key_for().split(':')[0]}:#t",))
    other = Tiers("default", is_async=False, durable=True).fallback
    run(other.read(names))
    lease = run(other.lease(names, None, make_token(), seconds=10.0, kept=60.0))
    filled = cache_entry(source, load, redis)

    waiting = threading.Thread(target=lambda: (filled.append(load()), connections[database].close()))
    waiting.start()
    time.sleep(0.1)
    run(other.fill(names, lease, filled[0], kept=60.0))
    waiting.join(10)

    assert filled[1] == "of another"
    assert source.calls == 0


def cache_entry(source, load, redis):
    from redis_integration.codecs import json_codec
    from redis_integration.entries import Entry

    now = time.time()
    return [Entry(json_codec.encode("of another"), json_codec.number, created=now, fresh_until=now + 60)]


def test_row_that_is_waited_for_in_vain_is_computed(source, redis, database):
    """An owner that died holds up nobody for longer than a lease."""
    load = cache_aside(ttl=60, key="value", durable=True, lease_timeout=0.3)(source.read)
    redis.go()
    other = Tiers("default", is_async=False, durable=True).fallback
    run(other.lease(Names(load.key_for()), None, make_token(), seconds=60.0, kept=60.0))

    assert load() == "first"


def test_database_that_fails_costs_nothing_but_the_row(source, redis, rows, caplog):
    """With Redis up the answer and its entry are what they are without a row."""
    load, _ = cached_function(source)
    connection = connections[rows.db]
    with connection.schema_editor() as editor:
        editor.delete_model(FallbackEntry)
    try:
        assert [load(), load()] == ["first", "first"]
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(FallbackEntry)

    assert source.calls == 1
    assert caplog.text.count("fallback_failed") == 1


def test_durable_is_true_or_false():
    """Options are read at decoration."""
    with pytest.raises(TypeError, match="durable is 1"):
        cache_aside(ttl=60, durable=1)
    with pytest.raises(TypeError, match="durable is 'yes'"):
        cache_aside_view(ttl=60, durable="yes")
