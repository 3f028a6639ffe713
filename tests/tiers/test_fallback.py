from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.models.functions import Now

from redis_integration import statements
from redis_integration.conf import get_settings
from redis_integration.entries import FORMAT
from redis_integration.exceptions import FallbackUnavailable
from redis_integration.flow import run
from redis_integration.keys import Names
from redis_integration.models import FallbackEntry, FallbackTag
from redis_integration.tiers import Lease
from redis_integration.tiers.fallback import EVERYTHING, MOST_UNENDED, FallbackTier
from redis_integration.tiers.leases import RANDOM_BYTES, make_token
from tests.tiers.contract import TierContract, entry

pytestmark = pytest.mark.django_db(transaction=True)
TAGGED = Names("t:a", ("t:#t", "t:#u"))


class Outage:
    """How long Redis has been down for this process."""

    seconds = 3600.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def outage():
    return Outage()


@pytest.fixture
def mode():
    return "outage"


@pytest.fixture
def durable(settings):
    """Rows are believed for their whole ttl."""
    return use(settings, "default", "durable")


@pytest.fixture
def make(settings, database, mode, outage):
    """Makes a tier on one kind of database after the other, as each call has its own."""
    options = use(settings, database, mode)
    return lambda **durable: FallbackTier(options, seconds_open=outage, **durable)


@pytest.fixture
def tier(make):
    return make()


def use(settings, database, mode, **more):
    options = {"URL": "redis://127.0.0.1:1/0", "KEY_PREFIX": "t", "DATABASE": database, "FALLBACK": mode, **more}
    settings.REDIS_INTEGRATION = {"default": options}
    return get_settings()


def take(tier, names, *, seconds=10.0, kept=60.0, **more):
    """A flow that takes the row's lease, whoever has it."""
    return tier.lease(names, None, make_token(), seconds=seconds, kept=kept, replace=True, **more)


def compete(tier, names, *, seen=None, seconds=10.0):
    """A flow that takes the row's lease if it is free."""
    return tier.lease(names, seen, make_token(), seconds=seconds, kept=60.0)


def write(tier, names, entry):
    """A flow that stores this entry as a computing caller does."""
    lease = yield from take(tier, names)
    return (yield from tier.fill(names, lease, entry, kept=60.0))


def rows(database="default"):
    return FallbackEntry.objects.using(database)


class TestFallbackTier(TierContract):
    @pytest.fixture
    def prefix(self):
        return "t"

    @pytest.fixture
    def tier(self, make):
        return make()

    def write(self, tier, names, entry):
        return write(tier, names, entry)


@pytest.fixture
def prefix():
    return "t"


# What is believed


def test_row_is_fresh_for_fallback_ttl_at_most(tier, database):
    """A ttl of an hour gives a row of ten seconds."""
    run(write(tier, Names("t:a"), entry(ttl=3600.0)))

    row = rows(database).get()
    assert timedelta(seconds=9) < row.fresh_until - row.started <= timedelta(seconds=10.5)


def test_row_above_max_entry_bytes_is_unreadable(tier):
    """A process whose limit is smaller than another's does not decode it."""
    run(write(tier, Names("t:a"), entry(b"12345")))
    tier.settings = replace(tier.settings, max_entry_bytes=4)

    assert run(tier.read(Names("t:a"))) is None


def test_own_row_of_the_first_moment_is_believed(make, outage, database):
    """Until the question reaches the database's clock, it looks older than the outage; who made it knows better."""
    maker, outage.seconds = make(), 60.0
    run(write(maker, Names("t:a"), entry()))
    earlier = Now() - timedelta(seconds=9)
    rows(database).update(started=earlier, leased=earlier)
    another_process = make()
    another_process._mine = {}
    outage.seconds = 0.5

    assert run(make().read(Names("t:a"))) is not None
    assert run(another_process.read(Names("t:a"))) is None


def test_own_row_of_an_earlier_outage_is_not_believed(make, outage, database):
    """It has been down again for less time than has passed since this process took the row's lease."""
    run(write(make(), Names("t:a"), entry()))
    earlier = Now() - timedelta(seconds=1)
    rows(database).update(started=earlier, leased=earlier)
    outage.seconds = 0.0

    assert run(make().read(Names("t:a"))) is None


def test_own_row_is_believed_for_fallback_ttl(make, database):
    """Whoever made it."""
    run(write(make(), Names("t:a"), entry()))
    rows(database).update(started=Now() - timedelta(seconds=11))

    assert run(make().read(Names("t:a"))) is None


def test_own_lease_says_nothing_about_the_copy_of_another(make, outage, database):
    """Taken and let go, it leaves what was there before."""
    run(write(make(), Names("t:a"), entry()))
    rows(database).update(started=Now() - timedelta(seconds=9))
    mine = make()
    lease = run(take(mine, Names("t:a")))
    run(mine.fill(Names("t:a"), lease, None))
    outage.seconds = 5.0

    assert run(make().read(Names("t:a"))) is None


def test_row_of_an_earlier_outage_is_not_believed(tier, outage, database):
    """A row whose origin call began before this outage is older than invalidations it has not seen."""
    run(write(tier, Names("t:a"), entry()))
    tier._mine.clear()  # another process made it
    rows(database).update(started=Now() - timedelta(seconds=1))
    outage.seconds = 0.5

    assert run(tier.read(Names("t:a"))) is None


def test_lease_does_not_make_the_copy_younger(tier, make, outage, database):
    """Who began to compute a row of an earlier outage anew made it look as one of this outage."""
    run(write(tier, Names("t:a"), entry()))
    tier._mine.clear()  # another process made it
    rows(database).update(started=Now() - timedelta(seconds=5), leased=Now() - timedelta(seconds=5))
    outage.seconds = 2.0

    assert isinstance(run(compete(tier, Names("t:a"))), Lease)
    assert run(make().read(Names("t:a"))) is None


def test_row_older_than_fallback_ttl_is_not_believed(tier, database):
    """However long the outage: nothing but its age bounds what an invalidation could not reach."""
    run(write(tier, Names("t:a"), entry()))
    rows(database).update(started=Now() - timedelta(seconds=11), fresh_until=Now() + timedelta(seconds=60))

    assert run(tier.read(Names("t:a"))) is None


def test_expired_row_is_a_miss(tier, database):
    """A row past its time is not given."""
    run(write(tier, Names("t:a"), entry()))
    rows(database).update(fresh_until=Now() - timedelta(seconds=1))

    assert run(tier.read(Names("t:a"))) is None


def test_row_of_a_computation_slower_than_fallback_ttl_is_not_believed(tier, database):
    """A value that took longer than the bound is too old when it is there: time counts from the lease."""
    lease = run(take(tier, Names("t:a")))
    rows(database).update(leased=Now() - timedelta(seconds=11))
    run(tier.fill(Names("t:a"), lease, entry(), kept=60.0))

    assert run(tier.read(Names("t:a"))) is None


def test_row_of_another_version_is_a_miss(tier):
    """`version` and the generations are compared as in Redis."""
    run(write(tier, Names("t:a"), entry()))

    assert run(tier.read(Names("t:a", stamp=(b"version2",)))) is None


def test_row_of_another_format_is_a_miss_that_is_written_over(tier, make, database, caplog):
    """Rows outlive a deploy that changes the bytes of entries."""
    run(write(tier, Names("t:a"), entry()))
    rows(database).update(payload=bytes([FORMAT + 1]) + b"what is to come")

    assert run(tier.read(Names("t:a"))) is None
    assert "entry_unreadable" in caplog.text
    assert isinstance(run(compete(tier, Names("t:a"))), Lease)


def test_keys_that_differ_in_case_are_two(tier):
    """MariaDB and MySQL compare text without regard to case, by default."""
    run(write(tier, Names("t:a", ("t:#x",)), entry(b"small")))
    run(write(tier, Names("t:A", ("t:#X",)), entry(b"large")))

    run(tier.delete(["t:A", "t:#X"]))

    assert run(tier.read(Names("t:a", ("t:#x",)))).payload == b"small"


@pytest.mark.parametrize("mode", ["durable"])
def test_durable_row_is_believed_for_its_ttl_whenever_it_began(make, outage, database):
    """Every invalidation ends it, so that no outage bounds it."""
    tier = make(durable=True)
    run(write(tier, Names("t:a"), entry(ttl=3600.0)))
    rows(database).update(started=Now() - timedelta(seconds=600))
    outage.seconds = 0.0

    assert run(tier.read(Names("t:a"))) is not None
    assert run(make().read(Names("t:a"))) is None


@pytest.mark.parametrize(("mode", "is_there"), [("durable", True), ("outage", False)])
def test_only_a_durable_row_is_there_past_its_ttl(make, database, is_there):
    """It is asked for where the origin raises."""
    tier = make(durable=True)
    run(write(tier, TAGGED, entry()))
    rows(database).update(fresh_until=Now() - timedelta(seconds=1))

    assert run(tier.read(TAGGED)) is None
    assert (run(tier.read(TAGGED, stale=True)) is not None) == is_there


@pytest.mark.parametrize("mode", ["durable"])
def test_generation_of_a_durable_row_is_kept_for_as_long_as_the_row(make, database):
    """Else the row would be no copy long before it is pruned."""
    run(write(make(durable=True), TAGGED, entry()))

    assert FallbackTag.objects.using(database).filter(kept_until__gt=rows(database).get().kept_until).count() == 2


@pytest.mark.parametrize("mode", ["durable"])
def test_durable_row_is_not_there_for_ever(make, database):
    """Past the time for which it is kept it is no answer, pruned or not."""
    tier = make(durable=True)
    run(write(tier, TAGGED, entry()))
    rows(database).update(fresh_until=Now() - timedelta(seconds=2), kept_until=Now() - timedelta(seconds=1))

    assert run(tier.read(TAGGED, stale=True)) is None


@pytest.mark.parametrize("mode", ["durable"])
@pytest.mark.parametrize("name", ["t:a", "t:#u"])
def test_durable_row_that_was_invalidated_is_not_there_past_its_ttl(make, name):
    """An invalidated copy is no copy."""
    tier = make(durable=True)
    run(write(tier, TAGGED, entry()))

    run(tier.delete([name]))

    assert run(tier.read(TAGGED, stale=True)) is None


# The lease and the fill


def test_lease_is_held_until_it_is_filled(tier, make):
    """One computes, and who comes meanwhile gets None, then the entry."""
    lease = run(compete(tier, TAGGED))
    meanwhile = run(compete(make(), TAGGED))
    run(tier.fill(TAGGED, lease, entry(), kept=60.0))

    assert (isinstance(lease, Lease), meanwhile) == (True, None)
    assert run(compete(make(), TAGGED)).payload == entry().payload


def test_lease_is_free_after_its_time(tier, make):
    """An owner that died holds up nobody for longer."""
    run(compete(tier, Names("t:a"), seconds=-1.0))

    assert isinstance(run(compete(make(), Names("t:a"))), Lease)


def test_lease_that_was_let_go_is_free(tier, make):
    """Where the origin raised there is nothing to store."""
    lease = run(compete(tier, Names("t:a")))

    assert run(tier.fill(Names("t:a"), lease, None)) is True
    assert isinstance(run(compete(make(), Names("t:a"))), Lease)


def test_who_read_before_another_filled_gets_no_lease(tier, make):
    """Else what was filled since the read would be computed again."""
    late = make()
    run(write(tier, Names("t:a"), entry(created=0.0)))
    run(late.read(Names("t:a")))
    run(write(tier, Names("t:a"), entry()))

    assert run(compete(late, Names("t:a"))) is None
    assert run(compete(late, Names("t:a"))).payload == entry().payload


def test_who_read_before_another_created_the_row_gets_no_lease(tier, make):
    """Two INSERTs of one key: the second one looks again."""
    late = make()
    run(late.read(Names("t:a")))
    run(take(tier, Names("t:a")))

    assert run(compete(late, Names("t:a"))) is None


@pytest.mark.parametrize("name", ["t:a", "t:#t"])
def test_fill_after_an_invalidation_is_refused(tier, make, name):
    """Who computed before the write stores nothing after it, and holds up nobody."""
    lease = run(compete(tier, TAGGED))
    run(tier.delete([name]))

    assert run(tier.fill(TAGGED, lease, entry(), kept=60.0)) is False
    assert run(tier.fill(TAGGED, lease, None)) is False
    assert isinstance(run(compete(make(), TAGGED)), Lease)


def test_fill_of_a_replaced_lease_is_refused(tier):
    """A refresh takes the row from whoever computes."""
    older, newer = run(take(tier, Names("t:a"))), run(take(tier, Names("t:a")))

    assert run(tier.fill(Names("t:a"), older, entry(b"older"), kept=60.0)) is False
    assert run(tier.fill(Names("t:a"), newer, entry(b"newer"), kept=60.0)) is True
    assert run(tier.read(Names("t:a"))).payload == b"newer"


def test_of_two_that_make_a_generation_one_is_refused(tier, make):
    """Which one, nobody asks; the row is never of a generation that is not there."""
    one, other = make(), make()
    run(one.read(TAGGED))
    run(other.read(TAGGED._replace(key="t:b")))
    first, second = run(compete(one, TAGGED)), run(compete(other, TAGGED._replace(key="t:b")))

    assert run(one.fill(TAGGED, first, entry(), kept=60.0)) is True
    assert run(other.fill(TAGGED._replace(key="t:b"), second, entry(), kept=60.0)) is False


def test_generation_that_ends_soon_is_kept_for_longer(tier, database):
    """A tag outlives its entries, and stays the same."""
    run(write(tier, TAGGED, entry()))
    tags = FallbackTag.objects.using(database)
    tags.update(kept_until=Now() + timedelta(seconds=1))
    before = sorted(bytes(tag.generation) for tag in tags)

    run(write(tier, TAGGED, entry()))

    assert sorted(bytes(tag.generation) for tag in tags) == before
    assert tags.filter(kept_until__gt=Now() + timedelta(seconds=60)).count() == 2


def test_expired_entry_can_be_leased_and_its_older_fill_is_refused(tier, make):
    """`expire` ends freshness and revokes the lease, and keeps the row."""
    older = run(take(tier, Names("t:a")))
    run(tier.expire("t:a"))

    assert run(tier.fill(Names("t:a"), older, entry(), kept=60.0)) is False
    assert isinstance(run(compete(make(), Names("t:a"))), Lease)


# Cost


def test_queries(tier, make, django_assert_num_queries, database):
    """Hit 1; cold with tags 4; cold without 3; an ending 1 for keys and 1 for tags."""
    using = {"connection": connections[database]}
    with django_assert_num_queries(4, **using):
        run(tier.read(TAGGED))
        run(tier.fill(TAGGED, run(compete(tier, TAGGED)), entry(), kept=60.0))
    with django_assert_num_queries(1, **using):
        assert run(make().read(TAGGED)) is not None
    with django_assert_num_queries(3, **using):
        run(tier.read(Names("t:b")))
        run(tier.fill(Names("t:b"), run(compete(tier, Names("t:b"))), entry(), kept=60.0))
    with django_assert_num_queries(1, **using):
        run(tier.delete(["t:a", "t:b"]))
    with django_assert_num_queries(1, **using):
        run(tier.delete(["t:#t", "t:#u"]))


def test_queries_of_a_replaced_row(tier, django_assert_num_queries, database):
    """Of a durable entry with Redis up: 2 without tags, 3 with; the first time 1 more, with new tags 2 more."""
    using = {"connection": connections[database]}
    with django_assert_num_queries(5, **using):
        run(write(tier, TAGGED, entry()))
    with django_assert_num_queries(3, **using):
        run(write(tier, TAGGED, entry()))
    with django_assert_num_queries(3, **using):
        run(write(tier, Names("t:b"), entry()))
    with django_assert_num_queries(2, **using):
        run(write(tier, Names("t:b"), entry()))


def test_many_names_are_deleted_in_bounded_batches(tier, django_assert_num_queries, database):
    """More keys than a database takes in one statement left their rows in place."""
    run(write(tier, Names("t:999"), entry()))

    with django_assert_num_queries(3, connection=connections[database]):
        run(tier.delete([f"t:{number}" for number in range(1000)] + ["t:#t"]))

    assert run(tier.read(Names("t:999"))) is None


# Transactions


def test_row_is_read_inside_a_transaction_and_nothing_is_locked(tier, database):
    """Neither leased nor filled nor deleted: what the caller's transaction locks stays locked until its commit."""
    run(write(tier, Names("t:a"), entry()))
    lease = run(take(tier, Names("t:a")))

    with transaction.atomic(using=database):
        assert run(tier.read(Names("t:a"))) is not None
        with pytest.raises(FallbackUnavailable):
            run(take(tier, Names("t:a")))
        with pytest.raises(FallbackUnavailable):
            run(tier.fill(Names("t:a"), lease, entry(), kept=60.0))
        run(tier.delete(["t:a"]))
        assert rows(database).filter(lease=lease.token[:RANDOM_BYTES].hex()).exists()


def test_what_could_not_be_deleted_is_not_believed_until_it_was(tier, make, database, django_assert_num_queries):
    """An ending that failed is repeated; until then this process does not believe its rows."""
    run(write(tier, TAGGED, entry()))
    run(write(tier, Names("t:b"), entry()))
    with transaction.atomic(using=database):
        run(tier.delete(["t:#t"]))

    with pytest.raises(FallbackUnavailable):
        run(make().read(TAGGED))
    assert run(make().read(Names("t:b"))) is not None
    run(tier.retry_unended())
    assert run(make().read(TAGGED)) is None
    with django_assert_num_queries(0, connection=connections[database]):
        run(tier.retry_unended())


def test_later_ending_of_the_same_name_counts_for_the_earlier(tier, make, database):
    """With two databases in transactions the later commit sends again, and it is done."""
    with transaction.atomic(using=database):
        run(tier.delete(["t:a"]))
    run(tier.delete(["t:a"]))

    assert run(make().read(Names("t:a"))) is None


def test_more_endings_than_can_be_remembered_end_all_rows(tier, make, database):
    """The memory of a database that is away for long stays bounded."""
    run(write(tier, Names("t:other"), entry()))
    tier.remember([f"t:{number}" for number in range(MOST_UNENDED + 1)])

    with pytest.raises(FallbackUnavailable):
        run(make().read(Names("t:other")))
    tier.remember([f"t:more:{number}" for number in range(MOST_UNENDED)])
    assert [*tier.unended.values()] == [EVERYTHING]
    run(tier.retry_unended())
    assert not rows(database).exists()
    assert run(make().read(Names("t:other"))) is None


def test_name_that_is_ended_often_in_vain_is_remembered_once(tier, make, database):
    """Not all other rows are to go for it. And its latest ending is another one: what was under way speaks only for the earlier."""
    run(write(tier, Names("t:other"), entry()))
    for _ in range(MOST_UNENDED + 1):
        tier.remember(["t:a", "t:b"])

    assert sorted(tier.unended.values()) == ["t:a", "t:b"]
    first = {*tier.unended}
    tier.remember(["t:a"])
    assert len(first.difference(tier.unended)) == 1
    assert run(make().read(Names("t:other"))) is not None


def test_under_a_test_case_rows_are_deleted_in_a_savepoint(tier, database):
    """The whole test is one transaction there, and its commit never comes."""
    run(write(tier, Names("t:a"), entry()))

    with transaction.atomic(using=database):
        connections[database].atomic_blocks[0]._from_testcase = True
        run(tier.delete(["t:a"]))

        assert not rows(database).exists()


# Errors


@pytest.fixture
def no_table():
    """A database without our tables."""
    with connection.schema_editor() as editor:
        editor.delete_model(FallbackEntry)
    yield
    with connection.schema_editor() as editor:
        editor.create_model(FallbackEntry)


@pytest.fixture
def plain(settings, outage):
    return FallbackTier(use(settings, "default", "outage"), seconds_open=outage)


def test_missing_table_is_one_line_for_each_query(plain, no_table, caplog):
    """A database without the table is no fallback tier, and says so."""
    with pytest.raises(FallbackUnavailable):
        run(plain.read(Names("t:a")))
    with pytest.raises(FallbackUnavailable):
        run(take(plain, Names("t:a")))
    run(plain.delete(["t:a"]))

    # What locks is tried again, and told once.
    assert [message.split()[0] for message in caplog.messages] == ["redis_integration.fallback_failed"] * 3
    assert [*plain.unended.values()] == ["t:a"]


def test_database_error_does_not_break_the_callers_transaction(plain, no_table):
    """Inside atomic() a failing query of ours is undone alone."""
    with transaction.atomic():
        with pytest.raises(FallbackUnavailable):
            run(plain.read(Names("t:a")))
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("option", [{"DATABASE": None}, {"FALLBACK": None}])
def test_switched_off_it_asks_no_database(settings, option, django_assert_num_queries):
    """Without DATABASE or FALLBACK there is no tier, and nothing is remembered for it."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", **option}}
    tier = FallbackTier(get_settings(), seconds_open=Outage())

    with django_assert_num_queries(0):
        run(tier.delete(["t:a"]))
        with pytest.raises(FallbackUnavailable):
            run(tier.read(Names("t:a")))

    assert not tier.unended


def test_error_that_is_no_database_error_is_a_line_in_the_log(plain, caplog, monkeypatch):
    """A driver's own error, or an app that is not installed, reached the view in the first outage."""

    def no_app(*args):
        raise RuntimeError("no such app")

    monkeypatch.setattr("redis_integration.tiers.rows.rows_of", no_app)
    monkeypatch.setattr("redis_integration.tiers.rows._compile", no_app)

    with pytest.raises(FallbackUnavailable):
        run(plain.read(Names("t:a")))
    run(plain.delete(["t:a"]))

    assert caplog.text.count("RuntimeError: no such app") == 2


def test_statement_that_a_deadlock_has_ended_is_tried_again(monkeypatch):
    """Two more times, and only where it locks."""
    errors = [OperationalError("deadlock detected"), OperationalError("deadlock detected")]

    def query():
        if errors:
            raise errors.pop()
        return "done"

    assert statements.ask("default", query, locks=True) == "done"
    errors += [OperationalError("deadlock detected")]
    with pytest.raises(OperationalError):
        statements.ask("default", query, locks=False)


# More of them look longer.
THREADS, TURNS = (int(number) for number in os.environ.get("DEADLOCKS", "10x30").split("x"))


@pytest.mark.parametrize("database", ["postgres", "mariadb"], indirect=True)
def test_overlapping_invalidations_end_all_their_rows(tier, make, database):
    """Threads invalidate the same tags and keys, each in an order of its own, and store between: no deadlock loses one."""
    names = [f"t:#{number}" for number in range(20)] + [f"t:{number}" for number in range(20)]

    def work(at):
        mine = make()
        for turn in range(TURNS):
            first = (7 * at + turn) % 40
            run(mine.delete([*names[first:], *names[:first]]))
            with suppress(FallbackUnavailable):  # then nothing is stored
                run(write(mine, Names(f"t:{at}", tuple(names[at : at + 3])), entry()))
        run(mine.delete(names))
        connections[database].close()

    threads = [threading.Thread(target=work, args=(at,)) for at in range(min(THREADS, 20))]
    [thread.start() for thread in threads]
    [thread.join(240) for thread in threads]
    run(tier.retry_unended())  # as the watch does

    assert not tier.unended
    assert not rows(database).exists()


def test_copy_of_an_earlier_outage_is_not_taken_for_what_this_process_is_filling(make, outage):
    """Symptom: a call read a leased row, was held up until another had filled it, and answered what had been in it."""
    old, names = make(), Names("t:a")
    first = run(old.lease(names, None, make_token(), seconds=10, kept=60))
    run(old.fill(names, first, entry(b"old"), kept=60))
    time.sleep(0.05)
    outage.seconds = 0.02  # another outage
    owner, reader = make(), make()
    assert run(owner.read(names)) is None
    lease = run(owner.lease(names, None, make_token(), seconds=10, kept=60))
    flow = reader.read(names)
    found = next(flow).function()
    assert run(owner.fill(names, lease, entry(b"new"), kept=60))

    with pytest.raises(StopIteration) as end:
        flow.send(found)

    assert end.value.value is None
