from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from redis_integration import cache_aside, get_redis
from tests.stampede.crew import PATIENCE, Child
from tests.stampede.watch import Origin, results, until, waiting, watched_flights

CALLERS = 50  # of each child, of which there are four


@pytest.fixture(autouse=True)
def flights_end(monkeypatch):
    with watched_flights(monkeypatch):
        yield


@pytest.fixture(scope="module")
def crew():
    """Four processes that call cached functions."""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child()) for _ in range(4)]
        assert [child.answer() for child in children] == ["ready"] * 4
        yield children


@pytest.fixture
def plain(server):
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def job(server, prefix):
    """What the children are to do; the prefix is unlike those of other workers, whose servers are others."""
    return {"url": server.url, "prefix": prefix, "keys": ["a"], "callers": CALLERS, "seconds": 0.2}


@pytest.fixture
def threads():
    with ThreadPoolExecutor(20) as threads:
        yield threads


@pytest.fixture
def origin():
    return Origin()


def ask_all(children, job):
    """What all their callers got."""
    [child.send(job) for child in children]
    return [answer for child in children for answer in child.answer()]


@pytest.mark.parametrize("tags", [[], ["all", "page:{key}"]], ids=["no_tags", "tags"])
@pytest.mark.parametrize("callers", ["threads", "tasks"])
def test_stampede_of_four_processes_costs_one_origin_call(crew, job, plain, prefix, callers, tags):
    """Two hundred callers of one cold key get the value of one computation."""
    answers = ask_all(crew, {**job, "do": callers, "tags": tags})

    assert answers == ["a - 1"] * 4 * CALLERS
    assert plain.get(f"calls:{prefix}:a") == b"1"


def test_threads_and_tasks_share_one_origin_call(crew, job, plain, prefix):
    """The lease does not know how its callers wait."""
    [child.send({**job, "do": ("threads", "tasks")[number % 2]}) for number, child in enumerate(crew)]

    answers = [answer for child in crew for answer in child.answer()]

    assert answers == ["a - 1"] * 4 * CALLERS


def test_stampede_goes_on_while_the_server_forgets_its_scripts(crew, job, plain):
    """SCRIPT FLUSH costs nobody an error, and no key a second computation."""
    keys = [f"k{number}" for number in range(10)]
    is_over = threading.Event()

    def flush():
        while not is_over.is_set():
            plain.script_flush()

    flushing = threading.Thread(target=flush)
    flushing.start()
    try:
        answers = ask_all(crew, {**job, "do": "threads", "keys": keys, "tags": ["all"]})
    finally:
        is_over.set()
        flushing.join()

    assert set(answers) == {f"{key} - 1" for key in keys}


@pytest.mark.parametrize("callers", ["threads", "tasks"])
def test_waiters_hold_no_connection(crew, job, callers):
    """Forty callers in each of four processes with one connection each: who waits for a computation has none."""
    single = {"MAX_CONNECTIONS": 1, "POOL_TIMEOUT": 30}
    [child.send({**job, "do": callers, "callers": 40, "options": single, "seconds": 0.5}) for child in crew]

    answers = [answer for child in crew for answer in child.answer()]

    assert answers == ["a - 1"] * 160


# An owner that does not come back


def test_owner_that_was_killed_is_replaced_by_one(crew, job, plain, prefix):
    """Within the time of its lease exactly one of fifty waiters computes in its place."""
    job = {**job, "lease_timeout": 1.5}
    with Child() as owner:
        assert owner.answer() == "ready"
        assert owner.send({**job, "do": "hold"}).answer() == "computing"
        crew[0].send({**job, "do": "threads", "seconds": 0.5})
        owner.kill()

    answers = crew[0].answer()

    assert answers == ["a - 2"] * CALLERS
    assert plain.get(f"calls:{prefix}:a") == b"2"


def test_owner_that_was_killed_leaves_a_lease_that_ends(crew, job, plain, prefix):
    """Nothing of it stays beyond the time of its lease."""
    with Child() as owner:
        assert owner.answer() == "ready"
        assert owner.send({**job, "do": "hold", "lease_timeout": 0.5}).answer() == "computing"
        owner.kill()
    assert 0 < plain.pttl(f"{{{prefix}:page:a}}:lease") <= 500

    until(lambda: not plain.exists(f"{{{prefix}:page:a}}:lease"))

    assert crew[0].send({**job, "do": "threads", "callers": 1}).answer() == ["a - 2"]


def test_lease_deleted_by_hand_blocks_nobody(crew, job, plain, prefix):
    """The waiters of another process compute at once; the owner's value is its own and is not stored."""
    owner = crew[3]
    assert owner.send({**job, "do": "hold", "lease_timeout": PATIENCE}).answer() == "computing"
    crew[0].send({**job, "do": "threads", "lease_timeout": PATIENCE})

    plain.unlink(f"{{{prefix}:page:a}}:lease")

    assert crew[0].answer() == ["a - 2"] * CALLERS
    assert owner.send("go on").answer() == "a - 1"
    assert crew[0].send({**job, "do": "threads", "callers": 1}).answer() == ["a - 2"]


# Generations


def test_evicted_tag_makes_its_entries_misses(crew, job, plain, prefix):
    """A tag that Redis drops for lack of memory costs a computation, and nothing is stale."""
    job = {**job, "do": "threads", "callers": 5, "tags": ["all"]}
    assert ask_all(crew, job) == ["a - 1"] * 20

    assert plain.unlink(f"{prefix}:#all") == 1

    assert ask_all(crew, job) == ["a - 2"] * 20


def test_tag_evicted_during_a_computation_makes_its_fill_refused(crew, job, plain, prefix):
    """The generation that the lease recorded is gone: the value is its caller's alone."""
    owner = crew[3]
    assert owner.send({**job, "do": "hold", "tags": ["all"]}).answer() == "computing"

    plain.unlink(f"{prefix}:#all")

    assert owner.send("go on").answer() == "a - 1"
    assert not plain.exists(f"{prefix}:page:a")
    assert crew[0].send({**job, "do": "threads", "tags": ["all"], "callers": 1}).answer() == ["a - 2"]


# A caller that arrives after an acknowledged invalidation never gets what began before it

INVALIDATIONS = pytest.mark.parametrize(
    "names", [{"end_keys": ["{prefix}:page:a"]}, {"end_tags": ["all"]}], ids=["key", "tag"]
)


def filled_in(names, prefix):
    return {option: [name.format(prefix=prefix) for name in given] for option, given in names.items()}


@INVALIDATIONS
def test_process_never_gets_what_another_began_before_the_invalidation(crew, job, plain, prefix, names):
    """Written, invalidated by a third process, then called from a second: the running computation is the first's own."""
    # A tag's end does not take the lease from who computes: the next one waits for its time to be over.
    job = {**job, "tags": ["all"], "lease_timeout": 1}
    plain.set(f"world:{prefix}", "old")
    owner = crew[3]
    assert owner.send({**job, "do": "hold"}).answer() == "computing"
    plain.set(f"world:{prefix}", "new")
    assert crew[1].send({**job, "do": "end", **filled_in(names, prefix)}).answer() == "acknowledged"

    answers = crew[0].send({**job, "do": "threads"}).answer()

    assert {answer.rpartition(" ")[0] for answer in answers} == {"a new"}
    assert owner.send("go on").answer() == "a old 1"
    assert {answer.split()[1] for answer in ask_all(crew, {**job, "do": "tasks"})} == {"new"}


@INVALIDATIONS
@pytest.mark.parametrize("callers", ["threads", "tasks"])
def test_joiners_never_get_what_another_process_invalidated(crew, job, plain, prefix, names, callers):
    """Here nobody knows of the invalidation: callers join the old flight, and start over when its fill is refused."""
    job = {**job, "tags": ["all"], "callers": 20, "waits_for": f"go:{prefix}"}
    plain.set(f"world:{prefix}", "old")
    crew[0].send({**job, "do": callers})
    until(lambda: plain.get(f"calls:{prefix}:a") == b"1")
    plain.set(f"world:{prefix}", "new")

    crew[1].send({**job, "do": "end", **filled_in(names, prefix)}).answer()
    plain.set(f"go:{prefix}", 1)

    # Only the one who computed may have the old value: he called before.
    answers = [answer.split()[1] for answer in crew[0].answer()]
    assert sorted(answers) == ["new"] * 19 + ["old"]


# refresh() and expire()


@pytest.fixture
def price(origin):
    return cache_aside(ttl=60, key="price:{pk}")(lambda pk: origin(pk))


def test_refresh_replaces_the_lease_of_another_process(live, crew, job, plain, prefix):
    """What began before the refresh does not overwrite it."""
    owner = crew[3]
    assert owner.send({**job, "do": "hold"}).answer() == "computing"
    page = cache_aside(ttl=60, key="page:{key}")(lambda key: "refreshed")

    assert page.refresh("a") == "refreshed"

    assert owner.send("go on").answer() == "a - 1"
    assert page("a") == "refreshed"


def test_expire_gives_the_stale_copy_to_all_but_one(live, threads, origin, price):
    """While one computes anew, the others have the copy at once."""
    origin.go.set()
    assert price(7) == {"call": 1}
    origin.go.clear()
    price.expire(7)
    computing = threads.submit(price, 7)
    until(lambda: origin.calls == 2)

    stale = results([threads.submit(price, 7) for _ in range(10)])
    origin.go.set()

    assert stale == [{"call": 1}] * 10
    assert computing.result(PATIENCE) == price(7) == {"call": 2}
    assert waiting() == 0


def test_expire_gives_the_stale_copy_to_other_processes(live, crew, job, prefix):
    """Those who find the lease held by another process have the copy at once, too."""
    page = cache_aside(ttl=60, key="page:{key}")(lambda key: "copy")
    page("a")
    page.expire("a")
    *others, owner = crew
    assert owner.send({**job, "do": "hold", "lease_timeout": PATIENCE}).answer() == "computing"

    answers = ask_all(others, {**job, "do": "threads", "callers": 5})

    assert answers == ["copy"] * 15
    assert owner.send("go on").answer() == "a - 1"
    assert page("a") == "a - 1"


def test_expire_revokes_the_lease_of_an_older_computation(live, threads, origin, price):
    """What began before it is not stored, and not given to who calls later."""
    old = threads.submit(price, 7)
    until(lambda: origin.calls == 1)

    price.expire(7)

    new = threads.submit(price, 7)
    until(lambda: origin.calls == 2)
    origin.go.set()
    assert (old.result(PATIENCE), new.result(PATIENCE)) == ({"call": 1}, {"call": 2})
    assert price(7) == {"call": 2}


# A restart in between


@pytest.fixture
def options():
    """No fallback rows: these tests have no database."""
    return {"DATABASE": None}


@pytest.mark.parametrize("keeps", ["PING", "SAVE"], ids=["nothing", "a_snapshot"])
def test_restart_during_a_computation_leaves_nothing_stale(live_own, threads, origin, price, keeps):
    """A server that comes back, even with the lease, does not take the fill of before; and nobody sees an error."""
    calls = [threads.submit(price, 7) for _ in range(5)]
    until(lambda: waiting() == 4)
    get_redis().execute_command(keeps)
    live_own.kill()
    live_own.start()

    origin.go.set()
    answers = results(calls)

    assert min(answer["call"] for answer in answers) == 1
    assert origin.calls <= 3
    assert b'{"call":1}' not in (get_redis().get(price.key_for(7)) or b"")


@pytest.mark.parametrize("tags", [(), ("all",)], ids=["no_tags", "tags"])
def test_entry_that_a_restart_brought_back_is_not_believed(live_own, threads, origin, tags):
    """An invalidated entry, or tag, that comes back with a snapshot is a miss."""
    origin.go.set()
    price = cache_aside(ttl=60, key="price:{pk}", tags=list(tags))(lambda pk: origin(pk))
    assert price(7) == {"call": 1}
    get_redis().save()
    price.invalidate(7)
    live_own.kill()
    live_own.start()

    values = results([threads.submit(price, 7) for _ in range(5)])

    assert {"call": 1} not in values


class World:
    """A version that is written and invalidated, over and over; `floor` is the last one that was acknowledged."""

    def __init__(self):
        self.version = self.floor = 0
        self.is_over = threading.Event()
        self.price = cache_aside(ttl=60, key="price:{pk}", lease_timeout=2)(lambda pk: self.version)

    def read(self):
        """How many answers, and those older than what was acknowledged before the call."""
        count, wrong = 0, []
        while not self.is_over.is_set():
            floor, value = self.floor, self.price(7)
            wrong += [(floor, value)] * (value < floor)
            count += 1
        return count, wrong

    def write(self, times):
        for _ in range(times):
            self.version += 1
            self.price.invalidate(7)
            self.floor = self.version
            time.sleep(0.005)


def test_load_goes_on_through_a_restart(live_own, threads):
    """Calls and invalidations while the server is away and comes back: no error, and nothing older than its call allows."""
    world = World()
    readers = [threads.submit(world.read) for _ in range(4)]
    writer = threads.submit(world.write, 100)

    live_own.kill()
    until(lambda: world.floor > 50)
    live_own.start()
    writer.result(PATIENCE)
    world.is_over.set()

    counts, wrong = zip(*results(readers), strict=True)
    assert min(counts) > 0
    assert wrong == ([],) * 4
