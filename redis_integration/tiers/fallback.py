"""The tier in the database: the protocol of the tier in Redis, in SQL. Clocks are the database's.

An error of the database here is one line in the log and FallbackUnavailable. What locks never runs inside a transaction.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import partial
from time import time
from typing import Any, NamedTuple

from django.db import IntegrityError
from django.db.models import BinaryField, Case, CharField, DateTimeField, Exists, F, Q, Value, When
from django.db.models.constants import OnConflict
from django.db.models.functions import Now

from redis_integration.conf import RedisSettings
from redis_integration.entries import Entry, pack, unpack
from redis_integration.exceptions import FallbackUnavailable, UnreadableEntry
from redis_integration.flow import Call, Flow
from redis_integration.keys import Names
from redis_integration.statements import ask
from redis_integration.tiers import Lease
from redis_integration.tiers.leases import RANDOM_BYTES, make_generation

logger = logging.getLogger("redis_integration")

# Names in one DELETE: below every database's limit of parameters.
BATCH = 500
# Seconds that a durable row is kept past its ttl, to be answered where the origin raises: a long weekend, and somebody sees it.
KEPT_PAST_TTL = 7 * 86_400.0
LOOKS = 3  # at a row, where nobody can say whether it is of this outage
MOST_UNENDED = 1_000  # names; above it no row is believed
EVERYTHING = ""

# Names whose rows could not be deleted, each with a token of its own, as what is pending in Redis.
_unended: dict[RedisSettings, dict[object, str]] = {}
# Leases of rows since the tables were pruned.
writes: Counter[RedisSettings] = Counter()


class Look(NamedTuple):
    """What a read has learnt for the lease that follows it: the name of the row's last lease, None where there is no row.

    Of each tag that exists, its generation and for how long that is kept.
    """

    lease: str | None
    is_held: bool
    tags: dict[str, tuple[bytes, timedelta]]


class FallbackTier:
    """Entries in FallbackEntry of the database DATABASE, for one call. `durable` ones are believed for their whole ttl.

    Other rows are believed for FALLBACK_TTL at most, and only if their computation began while Redis was down for this process:
    an invalidation that Redis confirmed does not reach them.
    """

    def __init__(self, settings: RedisSettings, *, seconds_open: Callable[[], float], durable: bool = False) -> None:
        self.settings = settings
        self.database = settings.database if settings.fallback else None
        # Whether also what Redis confirmed ends rows.
        self.ends_every_row = self.database is not None and settings.fallback == "durable"
        self.is_durable = durable and self.ends_every_row
        self._kept_past_ttl = KEPT_PAST_TTL if self.is_durable else 0.0
        self.unended = _unended.setdefault(settings, {})
        self._seconds_open = seconds_open
        self._look: Look | None = None

    def read(self, names: Names, *, stale: bool = False) -> Flow[Entry | None]:
        """See `Tier.read`; one query, in the first moments of an outage up to 3. With `stale` also a row past its ttl. Raises FallbackUnavailable."""
        if self.unended and not {EVERYTHING, names.key, *names.tags}.isdisjoint(self.unended.copy().values()):
            raise FallbackUnavailable("Its row could not be ended.")
        found: Any = yield from self._query(partial(self._select, names, stale=stale))
        tags = {name: (bytes(body), until - now) for name, lease, body, until, now, _ in found if lease is None}
        rows = [(lease, body, until > now) for _, lease, body, until, now, _ in found if lease is not None]
        lease, body, is_held = rows[0] if rows else (None, None, False)
        self._look = Look(lease, is_held, tags)
        if body is None:
            return None
        try:
            entry = unpack(bytes(body), names.key, self.settings.max_entry_bytes)
        except UnreadableEntry as error:
            # Of another version of this package: nobody else writes here, so it is written over.
            logger.warning("redis_integration.entry_unreadable %s: %s", names.key, error)
            return None
        generations = (tags[tag][0] if tag in tags else b"" for tag in names.tags)
        return entry if entry.tags == (*generations, *names.stamp) else None

    def _select(self, names: Names, *, stale: bool = False) -> list[Any]:
        for _ in range(LOOKS):
            seconds = self._seconds_open()
            body = Case(When(self._is_believed(seconds, stale=stale), then=F("payload")), output_field=BinaryField())
            rows = self._rows().filter(key=names.key).annotate(body=body, now=Now())
            every = rows.values_list("key", "lease", "body", "held_until", "now", "started")
            found = [*(every.union(self._select_tags(names.tags), all=True) if names.tags else every)]
            ages = [(now - started).total_seconds() for *_, now, started in found if started]
            # Of a row of the first moments of an outage, the time decides that the question took to the database's clock.
            if self.is_durable or not any(seconds < age <= self._seconds_open() for age in ages):
                break
        return found

    def _select_tags(self, tags: Sequence[str]) -> Any:
        nothing = {"lease": Value(None, CharField()), "started": Value(None, DateTimeField())}
        found = self._tags().filter(tag__in=tags).annotate(now=Now(), **nothing)
        return found.values_list("tag", "lease", "generation", "kept_until", "now", "started")

    def _is_believed(self, seconds_open: float, *, stale: bool) -> Q:
        if stale and self.is_durable:
            return Q(started__isnull=False, kept_until__gt=Now())
        is_fresh = Q(fresh_until__gt=Now())
        if self.is_durable:
            return is_fresh
        # Rows of an earlier outage are older than invalidations that only Redis has seen since. Databases may tick in ms.
        seconds = min(seconds_open, self.settings.fallback_ttl) + 0.001
        return is_fresh & Q(started__gte=Now() - timedelta(seconds=seconds))

    def find(self, key: str) -> Flow[Any]:
        """This key's row as it is, with the database's `now`. One query. Raises FallbackUnavailable."""
        return (yield from self._query(lambda: self._rows().annotate(now=Now()).filter(key=key).first()))

    def lease(
        self,
        names: Names,
        seen: Entry | None,
        token: bytes,
        *,
        seconds: float,
        kept: float,
        replace: bool = False,
        has_copy: bool = False,
    ) -> Flow[Lease | Entry | None]:
        """See `RedisTier.lease`. After a `read` or with `replace` 1 to 3 queries, else one more. Raises FallbackUnavailable.

        A row is leased as it was seen: who comes second gets None, and looks again.
        """
        look, self._look = self._look, None
        if replace:
            # The generations alone; whose lease it was does not matter.
            look = None
        elif look is None:
            entry = yield from self.read(names)
            look, self._look = self._look, None
            if entry is not None and entry != seen:
                return entry
        if look is not None and look.is_held:
            return None
        # A tag outlives the entries that name it.
        take = partial(self._take, names, look, token, seconds=seconds, kept=kept + self._kept_past_ttl)
        return (yield from self._query(take, locks=True))  # type: ignore[no-any-return]

    def _take(self, names: Names, look: Look | None, token: bytes, *, seconds: float, kept: float) -> Lease | None:
        tags = look.tags if look is not None else {}
        if look is None and names.tags:
            found = self._select_tags(names.tags)
            tags = {name: (bytes(generation), until - now) for name, _, generation, until, now, _ in found}
        # Before the row's lease, and so before the origin: from then on an invalidation finds something to end.
        lease = Lease(token, generations=self._generations(names.tags, tags, timedelta(seconds=kept)))
        writes[self.settings] += 1
        until = Now() + timedelta(seconds=seconds)
        values = {"lease": token[:RANDOM_BYTES].hex(), "leased": Now(), "held_until": until}
        rows = self._rows().filter(key=names.key)
        if look is None and rows.update(**values):
            return lease
        if look is not None and look.lease is not None:
            return lease if rows.filter(lease=look.lease).update(**values) else None
        try:
            self._rows().create(key=names.key, payload=b"", kept_until=until, **values)
        except IntegrityError:
            return None
        return lease

    def _generations(
        self, tags: Sequence[str], found: dict[str, tuple[bytes, timedelta]], kept: timedelta
    ) -> tuple[bytes, ...]:
        """What these tags stand for. Those that are missing or soon over are written, in one statement."""
        generations = {tag: found[tag][0] if tag in found else make_generation() for tag in tags}
        short = sorted(tag for tag in tags if tag not in found or found[tag][1] < kept)
        if short:
            model, until = self._tags().model, Now() + 2 * kept
            made = [model(tag=tag, generation=generations[tag], kept_until=until) for tag in short]
            tag, generation, kept_until = (model._meta.get_field(n) for n in ("tag", "generation", "kept_until"))
            # Which of two that make one at once has won, nobody asks: the other one's fill is refused.
            # As bulk_create does it, which would add a BEGIN and a COMMIT.
            self._tags()._insert(
                made,
                fields=[tag, generation, kept_until],
                using=self.database,
                on_conflict=OnConflict.UPDATE,
                update_fields=[kept_until],
                unique_fields=[tag],
            )
        return tuple(generations[tag] for tag in tags)

    def fill(self, names: Names, lease: Lease, entry: Entry | None, *, kept: float = 0.0) -> Flow[bool]:
        """See `RedisTier.fill`; one query, 2 where it is refused. Raises FallbackUnavailable."""
        return bool((yield from self._query(partial(self._fill, names, lease, entry, kept), locks=True)))

    def _fill(self, names: Names, lease: Lease, entry: Entry | None, kept: float) -> bool:
        rows = self._rows().filter(key=names.key, lease=lease.token[:RANDOM_BYTES].hex())
        mine = rows
        for tag, generation in zip(names.tags, lease.generations, strict=True):
            mine = mine.filter(Exists(self._tags().filter(tag=tag, generation=generation)))
        values: dict[str, Any] = {"held_until": Now()}
        if entry is not None:
            fresh_for = entry.fresh_until - time()
            if not self.is_durable:
                fresh_for, kept = min(fresh_for, self.settings.fallback_ttl), min(kept, self.settings.fallback_ttl)
            values |= {
                "payload": pack(entry._replace(tags=lease.generations + names.stamp), names.key),
                "started": F("leased"),
                "fresh_until": Now() + timedelta(seconds=fresh_for),
                "kept_until": Now() + timedelta(seconds=kept + self._kept_past_ttl),
            }
        if mine.update(**values):
            return True
        if names.tags:
            rows.update(held_until=Now())  # a generation has gone; nobody shall wait
        return False

    def expire(self, key: str) -> Flow[None]:
        """See `RedisTier.expire`; one query. An error is remembered, as that of `delete`."""
        values = {"lease": "", "held_until": Now(), "fresh_until": Now()}
        yield from self._end([key], lambda: self._rows().filter(key=key).update(**values))

    def delete(self, names: Sequence[str]) -> Flow[None]:
        """See `Tier.delete`; one query for keys and one for tags. What fails is remembered: this process believes no such row.

        Inside the caller's transaction on DATABASE it is only remembered; its commit calls this again.
        """
        yield from self._end(names, lambda: self._delete(sorted(names)))

    def retry_unended(self) -> Flow[None]:
        """Delete what could not be deleted when it was invalidated. No query where there is nothing."""
        if names := {*self.unended.copy().values()}:
            yield from self._end([], lambda: self._delete(sorted(names)), retried=names)

    def remember(self, names: Sequence[str]) -> None:
        """Believe no rows of these names until they were deleted."""
        self.unended.update((object(), name) for name in names if self.database is not None)
        if len(self.unended) > MOST_UNENDED:
            self.unended[object()] = EVERYTHING
            for token in [*self.unended][:-1]:
                self.unended.pop(token, None)

    def _end(self, names: Sequence[str], query: Callable[[], Any], *, retried: Collection[str] = ()) -> Flow[None]:
        if self.database is None:
            return
        ended = {*names, *retried}
        waiting = [token for token, name in self.unended.copy().items() if name in ended]
        try:
            yield from self._query(query, locks=True)
        except BaseException as error:
            self.remember(names)
            if not isinstance(error, FallbackUnavailable):  # an interrupt
                raise
        else:
            for token in waiting:
                self.unended.pop(token, None)

    def _delete(self, names: Sequence[str]) -> None:
        if EVERYTHING in names:
            self._rows()._raw_delete(self.database)
            return
        start = f"{self.settings.key_prefix}:#"
        tags, keys = [name for name in names if name.startswith(start)], [n for n in names if not n.startswith(start)]
        for rows, field, wanted in ((self._tags(), "tag__in", tags), (self._rows(), "key__in", keys)):
            for at in range(0, len(wanted), BATCH):
                rows.filter(**{field: wanted[at : at + BATCH]})._raw_delete(self.database)

    # Models cannot be imported before the app registry is ready, and decorators are.

    def _rows(self) -> Any:
        from redis_integration.models import FallbackEntry

        return FallbackEntry.objects.using(self.database)

    def _tags(self) -> Any:
        from redis_integration.models import FallbackTag

        return FallbackTag.objects.using(self.database)

    def _query(self, query: Callable[[], Any], *, locks: bool = False) -> Flow[Any]:
        if self.database is None:
            raise FallbackUnavailable("There is no fallback tier.")
        try:
            return (yield Call(partial(ask, self.database, query, locks=locks)))
        except FallbackUnavailable:
            raise
        except Exception as error:
            # Not only DatabaseError: a driver's own, no such app or database, a test that forbids it.
            logger.warning("redis_integration.fallback_failed %s: %s", type(error).__name__, error)
            raise FallbackUnavailable(f"{type(error).__name__}: {error}") from error
