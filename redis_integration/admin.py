"""The tables in the admin, to be looked at: rows of the fallback tier may be deleted, the journal drained, nothing changed."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Case, QuerySet, Value, When
from django.db.models.functions import Length, Now
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat

from redis_integration.models import FallbackEntry, PendingInvalidation
from redis_integration.recovery import drain_now


class _ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(FallbackEntry)
class FallbackEntryAdmin(_ReadOnly):
    """No payload is shown or read."""

    list_display = ("key", "state", "started", "fresh_until", "kept_until", "size")
    fields = ("key", "state", "started", "fresh_until", "leased", "held_until", "kept_until", "size")
    search_fields = ("key",)
    ordering = ("-kept_until",)

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


@admin.register(PendingInvalidation)
class PendingInvalidationAdmin(_ReadOnly):
    """No row can be deleted: the invalidation would be lost."""

    list_display = ("name", "alias", "created", "tries")
    list_filter = ("alias",)
    search_fields = ("name",)
    ordering = ("created",)
    actions = ("drain",)

    @admin.action(description="Invalidate these names once more", permissions=("view",))
    def drain(self, request: HttpRequest, rows: QuerySet[PendingInvalidation]) -> None:
        chosen: dict[str, dict[str, list[str]]] = {}
        for row in rows:
            chosen.setdefault(row.alias, {}).setdefault(row.name, []).append(row.pk)
        for alias, names in chosen.items():
            try:
                drained = drain_now(alias, names)
            except Exception as error:  # Redis is away, or REDIS_INTEGRATION has no such alias any more
                self.message_user(request, f"{alias}: nothing is lost. {error}", messages.ERROR)
            else:
                self.message_user(
                    request, f"{alias}: invalidated once more: {drained.names:,} names.", messages.SUCCESS
                )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
