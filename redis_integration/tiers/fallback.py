"""The tier in the database: the protocol of the tier in Redis, in SQL. Clocks are the database's.

An error of the database here is one line in the log and FallbackUnavailable. What locks never runs inside a transaction.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from time import monotonic, time
from typing import Any, NamedTuple

from django.db import IntegrityError
from django.db.models import Exists, F
from django.db.models.functions import Now

from redis_integration.conf import RedisSettings
from redis_integration.entries import Entry, pack, unpack
from redis_integration.exceptions import FallbackUnavailable, UnreadableEntry
from redis_integration.flow import Call, Flow
from redis_integration.keys import Names
from redis_integration.statements import ask
from redis_integration.tiers import Lease
from redis_integration.tiers.leases import RANDOM_BYTES, make_generation
from redis_integration.tiers.rows import Found, delete, find, find_tags, rows_of, tags_of, write_tags

logger = logging.getLogger("redis_integration")

# Seconds that a durable row is kept past its ttl, to be answered where the origin raises: a long weekend, and somebody sees it.
KEPT_PAST_TTL = 7 * 86_400.0
MOST_UNENDED = 1_000  # names; above it no row is believed
EVERYTHING = ""

# Names whose rows could not be deleted, each with a token of its own, as what is pending in Redis.
_unended: dict[RedisSettings, dict[object, str]] = {}
# The leases by which this process filled rows, and when (monotonic seconds) it took them.
_mine: dict[RedisSettings, dict[str, float]] = {}
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
        self.is_durable = durable and self.ends_every_row
        self.unended = _unended.setdefault(settings, {})
        self._mine = _mine.setdefault(settings, {})
        self._taken_at = 0.0
        self._seconds_open = seconds_open
        self._look: Look | None = None

    @property
    def _kept_past_ttl(self) -> float:
        return KEPT_PAST_TTL if self.is_durable else 0.0

    @property
    def ends_every_row(self) -> bool:
        """Whether also what Redis confirmed ends rows."""
        return self.database is not None and self.settings.fallback == "durable"

    def read(self, names: Names, *, stale: bool = False) -> Flow[Entry | None]:
        """See `Tier.read`; one query. With `stale` also a row past its ttl. Raises FallbackUnavailable."""
        return (yield from self.look(names, stale=stale))[1]

    def look(self, names: Names, *, stale: bool = False) -> Flow[tuple[Found | None, Entry | None]]:
        """What is in this key's row, and the entry in it, if it is believed. One query. Raises FallbackUnavailable."""
        if self.is_unended((names.key, *names.tags)):
            raise FallbackUnavailable("Its row could not be ended.")
        seconds, found = yield from self._query(partial(self._select, names))
        tags = {each.name: (bytes(each.body), each.until - each.now) for each in found if each.lease is None}
        row = next((each for each in found if each.lease is not None), None)
        self._look = Look(row and row.lease, row is not None and row.until > row.now, tags)
        if row is None or not self._believes(row, timedelta(seconds=seconds), stale=stale):
            return row, None
        try:
            entry = unpack(bytes(row.body), names.key, self.settings.max_entry_bytes)
        except UnreadableEntry as error:
            # Of another version of this package: nobody else writes here, so it is written over.
            logger.warning("redis_integration.entry_unreadable %s: %s", names.key, error)
            return row, None
        generations = (tags[tag][0] if tag in tags else b"" for tag in names.tags)
        return row, entry if entry.tags == (*generations, *names.stamp) else None

    def _select(self, names: Names) -> tuple[float, list[Found]]:
        # Before the query: what passes until the database reads its clock must not make a row look younger.
        return self._seconds_open(), find(self.database, names.key, names.tags)

    def _believes(self, row: Found, is_open_for: timedelta, *, stale: bool) -> bool:
        if row.started is None:
            return False
        if self.is_durable:
            return bool(row.now < (row.kept_until if stale else row.fresh_until))
        # Rows of an earlier outage are older than invalidations that only Redis has seen since. Databases may tick in ms.
        age = row.now - row.started - timedelta(milliseconds=1)
        is_recent = row.now < row.fresh_until and age <= timedelta(seconds=self.settings.fallback_ttl)
        return bool(is_recent) and (age <= is_open_for or self._is_mine(row))

    def _is_mine(self, row: Found) -> bool:
        # On the way to the database's clock a row of the first moment ages past this outage; this process's own clock knows better.
        # The payload is that lease's: another call may hold it still, over a copy of an earlier outage.
        taken_at = self._mine.get(row.lease or "") if row.started == row.leased else None
        return taken_at is not None and monotonic() - taken_at < self._seconds_open()

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
        look, self._look, self._taken_at = self._look, None, monotonic()
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
            found = [Found(*each) for each in find_tags(self.database, names.tags)]
            tags = {each.name: (bytes(each.body), each.until - each.now) for each in found}
        # Before the row's lease, and so before the origin: from then on an invalidation finds something to end.
        lease = Lease(token, generations=self._generations(names.tags, tags, timedelta(seconds=kept)))
        writes[self.settings] += 1
        until = Now() + timedelta(seconds=seconds)
        values = {"lease": _name_of(token), "leased": Now(), "held_until": until}
        rows = rows_of(self.database).filter(key=names.key)
        if look is None and rows.update(**values):
            return lease
        if look is not None and look.lease is not None:
            return lease if rows.filter(lease=look.lease).update(**values) else None
        try:
            rows_of(self.database).create(key=names.key, payload=b"", kept_until=until, **values)
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
            # Which of two that make one at once has won, nobody asks: the other one's fill is refused.
            write_tags(self.database, {tag: generations[tag] for tag in short}, 2 * kept)
        return tuple(generations[tag] for tag in tags)

    def fill(self, names: Names, lease: Lease, entry: Entry | None, *, kept: float = 0.0) -> Flow[bool]:
        """See `RedisTier.fill`; one query, 2 where it is refused. Raises FallbackUnavailable."""
        is_accepted = bool((yield from self._query(partial(self._fill, names, lease, entry, kept), locks=True)))
        if is_accepted and entry is not None:
            self._mine[_name_of(lease.token)] = self._taken_at
            self._forget_mine(monotonic() - min(self._seconds_open(), self.settings.fallback_ttl))
        return is_accepted

    def _forget_mine(self, before: float) -> None:
        """Forget two leases, at most, that say nothing any more: for each that comes, so that there are never many."""
        with suppress(StopIteration, KeyError, RuntimeError):  # another thread is at it
            for _ in range(2):
                oldest = next(iter(self._mine))
                if self._mine[oldest] >= before:
                    break
                del self._mine[oldest]

    def _fill(self, names: Names, lease: Lease, entry: Entry | None, kept: float) -> bool:
        rows = rows_of(self.database).filter(key=names.key, lease=_name_of(lease.token))
        mine = rows
        for tag, generation in zip(names.tags, lease.generations, strict=True):
            mine = mine.filter(Exists(tags_of(self.database).filter(tag=tag, generation=generation)))
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
        yield from self._end([key], lambda: rows_of(self.database).filter(key=key).update(**values))

    def delete(self, names: Sequence[str]) -> Flow[None]:
        """See `Tier.delete`; one query for keys and one for tags. What fails is remembered: this process believes no such row.

        Inside the caller's transaction on DATABASE it is only remembered; its commit calls this again.
        """
        yield from self._end(names, lambda: self._delete(sorted(names)))

    def retry_unended(self) -> Flow[None]:
        """Delete what could not be deleted when it was invalidated. No query where there is nothing."""
        if names := {*self.unended.copy().values()}:
            yield from self._end([], lambda: self._delete(sorted(names)), retried=names)

    def is_unended(self, names: Sequence[str]) -> bool:
        """Whether a row of one of these names should be deleted, and is not."""
        return bool(self.unended) and not {EVERYTHING, *names}.isdisjoint(self.unended.copy().values())

    def remember(self, names: Sequence[str]) -> None:
        """Believe no rows of these names until they were deleted."""
        if self.database is None:
            return
        every = {*names}
        older = [token for token, name in self.unended.copy().items() if name in every]
        self.unended.update((object(), name) for name in every)
        if len(self.unended) - len(older) > MOST_UNENDED:
            older = [*self.unended]
            self.unended[object()] = EVERYTHING
        for token in older:
            self.unended.pop(token, None)

    def _end(self, names: Sequence[str], query: Callable[[], Any], *, retried: Collection[str] = ()) -> Flow[None]:
        if self.database is None:
            return
        ended = {*names, *retried}
        waiting = [token for token, name in self.unended.copy().items() if name in ended]
        try:
            yield from self._query(query, locks=True)
        except FallbackUnavailable:
            self.remember(names)
        except BaseException:  # an interrupt
            self.remember(names)
            raise
        else:
            for token in waiting:
                self.unended.pop(token, None)

    def _delete(self, names: Sequence[str]) -> None:
        if EVERYTHING in names:
            rows_of(self.database)._raw_delete(self.database)
            return
        start = f"{self.settings.key_prefix}:#"
        tags, keys = [name for name in names if name.startswith(start)], [n for n in names if not n.startswith(start)]
        delete(self.database, keys=keys, tags=tags)

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


def _name_of(token: bytes) -> str:
    return token[:RANDOM_BYTES].hex()
