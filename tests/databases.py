"""Starts a throw-away PostgreSQL of the test run's own, and adds databases to Django for the time of a test.

It uses no cluster that is already there, and it is no way to run PostgreSQL in production.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

START_TIMEOUT = 30.0  # seconds; a start takes 0.6
STOP_TIMEOUT = 10.0  # seconds from SIGINT to SIGQUIT; a stop takes 0.02
DISTRIBUTION = "/usr/lib/postgresql/*/bin"  # Debian and Ubuntu keep the server off PATH
HOW_TO_ENABLE = "Install it (`apt-get install postgresql`, and `pip install 'psycopg[binary]'`), or put initdb and postgres on PATH."

# Ends the server and removes its folder once its standard input is closed, so also after a SIGKILL of this program.
# By SIGQUIT, since after a SIGKILL PostgreSQL's shared memory would stay.
MOURNER = """
read -r _
kill -QUIT "$1" 2>/dev/null
tries=100
while [ $tries -gt 0 ] && kill -0 "$1" 2>/dev/null && [ -e "$2/data/postmaster.pid" ]; do
    tries=$((tries - 1))
    sleep 0.05
done
rm -rf "$2"
"""


class PostgresError(RuntimeError):
    """PostgreSQL did not start."""


class PostgresMissing(PostgresError):
    """There is no PostgreSQL that could be started; the message says what to install."""


class Postgres(NamedTuple):
    """A running server: it listens on a unix socket in its folder, so no port can be taken by another program."""

    pid: int
    folder: Path

    def as_database(self, **options: object) -> dict[str, Any]:
        """An entry for DATABASES."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "app",
            "HOST": str(self.folder),
            "PORT": "5432",
            "OPTIONS": options,
        }


def find_postgres() -> Path:
    """The folder of initdb and postgres: on PATH, else the newest of the distribution. Raises PostgresMissing."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    folders += sorted(glob.glob(DISTRIBUTION), reverse=True)
    for folder in filter(None, folders):
        if shutil.which("initdb", path=folder) and shutil.which("postgres", path=folder):
            return Path(folder)
    raise PostgresMissing(f"No PostgreSQL was found. {HOW_TO_ENABLE}")


def _account() -> dict[str, Any]:
    """As whom the server runs: PostgreSQL refuses to run as root."""
    if os.geteuid():
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        raise PostgresMissing(
            f"PostgreSQL does not run as root, and there is no user postgres. {HOW_TO_ENABLE}"
        ) from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def start_postgres() -> Iterator[Postgres]:
    """A running server that answers, in a temporary folder that goes with it. Raises PostgresError, PostgresMissing.

    Leaving the context, or the end of this program, even by SIGKILL, ends it.
    """
    programs, account = find_postgres(), _account()
    # Not pytest's tmp_path, whose parents another user may not enter; short, since a socket's path is.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if account:
            os.chown(folder, account["user"], account["group"])
        _run_initdb(programs / "initdb", folder, account)
        with (folder / "log").open("wb") as log:
            child = subprocess.Popen(
                [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder), "-c", "listen_addresses="]
                + ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                **account,
            )
        with _mourned(child, folder):
            _wait_until_ready(child, folder)
            yield Postgres(child.pid, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_initdb(initdb: Path, folder: Path, account: dict[str, Any]) -> None:
    command = [
        str(initdb),
        "-D",
        str(folder / "data"),
        "-U",
        "app",
        "--auth=trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--no-locale",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=START_TIMEOUT, **account)
    if done.returncode:
        raise PostgresError(f"{initdb} failed: {done.stderr.strip()[-500:]}")


@contextlib.contextmanager
def _mourned(child: subprocess.Popen[bytes], folder: Path) -> Iterator[None]:
    mourner = subprocess.Popen(
        ["/bin/sh", "-c", MOURNER, "sh", str(child.pid), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield
    finally:
        # First of all: once the server is gone, its number may be another program's.
        mourner.kill()
        mourner.wait(STOP_TIMEOUT)
        if mourner.stdin is not None:
            mourner.stdin.close()
        child.send_signal(signal.SIGINT)  # "fast": it waits for nobody
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGQUIT)
            child.wait(STOP_TIMEOUT)


def _wait_until_ready(child: subprocess.Popen[bytes], folder: Path) -> None:
    # The last line of this file is its state.
    state, deadline = folder / "data" / "postmaster.pid", time.monotonic() + START_TIMEOUT
    while not (state.exists() and state.read_text().rstrip().endswith("ready")):
        if child.poll() is not None or time.monotonic() > deadline:
            said = (folder / "log").read_text(errors="replace")
            raise PostgresError(f"PostgreSQL did not start. Its log ends:\n{said[-1000:]}")
        time.sleep(0.01)


def skip_or_fail(name: str, reason: str) -> None:
    """Skip the test, saying why; fail it where REDIS_INTEGRATION_REQUIRE, a list with commas, asks for this server."""
    if name in os.environ.get("REDIS_INTEGRATION_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"REDIS_INTEGRATION_REQUIRE asks for {name}. {reason}", pytrace=False)
    pytest.skip(reason)


def isolation_levels() -> dict[str, dict[str, Any]]:
    """Options of the aliases on one PostgreSQL, one for each isolation level. Raises PostgresMissing."""
    try:
        import psycopg
    except ImportError:
        raise PostgresMissing(f"psycopg is not installed. {HOW_TO_ENABLE}") from None
    return {
        "postgres": {},  # READ COMMITTED, PostgreSQL's default
        "postgres_repeatable": {"isolation_level": psycopg.IsolationLevel.REPEATABLE_READ},
        "postgres_serializable": {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE},
    }


@contextlib.contextmanager
def added_databases(databases: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Add these aliases to Django; afterwards they are gone, and their connections closed in whatever thread."""
    opened: list[BaseDatabaseWrapper] = []

    def remember(connection: BaseDatabaseWrapper, **kwargs: object) -> None:
        if connection.alias in databases:
            opened.append(connection)

    connection_created.connect(remember)
    connections.settings.update(databases)
    connections.configure_settings(connections.settings)
    try:
        yield
    finally:
        connection_created.disconnect(remember)
        for connection in opened:
            connection.inc_thread_sharing()
            connection.close()
            connection.dec_thread_sharing()
        for alias in databases:
            with contextlib.suppress(AttributeError):
                del connections[alias]
            del connections.settings[alias]
