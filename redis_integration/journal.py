"""The journal: invalidations that Redis has not confirmed, in this process's memory at once, in PendingInvalidation soon after.

Rows are added and deleted by their id and never changed into one another, so that draining needs no order and no lock. It asks no
Redis. What runs a query here is sync code: in a flow, a `Call`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from django.db.models import F
from django.db.models.constants import OnConflict

from redis_integration import statements
from redis_integration.conf import RedisSettings, get_aliases, get_settings, is_under_test
from redis_integration.exceptions import FallbackUnavailable, JournalUnavailable
from redis_integration.pools import run_in_child

logger = logging.getLogger("redis_integration")

# Names that are bypassed one by one; above it, Redis is bypassed whole.
MOST = 1_000
# Rows in one statement: with five parameters each, below every database's limit.
BATCH = 150
# Stands among the pending names for all of them.
EVERYTHING = ""
UNPOLLED, FLOODED = "unpolled", "flooded"

_journals: dict[RedisSettings, Journal] = {}


class Journal:
    """What is pending for one Redis, for all threads and loops of this process.

    `pending` holds each name with its marks: the ids of its rows, written or not yet. A name is bypassed while it has one. A mark
    goes when this process has drained it, when a poll that began after its row was written does not find it any more, or when a
    newer one of its name takes its place.
    """

    def __init__(self, settings: RedisSettings) -> None:
        # Aliases of equal settings share one journal, in every process under the first one's name.
        self.alias = next((alias for alias in get_aliases() if _has(alias, settings)), "default")
        self.database = settings.database if settings.journal else None
        self.is_always = settings.journal == "always" and self.database is not None
        self.pending: dict[str, set[str]] = {}
        self._unwritten: dict[str, str] = {}  # mark → name
        self._written: dict[str, str] = {}
        self._told: set[str] = set()
        self._sheds = 0
        self._is_failing = False
        self.start_afresh()

    def start_afresh(self) -> None:
        """What is pending stays; all else is to be learnt anew. For a forked child too, where the lock may be another thread's."""
        self._lock = threading.RLock()
        # Whether somebody has tried to poll in this process.
        self.first_look = threading.Event()
        if self.database is not None and not is_under_test():
            self._add(UNPOLLED, EVERYTHING)

    def bypasses(self, names: Iterable[str]) -> bool:
        """Whether one of these names may be in Redis and should not be."""
        return EVERYTHING in self.pending or len(self.pending) > MOST or any(name in self.pending for name in names)

    @property
    def is_unpolled(self) -> bool:
        """Whether this process has yet to learn what others could not send."""
        return UNPOLLED in self.pending.get(EVERYTHING, ())

    @property
    def is_flooded(self) -> bool:
        """Whether more is pending than this process knows by name."""
        return FLOODED in self.pending.get(EVERYTHING, ())

    def remember(self, names: Iterable[str]) -> None:
        """Make these names pending. No query: `write` follows."""
        for name in names:
            with self._lock:
                older = dict.fromkeys(self.pending.get(name, ()), name)
                mark = _make_id()
                self._add(mark, name)
                self._unwritten[mark] = name
                if not self._told.isdisjoint(older):
                    self._told.add(mark)
                # The newest one speaks for those before it: a name takes up its place once, for however long nothing can be
                # written. None speaks for what comes later: its row may be there, unheard, and be drained elsewhere by now.
                self._forget(older)

    def write(self) -> bool:
        """Write down what is pending and not written yet; whether all is. One query for 150 names, if there are any; raises nothing.

        Inside `atomic()` on DATABASE the watch does it later, since a rollback would lose it. What fails is in the log, by name.
        """
        while self.database is not None and (batch := self._first_unwritten()):
            try:
                statements.ask(self.database, partial(self._insert, batch), locks=True)
            except FallbackUnavailable:
                return False
            except Exception as error:
                self._cry(error)
                return False
            with self._lock:
                for mark, name in batch.items():
                    # What was forgotten meanwhile stays forgotten: should its row be there, the next poll finds it.
                    if self._unwritten.pop(mark, None):
                        self._written[mark] = name
                self._told.difference_update(batch)
            self._shed()
        return self.database is not None

    def _first_unwritten(self) -> dict[str, str]:
        # They stay unwritten until they are there: a call whose rows another thread is writing writes them too, in the same order.
        with self._lock:
            return dict(islice(self._unwritten.items(), BATCH))

    def _cry(self, error: Exception) -> None:
        with self._lock:
            news = sorted({name for mark, name in self._unwritten.items() if mark not in self._told})
            self._told.update(self._unwritten)
        for at in range(0, len(news), BATCH):
            logger.critical(
                "redis_integration.journal_unwritten %s: %s Redis did not confirm the invalidation of %s, and only this "
                "process knows. It is tried again; should the process end before, delete these keys by hand.",
                type(error).__name__,
                error,
                ", ".join(news[at : at + BATCH]),
            )

    def _shed(self) -> None:
        """Above MOST names, forget those that are written: until a poll has found fewer, Redis is bypassed whole."""
        with self._lock:
            if len(self.pending) > MOST:
                self._add(FLOODED, EVERYTHING)
                self._sheds += 1
                self._forget(self._written.copy())

    def record(self, names: Sequence[str]) -> list[str]:
        """Write these names down as part of the caller's transaction, if there is one. One query for 150 names.

        The ids of the rows, to be deleted when Redis has confirmed. Raises JournalUnavailable.
        """
        rows = {_make_id(): name for name in names}
        try:
            for batch in _batches([*rows]):
                self._insert({mark: rows[mark] for mark in batch})
        except Exception as error:
            raise JournalUnavailable(
                f"The invalidation of {', '.join(names)} could not be written to the database {self.database!r}: "
                f"{type(error).__name__}: {error} Mend the database, or set 'JOURNAL': 'on_failure'."
            ) from error
        return [*rows]

    def poll(self) -> bool:
        """Learn which rows there are; whether that was all. One query. What fails is in the log, once, and Redis goes on being believed.

        Inside a transaction that reads a snapshot, which may be older than a row, nothing that is not found is over.
        """
        sees_all = self.database is None or statements.sees_all(self.database)
        written, sheds = {*self._written.copy()}, self._sheds
        try:
            found = dict(statements.ask(self.database, self._select, locks=False)) if self.database is not None else {}
        except Exception as error:
            self._note_failure(error)
        else:
            self._is_failing = False
            with self._lock:
                for mark, name in found.items():
                    if mark not in self._unwritten:
                        self._written[mark] = name
                        self._add(mark, name)
                if len(found) > MOST:
                    self._add(FLOODED, EVERYTHING)
                    self._sheds += 1
                elif sees_all:
                    gone = written.difference(found)
                    self._forget({mark: self._written[mark] for mark in gone if mark in self._written})
                    if sheds == self._sheds:
                        self._forget({FLOODED: EVERYTHING})
        if sees_all:
            self._forget({UNPOLLED: EVERYTHING})
        return sees_all

    def known(self) -> dict[str, list[str]]:
        """What is pending by name, each with its marks as they are now."""
        with self._lock:
            return {name: [*marks] for name, marks in self.pending.items() if name != EVERYTHING}

    def settle(self, drained: Mapping[str, Iterable[str]], *, delete: bool = True) -> None:
        """Delete the rows of these marks, and forget them: Redis has confirmed. One query for 150 rows; raises nothing."""
        marks = {mark: name for name, each in drained.items() for mark in each}
        if delete:
            self.delete([mark for mark in marks if mark not in self._unwritten])
        with self._lock:
            self._forget(marks)

    def delete(self, rows: Sequence[str]) -> None:
        """Delete these rows. A row that stays is drained once more; raises nothing."""
        try:
            for batch in _batches(rows):
                found = self._table().filter(pk__in=sorted(batch))
                statements.ask(self.database or "", partial(found._raw_delete, self.database), locks=True)
        except FallbackUnavailable:
            pass  # inside the caller's transaction: the watch finds them
        except Exception as error:
            self._note_failure(error)

    def note_try(self, drained: Mapping[str, Iterable[str]]) -> None:
        """Count that the invalidation of these was repeated in vain. One query for 150 rows; raises nothing."""
        rows = [mark for each in drained.values() for mark in each if mark in self._written]
        try:
            for batch in _batches(rows):
                query = partial(self._table().filter(pk__in=sorted(batch)).update, tries=F("tries") + 1)
                statements.ask(self.database or "", query, locks=True)
        except Exception as error:
            self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "redis_integration.journal_unread %s: %s The invalidations that other processes could not send are not known "
                "here. Is the database %r there, and was `manage.py migrate` run?",
                type(error).__name__,
                error,
                self.database,
            )

    def _add(self, mark: str, name: str) -> None:
        self.pending.setdefault(name, set()).add(mark)

    def _forget(self, marks: Mapping[str, str]) -> None:
        with self._lock:
            for mark, name in marks.items():
                self._unwritten.pop(mark, None)
                self._written.pop(mark, None)
                self._told.discard(mark)
                left = self.pending.get(name, set())
                left.discard(mark)
                if not left:
                    self.pending.pop(name, None)

    def rows(self) -> Any:
        """All rows. Raises FallbackUnavailable where there is no journal."""
        if self.database is None:
            raise FallbackUnavailable(f"The alias {self.alias!r} has no journal: JOURNAL or DATABASE is None.")
        return self._table().filter(alias=self.alias)

    def _table(self) -> Any:
        # Models cannot be imported before the app registry is ready, and decorators are.
        from redis_integration.models import PendingInvalidation

        return PendingInvalidation.objects.using(self.database)

    def _select(self) -> list[tuple[str, str]]:
        return [*self.rows().values_list("pk", "name")[: MOST + 1]]

    def _insert(self, batch: Mapping[str, str]) -> None:
        rows = self._table()
        fields = [rows.model._meta.get_field(field) for field in ("id", "alias", "name", "created", "tries")]
        # As bulk_create does it, which would add a BEGIN and a COMMIT. A first try may have come through.
        rows._insert(
            [rows.model(id=mark, alias=self.alias, name=name) for mark, name in batch.items()],
            fields=fields,
            using=self.database,
            on_conflict=OnConflict.IGNORE,
        )


def _has(alias: str, settings: RedisSettings) -> bool:
    try:
        return get_settings(alias) == settings
    except Exception:  # of another alias, which is of no use to anybody
        return False


def _make_id() -> str:
    return os.urandom(16).hex()


def _batches(every: Sequence[str]) -> Iterable[Sequence[str]]:
    return (every[at : at + BATCH] for at in range(0, len(every), BATCH))


def get_journal(settings: RedisSettings) -> Journal:
    return _journals.get(settings) or _journals.setdefault(settings, Journal(settings))


def _start_afresh() -> None:
    for journal in _journals.values():
        journal.start_afresh()


run_in_child(_start_afresh)
