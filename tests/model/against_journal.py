"""Runs the scenarios of the journal against redis_integration, a real server and a real database; see against_code.py.

Faults are made where they are in life: a connection is refused; a command or its reply is lost, and the deadline passes; the
server refuses writes; its keys are those of a snapshot. The database is an SQLite file with a write-ahead log, whose
transactions read a snapshot.
"""

from __future__ import annotations

from typing import Any

from django.db import connections

from redis_integration import journal
from redis_integration.models import FallbackEntry, PendingInvalidation
from redis_integration.pools import connections as pool_connections
from redis_integration.tiers import fallback
from redis_integration.tiers import redis as redis_tier
from tests.conftest import PATIENT
from tests.model.against_code import Stage
from tests.model.journal_scenarios import JournalScenario
from tests.model.play import LOOK, SCRIPTS, Choice, Played, script_of, send
from tests.model.play_journal import JournalPlay
from tests.model.players import DATABASE, HOMES, current

CLOSED_PORT = 1
Connection = pool_connections._SyncExchanging


class JournalStage(Stage):
    """The package under a conductor; `settings` is pytest-django's, `path` the file of the database."""

    play: JournalPlay | None

    def __init__(self, patch: Any, prefix: str, *, settings: Any, url: str, path: str) -> None:
        self.settings, self.url, self.path = settings, url, path
        settings.REDIS_INTEGRATION = {alias: {"URL": url} for alias in ("default", *HOMES, LOOK)}
        super().__init__(patch, prefix)
        self._connect, self._speak, make_id = Connection._connect, Connection.exchange, journal._make_id
        patch.setattr(Connection, "_connect", lambda connection: self._open(connection))
        patch.setattr(Connection, "exchange", lambda *arguments: self._send(*arguments))
        patch.setattr(redis_tier, "life_of", self._life_of)
        patch.setattr(journal, "_make_id", lambda: self.play.make_id(make_id()) if self.play else make_id())
        patch.setattr(journal, "is_under_test", lambda: not (self.play and self.play.is_starting))
        patch.setattr("redis_integration.recovery.FIRST_WAIT", 0.0)
        patch.setattr("redis_integration.watch.prune_if_due", lambda alias: None)
        self.patch = patch

    def run(self, scenario: JournalScenario, choose: Choice) -> Played:  # type: ignore[override]
        """Play one order, in processes that have just begun."""
        options = {
            "URL": self.url,
            "KEY_PREFIX": self.prefix,
            "DATABASE": DATABASE,
            "JOURNAL": "always" if scenario.always else "on_failure",
            "FALLBACK": "durable" if scenario.durable else None,
            **PATIENT,
        }
        self.settings.REDIS_INTEGRATION = {
            alias: {**options, "CLIENT_NAME": alias} for alias in ("default", *HOMES, LOOK)
        }
        self.patch.setattr(journal, "MOST", scenario.limit)
        self.play = None
        redis_tier.start_afresh()
        journal._journals.clear()
        fallback._unended.clear()
        for model in (PendingInvalidation, FallbackEntry):
            model.objects.using(DATABASE).all().delete()
        for script in map(script_of, SCRIPTS):
            send(("SCRIPT", "LOAD", script.source))
        self.play = JournalPlay(scenario, self.prefix, self.path)
        return self.play.conduct(choose)

    def _open(self, connection: Any) -> Any:
        player = current()
        if player is not None and self.play is not None and self.play.is_cut[player.agent.home]:
            connection.port = CLOSED_PORT
        return self._connect(connection)

    def _send(self, connection: Any, packed: bytes, count: int, more: Any = None) -> Any:
        assert more is None  # only walks ask on
        player = current()
        fault = vars(player).get("fault") if player is not None else ""
        if not fault:
            return self._speak(connection, packed, count)
        if fault == "lost":
            self._speak(connection, packed, count)
        connection.owed = count
        connection._sock.deadline = 0.0  # it has passed, and nothing came
        return connection._parser.read_response()


def prepare_database() -> None:
    """Make the tables."""
    with connections[DATABASE].cursor() as cursor:
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = OFF")
    with connections[DATABASE].schema_editor() as editor:
        for model in (PendingInvalidation, FallbackEntry):
            editor.create_model(model)
