"""Invalidations stand in front of the other callbacks of a commit, and go with every commit that may be theirs."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

from redis_integration import ainvalidate, flow, invalidate, transactions
from tests.forks import in_forked_child
from tests.transactions.conftest import Boom, Price, by_key_and_by_tag, elsewhere, in_every_database, reading_committed


def fail():
    raise Boom


@in_every_database
def test_callback_that_raises_does_not_drop_an_invalidation_behind_it(price):
    """Django calls no callback after one that raised."""
    price.get()

    with pytest.raises(Boom), price.atomic():
        transaction.on_commit(fail, using=price.database)
        price.change()
        price.invalidate()

    assert price.get() == "new"


@in_every_database
def test_callback_of_an_outer_block_that_raises_does_not_drop_an_inner_ones_invalidation(price):
    """The callbacks of both blocks are one list."""
    price.get()

    with pytest.raises(Boom), price.atomic():
        transaction.on_commit(fail, using=price.database)
        with price.atomic():
            price.change()
            price.invalidate()

    assert price.get() == "new"


@in_every_database
def test_callback_of_an_inner_block_that_raises_does_not_drop_an_outer_ones_invalidation(price):
    """Also where the savepoint of the callback is another than the invalidation's."""
    price.get()

    with pytest.raises(Boom), price.atomic():
        with price.atomic():
            transaction.on_commit(fail, using=price.database)
        price.change()
        price.invalidate()

    assert price.get() == "new"


@in_every_database
@by_key_and_by_tag
def test_callback_from_before_the_invalidation_reads_no_old_value(price, by):
    """It runs after the commit, so it may rely on it."""
    price.get()
    seen = []

    with price.atomic():
        transaction.on_commit(lambda: seen.append(price.get()), using=price.database)
        price.change()
        getattr(price, by)()

    assert seen == ["new"]


@in_every_database
def test_callback_that_raises_keeps_no_lease(price, database, live):
    """The other entry's fill waited behind the callback, and nobody shall wait for it."""
    other = Price(database, key="other")

    with pytest.raises(Boom), price.atomic():
        transaction.on_commit(fail, using=database)
        price.get()
    other.get()

    assert (price.is_leased, price.get()) == (False, "old")


@in_every_database
@pytest.mark.parametrize("order", [("invalidate", "invalidate_tag"), ("invalidate_tag", "invalidate")])
def test_order_of_two_invalidations_is_irrelevant(price, order):
    """Both are sent, whichever came first."""
    price.get()

    with price.atomic():
        price.change()
        [getattr(price, by)() for by in order]

    assert price.get() == "new"


@in_every_database
def test_callbacks_keep_their_order_among_themselves(price):
    """Only the invalidation goes to the front."""
    called = []

    with price.atomic():
        transaction.on_commit(lambda: called.append(1), using=price.database)
        price.invalidate()
        transaction.on_commit(lambda: called.append(2), using=price.database)
        price.invalidate_tag()
        transaction.on_commit(lambda: called.append(3), using=price.database)

    assert called == [1, 2, 3]


@in_every_database
def test_redis_that_is_gone_stops_no_callback(database, live_own):
    """A commit whose invalidation and fill fail is a commit."""
    price, called = Price(database), []
    price.get()

    with price.atomic():
        price.change()
        price.invalidate()
        Price(database, key="other").get()
        live_own.kill()
        transaction.on_commit(lambda: called.append(1), using=database)

    assert (called, price.get()) == ([1], "new")


@in_every_database
def test_error_of_ours_stops_no_callback(price, settings):
    """Even one that nobody thought of: here, settings that cannot be read any more."""
    called, working = [], settings.REDIS_INTEGRATION

    with price.atomic():
        price.invalidate()
        transaction.on_commit(lambda: called.append(1), using=price.database)
        settings.REDIS_INTEGRATION = {}
    settings.REDIS_INTEGRATION = working

    assert called == [1]


@in_every_database
def test_invalidation_inside_two_databases_is_sent_at_each_commit(price, second):
    """Who filled the entry between the two commits saw the change of one of them only."""
    price.get()

    with transaction.atomic(using=second):
        with price.atomic():
            price.invalidate()
        after_the_first = price.is_stored
        elsewhere(price.get)
        between = price.is_stored

    assert (after_the_first, between, price.is_stored) == (False, True, False)


@in_every_database
def test_one_database_that_rolls_back_leaves_the_other_its_invalidation(price, second):
    """The commit of either is reason enough."""
    price.get()

    with price.atomic():
        price.change()
        with pytest.raises(Boom), transaction.atomic(using=second):
            price.invalidate()
            raise Boom
        assert price.get() == "new"

    assert price.get() == "new"


@in_every_database
@by_key_and_by_tag
def test_invalidation_outside_transactions_is_sent_at_once_without_a_query(price, by):
    """There is no commit to wait for, and nothing to ask."""
    price.get()

    with CaptureQueriesContext(connections[price.database]) as queries:
        getattr(price, by)()

    assert len(queries) == 0
    assert elsewhere(price.get) == "old"
    assert price.reads == 2


@in_every_database
def test_invalidation_opens_no_connection_to_a_database(price):
    """A thread that never touched a database has none afterwards."""

    def invalidate_and_look():
        price.invalidate()
        price.invalidate_tag()
        return [connection.alias for connection in connections.all(initialized_only=True)]

    assert elsewhere(invalidate_and_look) == []


@in_every_database
def test_hit_opens_no_connection_to_a_database(price):
    """Also while another thread's transaction is about to invalidate the same name."""
    price.get()

    def hit_and_look():
        price.get()
        return [connection.alias for connection in connections.all(initialized_only=True)]

    with price.atomic():
        price.invalidate()
        assert elsewhere(hit_and_look) == []


@in_every_database
def test_invalidations_of_both_worlds_are_sent_with_the_commit(database, live):
    """A sync and an async function in one transaction."""
    sync, asynchronous = Price(database, key="sync"), Price(database, key="async", is_async=True)
    sync.get(), asynchronous.get()

    with sync.atomic():
        sync.change()
        sync.invalidate()
        asynchronous.invalidate()
        inside = (sync.get(), asynchronous.get(), sync.is_stored, asynchronous.is_stored)

    assert inside == ("new", "new", True, True)
    assert (sync.get(), asynchronous.get()) == ("new", "new")


@reading_committed
def test_callback_that_calls_another_cached_function_costs_no_fill(price, database):
    """What waits behind it in the same commit is stored all the same."""
    other = Price(database, key="other")

    with price.atomic():
        transaction.on_commit(other.get, using=database)
        price.get()

    assert (other.is_stored, price.is_stored) == (True, True)


@in_every_database
def test_invalidation_by_a_callback_is_sent_at_once(price):
    """transaction.on_commit(price.invalidate) is what users write who do not know that it is not needed."""
    price.get()

    with price.atomic():
        price.change()
        transaction.on_commit(price.invalidate, using=price.database)

    assert price.get() == "new"


@in_every_database
def test_change_committed_before_another_databases_rollback_is_invalidated(price, second):
    """The open transaction is another database's: its rollback must not take the invalidation along."""
    price.get()

    with pytest.raises(Boom), transaction.atomic(using=second):
        with price.atomic():
            price.change()
        price.invalidate()
        raise Boom

    assert price.get() == "new"


@in_every_database
def test_change_in_autocommit_beside_another_databases_rollback_is_invalidated(price, second):
    """An audit database in a transaction, and a change in one that has none."""
    price.get()

    with pytest.raises(Boom), transaction.atomic(using=second):
        price.change()
        price.invalidate()
        raise Boom

    assert price.get() == "new"


# Under Django's TestCase, whose transaction never commits.


@pytest.fixture
def test_case(database):
    """A TestCase of Django inside its transaction on this database."""

    class Case(TestCase):
        databases = {database}

    blocks = Case._enter_atomics()
    yield Case
    Case._rollback_atomics(blocks)


@in_every_database
def test_captured_invalidation_is_executed(price, test_case):
    """captureOnCommitCallbacks(execute=True) stands for the commit."""
    elsewhere(price.get)

    with test_case.captureOnCommitCallbacks(using=price.database, execute=True):
        price.invalidate()
        before = price.is_stored

    assert (before, price.is_stored) == (True, False)


@in_every_database
def test_executed_invalidation_is_not_waited_for_again(price, test_case):
    """Afterwards the call goes to the cache again, though the transaction is still open."""
    with test_case.captureOnCommitCallbacks(using=price.database, execute=True):
        price.invalidate()
    elsewhere(price.get)
    price.get()

    assert price.reads == 1


@in_every_database
def test_callbacks_are_counted_right(price, test_case):
    """Callbacks from before the block are not captured, and each invalidation is one."""
    transaction.on_commit(lambda: None, using=price.database)
    price.invalidate()

    with test_case.captureOnCommitCallbacks(using=price.database) as captured:
        transaction.on_commit(fail, using=price.database)
        price.invalidate()
        price.invalidate_tag()

    assert len(captured) == 3
    assert captured[0] is fail


@reading_committed
def test_captured_fill_is_executed(price, test_case):
    """What was computed inside the block is stored at its end."""
    with test_case.captureOnCommitCallbacks(using=price.database, execute=True):
        price.get()

    assert (price.is_stored, price.is_leased) == (True, False)


@in_every_database
def test_test_case_sees_its_own_changes(price, test_case):
    """Before and after the invalidation that waits for a commit which never comes."""
    before = price.get()
    price.change()
    price.invalidate()

    assert (before, price.get()) == ("old", "new")


def test_pytest_djangos_transaction_is_a_test_cases(live, db):
    """The fixture `db` of pytest-django is the same in this."""
    with TestCase.captureOnCommitCallbacks() as captured:
        transaction.on_commit(fail)
        invalidate(tags=["prices"])

    assert len(captured) == 2
    assert captured[0] is fail


@in_every_database
def test_invalidation_waits_for_the_commit_though_the_orm_thread_was_busy(price, monkeypatch):
    """It is sent at once, since nobody could say, and again after the commit."""
    monkeypatch.setattr(flow, "CALL_TIMEOUT", 0.05)
    price.get()

    async def main():
        busy = sync_to_async(time.sleep)(0.3)
        await asyncio.gather(busy, ainvalidate(keys=[price.key_for()], tags=["prices"]))

    with price.atomic():
        price.change()
        async_to_sync(main)()
        elsewhere(price.get)

    assert price.get() == "new"


@in_every_database
def test_invalidation_waits_for_the_commit_though_the_loop_ended_while_the_orm_thread_was_busy(price, monkeypatch):
    """An ending loop cancels what it had not begun; this it begins once more."""
    monkeypatch.setattr(flow, "CALL_TIMEOUT", 0.3)
    price.get()
    is_free = threading.Event()

    async def main():
        busy = asyncio.create_task(sync_to_async(is_free.wait)())
        await ainvalidate(keys=[price.key_for()], tags=["prices"])
        threading.Timer(0.05, is_free.set).start()
        return busy

    with price.atomic():
        price.change()
        async_to_sync(main)()
        elsewhere(price.get)

    assert price.get() == "new"


@in_every_database
def test_cancelled_invalidation_waits_for_the_commit_too(price):
    """Who gave up waiting is not told that it was done; it is done all the same."""
    price.get()

    async def main():
        busy = asyncio.ensure_future(sync_to_async(time.sleep)(0.3))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ainvalidate(keys=[price.key_for()], tags=["prices"])
        await busy

    with price.atomic():
        price.change()
        async_to_sync(main)()
        elsewhere(price.get)

    assert price.get() == "new"


@in_every_database
def test_forked_child_has_no_unsent_invalidations_of_its_parent(price):
    """Each hit would look through them."""
    with price.atomic():
        price.invalidate()
        _, unsent = in_forked_child(lambda: b"%d" % transactions.is_any_unsent())

    assert unsent == b"0"
