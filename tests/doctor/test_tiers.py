"""Rules about what lies beside the server: fallback rows, clocks, aliases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from django.core.checks import ERROR, INFO
from django.db.models.functions import Now

from redis_integration.counters import Counts
from redis_integration.doctor.readings import gather
from redis_integration.flow import run
from redis_integration.models import FallbackEntry, PendingInvalidation
from redis_integration.pruning import MOST_WRITES
from redis_integration.stats import publish
from tests.databases import added_databases
from tests.doctor.conftest import about, say

pytestmark = pytest.mark.django_db(transaction=True)
ENTRIES = 3


@pytest.fixture
def options():
    return {"FALLBACK_ENTRIES": ENTRIES}


@pytest.fixture
def elsewhere(healthy, settings, tmp_path, django_db_blocker):
    """DATABASE is one that was not migrated."""
    databases = {"rows": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "rows.sqlite3")}}
    settings.REDIS_INTEGRATION = {"default": {**settings.REDIS_INTEGRATION["default"], "DATABASE": "rows"}}
    with added_databases(databases), django_db_blocker.unblock():
        yield


def test_missing_table_is_told(elsewhere):
    """With the command that makes it."""
    found = say(tags=["tiers"])

    assert found.keys() == {"D601"}
    assert "migrate --database rows" in found["D601"].hint


@pytest.mark.parametrize(("rows", "ids"), [(ENTRIES + MOST_WRITES, set()), (ENTRIES + MOST_WRITES + 1, {"D602"})])
def test_table_that_nobody_prunes_is_told(healthy, rows, ids):
    """More rows than a process may write between two prunings."""
    until = Now() + timedelta(60)
    FallbackEntry.objects.bulk_create(
        FallbackEntry(key=f"{number}", lease="", leased=Now(), held_until=until, payload=b"", kept_until=until)
        for number in range(rows)
    )

    assert say(tags=["tiers"]).keys() == ids


@pytest.mark.parametrize(("prefix_of_other", "ids"), [("same", {"D603"}), ("other", set())])
def test_aliases_that_share_their_keys_are_told(healthy, settings, prefix_of_other, ids):
    """Once, of the later one."""
    first = {**settings.REDIS_INTEGRATION["default"], "KEY_PREFIX": "same"}
    settings.REDIS_INTEGRATION = {"default": first, "pages": {**first, "KEY_PREFIX": prefix_of_other}}

    assert say("default", tags=["tiers"]).keys() == set()
    assert say("pages", tags=["tiers"]).keys() == ids


@pytest.mark.parametrize(
    ("clocks", "ids"), [({}, set()), ({"redis_ahead": -1.5}, {"D604"}), ({"database_ahead": 3600.0}, {"D604"})]
)
def test_clocks_that_differ_are_told(healthy, clocks, ids):
    """No test changes a machine's clock: the reading is altered. Those of one machine do not differ."""
    reading = gather("default", {"info", "time", "database"})

    assert about(replace(reading, **clocks)) & {"D604"} == ids


@pytest.mark.parametrize(("seconds", "level"), [(90, ERROR), (5, INFO)])
def test_invalidations_that_nobody_repeats_are_told(healthy, seconds, level):
    """An error when Redis has answered for a minute; before, each watch may still be at it."""
    PendingInvalidation.objects.create(id="1", alias="default", name="t:price:1")
    PendingInvalidation.objects.update(created=Now() - timedelta(seconds=seconds))

    found = say(tags=["tiers"])

    assert found.keys() == {"D605"}
    assert found["D605"].level == level


def test_journal_of_an_outage_is_no_error(healthy, settings):
    """It is what it is for."""
    PendingInvalidation.objects.create(id="1", alias="default", name="t:price:1")
    PendingInvalidation.objects.update(created=Now() - timedelta(seconds=90))
    healthy.kill()

    assert say(tags=["tiers"])["D605"].level == INFO


def count(name, **fields):
    counts = Counts("default", name)
    for field, value in fields.items():
        setattr(counts, field, value)
    run(publish("default", is_async=False))
    return counts


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({"redis": 100, "computed": 1000, "origin": 1000, "spent": 1000.0}, {"D606"}),
        ({"redis": 100, "computed": 500, "origin": 500, "spent": 500.0}, set()),
        ({"redis": 500, "computed": 1100, "origin": 1100, "spent": 1100.0}, set()),
        ({"redis": 5000, "computed": 1100, "origin": 1100, "spent": 0.0001}, {"D607"}),
    ],
    ids=["hardly hit", "too few calls", "hit", "not worth it"],
)
def test_functions_that_gain_nothing_are_told(healthy, fields, ids):
    """By what all workers have counted within the last hour."""
    kept = count("shop.price", **fields)

    found = say(tags=["tiers"])

    assert found.keys() == ids
    assert all(kept.name in each.msg for each in found.values())
