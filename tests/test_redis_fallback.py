from __future__ import annotations

import io
import re

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from redis_integration.models import FallbackEntry
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

    assert said.startswith("default: FALLBACK is 'outage', in the database 'default'\n")
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


def test_no_fallback_tier_is_told(settings):
    """The option that switched it off is named."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "FALLBACK": None}}

    with pytest.raises(CommandError, match="DATABASE or FALLBACK is None"):
        say("status")


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
