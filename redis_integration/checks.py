"""System checks of REDIS_INTEGRATION: what is wrong, what is unwise. They read settings and open no connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.urls import get_resolver

from redis_integration.caching import every_caching
from redis_integration.compression import is_available
from redis_integration.conf import (
    EXAMPLE_URL,
    RedisSettings,
    find_problems,
    get_aliases,
    get_databases,
    get_django_setting,
    get_settings,
    read_settings,
)
from redis_integration.pages import PageCaching
from redis_integration.router import APP_LABEL, FallbackRouter

UNREADABLE = "redis_integration.E001"
WRONG_TYPE = "redis_integration.E002"
UNUSABLE = "redis_integration.E003"
UNKNOWN_DATABASE = "redis_integration.E004"
SHORT_LEASE = "redis_integration.E005"
NO_ZSTD = "redis_integration.E006"
FAR_JOURNAL = "redis_integration.W007"
NOT_DURABLE = "redis_integration.W008"
NOT_FIRST = "redis_integration.W010"
MIDDLEWARE = "redis_integration.middleware.CacheAsideMiddleware"


class Advice(NamedTuple):
    id: str
    is_due: Callable[[RedisSettings], bool]
    message: str
    hint: str


def _is_deferred_sqlite(settings: RedisSettings) -> bool:
    database = get_databases().get(settings.database or "", {})
    mode = (database.get("OPTIONS") or {}).get("transaction_mode") or "DEFERRED"
    return database.get("ENGINE", "").endswith(("sqlite3", "spatialite")) and str(mode).upper() == "DEFERRED"


def _is_never_filled(settings: RedisSettings) -> bool:
    """Whether all of a request is in a transaction that reads a snapshot, so that nothing it computes may be stored."""
    for database in get_databases().values():
        level = str((database.get("OPTIONS") or {}).get("isolation_level") or "read committed")
        is_strict = "sqlite" in database.get("ENGINE", "") or level.lower() not in ("read committed", "2")
        if database.get("ATOMIC_REQUESTS") and is_strict:
            return True
    return False


def _is_everywhere(settings: RedisSettings) -> bool:
    """Whether `migrate` makes our tables in databases that are not theirs."""
    is_elsewhere = settings.database != "default" and settings.database in get_databases()
    return is_elsewhere and not any(isinstance(each, FallbackRouter) for each in router.routers)


def _is_open(settings: RedisSettings) -> bool:
    return not (settings.is_local or settings.password or urlsplit(settings.url).password)


ADVICE = (
    Advice(
        "redis_integration.W001",
        lambda settings: settings.retries > 3,
        "RETRIES is above 3: a Redis in trouble is asked again and again while a request waits.",
        "Use 1; the breaker and the fallback tier are there for the rest.",
    ),
    Advice(
        "redis_integration.W002",
        lambda settings: settings.max_connections > 1000,
        "MAX_CONNECTIONS is above 1000, for each process: a few processes reach Redis's own limit of 10,000 clients.",
        "Use about the number of threads in one process, or the default 50.",
    ),
    Advice(
        "redis_integration.W003",
        lambda settings: settings.pool_timeout > 1,
        "POOL_TIMEOUT is above 1 s: with an exhausted pool each call waits longer than most origins take.",
        "Use 0.1, and raise MAX_CONNECTIONS where the pool is too small.",
    ),
    Advice(
        "redis_integration.W004",
        lambda settings: settings.fallback is not None and settings.database is None,
        "FALLBACK is set but DATABASE is None: there is no fallback tier, and an outage computes every call.",
        "Name a database, or set 'FALLBACK': None to say that this is meant.",
    ),
    Advice(
        "redis_integration.W005",
        lambda settings: settings.fallback_ttl > 60,
        "FALLBACK_TTL is above 60 s: in an outage, pages that invalidation could not reach stay old for as long.",
        "Use 10: it bounds how old an answer from the fallback tier can be.",
    ),
    Advice(
        "redis_integration.W006",
        _is_never_filled,
        "ATOMIC_REQUESTS is on for a database whose transactions read a snapshot (SQLite, or an isolation level above READ "
        "COMMITTED): nothing that a request computes is stored, since it may be older than an invalidation.",
        "Switch ATOMIC_REQUESTS off there and use atomic() where data change, or use READ COMMITTED.",
    ),
    Advice(
        "redis_integration.W009",
        _is_everywhere,
        "DATABASE is not 'default', and no router knows: migrate makes the fallback tables in every database it is run on.",
        "Add 'redis_integration.router.FallbackRouter' to DATABASE_ROUTERS.",
    ),
)
DEPLOY_ADVICE = (
    Advice(
        "redis_integration.W011",
        lambda settings: not settings.is_local and not settings.url.startswith("rediss://"),
        "URL names another host without TLS: passwords and entries can be read and changed on the way.",
        "Use rediss://, or silence this check where the network is encrypted already.",
    ),
    Advice(
        "redis_integration.W012",
        _is_open,
        "No password is set for a Redis on another host: whoever reaches it can read, change and delete everything.",
        "Set PASSWORD (and USERNAME), and 'requirepass' or an ACL user in Redis.",
    ),
    Advice(
        "redis_integration.W013",
        lambda settings: settings.key_prefix == "app",
        "KEY_PREFIX is the default 'app': a second project on this Redis would read and delete the same keys.",
        "Set KEY_PREFIX to a name of this project and stage, for example 'shop-live'.",
    ),
    Advice(
        "redis_integration.W014",
        lambda settings: max(settings.connect_timeout, settings.command_timeout) > 2,
        "CONNECT_TIMEOUT or COMMAND_TIMEOUT is above 2 s: a frozen Redis holds each worker for as long.",
        "Use 0.25 s: what Redis does not answer by then is faster computed.",
    ),
    Advice(
        "redis_integration.W015",
        _is_deferred_sqlite,
        "DATABASE is SQLite in its deferred mode: rows written in an outage make requests fail, 'database is locked'.",
        "Add 'OPTIONS': {'transaction_mode': 'IMMEDIATE'} to this database.",
    ),
    Advice(
        "redis_integration.W016",
        lambda settings: not settings.enabled,
        "ENABLED is False: nothing is cached.",
        "Remove it, unless this is meant.",
    ),
)
# Each id once: silencing one must not silence another.
IDS = (
    UNREADABLE,
    WRONG_TYPE,
    UNUSABLE,
    UNKNOWN_DATABASE,
    SHORT_LEASE,
    NO_ZSTD,
    FAR_JOURNAL,
    NOT_DURABLE,
    NOT_FIRST,
    *(advice.id for advice in ADVICE + DEPLOY_ADVICE),
)


def check_settings(app_configs: object = None, **kwargs: object) -> list[CheckMessage]:
    """Errors, and what is unwise in any environment."""
    try:
        aliases = get_aliases()
    except ImproperlyConfigured as exc:
        return [_unreadable(exc)]
    usable = _get_usable()
    errors = (error for alias in aliases for error in _find_errors(alias))
    findings = (*_find_not_durable(usable), *_find_far_journals(usable), *_find_unheard_layers())
    return [*errors, *_advise(usable, ADVICE), *findings]


def check_deployment(app_configs: object = None, **kwargs: object) -> list[CheckMessage]:
    """What is unwise in production: for `manage.py check --deploy`."""
    return [*_advise(_get_usable(), DEPLOY_ADVICE)]


def _get_usable() -> dict[str, RedisSettings]:
    usable: dict[str, RedisSettings] = {}
    # What cannot be used is an error of check_settings; no advice on top of it.
    with suppress(ImproperlyConfigured):
        for alias in get_aliases():
            with suppress(ImproperlyConfigured):
                usable[alias] = get_settings(alias)
    return usable


def _find_errors(alias: str) -> Iterator[CheckMessage]:
    try:
        settings = read_settings(alias)
    except ImproperlyConfigured as exc:
        yield _unreadable(exc)
        return
    problems = find_problems(settings)
    for problem in problems:
        check_id = WRONG_TYPE if problem.is_wrong_type else UNUSABLE
        yield Error(problem.message, hint=problem.hint, obj=f"REDIS_INTEGRATION[{alias!r}]", id=check_id)
    if not problems and settings.database is not None and settings.database not in get_databases():
        yield Error(
            f"DATABASE names {settings.database!r}, which is not in DATABASES.",
            hint="Name an alias of DATABASES, or set 'DATABASE': None and 'FALLBACK': None.",
            obj=f"REDIS_INTEGRATION[{alias!r}]",
            id=UNKNOWN_DATABASE,
        )
    if not problems and not is_available(settings.compression):
        yield Error(
            f"COMPRESSION is {settings.compression!r}, which this Python cannot do: entries are stored uncompressed.",
            hint="Install django-redis-integration[zstd], or use Python 3.14 or 'COMPRESSION': 'zlib'.",
            obj=f"REDIS_INTEGRATION[{alias!r}]",
            id=NO_ZSTD,
        )
    if not problems:
        yield from _find_short_leases(alias, settings)


def _find_short_leases(alias: str, settings: RedisSettings) -> Iterator[CheckMessage]:
    # Decorators read no setting, so this cannot be said when they are applied.
    exchange = settings.pool_timeout + settings.connect_timeout + settings.command_timeout
    cachings = [caching for caching in every_caching if caching.alias == alias and caching.lease_timeout <= exchange]
    for caching in sorted(cachings, key=lambda caching: caching.name):
        yield Error(
            f"{caching.name} has a lease_timeout of {caching.lease_timeout:g} s, and one exchange with Redis may take "
            f"{exchange:g} s: its lease could be over before it is known.",
            hint="Raise lease_timeout, or lower POOL_TIMEOUT, CONNECT_TIMEOUT and COMMAND_TIMEOUT.",
            obj=f"REDIS_INTEGRATION[{alias!r}]",
            id=SHORT_LEASE,
        )


def _find_not_durable(usable: dict[str, RedisSettings]) -> Iterator[CheckMessage]:
    for caching in sorted(every_caching, key=lambda caching: caching.name):
        if not caching.durable or caching.alias not in usable or usable[caching.alias].fallback == "durable":
            continue
        yield Warning(
            f"{caching.name} is durable, but FALLBACK is not 'durable': its rows are no more than those of an outage.",
            hint="Set 'FALLBACK': 'durable' one deploy before the first durable=True: every process must end rows by then.",
            obj=f"REDIS_INTEGRATION[{caching.alias!r}]",
            id=NOT_DURABLE,
        )


def _find_far_journals(usable: dict[str, RedisSettings]) -> Iterator[CheckMessage]:
    models = [model for model in apps.get_models() if model._meta.managed and model._meta.app_label != APP_LABEL]
    for alias, settings in usable.items():
        if settings.journal != "always":
            continue
        far = sorted(model._meta.label for model in models if router.db_for_write(model) != settings.database)
        if far:
            yield Warning(
                f"JOURNAL is 'always' and in the database {settings.database!r}, but {', '.join(far[:5])}"
                f"{', …' if far[5:] else ''} are written to another one: who invalidates in a transaction there gets JournalUnavailable.",
                hint="Set DATABASE to the database of the data that invalidates, or 'JOURNAL': 'on_failure'.",
                obj=f"REDIS_INTEGRATION[{alias!r}]",
                id=FAR_JOURNAL,
            )


def _find_unheard_layers() -> Iterator[CheckMessage]:
    with suppress(Exception):  # Django's own checks say what is wrong with the URLconf
        get_resolver().url_patterns  # noqa: B018  # it imports the views
    names = sorted(caching.name for caching in every_caching if isinstance(caching, PageCaching))
    if names and [*get_django_setting("MIDDLEWARE")][:1] != [MIDDLEWARE]:
        yield Warning(
            f"{names[0]} is cached ({len(names)} such views), and {MIDDLEWARE} is not the first in MIDDLEWARE: a cookie or a "
            "Vary that other layers add is not seen before a page is stored.",
            hint="Put it first.",
            id=NOT_FIRST,
        )


def _unreadable(error: ImproperlyConfigured) -> CheckMessage:
    return Error(str(error), hint=f"The least that works is {{'default': {{'URL': {EXAMPLE_URL!r}}}}}.", id=UNREADABLE)


def _advise(usable: dict[str, RedisSettings], advice: tuple[Advice, ...]) -> Iterator[CheckMessage]:
    for alias, settings in usable.items():
        for each in advice:
            if each.is_due(settings):
                yield Warning(each.message, hint=each.hint, obj=f"REDIS_INTEGRATION[{alias!r}]", id=each.id)
