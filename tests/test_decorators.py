from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import weakref
from datetime import timedelta
from decimal import Decimal

import pytest
from asgiref.sync import ThreadSensitiveContext, iscoroutinefunction, sync_to_async
from django.db import connection, transaction
from django.utils.decorators import method_decorator

from redis_integration import (
    UncacheableCall,
    ainvalidate,
    cache_aside,
    cache_aside_many,
    get_redis,
    invalidate,
)
from redis_integration.tiers.redis import get_redis_tier


class Origin:
    """A function that counts its calls and gives a new number each time."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        return self.calls


@pytest.fixture
def origin():
    return Origin()


def stats(command):
    return get_redis().info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def test_second_call_is_answered_from_redis(live, origin):
    """The origin is called once for one key."""

    @cache_aside(ttl=60, namespace="price")
    def price(pk):
        return origin(pk)

    assert [price(7), price(7), price(8)] == [1, 1, 2]


def test_second_await_is_answered_from_redis(live, origin):
    """The same decorator caches coroutine functions."""

    @cache_aside(ttl=60, namespace="price")
    async def price(pk):
        return origin(pk)

    async def main():
        return [await price(7), await price(7), await price(8)]

    assert asyncio.run(main()) == [1, 1, 2]


def test_sync_and_async_twins_share_entries(live, origin):
    """A key means the same in both worlds."""
    sync = cache_aside(ttl=60, key="price:{pk}")(lambda pk: origin(pk))

    @cache_aside(ttl=60, key="price:{pk}")
    async def asynchronous(pk):
        return origin(pk)

    assert (sync(7), asyncio.run(asynchronous(7))) == (1, 1)


@pytest.mark.parametrize("value", [None, 0, "", [], Decimal("1.50"), {1: (2, 3)}, "ä\n"])
def test_hit_is_equal_to_the_miss_that_made_it(live, value):
    """Also None is an entry, and types survive."""
    calls = []

    @cache_aside(ttl=60, namespace="load")
    def load():
        calls.append(1)
        return value

    first, second = load(), load()

    assert (first, second) == (value, value)
    assert type(first) is type(second)
    assert calls == [1]


def test_key_is_by_argument_name_with_defaults(live, prefix):
    """Positional and keyword calls are one call, and the key can be read."""

    @cache_aside(ttl=60, namespace="shop.price")
    def price(pk, currency="EUR"):
        return pk

    keys = {price.key_for(7), price.key_for(pk=7), price.key_for(7, "EUR"), price.key_for(currency="EUR", pk=7)}

    assert keys == {f"{prefix}:shop.price:pk=7:currency='EUR'"}
    price(7)
    assert get_redis().exists(*keys)


def test_entry_expires_with_its_ttl(live, prefix):
    """Redis's own time to live is the ttl, up to a tenth shorter."""

    @cache_aside(ttl=timedelta(minutes=2), key="a")
    def load():
        return 1

    load()

    assert 107_000 < get_redis().pttl(f"{prefix}:a") <= 120_000


def test_invalidate_ends_one_entry(live, origin):
    """The next call computes; other arguments keep their entry."""
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: origin(pk))
    price(7), price(8)

    price.invalidate(7)

    assert [price(8), price(7)] == [2, 3]


def test_refresh_computes_and_replaces(live, origin):
    """refresh() gives a new value to everyone."""
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: origin(pk))
    price(7)

    assert price.refresh(7) == 2
    assert price(7) == 2


def test_coroutine_function_has_the_a_twins_only(live, origin):
    """ainvalidate and arefresh do for async code what their twins do."""

    @cache_aside(ttl=60, namespace="price")
    async def price(pk):
        return origin(pk)

    async def main():
        first = await price(7)
        await price.ainvalidate(7)
        second = await price(7)
        return first, second, await price.arefresh(7), await price(7)

    assert asyncio.run(main()) == (1, 2, 3, 3)
    assert not hasattr(price, "invalidate")
    assert not hasattr(price, "refresh")
    assert iscoroutinefunction(price)


def test_decorated_function_keeps_its_name_and_signature():
    """What reads functions (help, URLs, type checkers) sees the origin."""

    @cache_aside(ttl=60)
    def price(pk, currency="EUR"):
        """The price."""
        return pk

    assert (price.__name__, price.__doc__) == ("price", "The price.")
    assert str(inspect.signature(price)) == "(pk, currency='EUR')"


def test_origins_own_error_is_the_answer_and_is_not_stored(live, prefix):
    """An exception goes to the caller as it is; the next call tries again."""
    failures = [KeyError("first"), StopIteration("second")]
    load = cache_aside(ttl=60, key="a")(lambda: (_ for _ in ()).throw(failures.pop(0)) if failures else "fine")

    with pytest.raises(KeyError, match="first"):
        load()
    with pytest.raises((StopIteration, RuntimeError)):
        load()

    assert load() == "fine"


def test_origins_redis_error_is_not_taken_for_ours(live):
    """An origin that talks to another Redis fails as it fails; the breaker stays closed."""
    import redis

    @cache_aside(ttl=60, namespace="load")
    def load():
        raise redis.ConnectionError("the other one is down")

    with pytest.raises(redis.ConnectionError, match="the other one"):
        load()

    assert get_redis_tier("default", is_async=False).breaker.is_closed


def test_value_that_cannot_come_back_equal_is_returned_and_named(live, prefix, caplog):
    """The log names the function and the type; nothing is stored."""

    class Basket:
        pass

    basket = Basket()
    load = cache_aside(ttl=60, key="basket")(lambda: basket)

    assert load() is basket
    assert not get_redis().exists(f"{prefix}:basket")
    assert "Basket" in caplog.text


def test_bytes_of_another_program_are_left_alone(live, prefix, origin, caplog):
    """A value at our key that is not ours is a miss, computed and not overwritten."""
    get_redis().set(f"{prefix}:a", "not ours", ex=60)
    load = cache_aside(ttl=60, key="a")(lambda: origin())

    assert [load(), load(), load.refresh()] == [1, 2, 3]
    assert get_redis().get(f"{prefix}:a") == b"not ours"
    assert f"{prefix}:a" in caplog.text


class Foreign:
    """Values that are not ours, put at a key."""

    def text(self, key):
        get_redis().set(key, "not ours", ex=60)

    def hash(self, key):
        get_redis().hset(key, "field", "not ours")

    def damaged(self, key):
        cache_aside(ttl=60, key=key.partition(":")[2])(lambda: "a value")()
        get_redis().setrange(key, 60, "X")


@pytest.mark.parametrize("put", [Foreign.text, Foreign.hash, Foreign.damaged])
@pytest.mark.parametrize("tags", [(), ["a"]], ids=["plain", "tagged"])
def test_foreign_values_are_named_once(live, prefix, origin, caplog, put, tags):
    """A value at our key that is not ours is named once by each function, not at each call, sync or async, nor in lists."""
    put(Foreign(), f"{prefix}:a:1")
    load = cache_aside(ttl=60, key="a:{pk}", tags=tags)(lambda pk: origin())
    load_all = cache_aside_many(ttl=60, key="a:{pks}", tags=tags)(lambda pks: [origin() for _ in pks])

    @cache_aside(ttl=60, key="a:{pk}", tags=tags)
    async def aload(pk):
        return origin()

    caplog.set_level(logging.WARNING, "redis_integration")
    load.many([1, 1])
    load(1), load_all([1]), load_all([1]), asyncio.run(aload(1)), asyncio.run(aload.amany([1]))

    named = [message for message in caplog.messages if f"{prefix}:a:1" in message]
    assert len(named) == len(caplog.messages) == 3
    assert origin.calls >= 5


def test_key_of_another_type_is_left_alone(live, prefix, origin):
    """A hash at our key is a miss, computed and not overwritten."""
    get_redis().hset(f"{prefix}:a", "field", "value")
    load = cache_aside(ttl=60, key="a")(lambda: origin())

    assert [load(), load()] == [1, 2]
    assert get_redis().hgetall(f"{prefix}:a") == {b"field": b"value"}


def test_switched_off_every_call_is_its_origin(live, settings, origin):
    """ENABLED = False is the whole testing story: nothing is read, stored or sent."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "ENABLED": False}}
    load = cache_aside(ttl=60, key="a")(lambda: origin())

    assert [load(), load(), load.refresh()] == [1, 2, 3]
    load.invalidate()


CALLS = pytest.mark.parametrize(
    ("call", "round_trips"),
    [
        (lambda load: load("warm"), 1),
        (lambda load: load("cold"), 3),
        (lambda load: load.invalidate("warm"), 1),
        (lambda load: invalidate(tags=["names"]), 1),
        (lambda load: load.expire("warm"), 1),
        (lambda load: load.refresh("warm"), 2),
    ],
    ids=["hit", "miss", "invalidate", "invalidate a tag", "expire", "refresh"],
)
TAGS = pytest.mark.parametrize("tags", [[], ["names", "name:{name}"]], ids=["no tags", "two tags"])


@pytest.fixture
def load(tags):
    """A cached function, its entry "warm", and a server that knows the scripts."""
    load = cache_aside(ttl=60, key="name:{name}", tags=tags)(lambda name: name)
    load("warm")
    load.invalidate("other")
    load.expire("other")
    assert get_redis().exists(load.key_for("warm"))
    return load


@CALLS
@TAGS
def test_round_trips_are_as_documented(live_own, load, call, round_trips):
    """One for a hit, three for a miss, one for an invalidation, counted at the server as it reads."""
    before = get_redis().info("stats")["total_reads_processed"]

    call(load)

    # The question itself is read too.
    assert get_redis().info("stats")["total_reads_processed"] - before - 1 == round_trips


@CALLS
@TAGS
@pytest.mark.django_db(transaction=True)
def test_no_call_asks_the_database(live, load, call, round_trips, django_assert_num_queries):
    """No query of ours shows up in a user's assertNumQueries, with a database for rows and a connection that is open."""
    connection.ensure_connection()

    with django_assert_num_queries(0):
        call(load)


def test_functions_of_two_aliases_keep_apart(live, settings, prefix, origin):
    """An entry lives in the Redis of its alias."""
    settings.REDIS_INTEGRATION = {
        "default": {"URL": live.url, "KEY_PREFIX": f"{prefix}x"},
        "other": {"URL": live.url, "KEY_PREFIX": f"{prefix}y"},
    }
    first = cache_aside(ttl=60, key="a")(lambda: origin())
    second = cache_aside(ttl=60, key="a", alias="other")(lambda: origin())

    assert [first(), second(), first(), second()] == [1, 2, 1, 2]
    second.invalidate()
    assert [first(), second()] == [1, 3]


def test_methods_name_their_instance_in_the_key(live, prefix):
    """A key template reaches into self; the named calls take the instance first."""

    class Cart:
        pk = 3

        @cache_aside(ttl=60, key="cart:{self.pk}")
        def total(self):
            return 10

    cart = Cart()

    assert (cart.total(), Cart.total.key_for(cart)) == (10, f"{prefix}:cart:3")


def test_argument_without_stable_text_is_named(live):
    """The error says which argument, and how to pass key=."""
    load = cache_aside(ttl=60, namespace="a")(lambda basket: 1)

    with pytest.raises(UncacheableCall, match="(?s)basket.*key="):
        load(object())


def test_wrong_call_raises_what_the_function_would(live):
    """A missing argument is the caller's TypeError."""
    load = cache_aside(ttl=60, key="price:{pk}")(lambda pk: 1)

    with pytest.raises(TypeError, match="pk"):
        load()


class Ttl:
    pass


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "ttl"),
        ({"ttl": -5}, ValueError, "ttl is -5. Give more than 0 seconds"),
        ({"ttl": 0}, ValueError, "call invalidate"),
        ({"ttl": timedelta(seconds=-1)}, ValueError, "more than 0"),
        ({"ttl": float("nan")}, ValueError, "more than 0"),
        ({"ttl": "60"}, TypeError, "ttl is '60'. Give seconds as a number, or a timedelta"),
        ({"ttl": True}, TypeError, "ttl is True"),
        ({"ttl": 60, "key": "price:{product}"}, TypeError, "product.*no parameter.*pk"),
        ({"ttl": 60, "key": "price"}, TypeError, "price"),
        ({"ttl": 60, "key": "{pk}:price"}, TypeError, "begins with no name of its own"),
        ({"ttl": 10**18}, ValueError, "at most ten years"),
        ({"ttl": 60, "key": "price:{pk}", "namespace": "x"}, TypeError, "namespace"),
    ],
)
def test_options_without_meaning_are_errors_at_decoration(options, error, message):
    """A mistake is found when the module is imported, and its message says the fix."""
    with pytest.raises(error, match=f"(?s){message}"):
        cache_aside(**options)(lambda pk: pk)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (42, "this is a int"),
        (None, "this is a NoneType"),
        (classmethod(lambda cls: 1), "Put @cache_aside"),
        (property(lambda self: 1), "Put @cache_aside"),
        (staticmethod(lambda: 1), "Put @cache_aside"),
        (dict, "Put @cache_aside"),
    ],
)
def test_what_is_no_function_is_an_error_at_decoration(function, message):
    """Decorating a value says what it is."""
    with pytest.raises(TypeError, match=message):
        cache_aside(ttl=60)(function)


def test_generator_functions_are_refused():
    """A generator can be read once, so it cannot be kept."""

    def rows():
        yield 1

    with pytest.raises(TypeError, match="Return a list"):
        cache_aside(ttl=60)(rows)


def test_decorator_without_options_says_how_it_is_written():
    """A function passed by position with options is an error that shows the form."""
    with pytest.raises(TypeError, match=r"Write @cache_aside\(ttl=60\)"):
        cache_aside(print, ttl=60)


def test_invalidate_takes_full_keys(live, prefix, origin):
    """invalidate(keys=…) ends what key_for() names, sync and async."""
    load = cache_aside(ttl=60, key="a:{n}")(lambda n: origin(n))
    load(1), load(2)

    invalidate(keys=[load.key_for(1)])
    asyncio.run(ainvalidate(keys=[load.key_for(2)]))

    assert [load(1), load(2)] == [3, 4]


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [("t:a", TypeError, "Give a list"), (["other:a"], ValueError, "keys are printable ASCII")],
)
def test_invalidate_refuses_what_is_no_key(live, keys, error, message):
    """A bare string, and a key outside KEY_PREFIX, are errors."""
    with pytest.raises(error, match=message):
        invalidate(keys=keys)


def test_sync_invalidate_on_a_running_loop_names_its_twin(live):
    """It would block every other task."""
    from django.core.exceptions import SynchronousOnlyOperation

    async def main():
        invalidate(keys=[])

    with pytest.raises(SynchronousOnlyOperation, match="await ainvalidate"):
        asyncio.run(main())


def test_unreadable_log_line_is_one_line(live, prefix, caplog):
    """What is logged of a foreign value does not contain it."""
    caplog.set_level(logging.WARNING, "redis_integration")
    get_redis().set(f"{prefix}:a", "x\ny", ex=60)

    cache_aside(ttl=60, key="a")(lambda: 1)()

    assert len(caplog.messages) == 1
    assert "\n" not in caplog.messages[0]


def make_scaled(factor):
    def scaled(number):
        return number * factor

    return scaled


def test_closure_needs_a_name():
    """Functions of one factory shared their keys, and gave each other's results."""
    with pytest.raises(TypeError, match="Pass key= or namespace="):
        cache_aside(ttl=60)(make_scaled(2))


def test_method_decorator_says_how_to_decorate():
    """self was not in the key: two instances gave each other's results."""
    with pytest.raises(TypeError, match="method_decorator hides"):

        class Cart:
            @method_decorator(cache_aside(ttl=60))
            def total(self, number):
                return number


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("spoil", ["maxmemory", "min-replicas-to-write"])
def test_refresh_that_was_not_stored_does_not_leave_the_old_value(live_own, origin, spoil):
    """refresh() gave a new value, and the next call the old one."""
    load = cache_aside(ttl=60, key="a")(lambda: origin())
    load()
    get_redis().config_set(spoil, 1)

    refreshed = load.refresh()
    get_redis().config_set(spoil, 0)
    get_redis_tier("default", is_async=False).breaker._due = 0

    assert refreshed == 2
    assert load() >= 2


@pytest.mark.django_db(transaction=True)
def test_refresh_inside_a_transaction_ends_the_entry_at_its_commit(live, origin):
    """After the commit the old value was back."""
    load = cache_aside(ttl=60, key="a")(lambda: origin())
    load()

    with transaction.atomic():
        load.refresh()

    assert load() == 3


def test_name_that_is_not_ascii_cannot_become_pending(live, prefix):
    """One lone surrogate in the pending names made every later repetition of them fail."""
    with pytest.raises(ValueError, match="ASCII"):
        invalidate(keys=[f"{prefix}:\ud800"])

    assert not get_redis_tier("default", is_async=False).journal.pending


def test_cancelled_invalidation_is_not_forgotten(live, origin):
    """A client that disconnects cancels an async view; what it was about to invalidate stayed."""

    @cache_aside(ttl=60, key="a")
    async def load():
        return origin()

    async def main():
        first = await load()
        task = asyncio.ensure_future(load.ainvalidate())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return first, await load()

    assert asyncio.run(main()) == (1, 2)


def test_coroutine_in_a_sync_view_under_asgi_does_not_wait_for_itself(live, origin):
    """asyncio.run in the one thread that may touch the database waited for that thread for ever."""

    @cache_aside(ttl=60, key="a")
    async def load():
        return origin()

    async def main():
        async with ThreadSensitiveContext():
            return await sync_to_async(lambda: asyncio.run(load()))()

    assert asyncio.run(main()) == 1


def test_large_value_is_returned_and_not_stored(live, prefix, caplog):
    """A value too large to send in time opened the breaker for everybody."""
    load = cache_aside(ttl=60, key="a")(lambda: "x" * 1_000_001)

    assert len(load()) == 1_000_001
    assert not get_redis().exists(f"{prefix}:a")
    assert "1,000,003 bytes" in caplog.text


def test_error_of_an_origin_leaves_no_reference_cycle(live):
    """Every error waited for the garbage collector, and kept what its frames held."""

    class Big:
        pass

    held = []

    @cache_aside(ttl=60, key="a")
    def load():
        big = Big()
        held.append(weakref.ref(big))
        raise LookupError

    gc.disable()
    try:
        with contextlib.suppress(LookupError):
            load()
        alive = held[0]()
    finally:
        gc.enable()

    assert alive is None
