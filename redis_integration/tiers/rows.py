"""The two tables of the fallback tier, read and written for the tier: one statement each, and no policy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import CharField, DateTimeField, Value
from django.db.models.constants import OnConflict
from django.db.models.functions import Now

# Names in one DELETE: below every database's limit of parameters.
BATCH = 500


class Found(NamedTuple):
    """A row, or a generation, whose lease is None and whose times below `now` too; `until` is when the lease or the tag ends."""

    name: str
    lease: str | None
    body: bytes
    until: datetime
    now: datetime
    fresh_until: Any
    started: datetime | None
    kept_until: Any
    leased: datetime | None


# A generation has none of a row's.
TIMES = ("fresh_until", "started", "kept_until", "leased")
NO_TIMES = {f"no_{name}": Value(None, DateTimeField()) for name in TIMES}


def rows_of(database: str | None) -> Any:
    """All rows."""
    # Models cannot be imported before the app registry is ready, and decorators are.
    from redis_integration.models import FallbackEntry

    return FallbackEntry.objects.using(database)


def tags_of(database: str | None) -> Any:
    """All generations."""
    from redis_integration.models import FallbackTag

    return FallbackTag.objects.using(database)


def find(database: Any, key: str, tags: Sequence[str]) -> list[Found]:
    """The row of this key and the generations of these tags, in any order. One query."""
    connection = connections[database]
    query, columns, sql = _compile(database, connection.vendor, len(tags))
    with connection.cursor() as cursor:
        cursor.execute(sql, (key, *tags))
        found = cursor.fetchall()
    compiler = query.get_compiler(database)
    return [*map(Found._make, compiler.apply_converters(found, compiler.get_converters(columns)))]


@lru_cache
def _compile(database: str, vendor: str, tags: int) -> tuple[Any, list[Any], str]:
    """The query of `find` for so many tags, its columns, and its SQL, whose parameters are key and tags.

    To build it takes twice as long as to ask it. `vendor` tells apart what an alias stands for in turn.
    """
    # Plain columns: expressions for what is believed would cost more than the query.
    found = rows_of(database).filter(key="key").annotate(now=Now())
    found = found.values_list("key", "lease", "payload", "held_until", "now", *TIMES)
    if tags:
        found = found.union(find_tags(database, [f"tag {number}" for number in range(tags)]), all=True)
    compiler = found.query.get_compiler(database)
    sql, _ = compiler.as_sql()
    return found.query, [column for column, *_ in compiler.select], sql


def find_tags(database: str | None, tags: Sequence[str]) -> Any:
    """The generations of these tags, to be read by one query."""
    found = tags_of(database).filter(tag__in=tags).annotate(now=Now(), lease=Value(None, CharField()), **NO_TIMES)
    return found.values_list("tag", "lease", "generation", "kept_until", "now", *NO_TIMES)


def write_tags(database: str | None, generations: dict[str, bytes], kept: timedelta) -> None:
    """Make these generations where there are none, and keep them for so long."""
    table, until = tags_of(database), Now() + kept
    tag, generation, kept_until = (table.model._meta.get_field(n) for n in ("tag", "generation", "kept_until"))
    # As bulk_create does it, which would add a BEGIN and a COMMIT.
    table._insert(
        [table.model(tag=name, generation=each, kept_until=until) for name, each in generations.items()],
        fields=[tag, generation, kept_until],
        using=database,
        on_conflict=OnConflict.UPDATE,
        update_fields=[kept_until],
        unique_fields=[tag],
    )


def delete(database: str | None, *, keys: Sequence[str], tags: Sequence[str]) -> None:
    """Delete these rows and these generations."""
    for at in range(0, len(tags), BATCH):
        tags_of(database).filter(tag__in=tags[at : at + BATCH])._raw_delete(database)
    for at in range(0, len(keys), BATCH):
        rows_of(database).filter(key__in=keys[at : at + BATCH])._raw_delete(database)
