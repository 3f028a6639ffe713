"""A transaction sees its own changes once it has invalidated, and nobody else does before its commit."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, connections, transaction

from tests.transactions.conftest import Boom, Price, by_key_and_by_tag, elsewhere, in_every_database, reading_committed


@in_every_database
@by_key_and_by_tag
def test_transaction_sees_its_own_change_and_others_see_the_old_value(price, by):
    """The call inside goes past the cache, in which the old value is right until the commit."""
    price.get()

    with price.atomic():
        price.change()
        getattr(price, by)()
        seen = (price.get(), elsewhere(price.get))

    assert seen == ("new", "old")
    assert price.reads == 2
    assert price.get() == "new"


@in_every_database
@by_key_and_by_tag
def test_changed_value_is_not_stored_by_its_own_transaction(price, by):
    """Neither before the commit nor with it; the next call stores it."""
    with price.atomic():
        price.change()
        getattr(price, by)()
        price.get()
        before = price.is_stored

    assert (before, price.is_stored, price.is_leased) == (False, False, False)
    assert [price.get(), price.get()] == ["new", "new"]
    assert price.reads == 2


@in_every_database
@by_key_and_by_tag
def test_call_before_the_change_in_one_transaction_leaves_nothing_stale(price, by):
    """What was read first and waits for the commit does not survive the invalidation that came after it."""
    with price.atomic():
        assert price.get() == "old"
        price.change()
        getattr(price, by)()

    assert not price.is_stored
    assert price.get() == "new"


@in_every_database
@by_key_and_by_tag
def test_uncommitted_value_computed_before_the_invalidation_is_not_stored(price, hurried, by):
    """A save() whose signal calls the cached function before it invalidates."""
    with price.atomic():
        price.change()
        assert price.get() == "new"
        others = elsewhere(hurried.get)
        getattr(price, by)()

    assert others == "old"
    assert price.get() == "new"


@in_every_database
@by_key_and_by_tag
def test_rolled_back_change_leaves_the_entry(price, by):
    """The old value was right all the time, and is still there."""
    price.get()

    with pytest.raises(Boom), price.atomic():
        price.change()
        getattr(price, by)()
        assert price.get() == "new"
        raise Boom

    assert price.get() == "old"
    assert price.reads == 2


@in_every_database
@by_key_and_by_tag
def test_invalidation_in_a_rolled_back_savepoint_is_forgotten(price, by):
    """Inside the same transaction the value comes from the cache again."""
    price.get()

    with price.atomic():
        with pytest.raises(Boom), price.atomic():
            price.change()
            getattr(price, by)()
            inside = price.get()
            raise Boom
        after = price.get()

    assert (inside, after) == ("new", "old")
    assert (price.reads, price.is_stored) == (2, True)


@in_every_database
def test_rollback_to_a_savepoint_by_hand_sends_too_often(price):
    """Django keeps the callbacks of a savepoint that is no block; an entry that ends without need is only a miss."""
    price.get()

    with price.atomic():
        savepoint = connections[price.database].savepoint()
        price.change()
        price.invalidate()
        connections[price.database].savepoint_rollback(savepoint)
        inside = price.get()

    assert (inside, price.is_stored, price.get()) == ("old", False, "old")


@in_every_database
def test_released_savepoint_keeps_its_invalidation(price):
    """It is sent when the outermost block commits."""
    price.get()

    with price.atomic():
        with price.atomic():
            price.change()
            price.invalidate()
        seen = (price.get(), price.is_stored)

    assert seen == ("new", True)
    assert price.get() == "new"


@in_every_database
def test_invalidation_from_before_a_savepoint_outlives_its_rollback(price):
    """Only what the savepoint did is undone."""
    price.get()

    with price.atomic():
        price.change()
        price.invalidate()
        with pytest.raises(Boom), price.atomic():
            price.invalidate()
            raise Boom
        assert price.get() == "new"

    assert price.get() == "new"


@in_every_database
def test_refresh_inside_a_transaction_shows_its_value_to_others_after_the_commit(price):
    """The new value is this transaction's own until then."""
    price.get()

    with price.atomic():
        price.change()
        seen = (price.refresh(), elsewhere(price.get))

    assert seen == ("new", "old")
    assert price.get() == "new"


@in_every_database
def test_rolled_back_refresh_changes_nothing(price):
    """Others go on reading what was there."""
    price.get()

    with pytest.raises(Boom), price.atomic():
        price.change()
        price.refresh()
        raise Boom

    assert price.get() == "old"


@in_every_database
def test_transaction_after_this_one_reads_the_cache_again(price):
    """That a name was invalidated is forgotten with the commit."""
    with price.atomic():
        price.change()
        price.invalidate()
    price.get()
    reads = price.reads

    with price.atomic():
        price.get()

    assert price.reads == reads


@reading_committed
def test_invalidation_by_a_transaction_elsewhere_does_not_keep_this_one_from_filling(price, second):
    """Only the transaction that changed something goes past the cache."""
    with transaction.atomic(using=second):
        price.invalidate()
        elsewhere(price.get)
        assert price.is_stored


@in_every_database
def test_transaction_marked_for_rollback_is_one_that_rolled_back(price):
    """REST framework answers an error so, and raises nothing through the block."""
    price.get()

    with price.atomic():
        price.change()
        price.invalidate()
        transaction.set_rollback(True, using=price.database)

    assert (price.is_stored, price.get(), price.reads) == (True, "old", 1)


@in_every_database
def test_commit_that_fails_invalidates_nothing_and_stores_nothing(price, database, live):
    """A deferred constraint is checked by the commit, which then is a rollback."""
    other = Price(database, key="other")
    price.get()

    with pytest.raises(IntegrityError), price.atomic():
        price.change()
        other.get()
        price.invalidate()
        Group.permissions.through.objects.using(database).create(group_id=0, permission_id=0)

    assert (price.is_stored, other.is_stored) == (True, False)
    assert (price.get(), other.get()) == ("old", "old")


@in_every_database
def test_expired_in_a_transaction_is_expired_by_its_commit(database, live):
    """Others keep their copy until then, and the transaction sees its change."""
    price = Price(database)
    price.get()

    with price.atomic():
        price.change()
        price.expire()
        seen = (price.get(), elsewhere(price.get))

    assert seen == ("new", "old")
    assert price.get() == "new"
