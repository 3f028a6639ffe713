"""The tier in the database, read and written only while Redis is down. An error of the database here is a miss."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from time import time
from typing import Any

from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.models.functions import Now

from redis_integration.conf import RedisSettings
from redis_integration.entries import Entry, pack, unpack
from redis_integration.flow import Call, Flow

logger = logging.getLogger("redis_integration")


class FallbackTier:
    """
    Rows of FallbackEntry in the database DATABASE. At most 2 queries each; clocks are the database's.

    A row is fresh for FALLBACK_TTL at most, whatever the entry's ttl: an invalidation by a process that can still reach Redis
    does not reach the row.
    """

    name = "fallback"

    def __init__(self, settings: RedisSettings, *, seconds_open: Callable[[], float]) -> None:
        self.database = settings.database if settings.fallback else None
        self.ttl = settings.fallback_ttl
        # Rows of an earlier outage are older than invalidations that only Redis has seen since.
        self._seconds_open = seconds_open

    def read(self, key: str) -> Flow[Entry | None]:
        """See `Tier.read`. Raises UnreadableEntry."""
        payload = yield from self._query(lambda: self._select(key))
        return None if payload is None else unpack(bytes(payload), key)

    def _select(self, key: str) -> bytes | None:
        rows = self._rows().filter(key=key).fresh().started_within(self._seconds_open())
        payload: bytes | None = rows.values_list("payload", flat=True).first()
        return payload

    def write(self, key: str, entry: Entry) -> Flow[None]:
        yield from self._query(lambda: self._upsert(key, entry))

    def _upsert(self, key: str, entry: Entry) -> None:
        now = time()
        since_start = now - entry.created + entry.took
        fresh_for = min(entry.fresh_until - now, self.ttl - since_start)
        values = {
            "payload": pack(entry, key),
            "started": Now() - timedelta(seconds=since_start),
            "fresh_until": Now() + timedelta(seconds=fresh_for),
        }
        if not self._rows().filter(key=key).update(**values):
            try:
                self._rows().create(key=key, **values)
            except IntegrityError:
                # Another process stored the same entry a moment ago; it is as good.
                logger.debug("redis_integration.fallback_row_exists %s", key)

    def delete(self, keys: Sequence[str]) -> Flow[None]:
        yield from self._query(lambda: self._rows().filter(key__in=list(keys))._raw_delete(self.database))

    def _rows(self) -> Any:
        # Models cannot be imported before the app registry is ready, and decorators are.
        from redis_integration.models import FallbackEntry

        return FallbackEntry.objects.using(self.database)

    def _query(self, query: Callable[[], Any]) -> Flow[Any]:
        if self.database is None:
            return None
        return (yield Call(lambda: self._ask(query)))

    def _ask(self, query: Callable[[], Any]) -> Any:
        assert self.database is not None
        # An error inside the caller's transaction would break it; a savepoint keeps it ours.
        in_block = connections[self.database].in_atomic_block
        try:
            with transaction.atomic(using=self.database) if in_block else nullcontext():
                return query()
        except DatabaseError as error:
            logger.warning("redis_integration.fallback_failed %s: %s", type(error).__name__, error)
            return None
