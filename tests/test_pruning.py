from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from redis_integration import pruning
from redis_integration.conf import get_settings
from redis_integration.exceptions import FallbackUnavailable
from redis_integration.models import FallbackEntry, FallbackTag
from redis_integration.pruning import Pruned, prune, prune_if_due, status
from redis_integration.tiers.fallback import writes
from redis_integration.tiers.redis import get_redis_tier

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def options(settings, database):
    common = {"URL": "redis://127.0.0.1:1/0", "KEY_PREFIX": "t", "DATABASE": database}
    settings.REDIS_INTEGRATION = {
        "default": {**common, "FALLBACK_ENTRIES": 3},
        "without": {**common, "FALLBACK": None},
    }
    yield
    pruning._pruned.clear()
    writes.clear()


@pytest.fixture
def rows(database):
    return FallbackEntry.objects.using(database)


@pytest.fixture
def tags(database):
    return FallbackTag.objects.using(database)


def add(rows, *keys, kept=60.0, held=-1.0):
    for at, key in enumerate(keys):
        until = Now() + timedelta(seconds=kept + at)
        times = {"leased": Now(), "held_until": Now() + timedelta(seconds=held), "started": Now()}
        rows.create(key=key, lease="", payload=b"12345", fresh_until=until, kept_until=until, **times)


def add_tags(tags, *names, kept):
    for name in names:
        tags.create(tag=name, generation=b"12345678", kept_until=Now() + timedelta(seconds=kept))


def keys_of(rows):
    return sorted(rows.values_list("key", flat=True))


def test_what_has_expired_goes(rows, tags):
    """Rows and generations past the time for which they are kept, and no others."""
    add(rows, "old", "older", kept=-100.0)
    add(rows, "new")
    add_tags(tags, "t:#old", kept=-1)
    add_tags(tags, "t:#new", kept=60)

    assert prune() == Pruned(expired=2, tags=1, excess=0)
    assert keys_of(rows) == ["new"]
    assert [tag.tag for tag in tags] == ["t:#new"]


def test_rows_above_the_limit_go_those_that_expire_first(rows):
    """Not those that were made first: a page that is stored again and again stays in the row it has."""
    add(rows, "a", "b", "c", "d", "e")

    assert prune(batch=1) == Pruned(expired=0, tags=0, excess=2)
    assert keys_of(rows) == ["c", "d", "e"]


def test_row_that_is_being_computed_stays(rows):
    """Its owner would find no lease any more."""
    add(rows, "held", kept=-100.0, held=10.0)

    assert prune().expired == 0


def test_dry_run_says_what_would_go_and_deletes_nothing(rows, tags):
    """Expired rows do not count twice."""
    add(rows, "old", kept=-100.0)
    add(rows, "a", "b", "c", "d")
    add_tags(tags, "t:#old", kept=-1)

    assert prune(dry_run=True) == Pruned(expired=1, tags=1, excess=1)
    assert rows.count() == 5
    assert prune() == Pruned(expired=1, tags=1, excess=1)


def test_batches_end_when_nothing_is_left(rows):
    """However many batches it takes."""
    add(rows, *map(str, range(7)), kept=-100.0)

    assert prune(batch=2).expired == 7


def test_status_counts(rows, tags, database):
    """Rows by their state, tags, and the bytes of the values."""
    add(rows, "a")
    add(rows, "held", held=10.0)
    add(rows, "old", kept=-100.0)
    add_tags(tags, "t:#new", kept=60)

    found = status()

    assert found._replace(oldest=None, youngest=None) == (database, 3, 2, 1, 1, 15, None, None, 1)
    assert found.oldest <= found.youngest


def test_status_of_an_empty_table(database):
    """No rows are no error."""
    assert status() == (database, 0, 0, 0, 0, 0, None, None, 0)


def test_alias_without_a_fallback_tier_says_so():
    """There is no table to look at."""
    with pytest.raises(FallbackUnavailable, match="'without' has no fallback tier"):
        status("without")
    assert prune_if_due("without") is False


def test_due_by_time_sooner_in_an_outage(rows, monkeypatch):
    """Ten minutes, and one while Redis is down; the first time counts from when it was first asked."""
    now = 1000.0
    monkeypatch.setattr(pruning, "monotonic", lambda: now)
    add(rows, "old", kept=-100.0)
    asked = [prune_if_due()]
    now += 599.0
    asked += [prune_if_due()]
    now += 1.0
    asked += [prune_if_due(), prune_if_due()]
    get_redis_tier("default", is_async=False).breaker.open("gone")
    now += 60.0
    asked += [prune_if_due()]

    assert asked == [False, False, True, False, True]
    assert not rows.exists()


def test_due_after_many_rows_of_this_process():
    """A process that stores a thousand pages within the minute does not wait for its end."""
    asked = [prune_if_due()]
    writes[get_settings()] += 1_000
    asked += [prune_if_due(), prune_if_due()]

    assert asked == [False, True, False]
