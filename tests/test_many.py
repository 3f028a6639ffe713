from __future__ import annotations

import asyncio
import threading
from decimal import Decimal

import pytest
from django.db import transaction

from redis_integration import cache_aside, cache_aside_many, get_redis, invalidate, pools
from redis_integration.entries import pack, unpack
from redis_integration.models import FallbackEntry
from redis_integration.tiers import redis as redis_tier


class Down(Exception):
    pass


class Origin:
    """A function of a list: each value is the item and the number of the call."""

    def __init__(self):
        self.calls = []
        self.error = None
        self.meanwhile = lambda: None

    def __call__(self, pks):
        self.calls.append(pks)
        number = len(self.calls)
        self.meanwhile()
        if self.error is not None:
            raise self.error
        return [f"{pk}:{number}" for pk in pks]


class Sync:
    """The functions under test, called as a test reads."""

    def __init__(self, origin):
        self.origin = origin

    def decorate(self, **options):
        @cache_aside_many(**{"ttl": 60, "key": "price:{pks}", "tags": ["product:{pks}", "products"], **options})
        def prices(pks):
            return self.origin(pks)

        self.prices = prices
        return self

    def get(self, pks):
        return self.prices(pks)

    def invalidate(self, pk):
        self.prices.invalidate(pk)

    def expire(self, pk):
        self.prices.expire(pk)


class Async(Sync):
    def decorate(self, **options):
        @cache_aside_many(**{"ttl": 60, "key": "price:{pks}", "tags": ["product:{pks}", "products"], **options})
        async def prices(pks):
            return self.origin(pks)

        self.prices = prices
        return self

    def get(self, pks):
        return asyncio.run(self.prices(pks))

    def invalidate(self, pk):
        asyncio.run(self.prices.ainvalidate(pk))

    def expire(self, pk):
        asyncio.run(self.prices.aexpire(pk))


@pytest.fixture
def origin():
    return Origin()


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def prices(request, origin):
    return request.param(origin).decorate()


@pytest.fixture
def exchanges(monkeypatch):
    """The number of commands in each exchange with Redis that was made since."""
    made = []
    exchange, aexchange = pools.exchange, pools.aexchange

    def counted(alias, commands, **options):
        made.append(len(commands))
        return exchange(alias, commands, **options)

    def acounted(alias, commands, **options):
        made.append(len(commands))
        return aexchange(alias, commands, **options)

    monkeypatch.setattr(pools, "exchange", counted)
    monkeypatch.setattr(pools, "aexchange", acounted)
    redis_tier.start_afresh()
    return made


def test_only_what_is_missing_is_computed(live, prices, origin):
    """In one call, in the order of the list, and the answer has that order too."""
    prices.get([1, 3])

    assert prices.get([4, 3, 2, 1]) == ["4:2", "3:1", "2:2", "1:1"]
    assert origin.calls == [[1, 3], [4, 2]]


def test_duplicates_are_computed_once(live, prices, origin):
    """And stand in the answer as often as in the question."""
    assert prices.get([1, 2, 1, 1]) == ["1:1", "2:1", "1:1", "1:1"]
    assert origin.calls == [[1, 2]]


def test_empty_list_asks_nobody(live, prices, origin):
    """Neither Redis nor the function."""
    assert (prices.get([]), origin.calls) == ([], [])


def test_any_iterable_is_a_list(live, prices):
    """A generator is read once."""
    assert prices.get(pk for pk in (1, 2)) == ["1:1", "2:1"]


@pytest.mark.parametrize(("warm", "made"), [(500, [1]), (250, [1, 250, 250]), (0, [1, 500, 500])])
def test_round_trips_do_not_grow_with_the_list(live, prices, origin, exchanges, warm, made):
    """500 items of which 250 are missing: one to read, one for their leases, one origin call, one to store."""
    prices.get(["scripts are loaded"])
    prices.get(range(warm))
    exchanges.clear()
    origin.calls.clear()
    prices.get(range(500))

    assert exchanges == made
    assert origin.calls == [[*range(warm, 500)]][: warm < 500]


def test_computed_entries_are_those_of_the_single_items(live, prices):
    """An invalidation of one item ends one entry."""
    prices.get([1, 2, 3])
    prices.invalidate(2)

    assert prices.get([1, 2, 3]) == ["1:1", "2:2", "3:1"]


def test_tag_of_one_item_ends_one_entry(live, prices):
    """The templates take one item in the place of the list."""
    prices.get([1, 2])
    invalidate(tags=["product:2"])

    assert prices.get([1, 2]) == ["1:1", "2:2"]


def test_tag_of_all_ends_all(live, prices):
    """Each entry has all its tags."""
    prices.get([1, 2])
    invalidate(tags=["products"])

    assert prices.get([1, 2]) == ["1:2", "2:2"]


def test_key_of_an_item_is_readable(live, prices, prefix):
    """As that of any function with this template."""
    assert prices.prices.key_for(7) == f"{prefix}:price:7"


def test_entries_have_a_ttl_and_leases_are_let_go(live, prices, prefix):
    """Nothing is left in Redis that stays, and nobody waits for a lease."""
    prices.get([1, 2, 3])
    keys = get_redis().keys(f"*{prefix}:*")

    assert min(get_redis().pttl(key) for key in keys) > 0
    assert [key for key in keys if b"lease" in key] == []
    assert len(keys) == 3 + 3 + 1


def test_invalidated_while_computed_is_not_stored(live, prices, origin):
    """The value is answered, once; the other items of the same call are stored."""
    origin.meanwhile = lambda: invalidate_in_thread([prices.prices.key_for(2)])
    first = prices.get([1, 2])
    origin.meanwhile = lambda: None

    assert first == ["1:1", "2:1"]
    assert prices.get([1, 2]) == ["1:1", "2:2"]


def invalidate_in_thread(keys):
    thread = threading.Thread(target=lambda: invalidate(keys=keys))
    thread.start()
    thread.join()


def test_error_of_the_origin_reaches_the_caller(live, prices, origin, prefix):
    """It is the origin's own, hits or not, and no lease is left."""
    prices.get([1])
    origin.error = Down("no database")

    with pytest.raises(Down, match="no database"):
        prices.get([1, 2, 3])

    assert get_redis().keys(f"*{prefix}:*lease") == []


def test_stale_copies_are_the_answer_where_the_origin_raises(live, origin):
    """With stale_for, as for single calls."""
    prices = Sync(origin).decorate(stale_for=600)
    prices.get([1, 2])
    prices.expire(1)
    origin.error = Down()

    assert prices.get([1, 2]) == ["1:1", "2:1"]
    assert len(origin.calls) == 2


def test_expired_items_are_computed_anew(live, prices, origin):
    """By the next caller."""
    prices.get([1, 2])
    prices.expire(1)

    assert prices.get([1, 2]) == ["1:2", "2:1"]


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        (["only one"], "was given 2 items and returned 1 values"),
        ({1: "a", 2: "b"}, "returned a dict"),
        ({"a", "b"}, "returned a set"),
        ("ab", "returned a str"),
        (None, "returned a NoneType"),
    ],
)
def test_other_than_one_value_for_each_item_is_an_error(live, values, fact, prefix):
    """It says what came and what is wanted; nothing is stored and no lease is left."""

    @cache_aside_many(ttl=60, key="price:{pks}")
    def prices(pks):
        return values

    with pytest.raises((TypeError, ValueError), match=fact) as caught:
        prices([1, 2])

    assert "one value for each item" in str(caught.value)
    assert get_redis().keys(f"*{prefix}:*") == []


@pytest.mark.parametrize("items", ["ab", b"ab", {1: 2}, 7, None])
def test_one_item_in_place_of_a_list_is_an_error(live, prices, items):
    """A string is one item, not its letters."""
    with pytest.raises(TypeError, match="Give a list of items"):
        prices.get(items)


def test_options_are_given_by_name():
    """As for the other decorators."""
    with pytest.raises(TypeError, match="by name only"):
        cache_aside_many(60, ttl=60)


def test_shared_arguments_are_part_of_each_key(live):
    """What follows the list belongs to every item."""

    @cache_aside_many(ttl=60, key="price:{pks}:{currency}")
    def prices(pks, currency="EUR"):
        return [f"{pk} {currency}" for pk in pks]

    assert (prices([1]), prices([1], currency="USD"), prices([1], "EUR")) == (["1 EUR"], ["1 USD"], ["1 EUR"])
    assert prices.key_for(1, "USD").endswith(":price:1:USD")


def test_without_redis_the_function_is_called(settings, prices, origin):
    """Once for the whole list."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "DATABASE": None}}

    assert prices.get([1, 2]) == ["1:1", "2:1"]
    assert origin.calls == [[1, 2]]


def test_disabled_it_is_the_function(settings, prices, origin):
    """ENABLED = False, and the checks of its result stay."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "ENABLED": False}}

    assert (prices.get([1, 1]), origin.calls) == (["1:1", "1:1"], [[1, 1]])


def test_foreign_values_are_left_alone(live, prices):
    """They are misses, and the others are stored."""
    get_redis().set(prices.prices.key_for(1), "not ours")

    assert [prices.get([1, 2]), prices.get([1, 2])] == [["1:1", "2:1"], ["1:2", "2:1"]]
    assert get_redis().get(prices.prices.key_for(1)) == b"not ours"


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_nothing_is_stored(live, origin):
    """It computes what is missing, and answers hits."""
    prices = Sync(origin).decorate()
    prices.get([1])
    with transaction.atomic():
        inside = prices.get([1, 2])

    assert (inside, prices.get([1, 2])) == (["1:1", "2:2"], ["1:1", "2:3"])


@pytest.mark.django_db(transaction=True)
def test_transaction_sees_what_it_has_invalidated(live, origin):
    """The whole list is computed, since nobody else has seen the change."""
    prices = Sync(origin).decorate()
    prices.get([1, 2])
    with transaction.atomic():
        invalidate(tags=["product:1"])
        assert prices.get([1, 2]) == ["1:2", "2:2"]


def test_lists_that_overlap_compute_each_item_once(live, origin):
    """Who comes second waits for what the first computes, and computes the rest."""
    prices = Sync(origin).decorate()
    begun, go = threading.Event(), threading.Event()

    def meanwhile():
        begun.set()
        assert go.wait(10)

    origin.meanwhile = meanwhile
    answers = {}
    first = threading.Thread(target=lambda: answers.update(first=prices.get([1, 2])))
    first.start()
    assert begun.wait(10)
    origin.meanwhile = go.set
    second = threading.Thread(target=lambda: answers.update(second=prices.get([2, 3])))
    second.start()
    first.join(10)
    second.join(10)

    assert answers == {"first": ["1:1", "2:1"], "second": ["2:1", "3:2"]}
    assert origin.calls == [[1, 2], [3]]


def test_dead_owner_is_waited_for_no_longer_than_its_lease(live, origin):
    """A lease that nobody fills costs lease_timeout, and the item is computed all the same."""
    prices = Sync(origin).decorate(lease_timeout=0.2)
    get_redis().set(f"{{{prices.prices.key_for(2)}}}:lease", "of nobody", px=200)

    assert prices.get([1, 2]) == ["1:1", "2:2"]


def test_item_computed_by_the_function_itself_is_no_deadlock(live):
    """A function that asks for one of its own items gets it computed."""

    @cache_aside_many(ttl=60, key="price:{pks}")
    def prices(pks):
        return [prices([pk])[0] if len(pks) > 1 else pk for pk in pks]

    assert prices([1, 2]) == [1, 2]


def test_template_that_names_no_parameter_is_an_error():
    """At decoration."""
    with pytest.raises(TypeError, match="nothing"):

        @cache_aside_many(ttl=60, key="price:{nothing}")
        def prices(pks):
            return pks


def age(key, seconds):
    entry = unpack(get_redis().get(key), key)
    older = entry._replace(created=entry.created - seconds, fresh_until=entry.fresh_until - seconds)
    get_redis().set(key, pack(older, key), keepttl=True)


def test_stale_items_are_computed_and_the_fresh_are_not(live, origin):
    """Each entry has a ttl of its own."""
    prices = Sync(origin).decorate(stale_for=600)
    prices.get([1, 2])
    age(prices.prices.key_for(2), 61)

    assert prices.get([1, 2]) == ["1:1", "2:2"]


# many() of a function of one item


@pytest.fixture
def calls():
    return []


@pytest.fixture
def price(calls):
    @cache_aside(ttl=60, key="price:{pk}", tags=["product:{pk}"])
    def price(pk, currency="EUR"):
        calls.append(pk)
        return Decimal(pk)

    return price


@pytest.fixture
def aprice(calls):
    @cache_aside(ttl=60, key="price:{pk}", tags=["product:{pk}"])
    async def price(pk, currency="EUR"):
        calls.append(pk)
        return Decimal(pk)

    return price


def test_many_keeps_order_and_duplicates(live, price, calls):
    """What is missing is computed call by call."""
    price(2)

    assert price.many([3, 2, 1, 3]) == [Decimal(3), Decimal(2), Decimal(1), Decimal(3)]
    assert calls == [2, 3, 1]


def test_amany_keeps_order_and_duplicates(live, aprice, calls):
    """As `many`."""

    async def main():
        await aprice(2)
        return await aprice.amany([3, 2, 1, 3], currency="USD")

    assert asyncio.run(main()) == [Decimal(3), Decimal(2), Decimal(1), Decimal(3)]
    assert sorted(calls) == [1, 2, 3]


def test_many_of_hits_asks_redis_once(live, price, exchanges):
    """One MGET for all entries and their tags."""
    price.many(range(20))
    exchanges.clear()
    price.many(range(20))

    assert exchanges == [1]


def test_amany_of_hits_asks_redis_once(live, aprice, exchanges):
    """As `many`."""
    asyncio.run(aprice.amany(range(20)))
    exchanges.clear()
    asyncio.run(aprice.amany(range(20)))

    assert exchanges == [1]


def rows(**lookup):
    """What an origin asks the database for: one statement."""
    return len(FallbackEntry.objects.filter(**lookup))


@pytest.mark.django_db(transaction=True)
def test_list_of_an_origin_that_takes_one_costs_one_statement(live, exchanges, django_assert_num_queries):
    """500 items of which 250 are missing: 3 round trips, one call, one statement, and none of our own."""
    calls = []

    @cache_aside_many(ttl=60, key="price:{pks}", tags=["product:{pks}"])
    def prices(pks):
        calls.append(len(pks))
        found = rows(key__in=pks)
        return [(pk, found) for pk in pks]

    prices(["scripts are loaded"])
    prices(range(250))
    exchanges.clear()
    calls.clear()

    with django_assert_num_queries(1):
        answers = prices(range(500))

    assert answers == [(pk, 0) for pk in range(500)]
    assert (exchanges, calls) == ([1, 250, 250], [250])


@pytest.mark.django_db(transaction=True)
def test_list_of_an_origin_that_takes_one_item_costs_a_call_for_each_that_is_missing(
    live, exchanges, django_assert_num_queries
):
    """500 items of which 250 are missing: one round trip to read, then a call, its statement, a lease and a fill for each."""
    calls = []

    @cache_aside(ttl=60, key="price:{pk}", tags=["product:{pk}"])
    def price(pk):
        calls.append(pk)
        return pk, rows(key=f"{pk}")

    price("scripts are loaded")
    price.many(range(250))
    exchanges.clear()
    calls.clear()

    with django_assert_num_queries(250):
        answers = price.many(range(500))

    assert answers == [(pk, 0) for pk in range(500)]
    assert (exchanges, calls) == ([1] * (1 + 2 * 250), [*range(250, 500)])


@pytest.mark.django_db(transaction=True)
def test_list_of_a_coroutine_costs_what_that_of_a_function_costs(live, exchanges):
    """As `many`, side by side."""
    calls = []

    @cache_aside(ttl=60, key="price:{pk}", tags=["product:{pk}"])
    async def price(pk):
        calls.append(pk)
        return pk, await FallbackEntry.objects.filter(key=f"{pk}").acount()

    async def main():
        await price("scripts are loaded")
        await price.amany(range(250))
        exchanges.clear()
        calls.clear()
        return await price.amany(range(500))

    assert asyncio.run(main()) == [(pk, 0) for pk in range(500)]
    assert (len(exchanges), sorted(calls)) == (1 + 2 * 250, [*range(250, 500)])


def test_amany_computes_missing_entries_side_by_side(live):
    """Ten at a time."""
    running, most = set(), []

    @cache_aside(ttl=60, key="price:{pk}")
    async def price(pk):
        running.add(pk)
        most.append(len(running))
        await asyncio.sleep(0.01)
        running.discard(pk)
        return pk

    assert asyncio.run(price.amany(range(30))) == [*range(30)]
    assert 1 < max(most) <= 10


def test_error_of_one_call_is_the_answer_of_many(live):
    """And what was still being computed is cancelled."""

    @cache_aside(ttl=60, key="price:{pk}")
    async def price(pk):
        await asyncio.sleep(0 if pk == 1 else 60)
        raise Down(pk)

    with pytest.raises(Down):
        asyncio.run(price.amany([1, 2]))


@pytest.mark.django_db(transaction=True)
def test_many_sees_what_its_transaction_has_invalidated(live, price, calls):
    """Such entries are not read."""
    price.many([1, 2])
    with transaction.atomic():
        invalidate(tags=["product:1"])
        price.many([1, 2])

    assert calls == [1, 2, 1]


def test_many_disabled_calls_the_function(settings, price, calls):
    """Once for each item."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "ENABLED": False}}

    assert (price.many([1, 1]), calls) == ([Decimal(1), Decimal(1)], [1, 1])


def test_many_without_redis_computes_all(settings, price, calls):
    """No error of Redis reaches the caller."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "DATABASE": None}}

    assert (price.many([1, 2]), calls) == ([Decimal(1), Decimal(2)], [1, 2])
