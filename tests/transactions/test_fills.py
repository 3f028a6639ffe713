"""What a transaction computed is stored when it commits, and only if nothing else can have been true by then."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.db import transaction

from redis_integration import cache_aside
from tests.transactions.conftest import (
    Boom,
    Price,
    by_key_and_by_tag,
    elsewhere,
    in_every_database,
    reading_committed,
    reading_snapshots,
    reading_snapshots_on_a_server,
    round_trips,
)


@in_every_database
def test_miss_outside_transactions_is_stored_at_once(price):
    """Autocommit is no transaction, whatever the isolation level."""
    assert [price.get(), price.get()] == ["old", "old"]
    assert price.reads == 1


@in_every_database
def test_hit_inside_a_transaction_is_a_hit(price):
    """A transaction that changed nothing reads what is there."""
    price.get()

    with price.atomic():
        assert price.get() == "old"

    assert price.reads == 1


@reading_committed
def test_miss_is_stored_after_the_commit_and_not_before(price):
    """Until the commit nobody can know that what the transaction saw will ever be true."""
    with price.atomic():
        price.get()
        before = price.is_stored

    assert (before, price.is_stored) == (False, True)
    assert price.get() == "old"
    assert price.reads == 1


@reading_committed
def test_miss_in_a_nested_block_is_stored_after_the_outermost_commit(price):
    """The end of an inner block is no commit."""
    with price.atomic():
        with price.atomic():
            price.get()
        before = price.is_stored

    assert (before, price.is_stored) == (False, True)


@reading_committed
def test_others_find_nothing_before_the_commit(price, hurried):
    """Another connection's call computes for itself, and the transaction's own result is still stored."""
    with price.atomic():
        price.get()
        assert elsewhere(hurried.get) == "old"

    assert (price.reads, hurried.reads, price.is_stored) == (1, 1, True)


@reading_committed
def test_every_miss_of_a_transaction_is_stored(database, live):
    """Two entries of one transaction are two."""
    first, second = Price(database, key="price:1"), Price(database, key="price:2")

    with transaction.atomic(using=database):
        first.get(), second.get()

    assert (first.is_stored, second.is_stored) == (True, True)
    assert (first.is_leased, second.is_leased) == (False, False)


@reading_committed
def test_miss_inside_a_transaction_costs_two_round_trips_and_one_after_the_commit(database, live):
    """Read and lease; then the fill."""
    warm, first, second = (Price(database, key=f"price:{number}") for number in (1, 2, 3))
    warm.get()

    def whole_transaction():
        with second.atomic():
            second.get()

    with first.atomic():
        inside = round_trips(first.get)

    assert (inside, round_trips(whole_transaction)) == (2, 3)


@in_every_database
def test_second_miss_inside_a_transaction_costs_one_round_trip(database, live):
    """There is no lease to ask for but the transaction's own; what a snapshot read is not stored in any case."""
    price = Price(database)

    with price.atomic():
        price.get()
        assert round_trips(price.get) == 1


@in_every_database
def test_hit_inside_a_transaction_costs_one_round_trip(database, live):
    """As outside."""
    price = Price(database)
    price.get()

    with transaction.atomic(using=database):
        assert round_trips(price.get) == 1


@in_every_database
def test_call_inside_a_transaction_makes_only_the_origins_query(database, live, django_assert_num_queries):
    """What stands in the way of a fill is known without asking the database."""
    price = Price(database)

    with transaction.atomic(using=database), django_assert_num_queries(1, using=database):
        price.get()


@reading_snapshots
def test_what_was_read_in_a_snapshot_is_never_stored(price):
    """A snapshot may be older than an invalidation that came before the lease."""
    with price.atomic():
        price.get()
        before = price.is_stored

    assert (before, price.is_stored, price.is_leased) == (False, False, False)


@reading_snapshots_on_a_server
def test_reader_with_an_old_snapshot_leaves_nothing_stale(price):
    """It takes its snapshot, another transaction commits and invalidates, and only then it calls."""
    with price.atomic():
        price._read()
        elsewhere(lambda: (price.change(), price.invalidate()))
        inside = price.get()

    assert (inside, price.get()) == ("old", "new")


@reading_committed
def test_reader_without_a_snapshot_stores_what_is_committed(price):
    """On READ COMMITTED the same reader sees the change, and its result is as good as any."""
    with price.atomic():
        price._read()
        elsewhere(lambda: (price.change(), price.invalidate()))
        inside = price.get()

    assert (inside, price.is_stored, price.get()) == ("new", True, "new")


@reading_committed
@by_key_and_by_tag
def test_invalidation_by_another_ends_what_waits_for_the_commit(price, by):
    """The result was right when it was read and is wrong when it could be stored."""
    with price.atomic():
        price.get()
        elsewhere(lambda: (price.change(), getattr(price, by)()))

    assert not price.is_stored
    assert price.get() == "new"


@in_every_database
def test_nothing_is_stored_while_two_databases_have_transactions(price, second):
    """One of them may still be rolled back when the other has committed."""
    with price.atomic(), transaction.atomic(using=second):
        price.get()

    assert (price.is_stored, price.is_leased) == (False, False)


@in_every_database
def test_transaction_that_rolls_back_stores_nothing(price):
    """What it saw was never true."""
    with pytest.raises(Boom), price.atomic():
        price.change()
        assert price.get() == "new"
        raise Boom

    assert not price.is_stored
    assert price.get() == "old"


@reading_committed
def test_savepoint_that_rolls_back_stores_nothing(price):
    """A miss inside the savepoint goes with it; the transaction around it commits."""
    with price.atomic(), pytest.raises(Boom), price.atomic():
        price.change()
        price.get()
        raise Boom

    assert not price.is_stored
    assert price.get() == "old"


@reading_committed
def test_fill_from_before_a_savepoint_outlives_its_rollback(price):
    """What the transaction computed before the savepoint is still true."""
    with price.atomic():
        price.get()
        with pytest.raises(Boom), price.atomic():
            raise Boom

    assert price.is_stored


@in_every_database
def test_origin_that_raises_inside_a_transaction_keeps_no_lease(price):
    """The error is the caller's, and nobody waits for a value that will not come."""
    Group.objects.using(price.database).all().delete()

    with price.atomic(), pytest.raises(Group.DoesNotExist):
        price.get()

    assert (price.is_stored, price.is_leased) == (False, False)


@in_every_database
def test_origin_with_a_transaction_of_its_own_is_stored_at_once(database, live):
    """It has committed by the time its result is there."""
    price = Price(database)

    @cache_aside(ttl=60, key="own")
    def load():
        with price.atomic():
            return price._read()

    assert [load(), load()] == ["old", "old"]
    assert price.reads == 1


@in_every_database
def test_computation_inside_a_transaction_is_joined_by_nobody(database, live, hurried):
    """A caller outside does not get what the transaction sees while the origin is still running."""
    price, seen = Price(database), []

    @cache_aside(ttl=60, key="price", tags=["prices"])
    def load():
        seen.append(elsewhere(hurried.get))
        return price._read()

    with price.atomic():
        price.change()
        assert load() == "new"

    assert seen == ["old"]
