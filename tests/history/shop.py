"""What a worker caches and changes: versions of keys in a table to which rows are only added. Sync and async share their entries.

It is imported once Django is set up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, transaction

from redis_integration import ainvalidate, cache_aside, cache_aside_many, invalidate
from tests.history.plan import KEYS, KILLED_AMID, group_of

TABLE = "history_version"
# Seconds that an entry is fresh: some are refreshed in the background all the time.
TTL, SHORT_TTL, STALE_FOR = 600.0, 1.0, 600.0
LEASE_TIMEOUT = 3.0  # of who was killed

Made = list[tuple[int, int]]  # key, version


def make_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE {TABLE} (pk INTEGER, version INTEGER, stamp VARCHAR(50) NOT NULL, PRIMARY KEY (pk, version))"
        )
        cursor.executemany(f"INSERT INTO {TABLE} VALUES (%s, 1, '')", [[key] for key in range(KEYS)])


def read_all() -> list[tuple[int, int, str]]:
    """Key, version and stamp of all that was ever committed."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pk, version, stamp FROM {TABLE}")
        return list(cursor.fetchall())


def read_row(key: int) -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT version, stamp FROM {TABLE} WHERE pk = %s ORDER BY version DESC LIMIT 1", [key])
        version, stamp = cursor.fetchone()
    return {"key": key, "version": version, "stamp": stamp}


def insert(keys: Sequence[int], stamp: str) -> Made:
    """A new version of each of these keys, in one statement."""
    marks = ", ".join(["%s"] * len(keys))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {TABLE} SELECT pk, MAX(version) + 1, %s FROM {TABLE} WHERE pk IN ({marks}) GROUP BY pk "
            "RETURNING pk, version",
            [stamp, *keys],
        )
        return [(key, version) for key, version in cursor.fetchall()]


def insert_surely(keys: Sequence[int], stamp: str) -> Made:
    while True:
        try:
            return insert(keys, stamp)
        except IntegrityError:  # PostgreSQL: another was quicker
            continue


def usual_work(row: dict[str, Any]) -> float:
    """Seconds that an origin takes after it has read this row: mostly few, sometimes long enough to be overtaken."""
    number = (row["key"] * 7 + row["version"] * 13) % 20
    return 0.3 if number == 0 else number / 1000


def tags_of(pk: int) -> list[str]:
    return [f"group:{group_of(pk)}"]


def ttl_of(row: dict[str, Any]) -> float:
    return SHORT_TTL if row["key"] % 5 == 0 else TTL


class Shop:
    """The cached functions, all of the same entries."""

    def __init__(self, *, durable: bool, work: float | None) -> None:
        def work_of(row: dict[str, Any]) -> float:
            return usual_work(row) if work is None or row["version"] == 1 else work

        options: Any = {"ttl": ttl_of, "stale_for": STALE_FOR, "tags": tags_of, "lease_timeout": LEASE_TIMEOUT}
        single: Any = {**options, "key": "item:{pk}", "durable": durable}

        @cache_aside(**single)
        def item(pk: int) -> Any:
            row = read_row(pk)
            time.sleep(work_of(row))
            return row

        @cache_aside(**single)
        async def aitem(pk: int) -> Any:
            row = await sync_to_async(read_row)(pk)
            await asyncio.sleep(work_of(row))
            return row

        @cache_aside_many(**{**options, "tags": lambda pks: tags_of(pks)}, key="item:{pks}")
        def items(pks: list[int]) -> Any:
            rows = [read_row(pk) for pk in pks]
            time.sleep(max(map(work_of, rows)))
            return rows

        @cache_aside_many(**{**options, "tags": lambda pks: tags_of(pks)}, key="item:{pks}")
        async def aitems(pks: list[int]) -> Any:
            rows = [await sync_to_async(read_row)(pk) for pk in pks]
            await asyncio.sleep(max(map(work_of, rows)))
            return rows

        self.item, self.aitem, self.items, self.aitems = item, aitem, items, aitems

    def read(self, what: str, keys: Sequence[int]) -> list[tuple[int, Any]]:
        """The keys that were asked for, each with its answer."""
        if what == "many":
            return [*zip(keys, self.item.many(keys), strict=True)]
        if what == "batch":
            return [*zip(keys, self.items(keys), strict=True)]
        read = self.item.refresh if what == "refresh" else self.item
        return [(keys[0], read(keys[0]))]

    async def aread(self, what: str, keys: Sequence[int]) -> list[tuple[int, Any]]:
        """See `read`."""
        if what == "many":
            return [*zip(keys, await self.aitem.amany(keys), strict=True)]
        if what == "batch":
            return [*zip(keys, await self.aitems(keys), strict=True)]
        read = self.aitem.arefresh if what == "refresh" else self.aitem
        return [(keys[0], await read(keys[0]))]

    def write(self, what: str, keys: Sequence[int], stamp: str, note: Callable[[Made], None]) -> None:
        """Change and invalidate; `note` is told what was made before it is committed, or as soon as it is."""
        if what == "by key":
            note(insert_surely([keys[0]], stamp))
            self.item.invalidate(keys[0])
        elif what == "by keys":
            note(insert_surely(sorted({*keys}), stamp))
            invalidate(keys=[self.item.key_for(key) for key in keys])
        elif what == "by tag":
            note(insert_surely(group_keys(keys[0]), stamp))
            invalidate(tags=tags_of(keys[0]))
        else:
            while True:
                with contextlib.suppress(IntegrityError):  # PostgreSQL, as above
                    return self._write_in_atomic(what, keys[0], stamp, note)

    def _write_in_atomic(self, what: str, key: int, stamp: str, note: Callable[[Made], None]) -> None:
        with transaction.atomic():
            made = insert(group_keys(key) if "tag" in what else [key], stamp)
            if "tag" in what:
                invalidate(tags=tags_of(key))
            else:
                self.item.invalidate(key)
            if what == "rolled back":
                return transaction.set_rollback(True)
            note(made)
            if what == KILLED_AMID:
                # In front of all that the commit calls.
                death: Any = (set(), lambda: os.kill(os.getpid(), signal.SIGKILL), False)
                connection.run_on_commit.insert(0, death)

    async def awrite(self, what: str, keys: Sequence[int], stamp: str, note: Callable[[Made], None]) -> None:
        """See `write`; the acts inside transactions are those of sync code, in a thread."""
        if what == "by key":
            note(await sync_to_async(insert_surely)([keys[0]], stamp))
            await self.aitem.ainvalidate(keys[0])
        elif what == "by keys":
            note(await sync_to_async(insert_surely)(sorted({*keys}), stamp))
            await ainvalidate(keys=[self.aitem.key_for(key) for key in keys])
        elif what == "by tag":
            note(await sync_to_async(insert_surely)(group_keys(keys[0]), stamp))
            await ainvalidate(tags=tags_of(keys[0]))
        else:
            await sync_to_async(self.write)(what, keys, stamp, note)


def group_keys(key: int) -> list[int]:
    """All keys with the tag of this one."""
    return [other for other in range(KEYS) if group_of(other) == group_of(key)]
