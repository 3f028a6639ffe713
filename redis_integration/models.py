"""The tables of this package. They are written while Redis is away; expired rows are not believed."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now


class FallbackQuerySet(models.QuerySet["FallbackEntry"]):
    def fresh(self) -> FallbackQuerySet:
        """Rows that are still fresh, by the database's clock."""
        return self.filter(fresh_until__gt=Now())

    def started_within(self, seconds: float) -> FallbackQuerySet:
        """Rows whose origin call began at most so many seconds ago, by the database's clock, which may tick in ms."""
        return self.filter(started__gte=Now() - timedelta(seconds=seconds + 0.001))


class FallbackEntry(models.Model):
    """One entry, kept while Redis is away. The key is the full key, as in Redis."""

    # Keys are at most 200 bytes and a digest.
    key = models.CharField(max_length=255, unique=True)
    payload = models.BinaryField(help_text="The bytes of the entry, as they would stand in Redis.")
    started = models.DateTimeField(help_text="When the computation of this entry began, by the database's clock.")
    fresh_until = models.DateTimeField(db_index=True)

    objects = FallbackQuerySet.as_manager()

    class Meta:
        verbose_name = "fallback entry"
        verbose_name_plural = "fallback entries"

    def __str__(self) -> str:
        return self.key


class FallbackTag(models.Model):
    """That the entry of this key has this tag. Both are full keys, as in Redis."""

    key = models.CharField(max_length=255)
    tag = models.CharField(max_length=255)

    class Meta:
        verbose_name = "fallback tag"
        verbose_name_plural = "fallback tags"
        constraints = [models.UniqueConstraint(fields=["tag", "key"], name="redis_integration_tag_key")]

    def __str__(self) -> str:
        return f"{self.tag} → {self.key}"
