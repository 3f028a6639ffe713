"""What of tests/test_journal.py a server's database could do differently: PostgreSQL and MariaDB."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections, transaction

from redis_integration import get_redis, invalidate
from redis_integration.conf import get_settings
from redis_integration.exceptions import JournalUnavailable, RedisUnavailable
from redis_integration.flow import run
from redis_integration.journal import BATCH, MOST, Journal
from redis_integration.models import PendingInvalidation
from redis_integration.recovery import recover
from redis_integration.tiers.redis import RedisTier, get_redis_tier
from tests.conftest import PATIENT
from tests.databases import added_databases, hide_table, isolation_levels

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["postgres", "mariadb"], indirect=True),
]


class Boom(Exception):
    pass


@pytest.fixture
def journalled():
    return "on_failure"


@pytest.fixture
def tier(settings, server, prefix, database, journalled):
    options = {"URL": server.url, "KEY_PREFIX": prefix, "DATABASE": database, "JOURNAL": journalled, **PATIENT}
    settings.REDIS_INTEGRATION = {
        "default": options,
        # Other settings make it another process.
        "other": {**options, "CLIENT_NAME": "other"},
    }
    return get_redis_tier("default", is_async=False)


@pytest.fixture
def elsewhere(tier):
    """The tier of another process, where this alias is "default" too."""
    other = get_redis_tier("other", is_async=False)
    other.journal.alias = "default"
    return other


@pytest.fixture
def deaf(tier):
    """Redis confirms nothing, until it is undone."""

    def unlink(self, names):
        raise RedisUnavailable("The reply was lost.", kind="busy")
        yield

    with pytest.MonkeyPatch.context() as context:
        context.setattr(RedisTier, "unlink", unlink)
        yield context


@pytest.fixture
def snapshots(database):
    """An alias of the same database, whose transactions are REPEATABLE READ."""
    levels = {
        "postgres": lambda: isolation_levels()["postgres_repeatable"],
        "mariadb": lambda: {"isolation_level": "repeatable read"},
    }
    with added_databases({"snapshots": {**connections.settings[database], "OPTIONS": levels[database]()}}):
        yield "snapshots"


@pytest.fixture
def lines(caplog):
    """What the log tells an operator."""
    caplog.set_level(logging.WARNING, "redis_integration")
    return caplog.messages


def rows(database):
    return sorted(PendingInvalidation.objects.using(database).values_list("name", flat=True))


def in_threads(*calls):
    """All at once, each with a connection to the database of its own."""

    def call_and_close(call):
        try:
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [*threads.map(call_and_close, calls)]


def test_what_one_process_could_not_send_another_repeats(tier, elsewhere, deaf, prefix, database, lines):
    """A row for each name, upper and lower case apart; it is tried in vain, and then no more; and who wrote it learns that."""
    names = [f"{prefix}:#B", f"{prefix}:A", f"{prefix}:a"]
    get_redis().mset(dict.fromkeys(names, "old"))
    invalidate(keys=names[1:], tags=["B"])
    written = rows(database)
    run(recover(elsewhere))
    tries = {*PendingInvalidation.objects.using(database).values_list("tries", flat=True)}
    known = sorted(elsewhere.journal.pending)
    deaf.undo()

    run(recover(elsewhere))
    tier.journal.poll()

    assert written == known == names
    assert tries == {1}
    assert get_redis().exists(*names) == 0
    assert rows(database) == []
    assert not tier.journal.pending
    assert not elsewhere.journal.pending
    assert lines == []


END = {
    "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend(%s)"),
    "mysql": ("SELECT CONNECTION_ID()", "KILL %s"),
}


def test_poll_outlives_its_connection(tier, elsewhere, deaf, prefix, database, lines):
    """A server that was started anew has ended it: what others could not send is known all the same, by the same poll."""
    elsewhere.journal.remember([f"{prefix}:a"])
    elsewhere.journal.write()
    mine = connections[database]
    if mine.vendor in END:  # SQLite has no server
        which, end = END[mine.vendor]
        with mine.cursor() as cursor:
            cursor.execute(which)
            (number,) = cursor.fetchone()
        other = mine.copy()
        try:
            with other.cursor() as cursor:
                cursor.execute(end, [number])
        finally:
            other.close()

    assert tier.journal.poll()
    assert f"{prefix}:a" in tier.journal.pending


def test_flood_is_written_in_batches_and_drained(tier, elsewhere, prefix, database, lines):
    """Longer names than any statement has room for all of them; the other process knows that there are more."""
    tier.journal.remember([f"{prefix}:{'x' * 150}:{number}" for number in range(MOST + BATCH)])
    tier.journal.write()
    elsewhere.journal.poll()
    flooded = tier.journal.is_flooded, elsewhere.journal.is_flooded

    run(recover(elsewhere))
    tier.journal.poll()

    assert flooded == (True, True)
    assert rows(database) == []
    assert not tier.journal.pending
    assert not elsewhere.journal.pending
    assert lines == []


def test_drains_at_once_and_those_who_write_meanwhile_do_not_lock_each_other_out(
    tier, elsewhere, prefix, database, lines
):
    """Each row is deleted, whoever is first, and no deadlock is told."""

    def write():
        for number in range(20):
            tier.journal.remember([f"{prefix}:{number}:{each}" for each in range(20)])
            tier.journal.write()

    tier.journal.remember([f"{prefix}:{number}" for number in range(MOST)])
    tier.journal.write()
    elsewhere.journal.poll()

    in_threads(*[lambda: run(recover(tier)), lambda: run(recover(elsewhere))] * 2, write)
    run(recover(tier))
    elsewhere.journal.poll()

    assert rows(database) == []
    assert not tier.journal.pending
    assert not elsewhere.journal.pending
    assert lines == []


def test_poll_in_an_older_snapshot_learns_and_forgets_nothing(tier, elsewhere, prefix, database, snapshots):
    """Neither that a row is gone which another process has drained, nor that there is none."""
    journal = tier.journal
    journal.remember([f"{prefix}:a"])
    journal.write()
    journal.database = snapshots
    with transaction.atomic(using=snapshots):
        before = rows(snapshots)
        in_threads(lambda: run(recover(elsewhere)))
        elsewhere.journal.remember([f"{prefix}:b"])
        in_threads(elsewhere.journal.write)
        is_learnt = journal.poll()
        known = sorted(journal.pending)
    after = journal.poll(), sorted(journal.pending)

    assert before == known == [f"{prefix}:a"]
    assert not is_learnt
    assert after == (True, [f"{prefix}:b"])
    assert rows(database) == [f"{prefix}:b"]


always = pytest.mark.parametrize("journalled", ["always"])


@always
def test_always_is_seen_by_others_with_the_data_and_not_before(tier, elsewhere, prefix, database, journalled):
    """Nor does their poll wait for the transaction."""
    seen = []

    def look():
        elsewhere.journal.poll()
        seen.append(sorted(elsewhere.journal.pending))

    with transaction.atomic(using=database):
        invalidate(keys=[f"{prefix}:a"])
        # It stands in front of ours.
        transaction.on_commit(lambda: in_threads(look), using=database)
        connections[database].run_on_commit.insert(0, connections[database].run_on_commit.pop())
        in_threads(look)
    in_threads(look)

    assert seen == [[], [f"{prefix}:a"], []]
    assert rows(database) == []


@always
def test_always_is_rolled_back_with_the_data(tier, prefix, database, journalled):
    """A savepoint's alone, or all."""
    with pytest.raises(Boom), transaction.atomic(using=database):
        with pytest.raises(Boom), transaction.atomic(using=database):
            invalidate(keys=[f"{prefix}:a"])
            raise Boom
        invalidate(keys=[f"{prefix}:b"])
        before = rows(database)
        raise Boom

    assert before == [f"{prefix}:b"]
    assert rows(database) == []


@always
def test_always_raises_in_the_transaction_where_the_row_cannot_be_written(
    tier, prefix, database, journalled, monkeypatch
):
    """The data are not committed either."""
    with pytest.raises(JournalUnavailable, match=f"{prefix}:b"), transaction.atomic(using=database):
        PendingInvalidation.objects.using(database).create(id="data", alias="theirs", name="data")
        hide_table(monkeypatch, PendingInvalidation)
        invalidate(keys=[f"{prefix}:b"])
    monkeypatch.undo()

    assert rows(database) == []


@always
def test_always_keeps_the_row_that_redis_did_not_confirm(tier, deaf, prefix, database, journalled, lines):
    """Committed with the data, it is drained by any process."""
    with transaction.atomic(using=database):
        invalidate(keys=[f"{prefix}:a"])
    kept = {*rows(database)}
    deaf.undo()
    fresh = Journal(get_settings())
    fresh.poll()

    run(recover(tier))

    assert kept == {*fresh.pending} == {f"{prefix}:a"}
    assert rows(database) == []
    assert not tier.journal.pending
    assert lines == []
