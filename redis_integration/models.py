"""The tables of this package: rows of the fallback tier and generations of their tags (tiers/fallback.py), the journal (journal.py)."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now


class KeyField(models.CharField):  # type: ignore[type-arg]
    """A full key or a tag, as in Redis: ASCII, at most 200 bytes and a digest."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        parameters: dict[str, Any] = {**super().db_parameters(connection)}
        if connection.vendor == "mysql":
            # By MariaDB's and MySQL's default, "A" equals "a".
            parameters["collation"] = "ascii_bin"
        return parameters


class FallbackQuerySet(models.QuerySet["FallbackEntry"]):
    def held(self) -> FallbackQuerySet:
        """Rows that somebody is computing, by the database's clock."""
        return self.filter(held_until__gt=Now())

    def expired(self) -> FallbackQuerySet:
        """Rows that nobody needs any more, by the database's clock."""
        return self.filter(kept_until__lt=Now(), held_until__lt=Now())


class FallbackEntry(models.Model):
    """One entry of the fallback tier and its lease. All times are the database's."""

    key = KeyField(max_length=255, unique=True)
    lease = models.CharField(max_length=16, help_text="The name of the last lease, whether it is held or not.")
    leased = models.DateTimeField(help_text="When that lease was taken.")
    held_until = models.DateTimeField(help_text="Until when nobody else may compute this entry.")
    # The copy's own: a lease that is taken to compute it anew does not make it younger.
    payload = models.BinaryField(help_text="The bytes of the entry, as they would stand in Redis.")
    started = models.DateTimeField(null=True, help_text="When the computation of this copy began.")
    fresh_until = models.DateTimeField(null=True)
    kept_until = models.DateTimeField(db_index=True)

    objects = FallbackQuerySet.as_manager()

    class Meta:
        verbose_name = "fallback entry"
        verbose_name_plural = "fallback entries"

    def __str__(self) -> str:
        return str(self.key)


class FallbackTag(models.Model):
    """The present generation of a tag: the entries that name another one are no copies."""

    tag = KeyField(max_length=255, unique=True)
    generation = models.BinaryField(max_length=8)
    kept_until = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = "fallback tag"
        verbose_name_plural = "fallback tags"

    def __str__(self) -> str:
        return str(self.tag)


class PendingInvalidation(models.Model):
    """An invalidation that Redis has not confirmed. Rows are added and deleted, and a name may have many."""

    id = models.CharField(
        primary_key=True, max_length=32, help_text="Made by who adds it, so that it is known at once."
    )
    alias = models.CharField(max_length=255)
    name = KeyField(max_length=255, help_text="A full key, or a tag's.")
    created = models.DateTimeField(db_default=Now())
    tries = models.PositiveIntegerField(default=0, help_text="How often it was repeated in vain.")

    class Meta:
        verbose_name = "pending invalidation"
        verbose_name_plural = "pending invalidations"

    def __str__(self) -> str:
        return str(self.name)
