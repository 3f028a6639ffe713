"""A worker process of a site; see test_workers.py, which starts it.

Usage: python -m tests.outage.worker JOB FORM URL PREFIX DATABASE. Prints its answers as JSON; its data are one value in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

NAMES = ["key", "tag"]
THREADS = 8


def database_of(path: str) -> dict[str, Any]:
    """An entry for DATABASES."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }


def options_of(url: str, prefix: str) -> dict[str, Any]:
    """Options of the alias, as all processes of the site have them."""
    return {"URL": url, "KEY_PREFIX": prefix, "COMMAND_TIMEOUT": 10, "CONNECT_TIMEOUT": 10, "REQUEST_BUDGET": 60}


def configure(url: str, prefix: str, path: str, *, watch_interval: float) -> None:
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=["redis_integration"],
        DATABASES={"default": database_of(path)},
        REDIS_INTEGRATION={
            "default": {**options_of(url, prefix), "JOURNAL": "always", "WATCH_INTERVAL": watch_interval}
        },
    )
    django.setup()


class Site:
    """What a worker serves: the same value by two functions or coroutine functions, one of which has a tag."""

    def __init__(self, form: str, path: str) -> None:
        from tests.outage.callers import FORMS, Cached

        self.path = path
        make: Any = Cached
        self.cached = {
            "key": make(FORMS[form], self.read, "by-key", run=run_anywhere),
            "tag": make(FORMS[form], self.read, "by-tag", run=run_anywhere, tags=["tag"]),
        }
        self.names: dict[str, Any] = {"keys": [self.cached["key"].key_for("warm")], "tags": ["tag"]}

    def read(self) -> str:
        # Not by Django, which refuses queries on an event loop.
        with contextlib.closing(sqlite3.connect(self.path, timeout=20)) as connection:
            return str(connection.execute("SELECT value FROM value").fetchone()[0])

    def ask(self) -> list[str]:
        return [self.cached[name].load("warm") for name in NAMES]


def run_anywhere(result: Any) -> Any:
    """In any thread, on an event loop of its own."""
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def change(site: Site) -> None:
    """Commit, and die before the invalidation is sent."""
    from django.db import connection, transaction

    from redis_integration import invalidate

    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("UPDATE value SET value = 'new'")
        invalidate(**site.names)
        transaction.on_commit(die)
        # It stands in front of ours.
        connection.run_on_commit.insert(0, connection.run_on_commit.pop())


async def achange(site: Site) -> None:
    from asgiref.sync import sync_to_async

    await sync_to_async(change)(site)


async def change_without_transaction(site: Site) -> None:
    """The data are committed first; die when the invalidation, which is written down, is to be sent."""
    from redis_integration import ainvalidate
    from redis_integration.tiers.redis import RedisTier

    with contextlib.closing(sqlite3.connect(site.path, timeout=20, isolation_level=None)) as connection:
        connection.execute("UPDATE value SET value = 'new'")
    RedisTier.unlink = die  # type: ignore[method-assign, assignment]
    await ainvalidate(**site.names)


def ask(site: Site) -> None:
    print(json.dumps(site.ask()))


def ask_in_threads(site: Site) -> None:
    """All first calls at once."""
    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(lambda _: site.ask(), range(THREADS)))
    print(json.dumps(sum(answers, [])))


def fork(site: Site) -> None:
    """As gunicorn with --preload does, after the cache was used; the child asks once it is told to."""
    from django.db import connections

    print(json.dumps(site.ask()), flush=True)
    sys.stdin.readline()
    connections.close_all()
    child = os.fork()
    if not child:
        print(json.dumps(site.ask()), flush=True)
        os._exit(0)
    os.waitpid(child, 0)


JOBS: dict[str, Callable[[Site], Any]] = {
    each.__name__: each for each in (change, achange, change_without_transaction, ask, ask_in_threads, fork)
}


def main() -> None:
    job, form, url, prefix, path = sys.argv[1:]
    # The watch of the parent shall not drain what the child is to learn.
    configure(url, prefix, path, watch_interval=600 if job == "fork" else 1)
    run_anywhere(JOBS[job](Site(form, path)))


if __name__ == "__main__":
    main()
