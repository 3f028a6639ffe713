from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import RequestFactory

from redis_integration.admin import FallbackEntryAdmin
from redis_integration.models import FallbackEntry
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
