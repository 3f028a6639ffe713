from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from decimal import Decimal

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from redis_integration import background, cache_aside, claims, get_redis, invalidate, statements
from redis_integration.entries import pack, unpack
from redis_integration.tiers import leases
from tests.stampede.crew import PATIENCE
from tests.stampede.watch import Origin, auntil, results, until, waiting, watched_flights


class Down(Exception):
    pass


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    background._taken.clear()
    background._failing.clear()
    with watched_flights(monkeypatch):
        yield
        until(is_idle)


def is_idle():
    return not background._threads and not background._waiting and not background._tasks


@pytest.fixture
def origin():
    origin = Origin()
    origin.go.set()
    return origin


@pytest.fixture
def make(origin):
    """A cached function with these options."""

    def make(**options):
        options = {"ttl": 60, "stale_for": 600, "key": "price:{pk}", "tags": ["product:{pk}"], **options}
        return cache_aside(**options)(lambda pk: origin(pk))

    return make


@pytest.fixture
def amake(origin):
    def make(**options):
        @cache_aside(**{"ttl": 60, "stale_for": 600, "key": "price:{pk}", "tags": ["product:{pk}"], **options})
        async def price(pk):
            return await origin.compute(pk)

        return price

    return make


def age(price, seconds):
    """Let the entry have been filled so many seconds earlier."""
    key = price.key_for(7)
    entry = unpack(get_redis().get(key), key)
    older = entry._replace(created=entry.created - seconds, fresh_until=entry.fresh_until - seconds)
    get_redis().set(key, pack(older, key), keepttl=True)


# In the background


def test_stale_entry_is_answered_while_it_is_computed_anew(live, origin, make, threads):
    """Nobody waits for the origin, and it is called once."""
    price = make()
    price(7)
    age(price, 61)
    origin.go.clear()

    answers = results([threads.submit(price, 7) for _ in range(20)])
    until(lambda: origin.calls == 2)
    origin.go.set()
    until(is_idle)

    assert answers == [{"call": 1}] * 20
    assert price(7) == {"call": 2}
    assert origin.calls == 2


def test_stale_entry_of_a_coroutine_is_answered_while_it_is_computed_anew(live, origin, amake):
    """The same in a task of the running loop."""

    async def main():
        price = amake()
        await price(7)
        age(price, 61)
        origin.go.clear()
        answers = await asyncio.gather(*(price(7) for _ in range(20)))
        await auntil(lambda: origin.calls == 2)
        origin.go.set()
        await auntil(lambda: not background._tasks)
        return answers, await price(7)

    assert asyncio.run(main()) == ([{"call": 1}] * 20, {"call": 2})
    assert origin.calls == 2


def test_task_that_refreshes_ends_with_its_loop(live, origin, amake):
    """Without a word, and its lease is let go."""

    async def main():
        price = amake()
        await price(7)
        age(price, 61)
        origin.go.clear()
        await price(7)
        await auntil(lambda: origin.calls == 2)

    asyncio.run(main())

    assert not background._tasks


def test_entry_past_its_kept_time_is_computed_by_the_caller(live, origin, make):
    """Redis has dropped it."""
    price = make(ttl=0.05, stale_for=0.05)
    price(7)

    until(lambda: not get_redis().exists(price.key_for(7)))

    assert price(7) == {"call": 2}


def test_entry_is_kept_for_ttl_and_stale_for(live, make):
    """Its time to live in Redis."""
    price = make(ttl=100, stale_for=1000)

    price(7)

    assert 1_085_000 < get_redis().pttl(price.key_for(7)) <= 1_100_000


@pytest.mark.parametrize(("share", "calls"), [(0.5, 1), (0.95, 2)], ids=["early", "late"])
def test_eager_refreshes_before_the_end_of_the_ttl(live, origin, make, share, calls):
    """After that share of the ttl the first hit starts it, and gets the copy."""
    price = make(eager=0.9, stale_for=0)
    price(7)
    age(price, share * get_redis().pttl(price.key_for(7)) / 1000)

    assert price(7) == {"call": 1}
    until(is_idle)

    assert origin.calls == calls


def test_copy_that_is_due_is_answered_by_a_full_redis(live_own, origin, make):
    """It is fresh, and no lease is to be had."""
    import redis

    price = make(eager=0.5, refresh="caller")
    price(7)
    age(price, 40)
    with redis.Redis.from_url(live_own.url) as client:
        client.config_set("maxmemory", "1")

    assert price(7) == {"call": 1}


def test_background_sees_context_variables(live, make, origin):
    """As they were for the caller that started it."""
    language = contextvars.ContextVar("language", default="en")
    price = cache_aside(ttl=60, stale_for=600, key="price:{pk}")(lambda pk: language.get())
    price(7)
    age(price, 61)
    language.set("de")

    assert price(7) == "en"
    until(is_idle)

    assert price(7) == "de"


def test_number_of_threads_is_bounded(live, origin):
    """However many keys are stale at once."""
    price = cache_aside(ttl=60, stale_for=600, key="price:{pk}")(lambda pk: origin(pk))
    for pk in range(20):
        price(pk)
        price.expire(pk)
    origin.go.clear()

    [price(pk) for pk in range(20)]
    until(lambda: origin.running == background.THREADS)
    running = [thread for thread in threading.enumerate() if thread.name == "redis_integration.refresh"]
    origin.go.set()
    until(is_idle)

    assert len(running) == background.THREADS
    assert origin.calls == 40


@pytest.fixture
def stale_meanwhile(live, monkeypatch, make):
    """Between a call's look and its lease another fills the entry, and yet another expires it."""
    price = make()
    price(7)
    price.expire(7)
    stored = get_redis().getdel(price.key_for(7))

    def fill():
        get_redis().set(price.key_for(7), stored, px=60_000)
        return leases.make_token()

    monkeypatch.setattr(claims, "make_token", fill)
    return price


def test_stale_entry_that_was_filled_meanwhile_is_the_answer(stale_meanwhile, origin):
    """The call found no copy, and its lease script brings one that is stale already; the next call has it refreshed."""
    assert stale_meanwhile(7) == {"call": 1}

    stale_meanwhile(7)
    until(is_idle)
    assert origin.calls == 2


def test_stale_entry_that_was_filled_meanwhile_is_the_answer_of_a_coroutine(stale_meanwhile, origin, amake):
    """The same for coroutine functions."""
    assert asyncio.run(amake()(7)) == {"call": 1}


@pytest.mark.django_db(transaction=True)
def test_stale_entry_that_was_filled_meanwhile_is_the_answer_in_a_transaction(stale_meanwhile, monkeypatch):
    """Also where a transaction may store at its commit."""
    monkeypatch.setattr(statements, "reads_committed", lambda connection: True)

    with transaction.atomic():
        assert stale_meanwhile(7) == {"call": 1}


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_the_caller_computes(live, origin, make):
    """It would see what it wrote itself, which no other thread does."""
    price = make()
    price(7)
    age(price, 61)

    with transaction.atomic():
        assert price(7) == {"call": 2}


def test_refresh_by_the_caller(live, origin, make, threads):
    """One caller computes, the others have the copy at once."""
    price = make(refresh="caller")
    price(7)
    age(price, 61)
    origin.go.clear()
    computing = threads.submit(price, 7)
    until(lambda: origin.calls == 2)

    others = results([threads.submit(price, 7) for _ in range(5)])
    origin.go.set()

    assert others == [{"call": 1}] * 5
    assert computing.result(PATIENCE) == {"call": 2}
    assert waiting() == 0


# Errors of the origin


@pytest.mark.parametrize("how", ["background", "caller"])
def test_copy_is_answered_while_the_origin_fails(live, origin, make, how, caplog):
    """It is tried again every error_ttl, by one of the callers, and the log says it once."""
    price = make(refresh=how, error_ttl=60)
    price(7)
    age(price, 61)
    origin.outcomes = dict.fromkeys(range(2, 100), Down("no database"))

    with caplog.at_level(logging.WARNING, "redis_integration"):
        answers = []
        for _ in range(10):
            answers.append(price(7))
            until(is_idle)
            background._taken.clear()

    assert answers == [{"call": 1}] * 10
    assert origin.calls == 2
    assert [record.message.split()[0] for record in caplog.records] == ["redis_integration.refresh_failed"]
    assert 0 < get_redis().pttl(f"{{{price.key_for(7)}}}:lease") <= 60_000


@pytest.mark.parametrize("gone", ["tag", "key", "evicted", "version"])
def test_who_has_no_copy_is_not_held_up_after_an_error(live, origin, make, gone):
    """The pause after an error is for those who have something else to answer."""
    price = make(refresh="caller", error_ttl=60)
    price(7)
    age(price, 61)
    origin.outcomes = {2: Down()}
    assert price(7) == {"call": 1}
    if gone == "tag":
        invalidate(tags=["product:7"])
    elif gone == "key":
        price.invalidate(7)
    elif gone == "evicted":
        get_redis().unlink(price.key_for(7))
    else:
        price = make(version=2)

    assert [price(7), price(7)] == [{"call": 3}] * 2


def test_invalidation_during_a_failing_refresh_leaves_no_pause(live, origin, make, threads):
    """Whoever comes next computes at once."""
    price = make(refresh="caller", error_ttl=60)
    price(7)
    age(price, 61)
    origin.outcomes = {2: Down()}
    origin.go.clear()
    failing = threads.submit(price, 7)
    until(lambda: origin.calls == 2)
    invalidate(tags=["product:7"])
    origin.go.set()
    failing.exception(PATIENCE)

    assert price(7) == {"call": 3}


def test_without_stale_for_an_error_after_expire_is_the_callers(live, origin, make):
    """Nobody asked for stale answers."""
    price = make(stale_for=0)
    price(7)
    price.expire(7)
    origin.outcomes = {2: Down()}

    with pytest.raises(Down):
        price(7)


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_a_failing_origin_is_not_noticed_either(live, origin, make):
    """Also on SQLite, where nothing that it computes is stored."""
    price = make()
    price(7)
    age(price, 61)
    origin.outcomes = {2: Down()}

    with transaction.atomic():
        assert price(7) == {"call": 1}


def test_stale_copy_is_answered_by_a_full_redis_whose_origin_fails(live_own, origin, make):
    """No lease is to be had; the copy is."""
    import redis

    price = make(refresh="caller")
    price(7)
    age(price, 61)
    origin.outcomes = {2: Down()}
    with redis.Redis.from_url(live_own.url) as client:
        client.config_set("maxmemory", "1")

    assert price(7) == {"call": 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asgiref's own, of such a loop
def test_loop_that_was_closed_in_the_middle_does_not_end_refreshing(live, origin, amake, monkeypatch):
    """A later loop tries again."""
    monkeypatch.setattr(background, "LOST_AFTER", 0.0)
    price = amake()

    async def begin():
        await price(7)
        age(price, 61)
        origin.go.clear()
        await price(7)
        await auntil(lambda: origin.calls == 2)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    get_redis().unlink(f"{{{price.key_for(7)}}}:lease")
    origin.go.set()

    async def go_on():
        while await price(7) == {"call": 1}:
            await asyncio.sleep(0.01)
        return await price(7)

    assert asyncio.run(asyncio.wait_for(go_on(), PATIENCE)) == {"call": 3}


def test_coroutine_below_async_to_sync_is_refreshed_by_its_caller(live, origin, amake):
    """Its loop, or its thread, ends with it."""
    price = async_to_sync(amake())
    price(7)

    key = amake().key_for(7)
    entry = unpack(get_redis().get(key), key)
    older = entry._replace(created=entry.created - 61, fresh_until=entry.fresh_until - 61)
    get_redis().set(key, pack(older, key), keepttl=True)

    assert price(7) == {"call": 2}


def test_origin_is_tried_again_after_error_ttl(live, origin, make):
    """And the copy is replaced when it has recovered."""
    price = make(refresh="caller", error_ttl=0.05)
    price(7)
    age(price, 61)
    origin.outcomes = {2: Down()}
    assert price(7) == {"call": 1}

    until(lambda: price(7) == {"call": 3})

    assert origin.calls == 3


def test_without_a_copy_the_error_is_the_callers(live, origin, make):
    """And the next call tries again at once."""
    price = make()
    origin.outcomes = {1: Down("no database")}

    with pytest.raises(Down, match="no database"):
        price(7)

    assert price(7) == {"call": 2}


@pytest.mark.parametrize("how", ["background", "caller"])
@pytest.mark.parametrize("names", ["key", "tag"])
def test_invalidated_copy_is_not_served_while_the_origin_fails(live, origin, make, how, names):
    """Stale is one thing, invalidated another."""
    price = make(refresh=how)
    price(7)
    age(price, 61)
    price(7)
    until(is_idle)
    price.invalidate(7) if names == "key" else invalidate(tags=["product:7"])
    origin.outcomes = dict.fromkeys(range(1, 100), Down())

    with pytest.raises(Down):
        price(7)


def test_refresh_that_an_invalidation_overtook_is_not_stored(live, origin, make):
    """What began before it is not stored, wherever it computes."""
    price = make()
    price(7)
    age(price, 61)
    origin.go.clear()
    price(7)
    until(lambda: origin.calls == 2)

    price.invalidate(7)
    origin.go.set()
    until(is_idle)

    assert get_redis().exists(price.key_for(7)) == 0
    assert price(7) == {"call": 3}


def test_no_thread_to_be_had_means_that_the_caller_computes(live, origin, make, monkeypatch):
    """As where the interpreter is about to end."""
    price = make()
    price(7)
    age(price, 61)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    assert price(7) == {"call": 2}


# ttl, cache_if, version


def test_ttl_is_up_to_a_tenth_shorter(live):
    """What was filled together does not end together."""
    price = cache_aside(ttl=1000, key="price:{pk}")(lambda pk: pk)

    [price(pk) for pk in range(20)]

    seconds = [get_redis().pttl(price.key_for(pk)) / 1000 for pk in range(20)]
    assert 899 < min(seconds) <= max(seconds) <= 1000
    assert len({round(each) for each in seconds}) > 5


def test_ttl_may_be_a_function_of_the_result(live):
    """Longer than the tags would live, too."""
    price = cache_aside(ttl=lambda value: value, key="price:{pk}", tags=["all"])(lambda pk: pk * 86_400)

    [price(pk) for pk in (1, 100)]

    assert 89 < get_redis().pttl(price.key_for(100)) / 86_400_000 <= 100
    assert get_redis().pttl(f"{price.key_for(1).partition(':')[0]}:#all") / 86_400_000 > 100


@pytest.mark.parametrize("ttl", [lambda value: 0, lambda value: None, lambda value: 1 / 0], ids=["0", "None", "raises"])
def test_ttl_without_meaning_leaves_the_value_unstored(live, origin, make, ttl):
    """The caller has it all the same."""
    price = make(ttl=ttl)

    assert [price(7), price(7)] == [{"call": 1}, {"call": 2}]


def test_cache_if_says_what_is_stored(live, origin, make, threads):
    """What is not stored is shared with those who had joined."""
    price = make(cache_if=bool)
    origin.outcomes = {1: None, 2: None}
    origin.go.clear()
    calls = [threads.submit(price, 7) for _ in range(5)]
    until(lambda: waiting() == 4)
    origin.go.set()

    assert results(calls) == [None] * 5
    assert [price(7), price(7), price(7)] == [None, {"call": 3}, {"call": 3}]


def test_result_that_is_not_to_be_kept_ends_the_copy(live, origin, make):
    """What was there before it is older still."""
    price = make(cache_if=bool, refresh="caller")
    price(7)
    age(price, 61)
    origin.outcomes = {2: None}

    assert price(7) is None
    assert get_redis().exists(price.key_for(7)) == 0


def test_ttl_may_be_a_decimal(live, origin, make):
    """As it comes from a database."""
    price = make(ttl=lambda value: Decimal(60))

    assert [price(7), price(7)] == [{"call": 1}] * 2


def test_versions_share_no_flight(live, origin, make, threads):
    """The one would get the other's value."""
    origin.go.clear()
    old = threads.submit(make(version=1), 7)
    until(lambda: origin.calls == 1)
    new = threads.submit(make(version=2, lease_timeout=0.05), 7)
    until(lambda: origin.calls == 2)
    origin.go.set()

    assert results([old, new]) == [{"call": 1}, {"call": 2}]


@pytest.mark.django_db(transaction=True)
def test_versions_share_no_row_while_redis_is_down(settings, prefix, origin, make):
    """A row of another version is a miss."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "KEY_PREFIX": prefix}}
    old, new = make(version=1), make(version=2)
    answered = [old(7) for _ in range(3)]

    assert new(7) not in answered


def test_none_is_a_value(live, origin, make):
    """It is stored like any other."""
    origin.outcomes = {1: None}
    price = make()

    assert [price(7), price(7)] == [None, None]
    assert origin.calls == 1


@pytest.mark.parametrize("tags", [[], ["product:{pk}"]], ids=["no_tags", "tags"])
def test_another_version_misses_and_shares_the_key(live, origin, make, tags):
    """So an invalidation by either ends the entry of both."""
    old, new = make(version=1, tags=tags), make(version=2, tags=tags)

    assert [old(7), old(7), new(7), new(7)] == [{"call": 1}, {"call": 1}, {"call": 2}, {"call": 2}]
    old.invalidate(7)

    assert new(7) == {"call": 3}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"eager": 1}, "eager is 1. Give a number between 0 and 1"),
        ({"eager": 0}, "eager is 0. Give a number between 0 and 1"),
        ({"eager": -0.1}, "eager is -0.1. Give a number between 0 and 1"),
        ({"eager": float("nan")}, "eager is nan. Give a number between 0 and 1"),
        ({"eager": True}, "eager is True. Give a number between 0 and 1"),
        ({"eager": "much"}, "eager is 'much'"),
        ({"refresh": "later"}, 'refresh is \'later\'. Give "background" or "caller"'),
        ({"stale_for": -1}, "stale_for is -1. Give more than 0 seconds"),
        ({"stale_for": float("nan")}, "stale_for is nan. Give more than 0 seconds"),
        ({"stale_for": float("inf")}, "stale_for is inf. Give more than 0 seconds"),
        ({"stale_for": "600"}, "stale_for is '600'. Give seconds as a number"),
        ({"stale_for": True}, "stale_for is True. Give seconds as a number"),
        ({"error_ttl": 0}, "error_ttl is 0. Give more than 0 seconds"),
        ({"cache_if": True}, "cache_if is True. Give a function of the result"),
        ({"version": 1.5}, "version is 1.5. Give a str or an int"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_options_without_meaning_are_refused_at_decoration(make, options, error):
    """With the fact and the fix."""
    with pytest.raises((TypeError, ValueError), match=error.replace("(", r"\(")):
        make(**options)


@pytest.fixture
def threads():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(20) as threads:
        yield threads


def test_clock_of_the_pause_runs():
    """A key is left alone for a moment after it was tried."""
    background._give_back("a")

    assert not background._take("a")
    background._taken["a"] = time.monotonic() - 1
    assert background._take("a")
    background._taken.clear()
