from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from math import inf

import pytest
import redis
from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpResponse
from django.test import RequestFactory

from demo_project.proxy import CuttableProxy
from redis_integration import ainvalidate, cache_aside, cache_aside_view, flights, get_redis, invalidate, pools
from redis_integration.caching import Caching, Tiers
from redis_integration.claims import Claim
from redis_integration.codecs import json_codec
from redis_integration.entries import Entry
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.flights import PRIVATE, REFUSED, Landing, Verdict
from redis_integration.flow import arun, run
from redis_integration.keys import Names
from redis_integration.policy import Reading, Redis
from redis_integration.tiers.fallback import FallbackTier
from redis_integration.tiers.redis import get_redis_tier
from tests.stampede.crew import PATIENCE, Child
from tests.stampede.watch import Origin, auntil, results, until, waiting, watched_flights

NAMES = Names("t:price:7", ("t:#product:7",))
PLACE = (NAMES.key, "redis", False)
WORTH = Landing(Verdict.ACCEPTED, entry=Entry(b"7", 1, 0.0, 0.0))


@pytest.fixture(autouse=True)
def flights_end(monkeypatch):
    with watched_flights(monkeypatch):
        yield


@pytest.fixture
def origin():
    return Origin()


@pytest.fixture
def price(origin):
    return cache_aside(ttl=60, key="price:{pk}", tags=["product:{pk}"])(lambda pk: origin(pk))


@pytest.fixture
def aprice(origin):
    @cache_aside(ttl=60, key="price:{pk}", tags=["product:{pk}"])
    async def price(pk):
        return await origin.compute(pk)

    return price


@pytest.fixture
def threads():
    with ThreadPoolExecutor(60) as threads:
        yield threads


def call_all(threads, function, *, count, joined):
    """Calls from `count` threads, of which so many have joined a flight when this returns."""
    calls = [threads.submit(function, 7) for _ in range(count)]
    until(lambda: waiting() >= joined)
    return calls


async def acall_all(function, *, count, joined):
    calls = [asyncio.ensure_future(function(7)) for _ in range(count)]
    await auntil(lambda: waiting() >= joined)
    return calls


# The table of flights


def test_second_caller_joins_an_open_flight():
    """It gets the same flight, and no right to compute."""
    flight, pilot = flights.enter(PLACE, NAMES)

    assert pilot is not None
    assert flights.enter(PLACE, NAMES) == (flight, None)


@pytest.mark.parametrize(
    "place",
    [("t:price:8", "redis", False), (NAMES.key, "fallback", False), (NAMES.key, "redis", True)],
    ids=["key", "tier", "async"],
)
def test_flights_are_kept_apart(place):
    """By key, by the tier that will be written to, and by sync and async."""
    flight, pilot = flights.enter(PLACE, NAMES)

    other, theirs = flights.enter(place, NAMES)

    assert other is not flight
    assert other.after is None
    assert None not in (pilot, theirs)


@pytest.mark.parametrize("name", [NAMES.key, *NAMES.tags])
def test_invalidation_ends_the_flights_of_its_names(name):
    """By key and by tag: the next caller neither joins it nor waits for it."""
    flight, pilot = flights.enter(PLACE, NAMES)

    flights.end([name])

    later, theirs = flights.enter(PLACE, NAMES)
    assert later is not flight
    assert later.after is None
    assert None not in (pilot, theirs)
    assert flight.is_ended


def test_invalidation_of_another_name_ends_no_flight():
    """What shares no name stays open."""
    flight, pilot = flights.enter(PLACE, NAMES)

    flights.end(["t:price:70", "t:#product"])

    assert pilot is not None
    assert flights.enter(PLACE, NAMES) == (flight, None)


def test_flight_whose_fill_was_sent_is_not_joined():
    """Nor is it waited for: the next caller goes on at once."""
    flight, pilot = flights.enter(PLACE, NAMES)

    flights.leave(flight)

    later, theirs = flights.enter(PLACE, NAMES)
    assert (later is flight, later.after) == (False, None)
    assert None not in (pilot, theirs)


def test_flight_without_lease_whose_origin_call_began_is_waited_for_and_not_joined():
    """Who comes later forms the next one, which can be joined, behind it."""
    flight, pilot = flights.enter(PLACE, NAMES)

    flights.begin(flight)

    later, theirs = flights.enter(PLACE, NAMES)
    assert later.after is flight
    assert flights.enter(PLACE, NAMES) == (later, None)
    assert None not in (pilot, theirs)


def test_older_flight_that_lands_leaves_the_newer_one_in_the_table():
    """A flight takes only itself out."""
    older, pilot = flights.enter(PLACE, NAMES)
    newer, theirs = flights.enter(PLACE, NAMES, supersede=True)

    older.land(REFUSED)

    assert flights.enter(PLACE, NAMES) == (newer, None)
    assert None not in (pilot, theirs)


def test_flight_whose_pilot_died_is_over():
    """It is not joined, and who had joined it starts over."""
    flight, pilot = flights.enter(PLACE, NAMES)

    del pilot

    assert flight.is_over
    assert run(flights.join(flight, PATIENCE, is_async=False)) == REFUSED
    assert flights.enter(PLACE, NAMES)[0] is not flight


def test_join_is_bounded():
    """Who waited in vain computes alone."""
    flight, pilot = flights.enter(PLACE, NAMES)

    assert run(flights.join(flight, 0.01, is_async=False)) == PRIVATE
    assert asyncio.run(arun(flights.join(flight, 0.01, is_async=True))) == PRIVATE
    assert pilot is not None


def test_flight_is_not_joined_by_its_own_origin():
    """It would wait for itself."""
    flight, pilot = flights.enter(PLACE, NAMES)

    with flights.boarding(flight):
        landing = run(flights.join(flight, PATIENCE, is_async=False))

    assert landing == PRIVATE
    assert pilot is not None


def test_circle_of_flights_is_noticed():
    """An origin that waits for a flight whose origin waits for it computes instead."""
    mine, pilot = flights.enter(PLACE, NAMES)
    other, theirs = flights.enter(("t:b", "redis", False), Names("t:b"))
    other.waits_for = mine

    with flights.boarding(mine):
        landing = run(flights.join(other, PATIENCE, is_async=False))

    assert landing == PRIVATE
    assert mine.waits_for is None
    assert None not in (pilot, theirs)


def test_landing_wakes_threads_and_tasks(threads):
    """Whoever waits, in a thread or on a loop of another thread, gets what it landed with."""
    flight, pilot = flights.enter(PLACE, NAMES)
    thread = threads.submit(lambda: run(flights.join(flight, PATIENCE, is_async=False)))
    task = threads.submit(lambda: asyncio.run(arun(flights.join(flight, PATIENCE, is_async=True))))
    until(lambda: len(flight._waiting) == 2)

    flight.land(WORTH)

    assert results([thread, task]) == [WORTH, WORTH]
    assert pilot is not None


def test_owner_on_a_closed_loop_is_lost():
    """Its task may live until the garbage collector comes; nobody waits for that."""
    loop = asyncio.new_event_loop()
    flight, pilot = loop.run_until_complete(asyncio.wait_for(_enter(), PATIENCE))

    loop.close()

    assert flight.is_over
    assert flights.enter(PLACE, NAMES)[1] is not None
    assert pilot is not None


async def _enter():
    return flights.enter(PLACE, NAMES)


def test_waiter_of_a_closed_loop_does_not_disturb_the_landing(threads):
    """A loop that was closed in the middle of a wait has nobody to be woken."""
    flight, pilot = flights.enter(PLACE, NAMES)
    thread = threads.submit(lambda: run(flights.join(flight, PATIENCE, is_async=False)))

    async def abandon():
        asyncio.get_running_loop().create_task(flight.await_(PATIENCE))
        await auntil(lambda: len(flight._waiting) == 2)

    asyncio.run(abandon())

    flight.land(WORTH)

    assert results([thread]) == [WORTH]
    assert pilot is not None


# Joiners take what was accepted, start over on what was refused, then compute alone


def test_callers_of_one_key_share_one_computation(live, threads, origin, price):
    """Fifty threads on a cold key cost one origin call."""
    calls = call_all(threads, price, count=50, joined=49)

    origin.go.set()

    assert results(calls) == [{"call": 1}] * 50
    assert origin.calls == 1


def test_tasks_of_one_key_share_one_computation(live, origin, aprice):
    """Fifty tasks on a cold key cost one origin call."""

    async def main():
        calls = await acall_all(aprice, count=50, joined=49)
        origin.go.set()
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [{"call": 1}] * 50
    assert origin.calls == 1


def test_loops_of_two_threads_share_one_computation(live, threads, origin, aprice):
    """A flight does not belong to an event loop."""
    calls = [threads.submit(lambda: asyncio.run(aprice(7))) for _ in range(3)]
    until(lambda: waiting() == 2)

    origin.go.set()

    assert results(calls) == [{"call": 1}] * 3


def test_each_joiner_gets_a_copy_of_its_own(live, threads, origin, price):
    """To change one's value changes nobody else's."""
    calls = call_all(threads, price, count=3, joined=2)
    origin.go.set()
    values = results(calls)

    values[0]["call"] = "changed"

    assert len({id(value) for value in values}) == 3
    assert sorted(str(value["call"]) for value in values) == ["1", "1", "changed"]
    assert price(7) == {"call": 1}


def test_joiners_of_a_refused_flight_start_over(live, threads, origin, price):
    """They call the origin once more for all of them, and nobody but the owner keeps the refused value."""
    calls = call_all(threads, price, count=10, joined=9)
    # As an invalidation by another process, which ends no flight here.
    get_redis().unlink(f"{{{price.key_for(7)}}}:lease")
    origin.joined = {2: 8}

    origin.go.set()

    assert sorted(value["call"] for value in results(calls)) == [1] + [2] * 9
    assert origin.calls == 2


def test_joiner_whose_second_flight_found_an_entry_takes_it_too(live, threads, origin):
    """Refused once, and then waiting for another process's computation, is no reason to compute: it is there."""
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: origin(pk))
    key = price.key_for(7)
    origin.go.set()
    price(7)
    stored = get_redis().getdel(key)
    origin.go.clear()
    calls = call_all(threads, price, count=10, joined=9)
    get_redis().set(f"{{{key}}}:lease", "another process", px=60_000)
    origin.go.set()
    until(lambda: origin.running == 0 and waiting() == 8)

    get_redis().set(key, stored, px=60_000)

    assert sorted(value["call"] for value in results(calls)) == [1] * 9 + [2]
    assert origin.calls == 2


class Refusing:
    """An origin whose every call is overtaken by an invalidation of another process."""

    def __init__(self):
        self.calls = 0
        self.lock = threading.Lock()
        self.expected = [2, 1, 0]

    def __call__(self, pk):
        with self.lock:
            joined = self.expected[self.calls] if self.calls < len(self.expected) else 0
            self.calls += 1
            number = self.calls
        until(lambda: waiting() >= joined)
        get_redis().unlink(f"{{{self.key}}}:lease")
        return number


def test_after_two_refusals_a_joiner_computes_alone(live, threads):
    """Three callers whose fills are all refused cost three computations, and nobody waits for ever."""
    origin = Refusing()
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: origin(pk))
    origin.key = price.key_for(7)

    calls = [threads.submit(price, 7) for _ in range(3)]

    assert sorted(results(calls)) == [1, 2, 3]
    assert get_redis().exists(price.key_for(7)) == 0


def test_what_the_owner_merely_found_is_not_given_to_joiners(live, threads, origin, price):
    """An owner that found another process's entry answers itself; who joined it reads anew, and that is newer."""
    lease = f"{{{price.key_for(7)}}}:lease"
    get_redis().set(lease, "another", px=60_000)
    calls = call_all(threads, price, count=5, joined=4)
    origin.go.set()

    get_redis().unlink(lease)

    assert results(calls) == [{"call": 1}] * 5
    assert origin.calls == 1


# Invalidations end flights for later callers


@pytest.mark.parametrize("names", [{"keys": True}, {"tags": ["product:7"]}], ids=["key", "tag"])
def test_caller_after_an_invalidation_does_not_join_what_began_before(live, threads, origin, price, names):
    """It gets a new value while the old computation is still running, and that one is not stored."""
    origin.outcomes = {1: "old", 2: "new"}
    old = call_all(threads, price, count=3, joined=2)
    invalidate(**(names if "tags" in names else {"keys": [price.key_for(7)]}))
    later = threads.submit(price, 7)
    until(lambda: origin.calls == 2)

    origin.go.set()

    assert later.result(PATIENCE) == "new"
    assert sorted(results(old)) == ["new", "new", "old"]
    assert price(7) == "new"


@pytest.mark.parametrize("names", [{"keys": True}, {"tags": ["product:7"]}], ids=["key", "tag"])
def test_task_after_an_invalidation_does_not_join_what_began_before(live, origin, aprice, names):
    """The same for coroutine functions and ainvalidate."""
    origin.outcomes = {1: "old", 2: "new"}

    async def main():
        old = await acall_all(aprice, count=3, joined=2)
        await ainvalidate(**(names if "tags" in names else {"keys": [aprice.key_for(7)]}))
        later = asyncio.ensure_future(aprice(7))
        await auntil(lambda: origin.calls == 2)
        origin.go.set()
        return await later, sorted(await asyncio.gather(*old))

    assert asyncio.run(main()) == ("new", ["new", "new", "old"])


def test_refresh_supersedes_the_flight_that_began_before(live, threads, origin, price):
    """Who calls during a refresh joins it, and nobody but its own caller gets what began before."""
    origin.outcomes = {1: "old", 2: "new"}
    old = threads.submit(price, 7)
    until(lambda: origin.calls == 1)
    refreshed = threads.submit(price.refresh, 7)
    until(lambda: origin.calls == 2)
    later = call_all(threads, price, count=3, joined=3)

    origin.go.set()

    assert results([refreshed, *later]) == ["new"] * 4
    assert old.result(PATIENCE) == "old"
    assert price(7) == "new"


# Flights without a lease


class Stepping:
    """An origin whose calls end one by one; each gives the moment at which it began."""

    def __init__(self):
        self.lock = threading.Lock()
        self.steps = threading.Semaphore(0)
        self.calls = self.running = self.most = 0

    def begin(self):
        with self.lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)

    def end(self):
        with self.lock:
            self.running -= 1

    def __call__(self, pk):
        began = time.monotonic()
        self.begin()
        try:
            assert self.steps.acquire(timeout=PATIENCE)
        finally:
            self.end()
        return began

    async def compute(self, pk):
        began = time.monotonic()
        self.begin()
        try:
            await auntil(lambda: self.steps.acquire(blocking=False))
        finally:
            self.end()
        return began


def make_pending(server, key):
    tier = get_redis_tier("default", is_async=False)
    tier.journal.remember([key])
    tier.breaker._due = inf  # else the next call repeats the invalidation, and Redis is believed again


def make_full(server, key):
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")


@pytest.mark.parametrize("refuse_leases", [make_pending, make_full])
def test_stampede_without_leases_costs_two_computations_one_after_the_other(live_own, threads, refuse_leases):
    """Fifty callers who cannot have a lease call the origin twice, and nobody gets a value older than his call."""
    origin = Stepping()
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: origin(pk))
    refuse_leases(live_own, price.key_for(7))

    def call():
        return time.monotonic(), price(7)

    first = threads.submit(call)
    until(lambda: origin.calls == 1)
    # The one who forms the next flight waits for the first; the others wait for him.
    others = [threads.submit(call) for _ in range(49)]
    until(lambda: waiting() >= 49)

    origin.steps.release(50)

    began = [(called, value) for called, value in results([first, *others])]
    assert [late for called, late in began if late < called] == []
    assert (origin.calls, origin.most) == (2, 1)


@pytest.mark.django_db(transaction=True)
def test_callers_at_the_moment_redis_freezes_compute_once(server, settings, prefix, threads, price, origin):
    """Some wait for a reply, some for a connection; whoever called before the origin was called takes what it brings."""
    with CuttableProxy(server.port) as proxy:
        url, short = f"redis://127.0.0.1:{proxy.port}/0", {"POOL_TIMEOUT": 2, "COMMAND_TIMEOUT": 3}
        settings.REDIS_INTEGRATION = {"default": {"URL": url, "KEY_PREFIX": prefix, "MAX_CONNECTIONS": 2, **short}}
        get_redis().ping()
        proxy.freeze()

        calls = call_all(threads, price, count=20, joined=19)
        origin.go.set()

        assert results(calls) == [{"call": 1}] * 20
    assert origin.calls == 1


@pytest.mark.parametrize(("earlier", "is_joined"), [(1, True), (0, False), (-1, False)])
def test_flight_that_has_begun_is_joined_by_who_called_before(earlier, is_joined):
    """What it brings is no older than their calls; whoever called later gets something newer."""
    flight, pilot = flights.enter(PLACE, NAMES)
    flights.begin(flight)
    flights.note_begun(flight)

    found = flights.find_younger([("another", "redis", False), PLACE], flights.begun - earlier)

    assert (found is flight) is flight.has_company is is_joined
    assert pilot is not None


@pytest.fixture
def fly():
    """Flies one flight to this place, whose origin call begins now, to its landing."""

    def fly(place, landing=WORTH):
        flight, pilot = flights.enter(place, NAMES)
        flights.note_begun(flight)
        flight.land(landing)
        return flight

    return fly


@pytest.mark.parametrize(("earlier", "is_found"), [(1, True), (0, False)])
def test_flight_without_a_lease_is_found_after_it_has_landed(fly, earlier, is_found):
    """By who called before its origin call began, also if the next one has formed behind it; no tier has what it brought."""
    place = (NAMES.key, "origin", False)
    first, pilot = flights.enter(place, NAMES)
    flights.note_begun(first)
    flights.begin(first)
    since = flights.begun - earlier
    flights.enter(place, NAMES)
    first.land(WORTH)

    found = flights.find_younger([place], since)

    assert (found is first) is is_found
    assert pilot is not None


@pytest.mark.parametrize(("target", "landing"), [("redis", WORTH), ("fallback", WORTH), ("origin", PRIVATE)])
def test_flight_that_a_tier_remembers_or_nobody_may_share_is_gone_when_it_has_landed(fly, target, landing):
    """Its value is kept nowhere else."""
    place = (NAMES.key, target, False)

    fly(place, landing)

    assert flights.find_younger([place], 0) is None
    assert flights._flights == {}


def test_few_landed_flights_are_kept(fly):
    """The last ones; a later one of the same place instead of the earlier."""
    flown = [fly((number % 70, "origin", False)) for number in range(140)]

    assert [*flights._flights.values()] == flown[-flights.LANDED :]


def test_landed_flight_goes_with_its_names(fly):
    """What was invalidated is not kept."""
    fly((NAMES.key, "origin", False))
    flights.end(["t:price:8"])
    assert len(flights._flights) == 1

    flights.end([NAMES.key])

    assert flights._flights == {}


def test_caller_that_waited_for_redis_takes_what_was_computed_meanwhile(live, threads, price, origin, monkeypatch):
    """It has landed before the timeout; who calls afterwards gets something newer."""

    def exchange(*args, **kwargs):
        make_pending(live, price.key_for(7))
        # The first computes, the next one forms a flight behind it, and the third one joins that.
        others = call_all(threads, price, count=3, joined=2)
        origin.go.set()
        results(others)
        raise RedisUnavailable("No answer in time.", kind=Kind.SLOW)

    monkeypatch.setattr(pools, "exchange", exchange)

    assert price(7) == {"call": 2}
    assert price(7) == {"call": 3}


@pytest.mark.parametrize("refuse_leases", [make_pending, make_full])
def test_stampede_of_tasks_without_leases_costs_two_computations(live_own, refuse_leases):
    """The same for coroutine functions."""
    origin = Stepping()

    @cache_aside(ttl=60, key="price:{pk}")
    async def price(pk):
        return await origin.compute(pk)

    refuse_leases(live_own, price.key_for(7))

    async def call():
        return time.monotonic(), await price(7)

    async def main():
        first = asyncio.ensure_future(call())
        await auntil(lambda: origin.calls == 1)
        others = [asyncio.ensure_future(call()) for _ in range(49)]
        await auntil(lambda: waiting() >= 49)
        origin.steps.release(50)
        return await asyncio.gather(first, *others)

    began = asyncio.run(main())

    assert [late for called, late in began if late < called] == []
    assert (origin.calls, origin.most) == (2, 1)


def test_callers_without_leases_that_keep_coming_never_compute_more_than_two_at_a_time(live_own, threads):
    """Two hundred calls in quick succession share computations, each of them begun after the call."""
    price_origin = Stepping()
    price_origin.steps.release(1000)
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: (time.sleep(0.002), price_origin(pk))[1])
    make_full(live_own, price.key_for(7))

    def call(_):
        return time.monotonic(), price(7)

    began = list(threads.map(call, range(200)))

    assert [late for called, late in began if late < called] == []
    assert price_origin.most <= 2
    assert price_origin.calls < 200


# Transactions share no flight


@pytest.mark.django_db(transaction=True)
def test_flight_inside_a_transaction_is_not_shared(live, threads, origin, price):
    """What a transaction computes may be uncommitted: no other caller joins it."""
    origin.outcomes = {1: "uncommitted", 2: "committed"}

    def inside():
        with transaction.atomic():
            return price(7)

    first = threads.submit(close_connections, inside)
    until(lambda: origin.calls == 1)
    second = threads.submit(close_connections, price, 7)
    until(lambda: origin.calls == 2)

    origin.go.set()

    assert results([first, second]) == ["uncommitted", "committed"]


@pytest.mark.django_db(transaction=True)
def test_caller_inside_a_transaction_joins_no_flight(live, threads, origin, price):
    """It could not see what it wrote itself in another's computation."""
    origin.outcomes = {1: "committed", 2: "its own"}
    outside = threads.submit(close_connections, price, 7)
    until(lambda: origin.calls == 1)

    def inside():
        with transaction.atomic():
            return price(7)

    own = threads.submit(close_connections, inside)
    until(lambda: origin.calls == 2)

    origin.go.set()

    assert results([outside, own]) == ["committed", "its own"]


# With rows, while Redis is down


@pytest.fixture
def down(settings, prefix):
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "KEY_PREFIX": prefix}}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("names", ["key", "tag"])
def test_invalidation_ends_a_flight_that_another_waits_for(down, threads, origin, price, names):
    """The later one has taken its place, and it must not write its row all the same."""
    origin.outcomes = {1: "old", 2: "new"}
    old = threads.submit(close_connections, price, 7)
    until(lambda: origin.calls == 1)
    behind = threads.submit(close_connections, price, 7)
    until(lambda: waiting() == 1)

    price.invalidate(7) if names == "key" else invalidate(tags=["product:7"])
    origin.go.set()

    assert results([old, behind]) == ["old", "new"]
    assert price(7) != "old"


@pytest.mark.django_db(transaction=True)
def test_row_that_was_being_computed_during_an_invalidation_is_not_filled(down, origin, price, monkeypatch):
    """The invalidation has deleted the row, and with it the lease."""
    origin.outcomes = {1: "old"}
    origin.go.set()
    real = FallbackTier.fill

    def fill(self, names, lease, entry, **kept):
        monkeypatch.undo()
        price.invalidate(7)
        return real(self, names, lease, entry, **kept)

    monkeypatch.setattr(FallbackTier, "fill", fill)

    assert price(7) == "old"
    assert price(7) == {"call": 2}


def claim_of_a_held_lease(prefix, *, lease_timeout=60.0, called_at):
    caching = Caching(name="a", ttl=60, codec=json_codec, lease_timeout=lease_timeout)
    names = Names(f"{prefix}:a")
    get_redis().set(f"{{{names.key}}}:lease", "another", px=60_000)
    reading = Reading(Redis.UP, asked=frozenset({"redis"}))
    tiers = Tiers("default", is_async=False)
    return Claim(caching, names, tiers, reading=reading, is_refresh=False, since=0, called_at=called_at)


def test_call_whose_time_is_over_waits_for_no_lease(live, prefix):
    """All flights and leases that it waits for share one limit, two lease times."""
    claim = claim_of_a_held_lease(prefix, called_at=time.monotonic() - 121)
    claim.tiers.pause = None

    assert run(claim.win(may_wait=True)) == ("compute", None)


def test_pauses_of_a_waiter_grow_and_are_random(live, prefix):
    """From 10 ms, half as long again each time, to 250 ms; each is up to a half shorter, so that waiters spread out."""
    claim, pauses = claim_of_a_held_lease(prefix, called_at=inf), []
    longest = [min(0.01 * 1.5**number, 0.25) for number in range(40)]

    def pause(seconds):
        pauses.append(seconds)
        return len(pauses) < 40 or get_redis().unlink(f"{{{claim.names.key}}}:lease")

    claim.tiers.pause = pause

    assert run(claim.win(may_wait=True)) == ("compute", "redis")
    shares = [seconds / most for seconds, most in zip(pauses, longest, strict=True)]
    assert 0.5 <= min(shares) < 0.7 < 0.8 < max(shares) <= 1


def test_waiter_gives_up_after_lease_timeout(live, prefix):
    """Its pauses are no longer than what is left, and then it computes without a lease."""
    claim, pauses = claim_of_a_held_lease(prefix, lease_timeout=0.5, called_at=inf), []

    def pause(seconds):
        pauses.append(seconds)
        time.sleep(seconds)

    claim.tiers.pause = pause

    assert run(claim.win(may_wait=True)) == ("compute", None)
    assert 0 < sum(pauses) <= 0.5


def close_connections(function, *args):
    from django.db import connections

    try:
        return function(*args)
    finally:
        for connection in connections.all(initialized_only=True):
            if connection.connection is not None:
                # Django itself never closes an in-memory database.
                connection.connection.close()


# Interrupts


def test_cancelling_one_waiting_task_does_not_cancel_the_others(live, origin, aprice):
    """Each waits on a gate of its own."""

    async def main():
        owner = asyncio.ensure_future(aprice(7))
        await auntil(lambda: origin.calls == 1)
        calls = await acall_all(aprice, count=4, joined=4)
        calls[2].cancel()
        await asyncio.wait([calls[2]])
        origin.go.set()
        return await asyncio.gather(owner, *calls, return_exceptions=True)

    values = asyncio.run(main())

    assert [value for value in values if value != {"call": 1}] == [values[3]]
    assert isinstance(values[3], asyncio.CancelledError)
    assert origin.calls == 1


def test_cancelling_the_owner_makes_one_of_the_others_compute(live, origin, aprice):
    """The others start over, and exactly one of them computes."""

    async def main():
        owner = asyncio.ensure_future(aprice(7))
        await auntil(lambda: origin.calls == 1)
        others = await acall_all(aprice, count=9, joined=9)
        owner.cancel()
        origin.go.set()
        values = await asyncio.gather(*others)
        await asyncio.wait([owner])
        return owner.cancelled(), values

    assert asyncio.run(main()) == (True, [{"call": 2}] * 9)
    assert origin.calls == 2


class Interrupted(BaseException):
    pass


def test_interrupt_in_the_owner_makes_one_of_the_others_compute(live, threads, origin, price):
    """A BaseException is the owner's own: the others start over, and exactly one of them computes."""
    origin.outcomes = {1: Interrupted()}
    calls = call_all(threads, price, count=10, joined=9)

    origin.go.set()

    endings = [call.exception(PATIENCE) for call in calls]
    assert sorted(type(ending).__name__ for ending in endings) == ["Interrupted"] + ["NoneType"] * 9
    assert [call.result() for call in calls if not call.exception()] == [{"call": 2}] * 9
    assert origin.calls == 2


def test_owner_whose_loop_was_closed_is_noticed(live, threads, origin, aprice):
    """A computation that was abandoned without a word holds up nobody, once it is collected."""
    loop = asyncio.new_event_loop()
    owner = loop.create_task(aprice(7))
    loop.run_until_complete(auntil(lambda: origin.calls == 1))
    other = threads.submit(lambda: asyncio.run(aprice(7)))
    until(lambda: waiting() == 1)
    # As a loop does that was stopped in the middle: nothing is cancelled.
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    get_redis().unlink(f"{{{aprice.key_for(7)}}}:lease")
    owner._log_destroy_pending = False

    del owner
    with contextlib.suppress(RuntimeError):
        gc.collect()
    origin.go.set()

    assert other.result(PATIENCE) == {"call": 2}


# Recursion


def test_recursion_in_a_thread_computes(live):
    """An origin that calls its own cached function, for the same entry, does not wait for itself."""
    depth = []

    @cache_aside(ttl=60, key="price:{pk}", lease_timeout=PATIENCE)
    def price(pk):
        depth.append(pk)
        return [price(pk)] if len(depth) < 3 else []

    assert price(7) == [[[]]]


@pytest.mark.parametrize("wrap", [lambda call: call, asyncio.ensure_future, asyncio.gather])
def test_recursion_in_a_task_computes(live, wrap):
    """Nor does a coroutine function, in the same task or in a child task."""
    depth = []

    @cache_aside(ttl=60, key="price:{pk}", lease_timeout=PATIENCE)
    async def price(pk):
        depth.append(pk)
        return 1 if len(depth) > 1 else [await wrap(price(pk))]

    assert asyncio.run(price(7)) in ([1], [[1]])


def test_recursion_in_a_thread_of_a_task_computes(live):
    """A thread that asgiref or asyncio starts for an origin knows whose it is."""
    depth = []

    @cache_aside(ttl=60, key="price:{pk}", lease_timeout=PATIENCE)
    async def price(pk):
        depth.append(pk)
        return 1 if len(depth) > 1 else await sync_to_async(lambda: asyncio.run(price(pk)), thread_sensitive=False)()

    assert asyncio.run(price(7)) == 1


def test_recursion_without_a_lease_computes(live_own):
    """The next flight does not wait for the one whose origin formed it."""
    depth = []

    @cache_aside(ttl=60, key="price:{pk}", lease_timeout=PATIENCE)
    def price(pk):
        depth.append(pk)
        return [price(pk)] if len(depth) < 3 else []

    make_full(live_own, "")

    assert price(7) == [[[]]]


def test_mutual_recursion_of_two_threads_computes(live, threads):
    """Two origins that call each other's function do not wait for one another."""
    both = threading.Barrier(2)
    deep = threading.local()

    def origin_of(number):
        def origin():
            if getattr(deep, "on", False):
                return number
            deep.on = True
            both.wait(PATIENCE)
            return [number, functions[1 - number]()]

        return origin

    functions = [
        cache_aside(ttl=60, key=f"half{number}", lease_timeout=PATIENCE)(origin_of(number)) for number in (0, 1)
    ]

    values = results([threads.submit(copy_context().run, function) for function in functions])

    assert values in ([[0, 1], [1, 0]], [[0, 1], [1, [0, 1]]], [[0, [1, 0]], [1, 0]])


# Errors of the origin


def test_error_of_the_origin_reaches_those_who_joined(live, threads, origin, price):
    """Each raises it for himself; nobody calls the origin again."""
    origin.outcomes = {1: LookupError("no such product")}
    calls = call_all(threads, price, count=5, joined=4)

    origin.go.set()

    assert [str(call.exception(PATIENCE)) for call in calls] == ["no such product"] * 5
    assert origin.calls == 1


def test_error_of_the_origin_reaches_tasks_that_joined(live, origin, aprice):
    """The same for coroutine functions."""
    origin.outcomes = {1: LookupError("no such product")}

    async def main():
        calls = await acall_all(aprice, count=5, joined=4)
        origin.go.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    assert [str(error) for error in asyncio.run(main())] == ["no such product"] * 5
    assert origin.calls == 1


def test_error_of_a_refused_flight_is_not_given_to_joiners(live, threads, origin, price):
    """An error that an invalidation overtook is the owner's alone: the row it missed may be there now."""
    origin.outcomes = {1: LookupError("no such product"), 2: "found"}
    calls = call_all(threads, price, count=5, joined=4)
    get_redis().unlink(f"{{{price.key_for(7)}}}:lease")

    origin.go.set()

    endings = [str(call.exception(PATIENCE) or call.result()) for call in calls]
    assert sorted(endings) == ["found"] * 4 + ["no such product"]


class NoSuchProduct(LookupError):
    pass


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", ["busy", "full"])
def test_call_that_redis_refuses_leaves_no_reference_cycle(live_own, kind, no_collector):
    """What it computed is gone when its caller has dropped it, not when the garbage is collected."""

    class Large(dict):
        pass

    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: Large(pk=pk))
    make_full(live_own, "")
    refuse_one(kind)

    dead = weakref.ref(price(7))

    assert dead() is None


def refuse_one(kind):
    """Have the next exchange fail as one does whose pool is exhausted; nothing where the server is to refuse."""
    pool = pools.get_pool()
    real = pool.exchange

    def exchange(*args):
        pool.exchange = real
        raise redis.exceptions.MaxConnectionsError("all in use")

    pool.exchange = {"busy": exchange}.get(kind, real)


# What cannot be shared


class Visits:
    """A view that sets a cookie; it counts how many of its calls run at once."""

    def __init__(self, count):
        self.together = threading.Barrier(count)
        self.first = threading.Event()
        self.calls = 0
        self.lock = threading.Lock()

    def __call__(self, request):
        with self.lock:
            self.calls += 1
            is_first = self.calls == 1
        if is_first:
            assert self.first.wait(PATIENCE)
        else:
            self.together.wait(PATIENCE)
        response = HttpResponse("hello")
        response.set_cookie("visitor", "1")
        return response


def test_joiners_of_a_private_page_compute_at_once_and_concurrently(live, settings, threads):
    """A page with a cookie is nobody else's: nine who waited for it render theirs all at once."""
    settings.ALLOWED_HOSTS = ["testserver"]
    origin = Visits(9)
    view = cache_aside_view(ttl=60, namespace="page")(lambda request: origin(request))
    calls = [threads.submit(view, RequestFactory().get("/")) for _ in range(10)]
    until(lambda: waiting() == 9)

    origin.first.set()

    assert [response.status_code for response in results(calls)] == [200] * 10
    assert origin.calls == 10


class Unstorable:
    """A value that no codec brings back."""


def test_joiners_of_an_unstorable_value_compute_at_once_and_concurrently(live, threads, origin):
    """Nine who waited for what cannot be encoded all compute at once."""
    together = threading.Barrier(9)
    first = threading.Event()

    @cache_aside(ttl=60, key="price:{pk}")
    def price(pk):
        if origin.begin() == 1:
            assert first.wait(PATIENCE)
        else:
            together.wait(PATIENCE)
        return Unstorable()

    calls = [threads.submit(price, 7) for _ in range(10)]
    until(lambda: waiting() == 9)

    first.set()

    assert len({id(value) for value in results(calls)}) == 10


# Fork


def test_forked_child_has_no_flight_of_its_parents(server, prefix):
    """The thread that computes does not exist in the child, whose call computes at once."""
    with Child() as child:
        assert child.answer() == "ready"
        found, child_answer, parent_answer = child.send(
            {"do": "fork", "url": server.url, "prefix": prefix, "keys": ["a"]}
        ).answer()

    assert found == 0
    assert (child_answer, parent_answer) == ("a - 2", "a - 1")
