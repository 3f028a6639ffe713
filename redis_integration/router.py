"""Keeps the tables of this package in the database that DATABASE names, and out of the others' migrations."""

from __future__ import annotations

from typing import Any

from redis_integration.conf import get_aliases, get_settings

APP_LABEL = "redis_integration"


class FallbackRouter:
    """For DATABASE_ROUTERS. What reads the tables without naming a database, as the admin does, gets that of "default"."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        if model._meta.app_label != APP_LABEL or "default" not in get_aliases():
            return None
        return get_settings().database

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        if app_label != APP_LABEL:
            return None
        return db in {get_settings(alias).database for alias in get_aliases()}
