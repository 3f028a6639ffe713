"""What all processes have counted: published to a real server, and added up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis

from redis_integration import cache_aside, cache_aside_many, stats
from redis_integration.breaker import Breaker
from redis_integration.counters import Counts
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.flow import arun, run
from redis_integration.stats import KEPT, Line, publish, publish_if_due, read
from redis_integration.tiers.redis import get_redis_tier
from redis_integration.watch import Watch
from tests.stampede.watch import until

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def due():
    """Each test publishes at once, and nothing that another has counted."""
    stats._start_afresh()
    yield
    stats._due.clear()


@pytest.fixture
def client(live):
    with redis.Redis(port=live.port) as client:
        yield client


def line_of(name, alias="default"):
    """What was published for the function of this name, wherever it stands."""
    run(publish(alias, is_async=False))
    return next((line for line in read(alias).lines if line.name.endswith(f".{name}")), Line(name=name))


def answered(line):
    """By whom its calls were answered, where there were any."""
    every = {name: getattr(line, name) for name in ("redis", "stale", "fallback", "joined", "computed")}
    return {name: count for name, count in every.items() if count}


def test_hits_and_misses_count(live):
    """A miss is computed, the rest are hits, which save the time that it took."""

    @cache_aside(ttl=60, key="price:{pk}")
    def price(pk):
        time.sleep(0.02)
        return pk

    [price(1) for _ in range(5)]

    line = line_of("price")
    assert answered(line) == {"redis": 4, "computed": 1}
    assert (line.calls, line.hit_ratio, line.origin) == (5, 0.8, 1)
    assert line.spent >= 0.02
    assert line.saved >= 4 * 0.02 - 0.001


def test_coroutines_count(live):
    """As functions do."""

    @cache_aside(ttl=60, key="aprice:{pk}")
    async def aprice(pk):
        return pk

    async def call():
        return [await aprice(1) for _ in range(3)]

    asyncio.run(call())

    assert answered(line_of("aprice")) == {"redis": 2, "computed": 1}


def test_lists_count_each_item(live):
    """Of `many` and of `cache_aside_many`; one origin call may be for many."""
    one = cache_aside(ttl=60, key="one:{pk}")(lambda pk: pk)

    def prices(pks):
        return [*pks]

    prices.__qualname__ = "prices"
    several = cache_aside_many(ttl=60, key="several:{pks}")(prices)
    [one.many([1, 2, 3]) for _ in range(2)]
    [several([1, 2, 3]) for _ in range(2)]

    assert answered(line_of("<lambda>")) == {"redis": 3, "computed": 3}
    assert answered(line_of("prices")) == {"redis": 3, "computed": 3}
    assert line_of("prices").origin == 1


def test_stale_copies_count(live):
    """Also those that answer for an origin that raises."""
    fails = []

    @cache_aside(ttl=60, key="page:{pk}", stale_for=60, refresh="caller")
    def page(pk):
        return 1 / (not fails)

    page(1)
    page.expire(1)
    fails.append(True)
    page(1)

    line = line_of("page")
    assert answered(line) == {"stale": 1, "computed": 1}
    assert (line.origin, line.raised) == (2, 1)


def test_remembered_errors_count(live):
    """They are hits too."""

    @cache_aside(ttl=60, key="missing:{pk}", negative_ttl={LookupError: 60})
    def missing(pk):
        raise LookupError(pk)

    for _ in range(3):
        with pytest.raises(LookupError):
            missing(1)

    assert answered(line_of("missing")) == {"redis": 2, "computed": 1}


def test_joined_flights_count(live):
    """Who waited for another's computation has not computed."""
    entered, gate = threading.Event(), threading.Event()

    @cache_aside(ttl=60, key="dear:{pk}")
    def dear(pk):
        entered.set()
        gate.wait(10)
        return pk

    threads = [threading.Thread(target=dear, args=(1,)) for _ in range(3)]
    [thread.start() for thread in threads]
    assert entered.wait(10)
    from redis_integration import flights

    until(lambda: sum(len(flight._waiting) for flight in [*flights._flights.values()]) == 2)
    gate.set()
    [thread.join() for thread in threads]

    assert answered(line_of("dear")) == {"computed": 1, "joined": 2}


def test_refused_stores_count(live):
    """An invalidation came while it was computed."""

    @cache_aside(ttl=60, key="changing:{pk}")
    def changing(pk):
        changing.invalidate(pk)
        return pk

    changing(1)

    line = line_of("changing")
    assert (line.computed, line.refused) == (1, 1)


def test_fallback_rows_count(live_own):
    """While Redis is away; published when it is back."""

    @cache_aside(ttl=60, key="down:{pk}")
    def down(pk):
        return pk

    down(0)
    breaker = get_redis_tier("default", is_async=False).breaker
    breaker.open("a test")
    [down(1) for _ in range(3)]
    run(publish_if_due(get_redis_tier("default", is_async=False), is_async=False))
    assert read().lines == ()
    breaker.close()

    assert answered(line_of("down")) == {"fallback": 2, "computed": 2}


def test_failures_of_redis_count_by_kind(live_own):
    """Once each, and not once for each call they were noted by."""
    breaker = get_redis_tier("default", is_async=False).breaker
    failure = RedisUnavailable("no answer", kind=Kind.SLOW)
    breaker.note(failure)
    breaker.note(failure)
    breaker.note(RedisUnavailable("full", kind=Kind.FULL))

    run(publish("default", is_async=False))

    assert read().errors == {"full": 1, "slow": 1}


def test_counts_of_an_outage_come_later(live_own):
    """Redis does not take them, and they wait: none is lost, and none is twice there."""
    counts = Counts("default", "shop.price")
    counts.redis += 5
    with redis.Redis(port=live_own.port) as admin:
        admin.config_set("maxmemory", 1)
        run(publish("default", is_async=False))
        admin.config_set("maxmemory", 0)
    counts.redis += 1

    assert line_of("price").redis == 6
    assert line_of("price").redis == 6


def test_a_dead_server_costs_the_beat_nothing(live_own):
    """The failure is the tier's to note, at its next beat."""
    counts = Counts("default", "shop.price")
    counts.redis += 5
    tier = get_redis_tier("default", is_async=False)
    live_own.kill()

    run(publish_if_due(tier, is_async=False))

    assert counts.unpublished() == {"redis shop.price": 5}
    with pytest.raises(RedisUnavailable):
        read()


def test_counts_are_kept_for_an_hour_and_no_longer(client, prefix):
    """The hash of a minute has a ttl, and a name that no tag can have."""
    Counts("default", "kept").redis += 1
    counts = Counts("default", "shop.price")
    counts.redis += 1

    run(publish("default", is_async=False))

    (key,) = client.scan_iter(f"{prefix}:##stats:*")
    assert KEPT - 60_000 < client.pttl(key) <= KEPT


def test_publishing_is_one_round_trip_each_ten_seconds(client, prefix):
    """However often the watch beats; nothing is sent where nothing was counted."""
    tier = get_redis_tier("default", is_async=False)
    counts = Counts("default", "shop.price")
    counts.redis += 1
    run(publish("default", is_async=False))
    counts.redis += 1
    client.config_resetstat()

    [run(publish_if_due(tier, is_async=False)) for _ in range(3)]

    calls = client.info("commandstats")
    assert (calls["cmdstat_hincrby"]["calls"], calls["cmdstat_pexpire"]["calls"]) == (2, 1)
    assert read().lines[0].redis == 2


def test_publishing_is_async_where_the_beat_is(live):
    """Where threads do not run, calls on an event loop do its work."""
    counts = Counts("default", "shop.price")
    counts.redis += 1

    asyncio.run(arun(publish("default", is_async=True)))

    assert read().lines[0].redis == 1


def test_the_watch_publishes(live):
    """Nobody has to ask for it."""
    get_redis_tier("default", is_async=False)
    counts = Counts("default", "watched")
    counts.redis += 1
    watch = Watch()
    watch.start()
    try:
        until(lambda: Line(name="watched", redis=1) in read().lines)
    finally:
        watch.stop()


PROGRAM = """
import sys, django
from django.conf import settings
url, prefix = sys.argv[1:]
settings.configure(SECRET_KEY="x", DATABASES={}, REDIS_INTEGRATION={
    "default": {"URL": url, "KEY_PREFIX": prefix, "DATABASE": None, "FALLBACK": None, "JOURNAL": None}})
django.setup()
from redis_integration.counters import Counts
from redis_integration.flow import run
from redis_integration.stats import publish
counts = Counts("default", "shop.price")
counts.redis += 2
run(publish("default", is_async=False))
"""


def test_counts_of_all_processes_add_up(live, prefix):
    """And say how many they are."""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", PROGRAM, live.url, prefix], check=True, cwd=ROOT)

    found = read()

    assert found.lines[0].redis == 4
    assert found.workers == 2


def test_old_minutes_are_told_apart(client, prefix):
    """What is older is not asked for; a minute in between without counts is silent."""
    now = int(time.time() // 60)
    for minute in (now - 20, now - 5, now):
        client.hset(f"{prefix}:##stats:{minute}", mapping={"redis shop.price": 10, "saved shop.price": 1500})

    found = read(minutes=10)

    assert (found.lines[0].redis, found.lines[0].saved) == (20, 3.0)
    assert now - 4 in found.silent
    assert now not in found.silent
    assert read(minutes=60).total.redis == 30


@pytest.mark.parametrize("minutes", [0, 61])
def test_minutes_that_are_not_kept_are_refused(live, minutes):
    """With what is."""
    with pytest.raises(ValueError, match="Give 1 to 60"):
        read(minutes=minutes)


def test_both_protocols_are_read(settings, live, prefix):
    """RESP2 knows no maps."""
    counts = Counts("default", "shop.price")
    counts.redis += 1
    run(publish("default", is_async=False))
    options = settings.REDIS_INTEGRATION["default"]
    settings.REDIS_INTEGRATION = {"default": {**options, "OPTIONS": {"protocol": 2}}}

    assert read().lines[0].redis == 1


def test_a_breaker_has_failures_of_its_own():
    assert Breaker("default").failures is not Breaker("default").failures
