from __future__ import annotations

import pytest
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.test import RequestFactory

from redis_integration import get_redis
from redis_integration.admin import FallbackEntryAdmin, PendingInvalidationAdmin
from redis_integration.models import FallbackEntry, PendingInvalidation
from tests.test_pruning import add

pytestmark = pytest.mark.django_db


@pytest.fixture
def page():
    return FallbackEntryAdmin(FallbackEntry, admin.AdminSite())


@pytest.fixture
def request_of_root():
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_staff=True, is_active=True)
    return request


def test_rows_can_be_deleted_and_nothing_else(page, request_of_root):
    """What nobody can compute in the admin nobody should write there."""
    allowed = (
        page.has_add_permission,
        page.has_change_permission,
        page.has_delete_permission,
        page.has_view_permission,
    )

    assert [may(request_of_root) for may in allowed] == [False, False, True, True]
    assert [*page.get_actions(request_of_root)] == ["delete_selected"]


def test_state_and_size_are_shown_and_no_payload(page, request_of_root, django_assert_num_queries):
    """The bytes are not even read."""
    rows = FallbackEntry.objects.all()
    add(rows, "fresh")
    add(rows, "held", held=10.0)
    add(rows, "old", kept=-100.0)
    with django_assert_num_queries(1):
        shown = {row.key: (page.state(row), page.size(row)) for row in page.get_queryset(request_of_root)}

    size = "5\xa0bytes"
    assert shown == {"fresh": ("fresh", size), "held": ("being computed", size), "old": ("past its ttl", size)}
    assert "payload" not in (*page.list_display, *page.fields)


def test_it_is_registered(settings):
    """By Django's autodiscovery, where the admin is installed."""
    assert isinstance(admin.site._registry[FallbackEntry], FallbackEntryAdmin)


def test_checks_of_the_admin_pass(page):
    """Fields and columns exist."""
    assert page.check() == []


@pytest.fixture
def journal_page():
    return PendingInvalidationAdmin(PendingInvalidation, admin.AdminSite())


def test_journal_can_be_drained_and_nothing_else(journal_page, request_of_root):
    """A row that is deleted is an invalidation that is lost."""
    allowed = (
        journal_page.has_add_permission,
        journal_page.has_change_permission,
        journal_page.has_delete_permission,
        journal_page.has_view_permission,
    )

    assert [may(request_of_root) for may in allowed] == [False, False, False, True]
    assert [*journal_page.get_actions(request_of_root)] == ["drain"]
    assert journal_page.check() == []


def test_chosen_names_are_invalidated_once_more(journal_page, request_of_root, live, prefix, monkeypatch):
    """Those and no others; a row of an alias that is gone is told, and stays."""
    said = []
    monkeypatch.setattr(journal_page, "message_user", lambda request, text, level: said.append((level, text)))
    for number, alias in enumerate(["default", "default", "gone"]):
        PendingInvalidation.objects.create(id=str(number), alias=alias, name=f"{prefix}:{number}")
        get_redis().set(f"{prefix}:{number}", "old", ex=60)

    journal_page.drain(request_of_root, PendingInvalidation.objects.exclude(pk="1"))

    assert [get_redis().exists(f"{prefix}:{number}") for number in range(3)] == [0, 1, 1]
    assert [*PendingInvalidation.objects.values_list("pk", flat=True).order_by("pk")] == ["1", "2"]
    assert said[0] == (messages.SUCCESS, "default: invalidated once more: 1 names.")
    assert said[1][0] == messages.ERROR
