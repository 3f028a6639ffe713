from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from types import SimpleNamespace

import pytest
from django.db import InterfaceError, OperationalError, connection, transaction

from redis_integration import ainvalidate, cache_aside, get_redis, invalidate
from redis_integration.conf import get_settings
from redis_integration.exceptions import JournalUnavailable, RedisUnavailable
from redis_integration.flow import run
from redis_integration.journal import BATCH, MOST, Journal
from redis_integration.keys import Names
from redis_integration.models import PendingInvalidation
from redis_integration.policy import Redis
from redis_integration.recovery import drain, recover
from redis_integration.recovery import state as state_of
from redis_integration.tiers.redis import RedisTier, get_redis_tier
from tests.databases import hide_table

pytestmark = pytest.mark.django_db(transaction=True)


class Boom(Exception):
    pass


@pytest.fixture
def tier(live):
    """The tier in Redis."""
    return get_redis_tier("default", is_async=False)


@pytest.fixture
def deaf(tier, monkeypatch):
    """Redis confirms nothing, and says nothing else either."""

    def unlink(self, names):
        raise RedisUnavailable("The reply was lost.", kind="busy")
        yield

    with monkeypatch.context() as context:
        context.setattr(RedisTier, "unlink", unlink)
        yield context


@pytest.fixture
def elsewhere(tier):
    """The journal of another process: the same table and a memory of its own."""
    return Journal(get_settings())


def rows():
    return sorted(PendingInvalidation.objects.values_list("name", flat=True))


def state(tier, name):
    return tier.state(Names(name))


@pytest.mark.parametrize("is_async", [False, True])
def test_what_redis_did_not_confirm_is_written_down(deaf, prefix, is_async):
    """By key and by tag, before the call returns."""
    if is_async:
        asyncio.run(ainvalidate(keys=[f"{prefix}:a"], tags=["b"]))
    else:
        invalidate(keys=[f"{prefix}:a"], tags=["b"])

    assert rows() == [f"{prefix}:#b", f"{prefix}:a"]


def test_confirmed_invalidation_costs_no_query(tier, prefix, django_assert_num_queries):
    """While Redis is well, the journal is not there."""
    with django_assert_num_queries(0):
        invalidate(keys=[f"{prefix}:a"], tags=["b"])


def test_other_process_learns_it_by_its_poll_and_bypasses_redis(deaf, elsewhere, prefix, django_assert_num_queries):
    """One query, whatever there is to learn."""
    invalidate(keys=[f"{prefix}:a"])
    assert not elsewhere.bypasses([f"{prefix}:a"])

    with django_assert_num_queries(1):
        elsewhere.poll()

    assert elsewhere.bypasses([f"{prefix}:x", f"{prefix}:a"])
    assert not elsewhere.bypasses([f"{prefix}:x"])


def test_what_another_has_drained_is_not_pending_any_more(deaf, tier, elsewhere, prefix):
    """The next poll does not find it."""
    invalidate(keys=[f"{prefix}:a"])
    elsewhere.poll()
    elsewhere.settle(elsewhere.known())
    assert state(tier, f"{prefix}:a") is Redis.SHY

    tier.journal.poll()

    assert rows() == []
    assert state(tier, f"{prefix}:a") is Redis.UP


def test_poll_that_began_before_the_row_was_written_drops_nothing(deaf, tier, prefix, monkeypatch):
    """It cannot have found it."""
    select = tier.journal._select

    def late():
        found = select()
        invalidate(keys=[f"{prefix}:a"])
        return found

    monkeypatch.setattr(tier.journal, "_select", late)
    tier.journal.poll()

    assert state(tier, f"{prefix}:a") is Redis.SHY


def test_draining_one_row_of_a_name_leaves_the_younger_one(deaf, tier, prefix):
    """Its invalidation came after the one that was repeated."""
    invalidate(keys=[f"{prefix}:a"])
    drained = tier.journal.known()
    invalidate(keys=[f"{prefix}:a"])

    tier.journal.settle(drained)

    assert rows() == [f"{prefix}:a"]
    assert state(tier, f"{prefix}:a") is Redis.SHY


def test_nothing_is_written_inside_a_transaction(deaf, tier, prefix):
    """A rollback would lose it. It is pending at once, and the next beat writes it."""
    with pytest.raises(Boom), transaction.atomic():
        tier.journal.remember([f"{prefix}:a"])
        tier.journal.write()
        raise Boom
    assert rows() == []
    tier.journal.poll()
    assert state(tier, f"{prefix}:a") is Redis.SHY

    tier.journal.write()

    assert rows() == [f"{prefix}:a"]


def test_call_does_not_end_before_its_rows_are_there(deaf, tier, prefix, monkeypatch):
    """Symptom: the watch was writing them, the call returned, and a kill before the INSERT lost an acknowledged invalidation."""
    journal, insert, seen = tier.journal, tier.journal._insert, []

    def late(batch):
        monkeypatch.setattr(journal, "_insert", insert)
        invalidate(keys=[f"{prefix}:b"])  # another thread
        seen.extend(rows())
        insert(batch)

    monkeypatch.setattr(journal, "_insert", late)
    journal.remember([f"{prefix}:a", f"{prefix}:b"])
    journal.write()

    assert {*seen} == {f"{prefix}:a", f"{prefix}:b"}
    assert not journal._unwritten


def test_poll_inside_a_transaction_drops_nothing(deaf, tier, elsewhere, prefix):
    """What the transaction sees may be older than the row."""
    invalidate(keys=[f"{prefix}:a"])
    PendingInvalidation.objects.all().delete()

    with transaction.atomic():
        tier.journal.poll()

    assert state(tier, f"{prefix}:a") is Redis.SHY


def test_snapshot_that_may_be_older_than_a_row_is_no_look_into_the_journal(tier, prefix):
    """Neither an open breaker is closed by it, nor a process that has just begun made to believe Redis."""
    tier.breaker.open("gone")
    tier.journal._add("unpolled", "")

    with transaction.atomic():
        run(recover(tier))

    assert tier.journal.is_unpolled
    assert not tier.breaker.is_closed


def test_poll_that_could_not_be_made_closes_no_breaker(tier, monkeypatch):
    """The thread that may touch the database was busy: nobody knows what is pending."""

    def busy():
        raise TimeoutError

    tier.breaker.open("gone")
    monkeypatch.setattr(tier.journal, "poll", busy)

    run(recover(tier))

    assert not tier.breaker.is_closed


def test_slow_write_does_not_keep_a_process_from_the_journal(tier, elsewhere, prefix, monkeypatch):
    """One timeout does not open the breaker, and its reads may be quick."""

    def slow():
        raise RedisUnavailable("no answer in time", kind="slow")
        yield

    elsewhere.remember([f"{prefix}:a"])
    elsewhere.write()
    monkeypatch.setattr(tier, "probe", slow)

    run(recover(tier))

    assert state(tier, f"{prefix}:a") is Redis.SHY


def test_older_poll_does_not_end_the_flood_that_a_younger_one_has_found(tier, elsewhere, prefix, monkeypatch):
    """What the younger one has not read, nobody knows by name."""
    journal, select = tier.journal, tier.journal._select

    def late():
        found = select()
        monkeypatch.setattr(journal, "_select", select)
        elsewhere.remember([f"{prefix}:{number}" for number in range(MOST + 2)])
        elsewhere.write()
        journal.poll()
        return found

    monkeypatch.setattr(journal, "_select", late)
    journal.poll()

    assert journal.is_flooded


def test_recovery_repeats_what_any_process_could_not_send(tier, elsewhere, prefix):
    """The entry is gone from Redis, the row from the table."""
    get_redis().set(f"{prefix}:a", "old", ex=60)
    elsewhere.remember([f"{prefix}:a"])
    elsewhere.write()

    run(recover(tier))

    assert get_redis().get(f"{prefix}:a") is None
    assert rows() == []
    assert state(tier, f"{prefix}:a") is Redis.UP


def test_name_whose_row_is_not_written_yet_is_repeated_from_memory(deaf, tier, prefix):
    """And its row is not written any more."""
    with transaction.atomic():
        tier.journal.remember([f"{prefix}:a"])
    deaf.undo()

    run(recover(tier))
    tier.journal.write()

    assert rows() == []
    assert not tier.journal.pending


def test_breaker_stays_open_while_the_journal_is_not_drained(tier, elsewhere, deaf, prefix):
    """Redis answers, but what it should have forgotten is still there."""
    tier.breaker.open("gone")
    elsewhere.remember([f"{prefix}:a"])
    elsewhere.write()

    run(recover(tier))
    assert not tier.breaker.is_closed
    assert PendingInvalidation.objects.get().tries == 1
    deaf.undo()
    run(recover(tier))

    assert tier.breaker.is_closed
    assert rows() == []


def test_more_than_a_process_can_know_bypasses_redis_whole(tier, elsewhere, prefix):
    """And one recovery drains them all."""
    elsewhere.remember([f"{prefix}:{number}" for number in range(2 * MOST + 500)])
    elsewhere.write()
    tier.journal.poll()

    assert state(tier, f"{prefix}:other") is Redis.SHY
    assert len(elsewhere.pending) <= MOST
    assert elsewhere.bypasses([f"{prefix}:other"])
    run(recover(tier))

    assert rows() == []
    assert state(tier, f"{prefix}:other") is Redis.UP
    elsewhere.poll()
    assert not elsewhere.pending


def test_flood_is_over_only_by_a_poll_that_began_after_it(tier, prefix, monkeypatch):
    """What an older one found is less than there is, and the names are not in memory any more."""
    journal, select = tier.journal, tier.journal._select

    def late():
        found = select()
        journal.remember([f"{prefix}:{number}" for number in range(MOST + 1)])
        journal.write()
        return found

    with monkeypatch.context() as context:
        context.setattr(journal, "_select", late)
        journal.poll()

    assert state(tier, f"{prefix}:other") is Redis.SHY


def test_what_cannot_be_drained_at_once_opens_the_breaker(tier, elsewhere, prefix, monkeypatch):
    """Rows of the fallback tier answer meanwhile; the next tries go on."""
    monkeypatch.setattr("redis_integration.recovery.ROUNDS", 1)
    elsewhere.remember([f"{prefix}:{number}" for number in range(2 * MOST)])
    elsewhere.write()

    run(recover(tier))
    assert not tier.breaker.is_closed
    run(recover(tier))
    run(recover(tier))

    assert tier.breaker.is_closed
    assert rows() == []


def test_rows_are_written_in_batches(deaf, prefix, django_assert_num_queries):
    """A database takes only so many parameters."""
    with django_assert_num_queries(4):  # and one that ends the rows of the fallback tier
        invalidate(keys=[f"{prefix}:{number}" for number in range(2 * BATCH + 1)])


def test_journal_that_cannot_be_written_is_critical_and_names_the_keys(deaf, tier, prefix, caplog):
    """Once; the watch tries again, and the name stays pending."""
    caplog.set_level(logging.WARNING, "redis_integration")
    with pytest.MonkeyPatch.context() as context:
        hide_table(context, PendingInvalidation)
        invalidate(keys=[f"{prefix}:a"])
        tier.journal.write()
    told = [(record.levelname, record.message) for record in caplog.records if "journal" in record.message]

    assert [level for level, _ in told] == ["CRITICAL"]
    assert f"{prefix}:a" in told[0][1]
    assert state(tier, f"{prefix}:a") is Redis.SHY
    tier.journal.write()
    assert rows() == [f"{prefix}:a"]


def test_all_that_cannot_be_written_is_named(deaf, tier, prefix, caplog, monkeypatch):
    """Not only what one statement would have written."""
    names = {f"{prefix}:{number}" for number in range(2 * BATCH + 1)}
    hide_table(monkeypatch, PendingInvalidation)

    invalidate(keys=names)

    told = [record.message for record in caplog.records if record.levelname == "CRITICAL"]
    assert set(re.findall(rf"{prefix}:\d+", " ".join(told))) == names
    assert len(told) == 3


def test_name_takes_up_its_place_once_while_the_database_is_away_too(deaf, tier, prefix, monkeypatch, caplog):
    """However often it is invalidated: hours of that fill neither the memory nor the log."""
    caplog.set_level(logging.CRITICAL, "redis_integration")
    names = [f"{prefix}:{number}" for number in range(2 * BATCH)]
    with pytest.MonkeyPatch.context() as context:
        hide_table(context, PendingInvalidation)
        for _ in range(5):
            invalidate(keys=names)

        assert len(tier.journal._unwritten) == len(names)
        assert sum(map(len, tier.journal.pending.values())) == len(names)
    assert len(re.findall(rf"{prefix}:7\b", caplog.text)) == 1
    tier.journal.write()
    assert sorted(rows()) == sorted(names)


def test_name_takes_up_its_place_once_while_its_rows_are_many(deaf, tier, prefix):
    """They are found again by those who drain."""
    name = f"{prefix}:a"
    for _ in range(20):
        invalidate(keys=[name])

    assert len(tier.journal.pending[name]) == len(tier.journal._written) == 1
    assert rows() == [name] * 20
    tier.journal.poll()
    tier.journal.settle(tier.journal.known())
    assert (rows(), tier.journal.pending) == ([], {})


def test_more_than_a_process_names_one_by_one_bypasses_redis_whole_while_the_database_is_away_too(
    deaf, tier, prefix, monkeypatch
):
    """Until they are sent. None is forgotten: nobody else knows them."""
    names = [f"{prefix}:{number}" for number in range(MOST + 1)]
    hide_table(monkeypatch, PendingInvalidation)
    invalidate(keys=names[1:])
    assert state(tier, names[0]) is Redis.UP

    invalidate(keys=names[:1])

    assert state(tier, f"{prefix}:another") is Redis.SHY
    assert {*tier.journal.pending} == {*names}
    tier.journal.settle(tier.journal.known())
    assert state(tier, f"{prefix}:another") is Redis.UP


@pytest.mark.parametrize("act", ["drained", "written"])
def test_what_is_invalidated_while_its_name_is_on_its_way_is_pending_anew(
    deaf, tier, elsewhere, prefix, monkeypatch, act
):
    """What has been sent, or is being written, speaks only for what came before."""
    name = f"{prefix}:a"
    tier.journal.remember([name])
    if act == "drained":
        drained = tier.journal.known()
        tier.journal.remember([name])
        tier.journal.settle(drained)
    else:
        insert = Journal._insert

        def insert_and_remember(journal, batch):
            insert(journal, batch)
            monkeypatch.setattr(Journal, "_insert", insert)
            elsewhere.poll()
            elsewhere.settle(elsewhere.known())
            journal.remember([name])

        monkeypatch.setattr(Journal, "_insert", insert_and_remember)
        tier.journal.write()
        tier.journal.poll()

    assert state(tier, name) is Redis.SHY


def test_child_shares_no_mark_with_its_parent(tier, prefix):
    """Either may be drained while the other one's is only remembered."""
    name = f"{prefix}:a"
    tier.journal.remember([name])
    of_parent = {*tier.journal.pending[name]}
    tier.journal.start_afresh()
    tier.journal.remember([name])

    assert of_parent.isdisjoint(tier.journal.pending[name])


def test_lost_connection_is_no_reason_to_believe_redis(tier, elsewhere, prefix, monkeypatch):
    """The database was started anew: the first query says so, the second one knows what others could not send."""
    name = f"{prefix}:a"
    elsewhere.remember([name])
    elsewhere.write()
    select, broken = Journal._select, []

    def select_once_in_vain(journal):
        if not broken:
            broken.append(journal)
            connection.errors_occurred = True
            monkeypatch.setattr(connection, "is_usable", lambda: False)
            monkeypatch.setattr(connection, "close", forget_connection)
            raise InterfaceError("connection already closed")
        connection.connection = kept
        return select(journal)

    def forget_connection():
        connection.connection = None

    connection.ensure_connection()
    kept = connection.connection
    monkeypatch.setattr(Journal, "_select", select_once_in_vain)

    assert tier.journal.poll()
    assert name in tier.journal.pending


def test_poll_that_fails_is_logged_once_and_redis_is_believed(tier, prefix, caplog, monkeypatch):
    """A site does not stand still because a table is missing."""
    hide_table(monkeypatch, PendingInvalidation)
    tier.breaker.open("gone")
    run(recover(tier))
    run(recover(tier))

    assert [record.levelname for record in caplog.records if "journal" in record.message] == ["WARNING"]
    assert "migrate" in caplog.text
    assert state(tier, f"{prefix}:a") is Redis.UP


def test_process_that_has_not_polled_does_not_believe_redis(tier, prefix):
    """Somebody may have journalled what this Redis should have forgotten before the process began."""
    get_redis().set(f"{prefix}:a", "old", ex=60)
    Journal(get_settings()).remember([f"{prefix}:a"])
    tier.journal._add("unpolled", "")
    assert state(tier, f"{prefix}:a") is Redis.SHY
    tier.breaker._due = float("inf")
    tier.breaker.is_watched = True
    waiting = threading.Thread(target=run, args=(state_of(tier, Names(f"{prefix}:a")),))
    waiting.start()

    run(recover(tier))
    waiting.join(10)

    assert not waiting.is_alive()
    assert state(tier, f"{prefix}:a") is Redis.UP


def test_where_no_watch_runs_the_first_call_polls(tier, prefix):
    """One query, before Redis is read."""
    elsewhere = Journal(get_settings())
    elsewhere.remember([f"{prefix}:a"])
    elsewhere.write()
    get_redis().set(f"{prefix}:a", "old", ex=60)
    tier.journal._add("unpolled", "")

    assert run(state_of(tier, Names(f"{prefix}:a"))) is Redis.UP
    assert get_redis().get(f"{prefix}:a") is None


def test_forked_child_keeps_what_is_pending_and_polls_anew(tier, prefix, monkeypatch):
    """Its parent may have polled long ago."""
    tier.journal.remember([f"{prefix}:a"])
    monkeypatch.setattr("redis_integration.journal.is_under_test", lambda: False)

    tier.journal.start_afresh()

    assert tier.journal.is_unpolled
    assert f"{prefix}:a" in tier.journal.pending


@pytest.mark.parametrize("options", [{"JOURNAL": None}, {"DATABASE": None}])
def test_without_a_journal_only_this_process_knows(deaf, tier, prefix, options):
    """It asks no table, and repeats what it knows."""
    with pytest.MonkeyPatch.context() as context:
        hide_table(context, PendingInvalidation)
        invalidate(keys=[f"{prefix}:a"])
        tier.journal.poll()
    assert state(tier, f"{prefix}:a") is Redis.SHY
    deaf.undo()

    assert run(drain(tier)) == (1, True)
    assert not tier.journal.pending


@pytest.mark.parametrize("options", [{"FALLBACK": "durable"}])
def test_draining_ends_durable_rows_too(tier, elsewhere, prefix, options):
    """Who journalled it may have been killed before it could."""
    price = cache_aside(ttl=60, key="price", durable=True)(lambda: next(values))
    values = iter(["old", "new"])
    price()
    elsewhere.remember([f"{prefix}:price"])
    elsewhere.write()

    run(recover(tier))
    tier.breaker.open("gone")

    assert price() == "new"


@pytest.mark.parametrize("options", [{"FALLBACK": "durable"}])
def test_rows_that_could_not_be_ended_are_in_the_journal(tier, prefix, options, monkeypatch):
    """Symptom: Redis had confirmed, only this process knew of the row, and when it was killed the row lived on for its ttl."""

    def locked(*arguments, **options):
        raise OperationalError("the row is locked")

    with monkeypatch.context() as context:
        context.setattr("redis_integration.tiers.fallback.delete", locked)
        invalidate(keys=[f"{prefix}:a"])
    assert rows() == [f"{prefix}:a"]

    run(recover(tier))

    assert rows() == []


always = pytest.mark.parametrize("options", [{"JOURNAL": "always"}])


@always
def test_always_is_two_statements_beside_the_unlink(tier, prefix, options, django_assert_num_queries):
    """One before, and one behind."""
    with django_assert_num_queries(2) as queries:
        invalidate(keys=[f"{prefix}:a"], tags=["b"])

    assert [each["sql"].split()[0] for each in queries] == ["INSERT", "DELETE"]
    assert rows() == []


@always
def test_always_is_part_of_the_transaction(tier, prefix, options):
    """The row is there when the data are, and nobody sees it before."""
    seen = []
    with transaction.atomic():
        invalidate(keys=[f"{prefix}:a"])
        transaction.on_commit(lambda: seen.append(rows()))
        seen.append(rows())

    assert seen[0] == [f"{prefix}:a"]
    assert rows() == []


@always
def test_always_is_rolled_back_with_the_data(tier, prefix, options):
    """A savepoint's too."""
    with transaction.atomic():
        with pytest.raises(Boom), transaction.atomic():
            invalidate(keys=[f"{prefix}:a"])
            raise Boom
        assert rows() == []


@always
def test_always_keeps_the_row_that_redis_did_not_confirm(deaf, tier, prefix, options):
    """Until somebody has drained it."""
    invalidate(keys=[f"{prefix}:a"])
    assert {*rows()} == {f"{prefix}:a"}
    deaf.undo()

    run(recover(tier))

    assert rows() == []


@always
def test_always_refuses_a_transaction_on_another_database(tier, prefix, options, monkeypatch, caplog):
    """Its commit and the row's are two."""
    other = SimpleNamespace(alias="other")
    monkeypatch.setattr(sys.modules["redis_integration.invalidation"], "open_connections", lambda: [other])

    with pytest.raises(JournalUnavailable, match="'other'"):
        invalidate(keys=[f"{prefix}:a"])

    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


@always
def test_always_raises_in_the_transaction_where_the_row_cannot_be_written(tier, prefix, options, monkeypatch):
    """So that the data are not committed either."""
    hide_table(monkeypatch, PendingInvalidation)

    with pytest.raises(JournalUnavailable, match=f"{prefix}:a"), transaction.atomic():
        invalidate(keys=[f"{prefix}:a"])


@always
def test_always_outside_a_transaction_is_sent_all_the_same(tier, prefix, options, monkeypatch, request):
    """The data are committed already; it raises only where Redis did not confirm either."""
    get_redis().set(f"{prefix}:a", "old", ex=60)
    hide_table(monkeypatch, PendingInvalidation)
    invalidate(keys=[f"{prefix}:a"])
    assert get_redis().get(f"{prefix}:a") is None

    request.getfixturevalue("deaf")

    with pytest.raises(JournalUnavailable):
        invalidate(keys=[f"{prefix}:a"])


@always
def test_always_inside_a_transaction_of_an_async_caller(tier, prefix, options, django_assert_num_queries):
    """The statements run in Django's thread."""
    asyncio.run(ainvalidate(keys=[f"{prefix}:a"]))

    assert rows() == []


def test_connection_is_usable_after_all_this(tier, deaf, prefix):
    """No transaction is left open."""
    invalidate(keys=[f"{prefix}:a"])

    assert not connection.in_atomic_block
