from __future__ import annotations

import asyncio
import threading
import time
from decimal import Decimal

import pytest
from django.db import transaction

from redis_integration import RedisUnavailable, cache_aside, get_redis
from redis_integration.entries import pack, unpack


class Missing(Exception):
    pass


class Another(Exception):
    pass


class Special(Missing):
    pass


class Awkward(Exception):
    def __init__(self, *, name):
        super().__init__(name)


class Origin:
    """Raises what it is told to, and counts its calls."""

    def __init__(self):
        self.calls = 0
        self.error = Missing(7, Decimal("1.50"))

    def __call__(self):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "found"


@pytest.fixture
def origin():
    return Origin()


@pytest.fixture(params=["sync", "async"])
def make(request, origin):
    """A cached function with these options, called sync."""

    def make(**options):
        options = {"ttl": 60, "key": "price:{pk}", "negative_ttl": {Missing: 5, Awkward: 5}, **options}

        @cache_aside(**options)
        async def awaited(pk):
            return origin()

        def call(pk):
            return asyncio.run(awaited(pk))

        call.key_for = awaited.key_for
        call.invalidate = lambda pk: asyncio.run(awaited.ainvalidate(pk))
        call.expire = lambda pk: asyncio.run(awaited.aexpire(pk))
        call.refresh = lambda pk: asyncio.run(awaited.arefresh(pk))
        return call if request.param == "async" else cache_aside(**options)(lambda pk: origin())

    return make


def raised_by(call, *args):
    with pytest.raises(Exception) as caught:
        call(*args)
    return type(caught.value), caught.value.args


def test_listed_error_is_remembered(live, make, origin):
    """With its class and its args, types included."""
    price = make()

    assert [raised_by(price, 7), raised_by(price, 7)] == [(Missing, (7, Decimal("1.50")))] * 2
    assert origin.calls == 1


def test_remembered_error_costs_one_round_trip(live, make):
    """As any hit: no lease is asked for."""
    price = make()
    raised_by(price, 7)
    before = get_redis().info("commandstats")["cmdstat_evalsha"]["calls"]
    raised_by(price, 7)

    assert get_redis().info("commandstats")["cmdstat_evalsha"]["calls"] == before


@pytest.mark.parametrize("error", [Another("not listed"), Special("a subclass, which is another class")])
def test_other_errors_are_not_remembered(live, make, origin, error):
    """Only exactly the classes that are listed."""
    origin.error = error
    price = make()

    assert [raised_by(price, 7), raised_by(price, 7)] == [(type(error), error.args)] * 2
    assert origin.calls == 2


def test_it_is_kept_for_its_own_time(live, make):
    """Not for the ttl, nor for stale_for."""
    price = make(stale_for=600)
    raised_by(price, 7)

    assert 4_000 < get_redis().pttl(price.key_for(7)) <= 5_000


def test_value_after_its_time(live, make, origin):
    """When it is over, the origin is asked again; an error is never answered as stale."""
    price = make(stale_for=600)
    raised_by(price, 7)
    key = price.key_for(7)
    entry = unpack(get_redis().get(key), key)
    get_redis().set(key, pack(entry._replace(fresh_until=time.time() - 1), key), keepttl=True)
    origin.error = None

    assert price(7) == "found"


@pytest.mark.parametrize("end", ["invalidate", "expire"])
def test_invalidated_error_is_forgotten(live, make, origin, end):
    """As soon as the row is there."""
    price = make()
    raised_by(price, 7)
    origin.error = None
    getattr(price, end)(7)

    assert price(7) == "found"


def test_refresh_replaces_it(live, make, origin):
    """As any other entry."""
    price = make()
    raised_by(price, 7)
    origin.error = None

    assert [price.refresh(7), price(7)] == ["found", "found"]


def test_copy_is_the_answer_where_there_is_one(live, make, origin):
    """stale_for comes first: the error does not replace a copy."""
    origin.error = None
    price = make(stale_for=600, refresh="caller")
    price(7)
    origin.error = Missing()
    price.expire(7)

    assert [price(7), price(7)] == ["found", "found"]


def test_error_that_cannot_be_made_again_is_not_remembered(live, make, origin, caplog):
    """It is raised, and the log says why it is not kept."""
    origin.error = Awkward(name="x")
    price = make()
    raised_by(price, 7)

    assert (raised_by(price, 7), origin.calls) == ((Awkward, ("x",)), 2)
    assert "error_unstorable" in caplog.text


def test_error_with_args_that_have_no_codec_is_not_remembered(live, make, origin, caplog):
    """As a value of that type."""
    origin.error = Missing(object())
    price = make()
    raised_by(price, 7)
    raised_by(price, 7)

    assert origin.calls == 2
    assert "builtins.object" in caplog.text


def test_error_that_is_listed_no_more_is_a_miss(live, make, origin):
    """A deploy may have changed the list; no class is looked up by what Redis says."""
    raised_by(make(), 7)
    origin.error = None

    assert make(negative_ttl={Another: 5})(7) == "found"
    assert make(negative_ttl=None)(7) == "found"


def test_those_who_joined_get_it_too(live, origin):
    """One call of the origin for all."""
    begun, go = threading.Event(), threading.Event()

    @cache_aside(ttl=60, key="price:{pk}", negative_ttl={Missing: 5})
    def price(pk):
        begun.set()
        assert go.wait(10)
        return origin()

    errors = []
    threads = [threading.Thread(target=lambda: errors.append(raised_by(price, 7))) for _ in range(5)]
    threads[0].start()
    assert begun.wait(10)
    [thread.start() for thread in threads[1:]]
    go.set()
    [thread.join(10) for thread in threads]

    assert errors == [(Missing, (7, Decimal("1.50")))] * 5
    assert origin.calls == 1


def test_many_raises_it(live, origin):
    """As a single call would."""
    price = cache_aside(ttl=60, key="price:{pk}", negative_ttl={Missing: 5})(lambda pk: origin())
    raised_by(price, 7)

    assert raised_by(price.many, [7]) == (Missing, (7, Decimal("1.50")))
    assert origin.calls == 1


@pytest.mark.django_db(transaction=True)
def test_error_that_ends_its_transaction_is_not_remembered(live, origin):
    """What is rolled back was not true for others."""
    price = cache_aside(ttl=60, key="price:{pk}", negative_ttl={Missing: 5})(lambda pk: origin())
    with pytest.raises(Missing), transaction.atomic():
        price(7)
    origin.error = None

    assert price(7) == "found"


def test_without_redis_the_origins_error_is_raised(settings, make, origin):
    """And nothing of Redis."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "DATABASE": None}}
    price = make()

    assert [raised_by(price, 7), raised_by(price, 7)] == [(Missing, (7, Decimal("1.50")))] * 2


@pytest.mark.django_db(transaction=True)
def test_without_redis_a_row_remembers_it(settings, make, origin):
    """As long as Redis would: an outage is no reason to ask a failing origin more often."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0"}}
    price = make()
    raised_by(price, 7)
    raised_by(price, 8)
    calls = origin.calls

    assert raised_by(price, 8) == (Missing, (7, Decimal("1.50")))
    assert origin.calls == calls


@pytest.mark.parametrize(
    ("negative_ttl", "error"),
    [
        (5, TypeError),
        ([Missing], TypeError),
        ({"Missing": 5}, TypeError),
        ({KeyboardInterrupt: 5}, TypeError),
        ({RedisUnavailable: 5}, TypeError),
        ({Missing: 0}, ValueError),
        ({Missing: "5"}, TypeError),
    ],
)
def test_option_without_meaning_is_an_error(negative_ttl, error):
    """At decoration, with the form it takes."""
    with pytest.raises(error, match="negative_ttl"):
        cache_aside(ttl=60, negative_ttl=negative_ttl)
