"""Runs ORM code of this package where it does the caller's transaction no harm. It knows no table."""

from __future__ import annotations

from collections.abc import Callable
from random import uniform
from time import monotonic, sleep
from typing import Any

from django.db import OperationalError, connections, transaction

from redis_integration.exceptions import FallbackUnavailable

# Two statements that lock rows in another order can end each other: each is tried so often, and not after so many seconds.
# PostgreSQL takes a second to see it.
TRIES, GIVE_UP_AFTER = 3, 3.0


def ask(database: str, query: Callable[[], Any], *, locks: bool) -> Any:
    """What this query gives. Inside `atomic()` in a savepoint, and not at all where it `locks`, Django's TestCase apart.

    Outside, what locks is tried 3 times. Raises FallbackUnavailable, and what the database raises.
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
    give_up, tries = monotonic() + GIVE_UP_AFTER, TRIES if locks else 1
    while True:
        try:
            return query()
        except OperationalError:
            tries -= 1
            if not tries or monotonic() > give_up:
                raise
            # A server that was started anew; or two statements that have ended each other.
            connection.close_if_unusable_or_obsolete()
            sleep(uniform(0.005, 0.05))
