"""The threads that play a scenario's agents. They do nothing by themselves; see play.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from redis_integration import pools, transactions
from tests.model.scenarios import Agent

if TYPE_CHECKING:
    from tests.model.play import Play

DATABASE = "model"
HOMES = ("home0", "home1")  # the alias of each process
_playing = threading.local()


class Cancelled(BaseException):
    """A soft time limit, or a cancelled task."""


def current() -> Player | None:
    """Whose thread this is; None for the conductor's."""
    return getattr(_playing, "player", None)


class Player(threading.Thread):
    """One agent. It runs only between `go_on` and its next stop."""

    def __init__(self, play: Play, i: int, agent: Agent) -> None:
        super().__init__(daemon=True)
        self.play, self.i, self.agent = play, i, agent
        self.gate = threading.Semaphore(0)
        self.label = "begins"
        self.is_ready: Callable[[], bool] = lambda: True
        self.waits = False  # for something that a time limit ends
        self.wish = ""  # what the conductor wants to go wrong at this stop
        self.is_done = False
        self.error: BaseException | None = None
        self.saw: Any = None  # what was in Redis when it spoke to it last
        self.offset = 0.0
        self.stale_copies: list[int] = []  # what it has read in this call
        self.may_send = 100  # exchanges behind the end of the play: it may be going round in circles
        self.operation = ""
        self.commands: Any = None
        self.idempotent = True
        self.token: Any = None  # of the lease it has
        self.runs_bare = False
        self.own = 0
        self.known_at_begin: int | None = None
        self.blocks: list[Any] = []
        self.saved = 0
        self.saved_snapshot: int | None = None
        self.has_invalidated = False

    def run(self) -> None:
        _playing.player = self
        try:
            self.gate.acquire()
            for operation in self.agent.does:
                self.operation = operation
                getattr(self.play, operation.replace(" ", "_"))(self)
                if not self.blocks and operation == "get":
                    self.token = None
        except Cancelled:
            pass
        except BaseException as error:
            self.error = error
        finally:
            transactions.let_go()  # as at the end of a request
            self.token = None
            _close_database()
            self.is_done = True
            self.play.stopped.release()

    def has_to_connect(self) -> bool:
        """Whether its next exchange begins with a handshake, at which it stops."""
        return self.play.scenario.may("restart") and not pools.get_pool(HOMES[self.agent.home]).slots.idle

    def stop(self, label: str, ready: Callable[[], bool] = lambda: True, *, waits: bool = False) -> str:
        """Wait for the conductor; what shall go wrong now, "" for nothing."""
        if self.play.is_over:
            return ""
        self.label, self.is_ready, self.waits = label, ready, waits
        self.play.stopped.release()
        self.gate.acquire()
        wish, self.wish = self.wish, ""
        if wish.startswith("cancel") and not self.play.is_over:
            raise Cancelled
        return wish


def _close_database() -> None:
    for connection in connections.all(initialized_only=True):
        if connection.alias == DATABASE:
            BaseDatabaseWrapper.close(connection)  # SQLite's own close() keeps a database in memory
