"""The rows of the fallback tier in the admin: to be looked at and deleted, never changed. No payload is shown or read."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Case, QuerySet, Value, When
from django.db.models.functions import Length, Now
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat

from redis_integration.models import FallbackEntry


@admin.register(FallbackEntry)
class FallbackEntryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("key", "state", "started", "fresh_until", "kept_until", "size")
    fields = ("key", "state", "started", "fresh_until", "leased", "held_until", "kept_until", "size")
    search_fields = ("key",)
    ordering = ("-kept_until",)
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[FallbackEntry]:
        state = Case(
            When(held_until__gt=Now(), then=Value("being computed")),
            When(fresh_until__gt=Now(), then=Value("fresh")),
            When(started__isnull=True, then=Value("empty")),
            default=Value("past its ttl"),
        )
        rows: QuerySet[FallbackEntry] = super().get_queryset(request).defer("payload")
        return rows.annotate(state=state, size=Length("payload"))

    @admin.display(description="state")
    def state(self, row: Any) -> str:
        return str(row.state)

    @admin.display(description="size")
    def size(self, row: Any) -> str:
        return filesizeformat(row.size)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
