"""The throw-away PostgreSQL that the tests of transactions stand on, and how databases come and go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from django.db import connections, transaction

from tests import databases
from tests.databases import (
    DatabaseMissing,
    added_databases,
    find_postgres,
    isolation_levels,
    skip_or_fail,
    speak_to_mariadb,
)

ROOT = Path(__file__).resolve().parent.parent
START_AND_DIE = """
import os, signal, sys
from tests import databases
with getattr(databases, f"start_{sys.argv[1]}")() as server:
    print(server.pid, server.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def command_line(pid):
    """Empty for a process that has ended, also where nobody has taken note of its end yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def eventually(condition, *, seconds=10):
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds


@pytest.fixture
def levels(postgres, django_db_blocker):
    """The aliases on the PostgreSQL of this run, ready for use."""
    with added_databases(postgres), django_db_blocker.unblock():
        yield postgres


def ask(alias, query):
    with connections[alias].cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


@pytest.mark.parametrize(
    ("alias", "level"),
    [
        ("postgres", "read committed"),
        ("postgres_repeatable", "repeatable read"),
        ("postgres_serializable", "serializable"),
    ],
)
def test_alias_has_the_isolation_level_of_its_name(levels, alias, level):
    """Three aliases of one database differ in what the server itself says of a transaction."""
    with transaction.atomic(using=alias):
        assert ask(alias, "SHOW transaction_isolation") == level


def test_database_is_this_runs_own(levels, postgres):
    """Its folder is where this run put it, and it listens on no port."""
    assert ask("postgres", "SHOW data_directory") == f"{postgres['postgres']['HOST']}/data"
    assert ask("postgres", "SHOW listen_addresses") == ""


def test_added_database_leaves_with_its_connections(postgres, django_db_blocker):
    """Also a connection that another thread opened is closed, and Django knows the alias no more."""
    opened = []

    def use():
        ask("postgres", "SELECT 1")
        opened.append(connections["postgres"])

    with added_databases(postgres), django_db_blocker.unblock():
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        use()

    assert [connection.connection for connection in opened] == [None, None]
    assert "postgres" not in connections


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
def test_stopped_server_leaves_nothing(request, name):
    """After the context there is no process and no folder."""
    request.getfixturevalue(name)
    with getattr(databases, f"start_{name}")() as server:
        os.kill(server.pid, 0)

    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    assert not server.folder.exists()


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
def test_program_killed_takes_its_server_along(request, name):
    """A program that dies by SIGKILL leaves neither a server nor a folder behind."""
    request.getfixturevalue(name)
    command = [sys.executable, "-c", START_AND_DIE, name]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    pid, folder = said.stdout.split()

    assert eventually(lambda: not command_line(pid) and not Path(folder).exists())


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without PostgreSQL."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(databases, "DISTRIBUTION", f"{tmp_path}/*/bin")
    return tmp_path


def test_missing_server_is_an_error_that_says_what_to_install(nowhere):
    """The message is what a skipped test shows."""
    with pytest.raises(DatabaseMissing, match=r"apt-get install postgresql.*psycopg\[binary\].*PATH"):
        find_postgres()


def test_newest_server_of_the_distribution_is_taken(nowhere):
    """A folder with initdb alone is none."""
    programs = [nowhere / version / "bin" / name for version in ("14", "15") for name in ("initdb", "postgres")]
    programs += [nowhere / "17" / "bin" / "initdb"]
    [program.parent.mkdir(parents=True, exist_ok=True) for program in programs]
    [program.touch(mode=0o755) for program in programs]

    assert find_postgres() == nowhere / "15" / "bin"


def test_missing_driver_is_told(monkeypatch):
    """Without psycopg the reason names it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(DatabaseMissing, match="psycopg is not installed"):
        isolation_levels()


def test_missing_driver_of_mariadb_is_told(monkeypatch):
    """Without PyMySQL the reason names it."""
    monkeypatch.setitem(sys.modules, "pymysql", None)

    with pytest.raises(DatabaseMissing, match="PyMySQL is not installed"):
        speak_to_mariadb()


def test_missing_mariadb_is_an_error_that_says_what_to_install(monkeypatch):
    """The message is what a skipped test shows."""
    monkeypatch.setattr(databases.shutil, "which", lambda name, path: None)

    with pytest.raises(DatabaseMissing, match="apt-get install mariadb-server"):
        databases.start_mariadb().__enter__()


@pytest.mark.parametrize("required", ["postgres", "redis, postgres"])
def test_required_server_that_is_missing_is_a_failure(monkeypatch, required):
    """CI asks for the server by name and cannot pass without it."""
    monkeypatch.setenv("REDIS_INTEGRATION_REQUIRE", required)

    with pytest.raises(pytest.fail.Exception, match="asks for postgres. Install it."):
        skip_or_fail("postgres", "Install it.")


@pytest.mark.parametrize("required", ["", "mariadb"])
def test_missing_server_that_nobody_requires_is_a_skip(monkeypatch, required):
    """Elsewhere the test is skipped, and says why."""
    monkeypatch.setenv("REDIS_INTEGRATION_REQUIRE", required)

    with pytest.raises(pytest.skip.Exception, match="Install it."):
        skip_or_fail("postgres", "Install it.")
