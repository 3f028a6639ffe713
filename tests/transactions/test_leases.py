"""A lease that waits for a commit keeps nobody waiting for longer than it must: not its thread, not its transaction."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from asgiref.sync import async_to_sync
from django.core.signals import request_finished
from django.db import close_old_connections, connections

from tests.transactions.conftest import (
    GUARD,
    Boom,
    Price,
    closing,
    elsewhere,
    in_every_database,
    reading_committed,
)


@pytest.fixture
def finish_request():
    """End a request as a server does, but for the connections to databases."""
    request_finished.disconnect(close_old_connections)
    yield lambda: request_finished.send(sender=None)
    request_finished.connect(close_old_connections)


def roll_back(price):
    with pytest.raises(Boom), price.atomic():
        price.get()
        raise Boom


@in_every_database
def test_second_call_in_a_transaction_does_not_wait_for_the_lease_of_the_first(price):
    """It would wait for its own commit."""

    def call_twice():
        with price.atomic():
            return [price.get(), price.get()]

    assert elsewhere(call_twice) == ["old", "old"]
    assert price.get() == "old"


@in_every_database
def test_lease_of_a_rolled_back_transaction_ends_with_the_request(price, finish_request):
    """The thread may wait long for its next request."""
    roll_back(price)

    finish_request()

    assert not price.is_leased


@in_every_database
def test_lease_of_a_rolled_back_transaction_ends_with_the_next_miss(price, database):
    """Outside requests, in a worker or a shell, the next computation lets it go."""
    roll_back(price)

    Price(database, key="other").get()

    assert not price.is_leased


@reading_committed
def test_lease_of_a_rolled_back_savepoint_ends_with_the_next_miss(price, database):
    """Also while the transaction around the savepoint goes on."""
    with price.atomic():
        roll_back(price)
        Price(database, key="other").get()
        inside = price.is_leased

    assert not inside


@reading_committed
def test_call_after_a_rolled_back_savepoint_is_stored(price):
    """The same entry may be computed anew in the same transaction, and is stored with its commit."""
    with price.atomic():
        roll_back(price)
        price.get()

    assert price.is_stored


@in_every_database
def test_call_after_a_rollback_does_not_wait_for_the_lease_from_before_it(price):
    """It is the same thread's own."""
    roll_back(price)

    assert [price.get(), price.get()] == ["old", "old"]
    assert (price.reads, price.is_stored) == (2, True)


@reading_committed
def test_end_of_another_request_keeps_the_lease_of_an_open_transaction(price):
    """Requests of other threads end all the time."""
    with price.atomic():
        price.get()
        elsewhere(lambda: request_finished.send(sender=None))
        assert price.is_leased

    assert price.is_stored


@reading_committed
def test_connection_closed_inside_a_transaction_lets_the_lease_go(price, finish_request):
    """A lost connection is a rollback."""
    with pytest.raises(Exception, match="closed"), price.atomic():
        price.get()
        connections[price.database].close()
        price.change()

    finish_request()

    assert (price.is_stored, price.is_leased) == (False, False)


@reading_committed
def test_two_transactions_that_want_each_others_entries_do_not_wait_for_each_other(database, live):
    """Each has computed one entry, keeps its lease until the commit, and asks for the other's."""
    prices = [Price(database, key=f"price:{number}") for number in (1, 2)]
    both_have_a_lease = threading.Barrier(2)

    def call_both(mine, others):
        with mine.atomic():
            mine.get()
            both_have_a_lease.wait(GUARD)
            return others.get()

    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(closing, partial(call_both, *pair)) for pair in (prices, prices[::-1])]
        answers = [call.result(GUARD) for call in calls]

    assert answers == ["old", "old"]
    assert [price.is_stored for price in prices] == [True, True]


@reading_committed
def test_waiter_gets_what_a_transaction_stored_at_its_commit(price, database):
    """A call in another thread that waits for the lease is answered by the fill, and computes nothing."""
    waiter = Price(database)

    with ThreadPoolExecutor(1) as threads:
        with price.atomic():
            price.get()
            waiting = threads.submit(closing, waiter.get)
        answer = waiting.result(GUARD)

    assert (answer, waiter.reads) == ("old", 0)


@in_every_database
def test_uncommitted_change_is_never_visible_to_others(price, hurried):
    """A writer with an open transaction reads its change by the cached function; the others read what is committed."""
    with price.atomic():
        price.change()
        inside = price.get()
        before = elsewhere(hurried.get)
        price.invalidate()
        after = elsewhere(hurried.get)

    assert (inside, before, after) == ("new", "old", "old")
    assert (price.get(), hurried.get()) == ("new", "new")


@reading_committed
def test_concurrent_calls_of_one_transaction_do_not_wait_for_each_other(database, live):
    """Two tasks, one transaction, one entry: the second would wait for the commit that waits for it."""
    asynchronous = Price(database, is_async=True)

    async def call_both():
        return await asyncio.gather(asynchronous.load(), asynchronous.load())

    def call_inside():
        with asynchronous.atomic():
            return async_to_sync(call_both)()

    assert elsewhere(call_inside) == ["old", "old"]
    assert asynchronous.is_stored


@reading_committed
def test_transaction_with_a_lease_that_waits_for_a_row_is_waited_for_in_vain(database, live):
    """One has the row and wants the entry, the other has the entry's lease and wants the row: both go on."""
    first, second = (Price(database, lease_timeout=0.2) for _ in range(2))
    has_row, has_lease = threading.Event(), threading.Event()

    def row_then_entry():
        with first.atomic():
            first.change()
            has_row.set()
            has_lease.wait(GUARD)
            return first.get()

    def entry_then_row():
        has_row.wait(GUARD)
        with second.atomic():
            second.get()
            has_lease.set()
            second.change("newer")

    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(closing, call) for call in (row_then_entry, entry_then_row)]
        answers = [call.result(GUARD) for call in calls]

    assert answers == ["new", None]
