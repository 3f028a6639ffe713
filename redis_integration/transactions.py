"""Which transactions this thread has open. It asks only connections that exist, and touches no database."""

from __future__ import annotations

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


def open_connections() -> list[BaseDatabaseWrapper]:
    """The connections of this thread that are inside `atomic()`."""
    return [connection for connection in connections.all(initialized_only=True) if connection.in_atomic_block]
