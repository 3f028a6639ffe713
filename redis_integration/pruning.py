"""Keeps the tables of the fallback tier small: in batches by primary key, each its own transaction, which nobody waits for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from django.db.models import Count, Max, Min, Q, Sum
from django.db.models.functions import Length, Now

from redis_integration.conf import RedisSettings, get_settings
from redis_integration.exceptions import FallbackUnavailable
from redis_integration.statements import ask
from redis_integration.tiers.fallback import writes
from redis_integration.tiers.redis import get_redis_tier
from redis_integration.tiers.rows import rows_of, tags_of

BATCH = 500
# Seconds between two prunings: in an outage every page becomes a row.
PAUSE, PAUSE_DOWN = 600.0, 60.0
MOST_WRITES = 1_000  # rows of this process, after which it is due at once

_pruned: dict[RedisSettings, float] = {}


class Pruned(NamedTuple):
    """How many rows went, or would go: those that expired, their tags, and the first to expire above FALLBACK_ENTRIES."""

    expired: int
    tags: int
    excess: int


class Status(NamedTuple):
    """What is in the tables; all times are the database's."""

    database: str
    rows: int
    fresh: int
    held: int
    expired: int
    payload_bytes: int
    oldest: datetime | None  # the first of the computations
    youngest: datetime | None
    tags: int


def status(alias: str = "default") -> Status:
    """What the fallback tier holds; 2 queries over whole tables. Raises FallbackUnavailable, and what the database raises."""
    rows, tags, database = _tables(alias)
    counts: Any = rows.aggregate(
        rows=Count("pk"),
        fresh=Count("pk", filter=Q(fresh_until__gt=Now())),
        held=Count("pk", filter=Q(held_until__gt=Now())),
        expired=Count("pk", filter=Q(kept_until__lt=Now(), held_until__lt=Now())),
        payload_bytes=Sum(Length("payload"), default=0),
        oldest=Min("started"),
        youngest=Max("started"),
    )
    return Status(database=database, tags=tags.count(), **counts)


def prune(alias: str = "default", *, dry_run: bool = False, batch: int = BATCH) -> Pruned:
    """Delete what has expired, then the rows above FALLBACK_ENTRIES that expire first. 3 queries, 2 more for each batch.

    Raises FallbackUnavailable, and what the database raises.
    """
    rows, tags, database = _tables(alias)
    most = get_settings(alias).fallback_entries
    expired, old_tags = rows.expired(), tags.filter(kept_until__lt=Now())
    if dry_run:
        kept = rows.count() - (gone := expired.count())
        return Pruned(gone, old_tags.count(), max(0, kept - most))
    by_time = rows.order_by("-kept_until", "-pk")
    return Pruned(
        _delete(expired.order_by("pk"), 0, batch, again=expired),
        _delete(old_tags.order_by("pk"), 0, batch, again=old_tags),
        _delete(by_time, most, batch, again=rows),
    )


def _delete(found: Any, start: int, batch: int, *, again: Any) -> int:
    def delete(keys: list[int]) -> int:
        # A row may have been filled since it was found.
        return int(again.filter(pk__in=keys)._raw_delete(found.db))

    def batches() -> Iterator[list[int]]:
        while keys := [*found.values_list("pk", flat=True)[start : start + batch]]:
            yield keys

    return sum(ask(found.db, partial(delete, keys), locks=True) for keys in batches())


def prune_if_due(alias: str = "default") -> bool:
    """Prune every 10 minutes, in an outage every minute, and after 1,000 rows of this process; whether it did. See `prune`."""
    settings = get_settings(alias)
    if settings.fallback is None or settings.database is None:
        return False
    is_down = not get_redis_tier(alias, is_async=False).breaker.is_closed
    pause = PAUSE_DOWN if is_down else PAUSE
    if writes[settings] < MOST_WRITES and monotonic() < _pruned.setdefault(settings, monotonic()) + pause:
        return False
    # First of all: where it fails, the next beat must not try again.
    _pruned[settings] = monotonic()
    writes[settings] = 0
    prune(alias)
    return True


def _tables(alias: str) -> tuple[Any, Any, str]:
    settings = get_settings(alias)
    if settings.database is None or settings.fallback is None:
        raise FallbackUnavailable(f"The alias {alias!r} has no fallback tier: DATABASE or FALLBACK is None.")
    return rows_of(settings.database), tags_of(settings.database), settings.database
