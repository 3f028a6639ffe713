from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db.models.functions import Now

from redis_integration.tiers.rows import Found, find, rows_of, tags_of, write_tags
from tests.databases import added_databases

pytestmark = pytest.mark.django_db(transaction=True)
TIMES = {"held_until": Now(), "fresh_until": Now(), "kept_until": Now()}


def read(database, tags):
    """What is found, by name, its bytes as bytes, without the time of reading."""
    return {each.name: each._replace(body=bytes(each.body), now=None) for each in find(database, "t:a", tags)}


@pytest.mark.parametrize("tags", [[], ["t:#t"], ["t:#t", "t:#u", "t:#t", "t:#none"]], ids=["no tag", "one", "four"])
def test_found_is_what_the_orm_finds(database, tags):
    """Names, bytes and times, as the ORM's own query gives them; of other rows and tags, nothing."""
    rows_of(database).bulk_create(
        rows_of(database).model(key=key, lease="1", leased=Now(), payload=b"\x00%s", started=None, **TIMES)
        for key in ("t:a", "t:b")
    )
    write_tags(database, {"t:#t": b"\xff%d", "t:#u": b"u", "t:#v": b"v"}, timedelta(seconds=60))
    row, generations = rows_of(database).get(key="t:a"), tags_of(database).filter(tag__in=tags)

    found = read(database, tags)

    assert found == {
        "t:a": Found("t:a", "1", b"\x00%s", row.held_until, None, row.fresh_until, None, row.kept_until, row.leased),
        **{
            each.tag: Found(each.tag, None, bytes(each.generation), each.kept_until, *[None] * 5)
            for each in generations
        },
    }


def test_time_of_reading_is_the_databases(database):
    """As the times that it has written are."""
    write_tags(database, {"t:#t": b"t"}, timedelta())

    (found,) = find(database, "t:a", ["t:#t"])

    assert timedelta() <= found.now - found.until < timedelta(seconds=60)


def test_nothing_is_found_where_nothing_is(database):
    """No row, no generation."""
    assert find(database, "t:a", ["t:#t"]) == []


def find_on(kind):
    """What is found on this database, which the alias "moved" now stands for."""
    with added_databases({"moved": kind}):
        call_command("migrate", database="moved", verbosity=0)
        return find("moved", "t:a", ["t:#t"])


def test_alias_may_become_another_kind_of_database(postgres, tmp_path, django_db_blocker):
    """Its query is built anew: what SQLite calls the time, PostgreSQL does not know."""
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db"}

    with django_db_blocker.unblock():
        assert [find_on(sqlite), find_on(postgres["postgres"])] == [[], []]
