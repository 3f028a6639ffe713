"""Starts a throw-away PostgreSQL and MariaDB of the test run's own, and adds databases to Django for the time of a test.

It uses no cluster that is already there, and it is no way to run them in production.
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
from django.db.models import Model
from django.db.models.expressions import Col

START_TIMEOUT = 30.0  # seconds; a start takes 0.6
STOP_TIMEOUT = 10.0  # seconds from SIGINT to SIGQUIT; a stop takes 0.02
DISTRIBUTION = "/usr/lib/postgresql/*/bin"  # Debian and Ubuntu keep the server off PATH
HOW_TO_ENABLE = "Install it (`apt-get install postgresql`, and `pip install 'psycopg[binary]'`), or put initdb and postgres on PATH."
HOW_TO_ENABLE_MARIADB = (
    "Install it (`apt-get install mariadb-server`, and `pip install pymysql`), or put mariadbd on PATH."
)

# Ends the server and removes its folder once its standard input is closed, so also after a SIGKILL of this program.
# PostgreSQL by SIGQUIT, since after a SIGKILL its shared memory would stay.
MOURNER = """
read -r _
kill -"$3" "$1" 2>/dev/null
tries=100
while [ $tries -gt 0 ] && kill -0 "$1" 2>/dev/null && [ -e "$2/$4" ]; do
    tries=$((tries - 1))
    sleep 0.05
done
rm -rf "$2"
"""


class DatabaseError(RuntimeError):
    """A server did not start."""


class DatabaseMissing(DatabaseError):
    """There is no server that could be started; the message says what to install."""


class Server(NamedTuple):
    """A running server: it listens on a unix socket in its folder, so no port can be taken by another program."""

    pid: int
    folder: Path


class MariaDB(Server):
    def as_database(self) -> dict[str, Any]:
        """An entry for DATABASES."""
        return {
            "ENGINE": "django.db.backends.mysql",
            "NAME": "app",
            "USER": "root",
            "HOST": str(self.folder / "s"),
        }


class Postgres(Server):
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
    """The folder of initdb and postgres: on PATH, else the newest of the distribution. Raises DatabaseMissing."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    folders += sorted(glob.glob(DISTRIBUTION), reverse=True)
    for folder in filter(None, folders):
        if shutil.which("initdb", path=folder) and shutil.which("postgres", path=folder):
            return Path(folder)
    raise DatabaseMissing(f"No PostgreSQL was found. {HOW_TO_ENABLE}")


def _account(name: str, how_to_enable: str) -> dict[str, Any]:
    """As whom the server runs: neither runs as root."""
    if os.geteuid():
        return {}
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise DatabaseMissing(f"It does not run as root, and there is no user {name}. {how_to_enable}") from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def start_postgres() -> Iterator[Postgres]:
    """A running server that answers, in a temporary folder that goes with it. Raises DatabaseError, DatabaseMissing.

    Leaving the context, or the end of this program, even by SIGKILL, ends it.
    """
    programs, account = find_postgres(), _account("postgres", HOW_TO_ENABLE)
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
        with _mourned(child, folder, ("QUIT", "data/postmaster.pid"), end=signal.SIGINT):  # "fast": it waits for nobody
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
    _run(command, folder, account)


def _run(command: list[str], folder: Path, account: dict[str, Any]) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=START_TIMEOUT, **account)
    if done.returncode:
        raise DatabaseError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")


@contextlib.contextmanager
def start_mariadb() -> Iterator[MariaDB]:
    """See `start_postgres`; with an empty database "app"."""
    account = _account("mysql", HOW_TO_ENABLE_MARIADB)
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
    mariadbd, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    if mariadbd is None or install is None:
        raise DatabaseMissing(f"No MariaDB was found. {HOW_TO_ENABLE_MARIADB}")
    folder = Path(tempfile.mkdtemp(prefix="my-", dir="/tmp"))
    try:
        if account:
            os.chown(folder, account["user"], account["group"])
        # In /tmp itself two servers that start at once take each other's temporary files.
        options = ["--no-defaults", f"--datadir={folder}/data", f"--tmpdir={folder}", "--skip-name-resolve"]
        _run([install, *options, "--auth-root-authentication-method=normal", "--skip-test-db"], folder, account)
        (folder / "init.sql").write_text("CREATE DATABASE app CHARACTER SET utf8mb4;")
        with (folder / "log").open("wb") as log:
            child = subprocess.Popen(
                [
                    mariadbd,
                    *options,
                    f"--socket={folder}/s",
                    f"--pid-file={folder}/pid",
                    f"--init-file={folder}/init.sql",
                ]
                + ["--skip-networking", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                **account,
            )
        with _mourned(child, folder, ("KILL", "pid"), end=signal.SIGTERM):
            _wait_until_said(child, folder, b"ready for connections")
            yield MariaDB(child.pid, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_said(child: subprocess.Popen[bytes], folder: Path, words: bytes) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while words not in (said := (folder / "log").read_bytes()):
        if child.poll() is not None or time.monotonic() > deadline:
            raise DatabaseError(f"MariaDB did not start. Its log ends:\n{said[-1000:].decode(errors='replace')}")
        time.sleep(0.01)


@contextlib.contextmanager
def _mourned(
    child: subprocess.Popen[bytes], folder: Path, mourning: tuple[str, str], *, end: signal.Signals
) -> Iterator[None]:
    name, pid_file = mourning
    mourner = subprocess.Popen(
        ["/bin/sh", "-c", MOURNER, "sh", str(child.pid), str(folder), name, pid_file],
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
        child.send_signal(end)
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.Signals[f"SIG{name}"])
            child.wait(STOP_TIMEOUT)


def _wait_until_ready(child: subprocess.Popen[bytes], folder: Path) -> None:
    # The last line of this file is its state.
    state, deadline = folder / "data" / "postmaster.pid", time.monotonic() + START_TIMEOUT
    while not (state.exists() and state.read_text().rstrip().endswith("ready")):
        if child.poll() is not None or time.monotonic() > deadline:
            said = (folder / "log").read_text(errors="replace")
            raise DatabaseError(f"PostgreSQL did not start. Its log ends:\n{said[-1000:]}")
        time.sleep(0.01)


def skip_or_fail(name: str, reason: str) -> None:
    """Skip the test, saying why; fail it where REDIS_INTEGRATION_REQUIRE, a list with commas, asks for this server."""
    if name in os.environ.get("REDIS_INTEGRATION_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"REDIS_INTEGRATION_REQUIRE asks for {name}. {reason}", pytrace=False)
    pytest.skip(reason)


def isolation_levels() -> dict[str, dict[str, Any]]:
    """Options of the aliases on one PostgreSQL, one for each isolation level. Raises DatabaseMissing."""
    try:
        import psycopg
    except ImportError:
        raise DatabaseMissing(f"psycopg is not installed. {HOW_TO_ENABLE}") from None
    return {
        "postgres": {},  # READ COMMITTED, PostgreSQL's default
        "postgres_repeatable": {"isolation_level": psycopg.IsolationLevel.REPEATABLE_READ},
        "postgres_serializable": {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE},
    }


def speak_to_mariadb() -> None:
    """Have Django use PyMySQL, which needs no compiler. Raises DatabaseMissing."""
    try:
        import pymysql  # type: ignore[import-untyped]
    except ImportError:
        raise DatabaseMissing(f"PyMySQL is not installed. {HOW_TO_ENABLE_MARIADB}") from None
    pymysql.install_as_MySQLdb()


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
            raw = connection.connection
            connection.close()
            if connection.vendor == "sqlite" and raw is not None:
                raw.close()  # Django closes no database in memory
            connection.dec_thread_sharing()
        for alias in databases:
            with contextlib.suppress(AttributeError):
                del connections[alias]
            del connections.settings[alias]


def hide_table(monkeypatch: pytest.MonkeyPatch, model: type[Model]) -> None:
    """The table of a model is not there until the patch is undone.

    A field keeps the column that it was first asked for with the table's name in it: asked for now, it would keep this one.
    """
    for field in model._meta.fields:
        monkeypatch.setattr(field, "cached_col", Col("nowhere", field))
    monkeypatch.setattr(model._meta, "db_table", "nowhere")
