"""The tier in the database, read and written only while Redis is down. An error of the database here is a miss."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from time import time
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from redis_integration.conf import RedisSettings
from redis_integration.entries import Entry, pack, unpack
from redis_integration.flow import Call, Flow
from redis_integration.keys import Names

logger = logging.getLogger("redis_integration")

# Keys in one DELETE: below every database's limit of parameters.
BATCH = 500


class FallbackTier:
    """Rows of FallbackEntry in the database DATABASE. At most 2 queries each; clocks are the database's.

    A row is fresh for FALLBACK_TTL at most, whatever the entry's ttl: an invalidation by a process that can still reach Redis
    does not reach the row.
    """

    def __init__(self, settings: RedisSettings, *, seconds_open: Callable[[], float]) -> None:
        self.database = settings.database if settings.fallback else None
        self.ttl = settings.fallback_ttl
        self.max_bytes = settings.max_entry_bytes
        # Rows of an earlier outage are older than invalidations that only Redis has seen since.
        self._seconds_open = seconds_open

    def read(self, names: Names) -> Flow[Entry | None]:
        """See `Tier.read`. Raises UnreadableEntry."""
        payload = yield from self._query(lambda: self._select(names.key))
        if payload is None:
            return None
        entry = unpack(bytes(payload), names.key, self.max_bytes)
        return entry if entry.tags == names.stamp else None

    def _select(self, key: str) -> bytes | None:
        rows = self._rows().filter(key=key).fresh().started_within(self._seconds_open())
        payload: bytes | None = rows.values_list("payload", flat=True).first()
        return payload

    def find(self, key: str) -> Flow[tuple[bytes, float, float] | None]:
        """The bytes of this key's row, the seconds it is still fresh, and those since its computation began. One query."""
        return (yield from self._query(lambda: self._find(key)))  # type: ignore[no-any-return]

    def _find(self, key: str) -> tuple[bytes, float, float] | None:
        rows = self._rows().filter(key=key).annotate(left=F("fresh_until") - Now(), since=Now() - F("started"))
        for payload, left, since in rows.values_list("payload", "left", "since"):
            return bytes(payload), left.total_seconds(), since.total_seconds()
        return None

    def write(self, names: Names, entry: Entry) -> Flow[bool]:
        """Keep the entry for as long as it is fresh, FALLBACK_TTL at most. Whether it did."""
        return bool((yield from self._query(lambda: self._upsert(names, entry))))

    def _upsert(self, names: Names, entry: Entry) -> bool:
        from redis_integration.models import FallbackTag

        key = names.key
        if names.tags:
            # Before the row: from its first moment an invalidation by tag finds it.
            tags = [FallbackTag(key=key, tag=tag) for tag in names.tags]
            FallbackTag.objects.using(self.database).bulk_create(tags, ignore_conflicts=True)
        # As late as can be: what passes until the database reads its clock makes the row look younger than it is.
        now = time()
        since_start = now - entry.created + entry.took
        fresh_for = min(entry.fresh_until - now, self.ttl - since_start)
        values = {
            "payload": pack(entry._replace(tags=names.stamp), key),
            "started": Now() - timedelta(seconds=since_start),
            "fresh_until": Now() + timedelta(seconds=fresh_for),
        }
        if not self._rows().filter(key=key).update(**values):
            try:
                self._rows().create(key=key, **values)
            except IntegrityError:
                # Another process stored the same entry a moment ago; it is as good.
                logger.debug("redis_integration.fallback_row_exists %s", key)
        return True

    def delete(self, names: Sequence[str]) -> Flow[None]:
        """See `Tier.delete`."""
        for start in range(0, len(names), BATCH):
            yield from self._query(partial(self._delete, names[start : start + BATCH]))

    def _delete(self, names: Sequence[str]) -> None:
        from redis_integration.models import FallbackTag

        tagged = FallbackTag.objects.using(self.database).filter(tag__in=names).values("key")
        self._rows().filter(Q(key__in=names) | Q(key__in=tagged))._raw_delete(self.database)

    def _rows(self) -> Any:
        # Models cannot be imported before the app registry is ready, and decorators are.
        from redis_integration.models import FallbackEntry

        return FallbackEntry.objects.using(self.database)

    def _query(self, query: Callable[[], Any]) -> Flow[Any]:
        if self.database is None:
            return None
        try:
            return (yield Call(partial(self._ask, self.database, query)))
        except Exception as error:
            # Not only DatabaseError: a driver's own, no such app or database, a test that forbids it.
            logger.warning("redis_integration.fallback_failed %s: %s", type(error).__name__, error)
            return None

    def _ask(self, database: str, query: Callable[[], Any]) -> Any:
        # An error inside the caller's transaction would break it; a savepoint keeps it ours.
        in_block = connections[database].in_atomic_block
        # Not while the seconds of `started_within` are already counted.
        connections[database].ensure_connection()
        with transaction.atomic(using=database) if in_block else nullcontext():
            return query()
