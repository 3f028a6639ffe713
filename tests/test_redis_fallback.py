from __future__ import annotations

import io
import re

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from redis_integration import get_redis
from redis_integration.models import FallbackEntry, PendingInvalidation
from redis_integration.tiers.redis import get_redis_tier
from tests.test_pruning import add

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def rows():
    return FallbackEntry.objects.all()


def say(*words):
    out = io.StringIO()
    call_command("redis_fallback", *words, stdout=out)
    return out.getvalue()


def test_status_tells_what_is_there(rows):
    """One line for each number, the option that bounds it beside it."""
    add(rows, "a", "b")
    add(rows, "old", kept=-100.0)

    said = say("status")

    assert said.startswith("default: FALLBACK is 'outage', JOURNAL is 'on_failure', in the database 'default'\n")
    assert re.search(r"rows +3 +at most 10,000 after pruning\n +fresh +2\n +held +0 .*\n +expired +1 ", said)
    assert re.search(r"bytes +15 +15", said)
    assert re.search(r"computed \d{4}-\d\d-\d\d \d\d:\d\d:\d\d to ", said)


def test_prune_deletes_and_counts(rows):
    """What it did is a result, on standard output."""
    add(rows, "old", kept=-100.0)

    assert say("prune", "--dry-run").startswith("DRY RUN, nothing is deleted. These would go: 1 expired rows, ")
    assert say("prune") == "Deleted: 1 expired rows, 0 expired tags, 0 rows above FALLBACK_ENTRIES (10,000).\n"
    assert not rows.exists()


def test_abbreviated_option_is_refused(rows):
    """Django would take --dry for --dry-run, and a slip of it for nothing at all."""
    with pytest.raises(CommandError, match="unrecognized arguments: --dry"):
        say("prune", "--dry")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [(["status", "--alias", "nope"], "no alias 'nope'"), ([], "required"), (["drop"], "invalid choice")],
)
def test_slip_is_told(words, remedy):
    """Unknown aliases and actions are no tracebacks."""
    with pytest.raises(CommandError, match=remedy):
        say(*words)


@pytest.mark.parametrize(
    ("options", "action", "reason"),
    [
        ({"FALLBACK": None}, "prune", "DATABASE or FALLBACK is None"),
        ({"JOURNAL": None}, "drain", "JOURNAL or DATABASE is None"),
        ({"FALLBACK": None, "JOURNAL": None}, "status", "FALLBACK and JOURNAL are"),
        ({"DATABASE": None}, "status", "DATABASE is None"),
    ],
)
def test_no_such_table_is_told(settings, options, action, reason):
    """The option that switched it off is named."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", **options}}

    with pytest.raises(CommandError, match=reason):
        say(action)


@pytest.fixture
def journalled(live, prefix):
    """Twelve invalidations that Redis did not confirm; one entry is there."""
    get_redis().set(f"{prefix}:0", "old", ex=60)
    journal = get_redis_tier("default", is_async=False).journal
    journal.remember([f"{prefix}:{number}" for number in range(12)])
    journal.write()
    return journal


def test_status_shows_the_journal(journalled, prefix):
    """The ten oldest with age and tries, and how many there are."""
    said = say("status")

    assert "journal          12   invalidations of 12 names that Redis has not confirmed\n" in said
    assert len(re.findall(rf"^ +(?:\d{{1,3}}m|[1-5]?\d)s       0   {prefix}:\d+$", said, re.M)) == 10
    assert said.endswith("and 2 younger ones\n")


def test_drain_empties_it(journalled, prefix):
    """The entry is gone; a dry run counts."""
    assert say("drain", "--dry-run").endswith("The journal holds 12 invalidations of 12 names.\n")
    assert get_redis().exists(f"{prefix}:0")

    assert say("drain") == "Invalidated once more: 12 names.\n"
    assert not get_redis().exists(f"{prefix}:0")
    assert not PendingInvalidation.objects.exists()


def test_drain_without_redis_loses_nothing(settings):
    """It says what to do about Redis."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0"}}

    with pytest.raises(CommandError, match=r"Nothing was drained, and nothing is lost\. .*Is the server running"):
        say("drain")


def test_missing_table_has_a_remedy():
    """`migrate` was not run."""
    with connection.schema_editor() as editor:
        editor.delete_model(FallbackEntry)
    try:
        with pytest.raises(CommandError, match="no such table.*manage.py migrate --database default"):
            say("prune")
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(FallbackEntry)
