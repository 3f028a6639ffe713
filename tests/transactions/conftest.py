"""A price in a database of the test's own choice, and a function that caches it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import connections, transaction

from redis_integration import cache_aside, get_redis, invalidate
from tests.databases import added_databases

GUARD = 30  # seconds: what would hang fails instead


def _in(*databases):
    return pytest.mark.parametrize("database", databases, indirect=True)


in_every_database = _in("sqlite", "postgres", "postgres_repeatable")
reading_committed = _in("postgres")
reading_snapshots = _in("sqlite", "postgres_repeatable", "postgres_serializable")
reading_snapshots_on_a_server = _in("postgres_repeatable", "postgres_serializable")
by_key_and_by_tag = pytest.mark.parametrize("by", ["invalidate", "invalidate_tag"])


class Boom(Exception):
    pass


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory, django_db_blocker):
    """A SQLite database with tables, and `second`, which is empty, as entries for DATABASES."""
    # A writer does not hold up readers, and a transaction reads a snapshot.
    options = {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=wal; PRAGMA synchronous=off"}
    engine, folder = "django.db.backends.sqlite3", tmp_path_factory.mktemp("sqlite")
    databases = {
        "sqlite": {"ENGINE": engine, "NAME": folder / "sqlite", "OPTIONS": options},
        "second": {"ENGINE": engine, "NAME": folder / "second"},
    }
    with added_databases(databases), django_db_blocker.unblock():
        call_command("migrate", database="sqlite", verbosity=0)
    return databases


# By module: to connect anew for each test took longer than the tests.
@pytest.fixture(scope="module")
def on_sqlite(sqlite_file):
    with added_databases(sqlite_file):
        yield


@pytest.fixture(scope="module")
def on_postgres(postgres):
    with added_databases({**postgres, "postgres_second": dict(postgres["postgres"])}):
        yield


class Project:
    """The connections of a project that has only these databases."""

    def __init__(self, *aliases):
        self.aliases = {*aliases}

    def all(self, *, initialized_only):
        return [each for each in connections.all(initialized_only=initialized_only) if each.alias in self.aliases]


@pytest.fixture
def project(monkeypatch):
    """A project whose databases are those of the test: the other tests' and the suite's own are none of its."""
    project = Project()
    monkeypatch.setattr("redis_integration.transactions.connections", project)
    return project


@pytest.fixture
def database(request, on_sqlite, project, django_db_blocker):
    """The alias of a database with one price in it, as the marks above choose."""
    alias = request.param
    project.aliases.add(alias)
    if alias != "sqlite":
        request.getfixturevalue("on_postgres")
    with django_db_blocker.unblock():
        if not Group.objects.using(alias).update(name="old"):
            Group.objects.using(alias).create(name="old")
        yield alias


@pytest.fixture
def second(database, project):
    """The alias of another database, which is never stricter than `database`."""
    alias = "second" if database == "sqlite" else "postgres_second"
    project.aliases.add(alias)
    return alias


class Price:
    """A price in a database, and a cached function that reads it: sync, or async and called in sync code."""

    def __init__(self, database, *, is_async=False, key="price", lease_timeout=60):
        self.database = database
        self.reads = 0
        decorate = cache_aside(ttl=60, key=key, tags=["prices"], lease_timeout=lease_timeout)
        self.load = decorate(self._aread if is_async else self._read)
        self.key_for = self.load.key_for
        if is_async:
            self.get = async_to_sync(self.load)
            self.invalidate = async_to_sync(self.load.ainvalidate)
            self.refresh = async_to_sync(self._arefresh)
            self.expire = async_to_sync(self.load.aexpire)
        else:
            self.get = self.load
            self.invalidate = self.load.invalidate
            self.refresh = self.load.refresh
            self.expire = self.load.expire

    def _read(self):
        self.reads += 1
        return Group.objects.using(self.database).get().name

    async def _aread(self):
        return await sync_to_async(self._read)()

    async def _arefresh(self):
        return await self.load.arefresh()

    def invalidate_tag(self):
        invalidate(tags=["prices"])

    def change(self, name="new"):
        """Write to the database; the cache is not told."""
        Group.objects.using(self.database).update(name=name)

    def atomic(self):
        return transaction.atomic(using=self.database)

    @property
    def is_stored(self):
        return bool(get_redis().exists(self.key_for()))

    @property
    def is_leased(self):
        return bool(get_redis().exists(f"{{{self.key_for()}}}:lease"))


@pytest.fixture(params=["sync", "async"])
def price(request, live, database):
    """The price of `database`, once read by a sync and once by an async function."""
    return Price(database, is_async=request.param == "async")


@pytest.fixture
def hurried(live, database):
    """The same price for a caller who waits for nobody else's computation."""
    return Price(database, lease_timeout=0.05)


def closing(function):
    """What it returns; this thread's connections to databases are closed."""
    try:
        return function()
    finally:
        connections.close_all()


def elsewhere(function):
    """What it returns in a thread of its own, so on another connection."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(closing, function).result(GUARD)


def round_trips(function):
    """How many requests the server has read while it ran; the connection must be there already."""
    before = get_redis().info("stats")["total_reads_processed"]
    function()
    return get_redis().info("stats")["total_reads_processed"] - before - 1
