from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from redis_integration.conf import get_settings
from redis_integration.entries import unpack
from redis_integration.exceptions import UnreadableEntry
from redis_integration.flow import run
from redis_integration.keys import Names
from redis_integration.models import FallbackEntry
from redis_integration.tiers.fallback import FallbackTier
from tests.databases import added_databases
from tests.tiers.contract import TierContract, entry

pytestmark = pytest.mark.django_db(transaction=True)


class Outage:
    """How long Redis has been down for this process."""

    seconds = 3600.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def outage():
    return Outage()


@pytest.fixture
def tier(settings, outage):
    return FallbackTier(get_settings(), seconds_open=outage)


class TestFallbackTier(TierContract):
    @pytest.fixture
    def tier(self, tier):
        return tier

    def write(self, tier, names, entry):
        return tier.write(names, entry)


def test_row_is_fresh_for_fallback_ttl_at_most(tier):
    """A ttl of an hour gives a row of ten seconds."""
    run(tier.write(Names("a"), entry(ttl=3600.0)))

    row = FallbackEntry.objects.get()
    assert timedelta(seconds=9) < row.fresh_until - row.started <= timedelta(seconds=10.1)


def test_row_above_max_entry_bytes_is_unreadable(tier):
    """A process whose limit is smaller than another's does not decode it."""
    run(tier.write(Names("a"), entry(b"12345")))
    tier.max_bytes = 4

    with pytest.raises(UnreadableEntry, match="more than MAX_ENTRY_BYTES"):
        run(tier.read(Names("a")))


def test_row_of_an_earlier_outage_is_not_believed(tier, outage):
    """A row whose origin call began before this outage is older than invalidations it has not seen."""
    run(tier.write(Names("a"), entry()))
    outage.seconds = 0.0

    assert run(tier.read(Names("a"))) is None


def test_expired_row_is_a_miss(tier):
    """A row past its time is not given."""
    run(tier.write(Names("a"), entry()))
    FallbackEntry.objects.update(fresh_until=Now() - timedelta(seconds=1))

    assert run(tier.read(Names("a"))) is None


def test_missing_table_is_a_miss_and_one_line(tier, caplog):
    """A database without the table costs a log line, never an error."""
    with connection.schema_editor() as editor:
        editor.delete_model(FallbackEntry)
    try:
        assert run(tier.read(Names("a"))) is None
        run(tier.write(Names("a"), entry()))
        run(tier.delete(["a"]))
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(FallbackEntry)

    assert [message.split()[0] for message in caplog.messages] == ["redis_integration.fallback_failed"] * 3


def test_database_error_does_not_break_the_callers_transaction(tier):
    """Inside atomic() a failing query of ours is undone alone."""
    with connection.schema_editor() as editor:
        editor.delete_model(FallbackEntry)
    try:
        with transaction.atomic():
            run(tier.read(Names("a")))
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                assert cursor.fetchone() == (1,)
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(FallbackEntry)


def test_hit_is_one_query_and_a_store_at_most_two(tier, django_assert_num_queries):
    """The cost of a row, counted."""
    with django_assert_num_queries(2):
        run(tier.write(Names("a"), entry()))
    with django_assert_num_queries(1):
        run(tier.write(Names("a"), entry()))
    with django_assert_num_queries(1):
        run(tier.read(Names("a")))
    with django_assert_num_queries(1):
        run(tier.delete(["a"]))


@pytest.mark.parametrize("option", [{"DATABASE": None}, {"FALLBACK": None}])
def test_switched_off_it_asks_no_database(settings, option, django_assert_num_queries):
    """Without DATABASE or FALLBACK the tier is a miss."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", **option}}
    tier = FallbackTier(get_settings(), seconds_open=Outage())

    with django_assert_num_queries(0):
        run(tier.write(Names("a"), entry()))
        run(tier.delete(["a"]))

        assert run(tier.read(Names("a"))) is None


def test_slow_computation_ages_the_row(tier):
    """The row's time counts from the beginning of the origin call, not from its end."""
    run(tier.write(Names("a"), entry()._replace(took=4.0)))

    row = FallbackEntry.objects.get()
    assert row.fresh_until - row.started <= timedelta(seconds=10.1)
    assert FallbackEntry.objects.filter(started__lt=Now() - timedelta(seconds=4)).exists()


def test_row_of_a_computation_slower_than_fallback_ttl_is_not_believed(tier):
    """A value that took longer than the bound is too old when it is there."""
    run(tier.write(Names("a"), entry()._replace(took=11.0)))

    assert run(tier.read(Names("a"))) is None


def test_error_that_is_no_database_error_is_a_miss(tier, caplog):
    """A driver's own error, or an app that is not installed, reached the view in the first outage."""

    def broken(key):
        raise RuntimeError("no such app")

    tier._select = broken

    assert run(tier.read(Names("a"))) is None
    assert "RuntimeError: no such app" in caplog.text


def test_delete_without_the_app_is_a_line_in_the_log(tier, caplog):
    """An invalidation in an outage raised where the app is not installed, since its rows were asked for too early."""

    def no_app():
        raise RuntimeError("no such app")

    tier._rows = no_app

    run(tier.delete(["a"]))

    assert "RuntimeError: no such app" in caplog.text


def test_many_keys_are_deleted_in_bounded_batches(tier, django_assert_num_queries):
    """More keys than a database takes in one statement left their rows in place."""
    run(tier.write(Names("999"), entry()))

    with django_assert_num_queries(2):
        run(tier.delete([str(number) for number in range(1000)]))

    assert run(tier.read(Names("999"))) is None


def test_write_says_whether_it_stored(tier, settings):
    """Without a database the answer said it was stored in the fallback tier."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "FALLBACK": None}}

    assert run(tier.write(Names("a"), entry())) is True
    assert run(FallbackTier(get_settings(), seconds_open=Outage()).write("a", entry())) is False


def test_a_row_is_found_even_where_it_is_not_believed(tier, outage):
    """`find` gives the bytes, how long they stay fresh and how long ago their computation began, by the database's clock."""
    run(tier.write(Names("a"), entry()))
    outage.seconds = 0.0

    stored, left, since = run(tier.find("a"))

    assert unpack(stored, "a").payload == entry().payload
    assert 0 < left <= 10
    assert 0.5 <= since < 10
    assert left + since == pytest.approx(10, abs=0.5)
    assert run(tier.find("b")) is None


@pytest.mark.xdist_group("postgres")
def test_a_row_is_found_in_postgresql(settings, postgres, django_db_blocker, prefix):
    """Its times are intervals there."""
    with added_databases(postgres), django_db_blocker.unblock():
        settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "DATABASE": "postgres"}}
        tier = FallbackTier(get_settings(), seconds_open=Outage())
        run(tier.write(Names(f"{prefix}:a"), entry()))

        stored, left, since = run(tier.find(f"{prefix}:a"))
        run(tier.delete([f"{prefix}:a"]))

    assert unpack(stored, f"{prefix}:a").payload == entry().payload
    assert left + since == pytest.approx(10, abs=0.5)
