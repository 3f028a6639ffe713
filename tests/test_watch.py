from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import redis
from django.db import connections, transaction

from demo_project.proxy import CuttableProxy
from redis_integration import cache_aside, get_redis, invalidate
from redis_integration.flow import run
from redis_integration.recovery import recover
from redis_integration.scan import Search, Tally, expire
from redis_integration.tiers.redis import get_redis_tier
from redis_integration.watch import watch
from tests.stampede.watch import until

NAME = "redis_integration.watch"


@pytest.fixture
def options():
    return {"WATCH_INTERVAL": 0.02}


@pytest.fixture
def watched(live):
    """The watch runs; the server itself."""
    get_redis_tier("default", is_async=False)
    watch.start()
    yield live
    watch.stop()


@pytest.fixture
def watched_own(live_own):
    get_redis_tier("default", is_async=False)
    watch.start()
    yield live_own
    watch.stop()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def breaker():
    return get_redis_tier("default", is_async=False).breaker


def test_it_does_not_run_under_a_test_runner(live):
    """Unless somebody starts it: no test has a thread that it did not ask for."""
    cache_aside(ttl=60, key="value")(lambda: 1)()

    assert not watch.is_running
    assert threads() == []


def test_there_is_one(watched):
    """However often it is started."""
    assert not watch.start()
    assert len(threads()) == 1

    watch.stop()
    assert threads() == []


def test_stopped_watch_leaves_no_database_connection(watched, monkeypatch):
    """What its thread has opened is closed by it."""
    closed = []
    monkeypatch.setattr(connections, "close_all", lambda: closed.append(threading.current_thread().name))

    watch.stop()

    assert closed == [NAME]


@pytest.mark.django_db(transaction=True)
def test_lost_redis_is_noticed_and_found_again_by_nobodys_call(server, settings, prefix, options):
    """No call is made meanwhile."""
    with CuttableProxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        settings.REDIS_INTEGRATION = {"default": {"URL": url, "KEY_PREFIX": prefix, **options}}
        tier = get_redis_tier("default", is_async=False)
        watch.start()
        until(lambda: tier.breaker.is_watched)

        proxy.cut()
        until(lambda: not tier.breaker.is_closed)
        proxy.heal()
        until(lambda: tier.breaker.is_closed)
        watch.stop()


@pytest.mark.django_db(transaction=True)
def test_call_behind_an_open_breaker_does_not_try_redis(server, settings, prefix, options):
    """Not even when a try is due: that is the watch's."""
    with CuttableProxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        settings.REDIS_INTEGRATION = {"default": {"URL": url, "KEY_PREFIX": prefix, "WATCH_INTERVAL": 60}}
        tier = get_redis_tier("default", is_async=False)
        watch.start()
        until(lambda: watch.overdue_at > 0)
        tier.breaker.open("gone")
        tier.breaker._due = 0.0

        cache_aside(ttl=60, key="value")(lambda: 1)()
        watch.stop()

    assert not tier.breaker.is_closed


def test_server_that_refuses_writes_is_noticed(watched_own):
    """It answers reads happily; the watch writes."""
    with redis.Redis(port=watched_own.port) as direct:
        direct.config_set("min-replicas-to-write", 1)
        until(lambda: not breaker().is_closed)
        direct.config_set("min-replicas-to-write", 0)
    breaker()._due = 0.0
    until(lambda: breaker().is_closed)


def test_full_server_is_not_down(watched_own):
    """The write of the watch needs no memory."""
    with redis.Redis(port=watched_own.port) as direct:
        direct.config_set("maxmemory", 1)
        direct.config_resetstat()
        until(lambda: direct.info("commandstats").get("cmdstat_unlink", {"calls": 0})["calls"] > 2)

    assert breaker().is_closed


def test_another_life_closes_the_connections(watched_own):
    """A primary that was demoted and promoted again keeps its process and its connections."""
    mine = get_redis().client_id()
    with redis.Redis(port=watched_own.port) as direct:
        direct.replicaof("127.0.0.1", 1)
        direct.replicaof("NO", "ONE")
    until(lambda: get_redis().client_id() != mine)


def test_what_is_pending_is_repeated_by_the_watch(watched):
    """Within a beat, and by nobody's call."""
    tier = get_redis_tier("default", is_async=False)
    get_redis().set(f"{tier.prefix}:value", "old")

    tier.journal.remember([f"{tier.prefix}:value"])

    until(lambda: not tier.journal.pending)
    assert get_redis().get(f"{tier.prefix}:value") is None


def test_beat_is_one_exchange(live, monkeypatch):
    """Whatever it learns."""
    tier = get_redis_tier("default", is_async=False)
    begun = []
    exchange = tier._exchange
    monkeypatch.setattr(
        tier, "_exchange", lambda *args, **kwargs: begun.append(args) or exchange(*args, **kwargs), raising=False
    )

    run(recover(tier))

    assert len(begun) == 1


@pytest.mark.parametrize("act", ["beat", "scan"])
def test_no_tag_is_what_is_tried(live, prefix, act):
    """Whatever its name: trying Redis ends nothing, and lets nothing expire."""
    values = iter(range(9))
    cached = cache_aside(ttl=60, key="value", tags=["probe", "#probe"])(lambda: next(values))
    cached()

    if act == "beat":
        run(recover(get_redis_tier("default", is_async=False)))
    else:
        [*expire("default", Search(pattern=f"{prefix}:none:*"), Tally(), 0.001)]
        time.sleep(0.01)

    assert cached() == 0


@pytest.fixture
def lame(live, monkeypatch):
    """A process in which threads are started and never run, as under uWSGI without them. Its clock is in a list."""
    now = [time.monotonic()]
    monkeypatch.setattr("redis_integration.watch.monotonic", lambda: now[0])
    monkeypatch.setattr(sys.modules["redis_integration.cache_aside"], "monotonic", lambda: now[0])
    monkeypatch.setattr("redis_integration.watch.is_under_test", lambda: False)
    monkeypatch.setattr(watch, "_thread", threading.current_thread())
    monkeypatch.setattr(watch, "overdue_at", now[0])
    yield now
    watch._thread = None


@pytest.mark.parametrize("is_async", [False, True])
def test_overdue_beat_is_done_by_the_next_call(lame, is_async):
    """Once in each two intervals."""
    tier = get_redis_tier("default", is_async=is_async)
    values = iter(["first", "second"])

    async def load():
        return next(values)

    cached = cache_aside(ttl=60, key="value")(load if is_async else (lambda: next(values)))
    call = (lambda: asyncio.run(cached())) if is_async else cached
    call()
    tier.journal.remember([f"{tier.prefix}:other"])
    early = [len(tier.journal.pending)]
    tier.breaker.is_watched = True
    call()
    early.append(len(tier.journal.pending))
    lame[0] += 2.5
    call()

    assert [*early, len(tier.journal.pending)] == [1, 1, 0]


@pytest.mark.django_db(transaction=True)
def test_overdue_beat_is_not_done_inside_a_transaction(lame):
    """It may wait, and write."""
    tier = get_redis_tier("default", is_async=False)
    tier.breaker.is_watched = True
    tier.journal.remember([f"{tier.prefix}:other"])
    lame[0] += 2.5

    with transaction.atomic():
        cache_aside(ttl=60, key="value")(lambda: 1)()

    assert len(tier.journal.pending) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_thread_of_the_database_that_is_busy_is_no_callers_error(lame, monkeypatch, is_async):
    """Whether this is a transaction, nobody can say: the beat is left to a later call."""

    async def load():
        return 1

    def late():
        raise TimeoutError

    monkeypatch.setattr("redis_integration.watch.open_connections", late)
    lame[0] += 2.5
    cached = cache_aside(ttl=60, key="value")(load if is_async else (lambda: 1))

    assert (asyncio.run(cached()) if is_async else cached()) == 1
    lame[0] += 2.5
    invalidate(tags=["a"])


SITE = """
import os, sys, threading, time
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["redis_integration"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    REDIS_INTEGRATION={"default": {"URL": sys.argv[1], "KEY_PREFIX": "watch", "JOURNAL": None, "WATCH_INTERVAL": 0.05}},
)
import django
django.setup()
from redis_integration import cache_aside
from redis_integration.watch import watch

price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: pk)

def names():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("redis_integration")]

"""


def run_site(server, script):
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SITE + textwrap.dedent(script), server.url],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return finished.stdout.split(), finished.stderr, finished.returncode


def test_first_use_starts_it_and_the_end_of_the_process_ends_it(server):
    """Not the import, and without a word at the end."""
    printed = run_site(server, "print(len(names())); price(1); print(len(names()))")

    assert printed == (["0", "1"], "", 0)


def test_call_amid_the_end_of_the_process_starts_none(server):
    """In Python 3.11 it waited for the new thread for ever, and the process never ended."""
    script = """
        class Late:
            def __del__(self):
                price(2)

        late = Late()
        price(1)
    """

    assert run_site(server, script)[2] == 0


def test_first_invalidation_starts_it_too(server):
    """A worker that only invalidates has what Redis did not confirm repeated."""
    printed = run_site(server, "price.invalidate(1); print(len(names()))")

    assert printed == (["1"], "", 0)


def test_interval_of_zero_means_that_there_is_none(server):
    """Calls try an open breaker themselves."""
    script = """
        settings.REDIS_INTEGRATION["default"]["WATCH_INTERVAL"] = 0
        price(1)
        print(len(names()), watch.overdue_at)
    """

    assert run_site(server, script) == (["0", "inf"], "", 0)


def test_forked_child_starts_its_own(server):
    """The thread stays with the parent."""
    script = """
        price(1)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            before = len(names())
            price(1)
            print(before, len(names()), watch.is_running, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """

    assert run_site(server, script) == (["0", "1", "True"], "", 0)
