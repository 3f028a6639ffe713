from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading

import pytest
from django.core.management import call_command
from django.db.backends.signals import connection_created
from django.dispatch import receiver

from demo_project.server import start_server
from redis_integration import close_pools, flights, journal
from redis_integration.tiers import fallback as fallback_tier
from redis_integration.tiers import redis as redis_tier
from redis_integration.watch import watch
from tests.databases import (
    DatabaseMissing,
    added_databases,
    isolation_levels,
    skip_or_fail,
    speak_to_mariadb,
    start_mariadb,
    start_postgres,
)

_numbers = itertools.count()

# A busy machine must not look like a slow Redis: only tests about timeouts have short ones.
PATIENT = {"COMMAND_TIMEOUT": 10, "CONNECT_TIMEOUT": 10, "POOL_TIMEOUT": 10, "REQUEST_BUDGET": 60}
BRISK = {"COMMAND_TIMEOUT": 1, "CONNECT_TIMEOUT": 1}


@pytest.fixture(scope="session")
def server():
    """A real server of this test run's own, on a free loopback port."""
    with start_server() as server:
        yield server


@pytest.fixture
def own_server():
    """A real server for a test that stops, pauses or reconfigures it."""
    with start_server() as server:
        yield server


@pytest.fixture
def options():
    """Further options of the alias "default"; a test module overrides it."""
    return {}


@pytest.fixture
def prefix():
    """A KEY_PREFIX that no other test uses."""
    return f"t{next(_numbers)}"


@pytest.fixture
def live(settings, server, prefix, options):
    """The alias "default" on the real server; the server itself."""
    settings.REDIS_INTEGRATION = {"default": {"URL": server.url, "KEY_PREFIX": prefix, **PATIENT, **options}}
    return server


@pytest.fixture
def live_own(settings, own_server, prefix, options):
    """The alias "default" on a real server that belongs to this test."""
    settings.REDIS_INTEGRATION = {"default": {"URL": own_server.url, "KEY_PREFIX": prefix, **BRISK, **options}}
    return own_server


# Django closes no connection to an in-memory database, and those of threads that have ended are a ResourceWarning (Python 3.13).
_of_threads: list[tuple[threading.Thread, sqlite3.Connection]] = []


@receiver(connection_created)
def _note_connection(connection, **kwargs):
    if connection.vendor == "sqlite" and threading.current_thread() is not threading.main_thread():
        _of_threads.append((threading.current_thread(), connection.connection))


@pytest.fixture(autouse=True)
def close_databases():
    """No test leaves the in-memory database open in a thread that has ended."""
    yield
    for thread, opened in [each for each in _of_threads if not each[0].is_alive()]:
        _of_threads.remove((thread, opened))
        opened.close()


@pytest.fixture(autouse=True)
def forget_redis():
    """No test leaves a connection, an open breaker, a pending name or a landed flight to the next."""
    yield
    watch.stop()
    flights._flights.clear()
    close_pools()
    redis_tier.start_afresh()
    journal._journals.clear()
    fallback_tier._unended.clear()


@pytest.fixture(scope="session")
def postgres(django_db_blocker):
    """A PostgreSQL of this test run's own, its tables made, as entries for DATABASES: one for each isolation level."""
    with contextlib.ExitStack() as stack:
        try:
            levels, server = isolation_levels(), stack.enter_context(start_postgres())
        except DatabaseMissing as missing:
            skip_or_fail("postgres", str(missing))
        databases = {alias: server.as_database(**options) for alias, options in levels.items()}
        with added_databases(databases), django_db_blocker.unblock():
            call_command("migrate", database="postgres", verbosity=0)
        yield databases


@pytest.fixture(scope="session")
def mariadb(django_db_blocker):
    """A MariaDB of this test run's own, its tables made, as entries for DATABASES."""
    with contextlib.ExitStack() as stack:
        try:
            speak_to_mariadb()
            server = stack.enter_context(start_mariadb())
        except DatabaseMissing as missing:
            skip_or_fail("mariadb", str(missing))
        databases = {"mariadb": server.as_database()}
        with added_databases(databases), django_db_blocker.unblock():
            call_command("migrate", database="mariadb", verbosity=0)
        yield databases


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def database(request, transactional_db, django_db_blocker):
    """An alias of DATABASES with empty tables of ours: each kind of database in turn."""
    if request.param == "sqlite":
        with django_db_blocker.unblock():
            yield "default"
        return
    databases = request.getfixturevalue(request.param)
    with added_databases(databases), django_db_blocker.unblock():
        yield request.param
        call_command("flush", database=request.param, interactive=False, verbosity=0)
