"""Runs ORM code of this package where it does the caller's transaction no harm. It knows no table."""

from __future__ import annotations

from collections.abc import Callable
from random import uniform
from time import monotonic, sleep
from typing import Any

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from redis_integration.exceptions import FallbackUnavailable

# Two statements that lock rows in another order can end each other: each is tried so often, and not after so many seconds.
# PostgreSQL takes a second to see it.
TRIES, GIVE_UP_AFTER = 3, 3.0


def ask(database: str, query: Callable[[], Any], *, locks: bool) -> Any:
    """What this query gives. Inside `atomic()` in a savepoint, and not at all where it `locks`, Django's TestCase apart.

    Outside, what locks is tried 3 times, and all else once more where the connection was lost: of a server that was started anew
    a thread learns only so. Raises FallbackUnavailable, and what the database raises.
    """
    connection = connections[database]
    if connection.in_atomic_block:
        if locks and not getattr(connection.atomic_blocks[0], "_from_testcase", False):
            raise FallbackUnavailable("Nothing that locks runs inside the caller's transaction.")
        # An error here would break the caller's transaction; a savepoint keeps it ours.
        with transaction.atomic(using=database):
            return query()
    # Not while the seconds that Redis is down are already counted.
    connection.ensure_connection()
    give_up, tries, connection_was_lost = monotonic() + GIVE_UP_AFTER, TRIES if locks else 1, False
    while True:
        try:
            return query()
        except (OperationalError, InterfaceError):
            tries -= 1
            connection.close_if_unusable_or_obsolete()
            was_lost, connection_was_lost = connection_was_lost, connection.connection is None
            if connection_was_lost and not was_lost:
                tries = max(tries, 1)
            if not tries or monotonic() > give_up:
                raise
            # Two statements that have ended each other must not meet again.
            sleep(uniform(0.005, 0.05))


def reads_committed(connection: BaseDatabaseWrapper) -> bool:
    """Whether each statement of this connection sees all that is committed when it begins."""
    # Anything stricter reads a snapshot, which may be older than an invalidation that came before the lease.
    if connection.vendor == "oracle":
        return True
    level = getattr(connection, "isolation_level", None)
    return str(getattr(level, "name", level)).replace("_", " ").lower() == "read committed"


def sees_all(database: str) -> bool:
    """Whether a query of this thread sees all that is committed: not in a transaction that reads a snapshot."""
    connection = connections[database]
    return not connection.in_atomic_block or reads_committed(connection)
