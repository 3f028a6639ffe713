from __future__ import annotations

import asyncio
import enum
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from functools import partial

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connection

from redis_integration import (
    UncacheableCall,
    aget_or_compute,
    ainvalidate,
    cache_aside,
    get_or_compute,
    get_redis,
    invalidate,
    undecorated,
)
from redis_integration.caching import every_caching
from tests.stampede.watch import until


class Missing(Exception):
    pass


class Origin:
    """Counts its calls and gives their number, or raises."""

    def __init__(self):
        self.calls = 0
        self.error = None

    def __call__(self):
        self.calls += 1
        if self.error:
            raise self.error
        return self.calls

    async def awaited(self):
        return self()


@pytest.fixture
def origin():
    return Origin()


@pytest.fixture(params=["sync", "async"])
def call(request):
    """Either of the two, called as a sync function."""

    def sync(key, origin, **options):
        return get_or_compute(key, origin, **options)

    def asynchronous(key, origin, **options):
        return asyncio.run(aget_or_compute(key, origin.awaited, **options))

    return sync if request.param == "sync" else asynchronous


class Part(enum.StrEnum):
    SALES = "sales"


# Keys


def test_second_call_is_answered_from_redis(live, call, origin):
    """The origin is called once for one key."""
    assert [call("a:1", origin, ttl=60), call("a:1", origin, ttl=60), call("a:2", origin, ttl=60)] == [1, 1, 2]


def test_entries_are_shared_with_a_decorated_function_of_that_key(live, origin):
    """A key means the same, whoever writes it."""
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: origin())

    assert price(7) == 1
    assert get_or_compute("price:7", origin, ttl=60) == 1
    assert get_or_compute(("price", 7), origin, ttl=60) == 1
    assert asyncio.run(aget_or_compute("price:7", origin.awaited, ttl=60)) == 1


@pytest.mark.parametrize(
    ("key", "rest"),
    [
        ("report:2024", "report:2024"),
        ("report", "report"),
        ("q:{a}*?[x]~#", "q:%7Ba%7D%2A%3F%5Bx%5D%7E%23"),
        ("q:ä b\n", "q:%C3%A4%20b%0A"),
        ("q:100%", "q:100%25"),
        (Part.SALES, "sales"),
        (("q", "a:b"), "q:a%3Ab"),
        (("q", 7, "7", True, 1.5), "q:7:7:True:1.5"),
        (("q", Decimal("1.50"), Part.SALES), "q:1.50:sales"),
        (("q", User(pk=3)), "q:3"),
        (("q", ""), "q:"),
    ],
)
def test_key_is_readable_and_escaped(live, prefix, key, rest):
    """Text keeps its separators, a part of a tuple loses them."""
    assert get_or_compute.key_for(key) == aget_or_compute.key_for(key) == f"{prefix}:{rest}"


def test_a_long_key_ends_in_a_digest(live):
    """Two long keys that differ at their end are two."""
    keys = {get_or_compute.key_for(f"q:{'x' * 500}{number}") for number in range(3)}

    assert len(keys) == 3
    assert {len(key) for key in keys} == {200}


@pytest.mark.parametrize(
    ("key", "fact"),
    [
        ("", "does not begin with a name"),
        (":a", "does not begin with a name"),
        ((), "does not begin with a name"),
        (("", 7), "does not begin with a name"),
        (7, "int is neither text nor a tuple"),
        (None, "NoneType is neither"),
        (b"a", "bytes is neither"),
        (["a", 7], "list is neither"),
        (("a", None), "share a key with the text 'None'"),
        (("a", object()), "object has no text"),
        (("a", User()), "is not saved"),
    ],
)
def test_what_makes_no_key_is_refused(live, call, origin, key, fact):
    """The error names the fix, and the origin is not called."""
    with pytest.raises(UncacheableCall, match=rf"{fact}.*Give text such as f\"report:\{{year\}}\""):
        call(key, origin, ttl=60)
    assert origin.calls == 0


# Options


@pytest.mark.parametrize(
    ("given", "error", "fact"),
    [
        ({"ttl": 0}, ValueError, "ttl is 0"),
        ({"ttl": "60"}, TypeError, "ttl is '60'"),
        ({"ttl": []}, TypeError, r"ttl is \[\]"),
        ({"ttl": 60, "codec": "yaml"}, ValueError, "codec is 'yaml'"),
        ({"ttl": 60, "stale_for": -1}, ValueError, "stale_for is -1"),
        ({"ttl": 60, "durable": 1}, TypeError, "durable is 1"),
        ({"ttl": 60, "cache_if": 3}, TypeError, "cache_if is 3"),
        ({"ttl": 60, "version": 1.5}, TypeError, "version is 1.5"),
        ({"ttl": 60, "negative_ttl": {int: 5}}, TypeError, "negative_ttl lists"),
        ({"ttl": 60, "negative_ttl": 5}, TypeError, "negative_ttl is 5"),
        ({"ttl": 60, "tags": "all"}, UncacheableCall, "tags= is a str"),
        ({"ttl": 60, "tags": [7]}, UncacheableCall, "tags= holds a int"),
        ({"ttl": 60, "tags": [""]}, UncacheableCall, "tags= holds an empty string"),
        ({"ttl": 60, "tags": [f"t{number}" for number in range(256)]}, UncacheableCall, "at most 255"),
        ({"ttl": 60, "stale": 5}, TypeError, "unexpected keyword argument 'stale'"),
        ({}, TypeError, "'ttl'"),
    ],
)
def test_options_without_meaning_are_refused(live, call, origin, given, error, fact):
    """As the decorator refuses them, at the first call and at each later one."""
    with pytest.raises(error, match=fact):
        call("a", origin, **given)
    with pytest.raises(error, match=fact):
        call("a", origin, **given)
    assert origin.calls == 0


def test_one_is_not_true_for_what_is_remembered(live, call, origin):
    """The options are not taken for others that are equal to them."""
    call("a", origin, ttl=60, durable=True)

    with pytest.raises(TypeError, match="durable is 1"):
        call("b", origin, ttl=60, durable=1)


def test_tags_end_the_entry(live, call, origin):
    """Tags are taken as they are."""
    call("a", origin, ttl=60, tags=["all", "part:{x}"])

    invalidate(tags=["part:{x}"])

    assert call("a", origin, ttl=60, tags=["all", "part:{x}"]) == 2


def test_invalidate_reaches_it_by_key(live, call, origin):
    """key_for gives what invalidate takes; a short plain key may be written out."""
    call("a:1 2", origin, ttl=60)
    invalidate(keys=[get_or_compute.key_for("a:1 2")])
    assert call("a:1 2", origin, ttl=60) == 2

    asyncio.run(ainvalidate(keys=[aget_or_compute.key_for("a:1 2")]))
    assert call("a:1 2", origin, ttl=60) == 3


def test_codec_and_ttl_of_the_result(live, call, prefix):
    """A class that only pickle can store, for as long as it says."""
    origin = Origin()
    origin.calls = 1 + 2j - 1

    first, second = [call("a", origin, ttl=lambda value: value.imag * 50, codec="pickle") for _ in range(2)]

    assert first == second == 1 + 2j
    assert 88_000 < get_redis().pttl(f"{prefix}:a") <= 100_000


def test_cache_if_and_version(live, call, origin):
    """What is not to be kept is computed again, and so is what another version made."""
    assert [call("a", origin, ttl=60, cache_if=lambda value: value > 1) for _ in range(3)] == [1, 2, 2]
    assert call("a", origin, ttl=60, version=2) == 3
    assert call("a", origin, ttl=timedelta(minutes=1), version=2) == 3


def test_errors_that_are_listed_are_remembered(live, call, origin):
    """The second call raises without calling the origin."""
    origin.error = Missing("gone")

    with pytest.raises(Missing, match="gone"):
        call("a", origin, ttl=60, negative_ttl={Missing: 30})
    with pytest.raises(Missing, match="gone"):
        call("a", origin, ttl=60, negative_ttl={Missing: 30})
    assert origin.calls == 1


def test_the_origins_error_goes_through(live, call, origin):
    """The very object, and nothing is stored."""
    origin.error = Missing("gone")

    with pytest.raises(Missing) as caught:
        call("a", origin, ttl=60)
    assert caught.value is origin.error

    origin.error = None
    assert call("a", origin, ttl=60) == 2


def test_a_stale_copy_answers_where_the_origin_fails(live, call, origin):
    """stale_for means what it means for the decorator."""
    options = {"ttl": 60, "stale_for": 60, "refresh": "caller"}
    call("a", origin, **options)
    cache_aside(ttl=60, key="a")(origin.__call__).expire()
    origin.error = Missing("down")

    assert call("a", origin, **options) == 1
    assert origin.calls == 2


def test_a_stale_copy_is_refreshed_in_the_background(live, origin):
    """As with the decorator, that is the default."""
    get_or_compute("a", origin, ttl=60, stale_for=60)
    cache_aside(ttl=60, key="a")(origin.__call__).expire()

    assert get_or_compute("a", origin, ttl=60, stale_for=60) == 1
    until(lambda: get_or_compute("a", origin, ttl=60, stale_for=60) == 2)


def test_another_alias_has_keys_of_its_own(settings, live, call, origin, prefix):
    """The alias is that of the entry, of key_for and of invalidate."""
    settings.REDIS_INTEGRATION = {
        **settings.REDIS_INTEGRATION,
        "other": {**settings.REDIS_INTEGRATION["default"], "KEY_PREFIX": f"{prefix}-other"},
    }

    assert [call("a", origin, ttl=60), call("a", origin, ttl=60, alias="other")] == [1, 2]
    assert get_redis().exists(get_or_compute.key_for("a", alias="other")) == 1


def test_disabled_calls_are_their_origin(settings, live, call, origin):
    """Nothing is asked, and nothing is kept."""
    settings.REDIS_INTEGRATION = {"default": {**settings.REDIS_INTEGRATION["default"], "ENABLED": False}}

    assert [call("a", origin, ttl=60), call("a", origin, ttl=60)] == [1, 2]


# Sync and async


def test_a_running_loop_is_told_of_the_twin(live, origin):
    """Sync code would block the loop."""

    async def main():
        get_or_compute("a", origin, ttl=60)

    with pytest.raises(SynchronousOnlyOperation, match="await aget_or_compute"):
        asyncio.run(main())
    assert origin.calls == 0


def test_a_coroutine_origin_in_sync_code_is_refused(live, origin):
    """Also one that a lambda hides; no coroutine is left un-awaited."""
    with pytest.raises(TypeError, match="Use `await aget_or_compute"):
        get_or_compute("a", origin.awaited, ttl=60)
    with pytest.raises(TypeError, match="Use `await aget_or_compute"):
        get_or_compute("a", lambda: origin.awaited(), ttl=60)


def test_a_sync_origin_in_async_code_is_refused(live, origin):
    """What it gave cannot be awaited."""
    with pytest.raises(TypeError, match=r"gave a int.*sync_to_async\(origin\)"):
        asyncio.run(aget_or_compute("a", origin, ttl=60))


def test_a_lambda_may_hide_a_coroutine_from_the_twin(live, origin):
    """What counts is that it can be awaited."""
    assert asyncio.run(aget_or_compute("a", lambda: origin.awaited(), ttl=60)) == 1


@pytest.mark.parametrize("value", [7, None, {"a": 1}])
def test_a_value_in_place_of_a_function_is_refused(live, value):
    """`build()` where `build` was meant."""
    with pytest.raises(TypeError, match="Give a function of no arguments, not its result"):
        get_or_compute("a", value, ttl=60)
    with pytest.raises(TypeError, match="Give a function of no arguments, not its result"):
        asyncio.run(aget_or_compute("a", value, ttl=60))


def test_a_loop_that_computes_is_not_waited_for(live):
    """A sync call for what a coroutine of the same loop computes would stop both for a lease's time."""

    @cache_aside(ttl=60, key="a", lease_timeout=600)
    def sync():
        return "sync"

    async def main():
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def origin():
            begun.set()
            await go_on.wait()
            return "async"

        computing = asyncio.create_task(aget_or_compute("a", origin, ttl=60, lease_timeout=600))
        await begun.wait()
        found = sync()
        go_on.set()
        return found, await computing, sync()

    assert asyncio.run(main()) == ("sync", "async", "async")


# One computation, and outages


def test_a_stampede_costs_one_call(live, origin):
    """Threads that come at once wait for one of them."""
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(lambda _: get_or_compute("a", origin, ttl=60), range(40))]

    assert answers == [1] * 40


def test_a_stampede_of_tasks_costs_one_call(live, origin):
    """Tasks of one loop too."""

    async def slow():
        await asyncio.sleep(0.05)
        return origin()

    async def main():
        return await asyncio.gather(*(aget_or_compute("a", slow, ttl=60) for _ in range(40)))

    assert asyncio.run(main()) == [1] * 40


@pytest.mark.django_db(transaction=True)
def test_the_database_answers_while_redis_is_down(live_own, call, origin):
    """One computation, then the row."""
    live_own.stop()

    assert [call("a", origin, ttl=60) for _ in range(3)] == [1, 1, 1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("options", [{"FALLBACK": "durable"}])
def test_a_durable_entry_outlives_redis(live_own, call, origin):
    """It was stored in the database too."""
    call("a", origin, ttl=60, durable=True)
    live_own.stop()

    assert call("a", origin, ttl=60, durable=True) == 1


@pytest.mark.django_db(transaction=True)
def test_invalidated_while_redis_is_down(live_own, origin):
    """Rows end too."""
    live_own.stop()
    get_or_compute("a", origin, ttl=60, tags=["all"])

    invalidate(keys=[get_or_compute.key_for("a")])
    assert get_or_compute("a", origin, ttl=60, tags=["all"]) == 2

    invalidate(tags=["all"])
    assert get_or_compute("a", origin, ttl=60, tags=["all"]) == 3


@pytest.mark.django_db
def test_a_transaction_sees_its_own_changes(live, origin):
    """After invalidate() inside atomic() nothing is answered from Redis there."""
    get_or_compute("a", origin, ttl=60)
    assert connection.in_atomic_block

    invalidate(keys=[get_or_compute.key_for("a")])

    assert [get_or_compute("a", origin, ttl=60) for _ in range(2)] == [2, 3]


# What is remembered


def test_options_are_read_once(live, origin):
    """A second call makes nothing new."""
    get_or_compute("a", origin, ttl=60, stale_for=5, negative_ttl={Missing: 5})
    before = set(every_caching)

    get_or_compute("b", origin, ttl=60, stale_for=5, negative_ttl={Missing: 5})

    assert set(every_caching) == before


def test_functions_among_the_options_are_not_remembered(live, origin):
    """Each call may bring new ones, which hold what they close over; the rest is read once all the same."""
    get_or_compute("a", origin, ttl=lambda value: 60, cache_if=lambda value: True)
    before = set(every_caching)

    [get_or_compute("b", origin, ttl=lambda value: 60, cache_if=lambda value: True) for _ in range(5)]

    assert set(every_caching) == before


def test_what_is_remembered_is_bounded(live, origin, monkeypatch):
    """A ttl that is another each time fills no memory."""
    monkeypatch.setattr(undecorated, "MOST_REMEMBERED", 5)

    [get_or_compute("a", origin, ttl=60 + number) for number in range(20)]

    assert len(undecorated._known) <= 5


def test_the_log_names_the_origin(live, caplog):
    """Of a partial, what it calls; of an object, its class."""

    def unstorable(number):
        return object()

    get_or_compute("a", partial(unstorable, 7), ttl=60)

    assert "test_the_log_names_the_origin.<locals>.unstorable returned a value that is not stored" in caplog.text


# Explained


def test_explain_says_what_a_call_would_get(live, origin):
    """With the tags and options of the call."""
    assert get_or_compute.explain("a", tags=["all"]).answer == "origin"
    get_or_compute("a", origin, ttl=60, tags=["all"])

    assert get_or_compute.explain("a", tags=["all"]).answer == "redis"
    assert asyncio.run(aget_or_compute.aexplain("a", tags=["all"])).answer == "redis"
    assert "made with other tags" in get_or_compute.explain("a").answer_why


def test_redis_explain_knows_it(live, origin, capsys):
    """The command takes the key as an argument."""
    get_or_compute("report:2024", origin, ttl=60, tags=["all"])

    call_command("redis_explain", "redis_integration.get_or_compute", "report:2024", "tags=['all']")
    call_command("redis_explain", "redis_integration.aget_or_compute", "report:2024", "tags=['all']")

    assert capsys.readouterr().out.count("answer  redis: fresh") == 2
