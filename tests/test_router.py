from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import connections

from redis_integration.models import FallbackEntry, FallbackTag
from redis_integration.router import FallbackRouter
from tests.databases import added_databases

ROUTERS = ["redis_integration.router.FallbackRouter"]


@pytest.fixture
def elsewhere(settings):
    """The tables of "default" in one database, those of another alias in a second."""
    url = {"URL": "redis://127.0.0.1:1/0"}
    settings.REDIS_INTEGRATION = {"default": {**url, "DATABASE": "rows"}, "other": {**url, "DATABASE": "more"}}


@pytest.mark.parametrize(("database", "is_theirs"), [("rows", True), ("more", True), ("default", False)])
def test_tables_are_made_where_an_alias_names_the_database(elsewhere, database, is_theirs):
    """Nowhere else, and other apps are none of its business."""
    assert FallbackRouter().allow_migrate(database, "redis_integration") is is_theirs
    assert FallbackRouter().allow_migrate(database, "auth") is None


@pytest.mark.parametrize("model", [FallbackEntry, FallbackTag])
def test_who_names_no_database_gets_that_of_the_default_alias(elsewhere, model):
    """As the admin."""
    assert FallbackRouter().db_for_read(model) == "rows"
    assert FallbackRouter().db_for_write(model) == "rows"
    assert FallbackRouter().db_for_read(Group) is None


def test_without_a_default_alias_it_has_no_opinion(settings):
    """And raises nothing in somebody's migration."""
    settings.REDIS_INTEGRATION = {"other": {"URL": "redis://127.0.0.1:1/0"}}

    assert FallbackRouter().db_for_read(FallbackEntry) is None


@pytest.mark.django_db
def test_migrate_makes_the_tables_in_their_database_alone(elsewhere, settings, django_db_blocker):
    """Installed as the docs say."""
    settings.DATABASE_ROUTERS = ROUTERS
    memory = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}

    with added_databases({"rows": memory, "third": memory}), django_db_blocker.unblock():
        call_command("migrate", "redis_integration", database="rows", verbosity=0)
        call_command("migrate", "redis_integration", database="third", verbosity=0)
        tables = [set(connections[alias].introspection.table_names()) for alias in ("rows", "third")]

    assert "redis_integration_fallbackentry" in tables[0]
    assert "redis_integration_fallbackentry" not in tables[1]
