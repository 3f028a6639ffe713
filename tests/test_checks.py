from __future__ import annotations

import re
import socket
from io import StringIO
from pathlib import Path

import pytest
from django.core.checks import ERROR, WARNING
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from psycopg import IsolationLevel

from redis_integration import compression
from redis_integration.caching import Caching
from redis_integration.checks import IDS, check_deployment, check_settings
from redis_integration.codecs import json_codec
from redis_integration.pages import PageCaching
from redis_integration.responses import response_codec

URL = "redis://localhost:6379/0"
REMOTE = "rediss://:opensesame@cache.example.com/0"
DOCS = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()


@pytest.fixture(autouse=True)
def decorated(monkeypatch):
    """What is decorated, instead of what other tests have decorated."""
    found = set()
    monkeypatch.setattr("redis_integration.checks.every_caching", found)
    return found


def configure(settings, url=URL, **options):
    settings.REDIS_INTEGRATION = {"default": {"URL": url, "KEY_PREFIX": "shop", **options}}


def get_ids(found):
    return [message.id.removeprefix("redis_integration.") for message in found]


@pytest.mark.parametrize("check", [check_settings, check_deployment])
@pytest.mark.parametrize("url", [URL, REMOTE, "unix:///run/redis.sock"])
def test_good_settings_have_no_findings(settings, check, url):
    """A local Redis, a remote one with TLS and password, and a socket are fine in any environment."""
    configure(settings, url)

    assert check() == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "REDIS_INTEGRATION is missing"),
        ({"default": {}}, "needs 'URL'"),
        ({"default": {"URL": URL, "RETRY": 1}}, "has no option 'RETRY'"),
        ({"default": {"URL": "redis://localhost:port"}}, "cannot be read"),
    ],
)
def test_unreadable_settings_are_an_error(settings, value, text):
    """What raises ImproperlyConfigured at first use is E001 with the same text."""
    settings.REDIS_INTEGRATION = value

    found = check_settings()

    assert get_ids(found) == ["E001"]
    assert text in found[0].msg


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"POOL_TIMEOUT": "0.1"}, ["E002"]),
        ({"POOL_TIMEOUT": -1}, ["E003"]),
        ({"POOL_TIMEOUT": 0}, []),
        ({"OPTIONS": {"protocol": "3"}}, ["E002"]),
        ({"OPTIONS": {"ssl_ciphers": "DEFAULT"}}, ["E003"]),
        ({"OPTIONS": {"protocol": 3}}, []),
        ({"RETRIES": "9", "MAX_CONNECTIONS": 0, "KEY_PREFIX": "a:b"}, ["E002", "E003", "E003"]),
        ({"DATABASE": "elsewhere"}, ["E004"]),
        ({"DATABASE": ["default"]}, ["E002"]),
        ({"DATABASE": "default"}, []),
        ({"RETRIES": 4}, ["W001"]),
        ({"RETRIES": 3}, []),
        ({"MAX_CONNECTIONS": 1001}, ["W002"]),
        ({"MAX_CONNECTIONS": 1000}, []),
        ({"POOL_TIMEOUT": 1.1}, ["W003"]),
        ({"POOL_TIMEOUT": 1}, []),
        ({"DATABASE": None}, ["W004"]),
        ({"DATABASE": None, "FALLBACK": None}, []),
        ({"FALLBACK_TTL": 61}, ["W005"]),
        ({"FALLBACK_TTL": 60}, []),
        ({"JOURNAL": "always", "DATABASE": None, "FALLBACK": None}, ["E003"]),
        ({"JOURNAL": "never"}, ["E003"]),
        ({"COMPRESSION": "zstd"}, []),
        ({"COMPRESSION": "gzip", "COMPRESS_OVER_BYTES": -1, "MAX_ENTRY_BYTES": 0}, ["E003"] * 3),
        ({"COMPRESS_OVER_BYTES": True, "MAX_ENTRY_BYTES": None}, ["E002"] * 2),
        ({"COMPRESS_OVER_BYTES": None, "MAX_ENTRY_BYTES": 500_000_000}, []),
    ],
)
def test_settings_findings(settings, options, ids):
    """Each finding comes for the value it is about, all errors of an alias at once, and not for the value beside it."""
    configure(settings, **options)

    assert sorted(get_ids(check_settings())) == ids


def test_zstd_that_is_missing_is_an_error(settings, monkeypatch):
    """With what to install."""
    monkeypatch.setattr(compression, "_find_zstd", lambda: None)
    configure(settings, COMPRESSION="zstd")

    assert get_ids(check_settings()) == ["E006"]
    assert "[zstd]" in check_settings()[0].hint


@pytest.mark.parametrize(("lease_timeout", "ids"), [(0.6, ["E005"]), (0.7, [])])
def test_lease_shorter_than_an_exchange_is_an_error(settings, decorated, lease_timeout, ids):
    """A lease must last longer than a caller may wait for a connection and for the reply."""
    configure(settings, POOL_TIMEOUT=0.1, CONNECT_TIMEOUT=0.25, COMMAND_TIMEOUT=0.25)
    decorated.add(Caching(name="shop.price", ttl=60.0, codec=json_codec, lease_timeout=lease_timeout))

    assert get_ids(check_settings()) == ids


@pytest.mark.parametrize(
    ("engine", "options", "ids"),
    [
        ("django.db.backends.sqlite3", {"transaction_mode": "IMMEDIATE"}, ["W006"]),
        ("django.db.backends.postgresql", {}, []),
        ("django.db.backends.postgresql", {"isolation_level": IsolationLevel.READ_COMMITTED}, []),
        ("django.db.backends.postgresql", {"isolation_level": IsolationLevel.REPEATABLE_READ}, ["W006"]),
        ("django.db.backends.mysql", {"isolation_level": "repeatable read"}, ["W006"]),
    ],
)
def test_requests_in_strict_transactions_are_warned_of(settings, monkeypatch, engine, options, ids):
    """With ATOMIC_REQUESTS and an isolation above READ COMMITTED nothing would ever be stored."""
    configure(settings)
    database = {"ENGINE": engine, "OPTIONS": options, "ATOMIC_REQUESTS": True}
    monkeypatch.setattr("redis_integration.checks.get_databases", lambda: {"default": database})

    assert get_ids(check_settings()) == ids


@pytest.mark.parametrize(
    ("url", "options", "ids"),
    [
        ("redis://:opensesame@cache.example.com", {}, ["W011"]),
        ("redis://cache.example.com", {"PASSWORD": "opensesame"}, ["W011"]),
        ("rediss://cache.example.com", {}, ["W012"]),
        ("rediss://alice@cache.example.com", {}, ["W012"]),
        ("rediss://cache.example.com", {"PASSWORD": ""}, ["W012"]),
        ("rediss://cache.example.com", {"PASSWORD": "opensesame"}, []),
        (URL, {"KEY_PREFIX": "app"}, ["W013"]),
        (URL, {"CONNECT_TIMEOUT": 2.1}, ["W014"]),
        (URL, {"COMMAND_TIMEOUT": 2.1}, ["W014"]),
        (URL, {"COMMAND_TIMEOUT": 2, "CONNECT_TIMEOUT": 2}, []),
        (URL, {"ENABLED": False}, ["W016"]),
    ],
)
def test_deployment_findings(settings, url, options, ids):
    """Advice for production comes for the value it is about, and only from the deployment check."""
    configure(settings, url, **options)

    assert get_ids(check_deployment()) == ids
    assert check_settings() == []


@pytest.mark.parametrize(
    ("database", "ids"),
    [
        ({"ENGINE": "django.db.backends.sqlite3"}, ["W015"]),
        ({"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"timeout": 5}}, ["W015"]),
        ({"ENGINE": "django.contrib.gis.db.backends.spatialite", "OPTIONS": {"transaction_mode": None}}, ["W015"]),
        ({"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"transaction_mode": "deferred"}}, ["W015"]),
        ({"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"transaction_mode": "immediate"}}, []),
        ({"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"transaction_mode": "EXCLUSIVE"}}, []),
        ({"ENGINE": "django.db.backends.postgresql"}, []),
    ],
)
def test_deferred_sqlite_is_unwise_in_production(monkeypatch, settings, database, ids):
    """SQLite needs transaction_mode IMMEDIATE beside background writes; other databases do not."""
    configure(settings, DATABASE="rows")
    monkeypatch.setitem(settings.DATABASES, "rows", database)

    assert get_ids(check_deployment()) == ids


def test_sqlite_without_fallback_database_is_fine(monkeypatch, settings):
    """A database that the package does not write to needs no transaction mode."""
    configure(settings, DATABASE=None)
    monkeypatch.setitem(settings.DATABASES, "default", {"ENGINE": "django.db.backends.sqlite3"})

    assert check_deployment() == []


def test_one_broken_alias_does_not_hide_another(settings):
    """Findings of the other aliases come beside the error."""
    settings.REDIS_INTEGRATION = {"broken": {}, "default": {"URL": URL, "RETRIES": 9}}

    assert get_ids(check_settings()) == ["E001", "W001"]
    assert get_ids(check_deployment()) == ["W013"]


@pytest.mark.parametrize("value", [None, {"default": {}}, {"default": {"URL": URL, "RETRIES": "1"}}])
def test_unusable_settings_get_no_advice(settings, value):
    """The deployment check leaves to the other one what cannot be used."""
    settings.REDIS_INTEGRATION = value

    assert check_deployment() == []


def test_findings_name_alias_and_remedy(settings):
    """A finding says where it is and what to do, errors and warnings each at their level."""
    settings.REDIS_INTEGRATION = {"default": {"URL": URL, "RETRIES": 9}, "broken": {"URL": URL, "RETRIES": "1"}}

    error, warning = check_settings()[:2]

    assert (error.level, error.obj, error.hint) == (
        ERROR,
        "REDIS_INTEGRATION['broken']",
        "Give a whole number of at least 0.",
    )
    assert (warning.level, warning.obj) == (WARNING, "REDIS_INTEGRATION['default']")
    assert warning.hint


@pytest.mark.parametrize("options", [{"RETRIES": 9}, {"PASSWORD": "opensesame"}, {"OPTIONS": {"opensesam": 1}}])
def test_findings_show_no_secret(settings, options):
    """Neither errors nor advice repeat a password."""
    configure(settings, "redis://:opensesame@cache.example.com", **options)

    found = [*check_settings(), *check_deployment()]

    assert found
    assert "opensesame" not in " ".join(map(str, found))


def test_checks_open_no_connection(monkeypatch, settings):
    """No socket is opened, and no database asked, even where there is much to say."""
    opened = []
    monkeypatch.setattr(socket, "socket", lambda *args, **kwargs: opened.append("socket"))
    monkeypatch.setattr(type(connections["default"]), "connect", lambda self: opened.append("database"))
    configure(settings, "redis://cache.example.com", RETRIES=9)

    found = [*check_settings(), *check_deployment()]

    assert found
    assert opened == []


@pytest.mark.parametrize("tags", [None, ["redis_integration"], ["caches"]])
def test_checks_are_registered(settings, tags):
    """`manage.py check` fails for settings that cannot be used."""
    settings.REDIS_INTEGRATION = {"default": {}}

    with pytest.raises(SystemCheckError, match=r"redis_integration\.E001.*needs 'URL'"):
        call_command("check", tags=tags)


def test_deployment_advice_needs_the_deploy_flag(settings):
    """`manage.py check` is silent where `manage.py check --deploy` gives advice."""
    configure(settings, ENABLED=False)
    plain, deploy = StringIO(), StringIO()

    call_command("check", tags=["redis_integration"], stderr=plain)
    call_command("check", tags=["redis_integration"], deploy=True, stderr=deploy)

    assert "redis_integration" not in plain.getvalue()
    assert "redis_integration.W016" in deploy.getvalue()


def test_ids_are_unique():
    """Silencing one finding silences no other."""
    assert len(IDS) == len(set(IDS))


def test_docs_list_every_check():
    """The table of checks in the docs has every id, and no other."""
    documented = re.findall(r"^\| `(redis_integration\.[EW]\d{3})` \|", DOCS, re.MULTILINE)

    assert documented == sorted(IDS)


@pytest.mark.parametrize(("fallback", "ids"), [("outage", ["W008"]), ("durable", [])])
def test_durable_decorator_needs_the_durable_store(settings, decorated, fallback, ids):
    """Else its rows are no more than those of an outage, and nobody would know."""
    configure(settings, FALLBACK=fallback)
    decorated.add(Caching(name="a", codec=json_codec, ttl=60, lease_timeout=10, durable=True))

    assert get_ids(check_settings()) == ids


@pytest.mark.parametrize(("routers", "ids"), [([], ["W009"]), (["redis_integration.router.FallbackRouter"], [])])
def test_database_of_its_own_needs_the_router(monkeypatch, settings, routers, ids):
    """Else migrate makes the tables in the default database too, where nobody looks."""
    configure(settings, DATABASE="rows")
    monkeypatch.setitem(settings.DATABASES, "rows", {"ENGINE": "django.db.backends.postgresql"})
    settings.DATABASE_ROUTERS = routers

    assert get_ids(check_settings()) == ids


@pytest.mark.parametrize(("journal", "ids"), [("on_failure", ["W009"]), ("always", ["W007", "W009"])])
def test_journal_belongs_into_the_database_of_the_data(monkeypatch, settings, journal, ids):
    """Elsewhere its row is not part of the transaction that changes them."""
    configure(settings, DATABASE="rows", JOURNAL=journal)
    monkeypatch.setitem(settings.DATABASES, "rows", {"ENGINE": "django.db.backends.postgresql"})

    assert sorted(get_ids(check_settings())) == ids


def test_journal_beside_the_data_has_no_finding(settings):
    """The tables of this package are no data."""
    configure(settings, JOURNAL="always")

    assert get_ids(check_settings()) == []


@pytest.mark.parametrize(
    ("middleware", "ids"),
    [
        (["redis_integration.middleware.CacheAsideMiddleware", "other"], []),
        (["other", "redis_integration.middleware.CacheAsideMiddleware"], ["W010"]),
        ([], ["W010"]),
    ],
)
def test_middleware_that_is_not_first_is_a_warning_where_views_are_cached(settings, decorated, middleware, ids):
    """What stands before it speaks after it."""
    configure(settings)
    settings.MIDDLEWARE = middleware
    decorated.add(PageCaching(name="shop.views.page", codec=response_codec, ttl=60.0, lease_timeout=10.0))

    assert get_ids(check_settings()) == ids


def test_cached_functions_need_no_middleware(settings, decorated):
    """Only pages pass through other layers."""
    configure(settings)
    decorated.add(Caching(name="shop.price", codec=json_codec, ttl=60.0, lease_timeout=10.0))

    assert check_settings() == []
