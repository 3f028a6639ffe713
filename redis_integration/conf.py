"""REDIS_INTEGRATION → one RedisSettings per alias. The only reader of django.conf.settings; connects to nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from ssl import TLSVersion
from typing import Annotated, Any, NamedTuple, TypedDict, get_type_hints
from urllib.parse import parse_qs, urlsplit

from django.conf import settings as django_settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from redis.asyncio.connection import parse_url

EXAMPLE_URL = "redis://localhost:6379/0"
_UNREADABLE = (
    "has a 'URL' that cannot be read. Give numbers for port (1 to 65535), database and other arguments, "
    "and in a password write %2F for /, %3F for ?, %23 for #, %40 for @."
)


class _Rule(NamedTuple):
    wanted: str
    is_usable: Callable[[Any], object] = lambda value: True


_Text = Annotated[str, _Rule("a string")]
_TextOrNone = Annotated[str | None, _Rule("a string or None")]
_Path = Annotated[str | Path, _Rule("a path")]
_Switch = Annotated[bool, _Rule("True or False")]
_Count = Annotated[int, _Rule("a whole number of at least 1", lambda count: count >= 1)]
_CountOrZero = Annotated[int, _Rule("a whole number of at least 0", lambda count: count >= 0)]
# Seconds. A wait above a day is a slip, and a much larger one overflows socket.settimeout; 0 makes a socket non-blocking.
_Timeout = Annotated[float | int, _Rule("0.001 to 86400 seconds", lambda wait: 0.001 <= wait <= 86_400)]
_Interval = Annotated[float | int, _Rule("0 to 86400 seconds", lambda wait: 0 <= wait <= 86_400)]
_CountOrNone = Annotated[
    int | None, _Rule("a whole number of at least 0, or None", lambda count: count is None or count >= 0)
]
# Above 512 MB Redis takes no value.
_Bytes = Annotated[int, _Rule("1 to 500000000 bytes", lambda count: 1 <= count <= 500_000_000)]
_Compression = Annotated[str, _Rule("'zlib' or 'zstd'", ("zlib", "zstd").__contains__)]
# Redis refuses a client name with spaces or control characters.
_Name = Annotated[str, _Rule("1 to 100 ASCII characters, no spaces", re.compile(r"[!-~]{1,100}").fullmatch)]
# Without ':', '{', '#' and globs no prefix reaches into another's keys.
_Prefix = Annotated[str, _Rule("1 to 50 of A-Z, a-z, 0-9, '_', '.', '-'", re.compile(r"[\w.-]{1,50}", re.A).fullmatch)]
_Journal = Annotated[str | None, _Rule("'on_failure', 'always' or None", ("on_failure", "always", None).__contains__)]
_Fallback = Annotated[str | None, _Rule("'outage', 'durable' or None", ("outage", "durable", None).__contains__)]
_CertReqs = Annotated[str, _Rule("'required', 'optional' or 'none'", ("required", "optional", "none").__contains__)]
_Version = Annotated[
    int, _Rule("ssl.TLSVersion.TLSv1_2 or TLSv1_3", (TLSVersion.TLSv1_2, TLSVersion.TLSv1_3).__contains__)
]


class ConnectionArguments(TypedDict, total=False):
    """What OPTIONS and the URL's query may hold: arguments of redis-py's connection classes, sync and async."""

    protocol: Annotated[int, _Rule("2 or 3", (2, 3).__contains__)]
    socket_keepalive: _Switch
    socket_read_size: _Count
    ssl_ca_certs: _Path
    ssl_ca_data: Annotated[str | bytes, _Rule("a string or bytes")]
    ssl_ca_path: _Path
    ssl_cert_reqs: _CertReqs
    ssl_certfile: _Path
    ssl_check_hostname: _Switch
    ssl_ciphers: _Text
    ssl_keyfile: _Path
    ssl_min_version: _Version
    ssl_password: _Text


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """Options of one alias. Every duration is in seconds."""

    url: _Text = field(repr=False)
    username: _TextOrNone = None  # the URL may carry it instead
    password: _TextOrNone = field(default=None, repr=False)  # the URL may carry it instead
    options: tuple[tuple[str, object], ...] = field(default=(), repr=False)  # sorted items, so that pools can be keyed
    # Per process, and in async code per event loop: above the threads of a usual worker, far below Redis's own 10,000.
    max_connections: _Count = 50
    pool_timeout: _Interval = 0.1  # s; a pool empty for longer is too small or leaks, and computing is cheaper
    # redis-py's own defaults (5 s, 10 retries) let one dead server hold a worker for a minute. These three bound a read.
    connect_timeout: _Timeout = 0.25  # s, a deadline for the connection and its handshake
    command_timeout: _Timeout = 0.25  # s, a deadline for the whole exchange, not for each piece of a reply
    retries: _CountOrZero = 1  # after the first try, of idempotent commands only
    health_check_interval: _Interval = 30.0  # s idle before a PING: below the minute after which firewalls forget
    # Redis restores old keys after a restart, and a new primary may lack the last UNLINKs. False: its cache stays warm.
    distrust_restarts: _Switch = True
    # s from beat to beat of the watch: how long a process may not know of a failover or another's failure. 0: no watch.
    watch_interval: _Interval = 1.0
    # s that one request may wait for Redis, all calls together: two timeouts, after which Redis is down and nobody waits.
    request_budget: _Timeout = 0.5
    client_name: _Name = "redis_integration"  # what CLIENT LIST shows
    enabled: _Switch = True  # False: every call is its origin
    key_prefix: _Prefix = "app"  # never empty, or nobody could tell our keys from others
    database: _TextOrNone = "default"  # alias in DATABASES of the fallback tier and the journal
    # "durable": every invalidation also ends rows, so that they may be believed for long; None: an outage computes every call
    fallback: _Fallback = "outage"
    fallback_ttl: _Timeout = 10.0  # s; the age up to which a row that no invalidation could reach is believed
    fallback_entries: _Count = 10_000  # rows that pruning leaves: some MB, and more pages than an outage asks for
    # "always": written in the transaction of the data, so that also a process killed after its commit loses no invalidation, for two
    # statements each; None: what Redis did not confirm only this process knows
    journal: _Journal = "on_failure"
    # Before compression and after. A value that takes longer to send than COMMAND_TIMEOUT would look like a Redis that is down.
    max_entry_bytes: _Bytes = 1_000_000
    # Of 1 kB compression saves 0.4 (text) to 0.8 (rows), for 0.03 ms at the fill and 0.008 ms at each hit; below, less than Redis
    # itself needs for a key. None: never.
    compress_over_bytes: _CountOrNone = 1024
    compression: _Compression = "zlib"  # in the standard library; zstd takes half the time for payloads of 400 kB

    @property
    def address(self) -> str:
        """Where the server is, for humans: no scheme, no credentials."""
        target: dict[str, Any] = {**parse_url(self.url)}
        if "path" in target:
            return f"unix:{target['path']}?db={target.get('db', 0)}"
        host = target.get("host", "localhost")
        return f"{f'[{host}]' if ':' in host else host}:{target.get('port', 6379)}/{target.get('db', 0)}"

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine: a loopback host or a unix socket. Resolves no name."""
        host = urlsplit(self.url).hostname or "localhost"
        return re.fullmatch(r"localhost|127(\.\d+){3}|::1", host) is not None


# Name → Annotated[type, _Rule].
_FIELDS = get_type_hints(RedisSettings, include_extras=True)
_ARGUMENTS = get_type_hints(ConnectionArguments, include_extras=True)


class Problem(NamedTuple):
    """What is wrong with the value of one option. Never shows the value, which may be a secret."""

    message: str
    hint: str
    is_wrong_type: bool = False


def get_aliases() -> list[str]:
    """The aliases in REDIS_INTEGRATION, in its order. Raises ImproperlyConfigured where there are none."""
    configured = getattr(django_settings, "REDIS_INTEGRATION", None)
    if configured and isinstance(configured, dict):
        return list(configured)
    example = {"default": {"URL": EXAMPLE_URL}}
    raise ImproperlyConfigured(f"REDIS_INTEGRATION is missing, empty or no dict. Set it, for example to {example}.")


@cache
def get_settings(alias: str = "default") -> RedisSettings:
    """The options of an alias, defaults filled in. Reads the setting once, on first use.

    Raises ImproperlyConfigured for anything with which no pool can be built.
    """
    settings = read_settings(alias)
    for problem in find_problems(settings):
        raise ImproperlyConfigured(f"REDIS_INTEGRATION[{alias!r}]: {problem.message} {problem.hint}")
    return settings


@receiver(setting_changed, dispatch_uid="redis_integration.conf")
def _forget_settings(*, setting: str, **kwargs: object) -> None:
    get_view_variations.cache_clear()
    if setting == "REDIS_INTEGRATION":
        get_settings.cache_clear()


def read_settings(alias: str) -> RedisSettings:
    """The options of an alias, the types and ranges of their values not yet checked: for the system checks.

    Raises ImproperlyConfigured where an option is unknown or missing, or the URL cannot be read.
    """
    if alias not in (aliases := get_aliases()):
        raise ImproperlyConfigured(f"REDIS_INTEGRATION has no alias {alias!r}, only {', '.join(map(repr, aliases))}.")
    options = django_settings.REDIS_INTEGRATION[alias]
    if fault := _find_fault(options):
        raise ImproperlyConfigured(f"REDIS_INTEGRATION[{alias!r}] {fault}")
    values: dict[str, Any] = {name.lower(): value for name, value in options.items()}
    values["options"] = tuple(sorted(values.get("options", {}).items()))
    return RedisSettings(**values)


def get_databases() -> dict[str, dict[str, Any]]:
    """DATABASES."""
    return django_settings.DATABASES


def get_secrets() -> list[str | bytes]:
    """What to sign with, and after it what older signatures may have been made with: SECRET_KEY, SECRET_KEY_FALLBACKS."""
    return [django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS]


def find_problems(settings: RedisSettings) -> list[Problem]:
    """Values of a wrong type or out of range, and options that contradict the URL; empty for usable settings."""
    in_url = {**parse_url(settings.url)}
    arguments = [*settings.options, *((name, in_url[name]) for name in _ARGUMENTS if name in in_url)]
    problems = [
        *(_find_problem(name.upper(), _FIELDS[name], getattr(settings, name)) for name in _FIELDS if name != "options"),
        *(_find_problem(f"OPTIONS[{name!r}]", _ARGUMENTS[name], value) for name, value in arguments),
    ]
    return [*filter(None, problems), *_find_contradictions(settings, in_url)]


def _find_problem(option: str, annotation: Any, value: object) -> Problem | None:
    types, rule = annotation.__origin__, annotation.__metadata__[0]
    # bool is a subclass of int, and True connections are a slip.
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        return Problem(f"{option} is of type {type(value).__name__}.", f"Give {rule.wanted}.", True)
    if not rule.is_usable(value):
        return Problem(f"{option} has a value that cannot be used.", f"Give {rule.wanted}.")
    return None


def _find_contradictions(settings: RedisSettings, in_url: dict[str, Any]) -> Iterator[Problem]:
    if settings.journal == "always" and settings.database is None:
        yield Problem("JOURNAL is 'always' but DATABASE is None.", "Name the database that holds the data.")
    given = {name for name, _ in settings.options}
    credentials = {name for name in ("username", "password") if getattr(settings, name) is not None}
    for name in sorted((given | credentials) & in_url.keys()):
        yield Problem(f"The URL gives {name!r} a second time.", "Keep one of the two.")
    for name in sorted({*given, *in_url}):
        if name.startswith("ssl_") and not settings.url.startswith("rediss://"):
            yield Problem(f"OPTIONS[{name!r}] is for TLS only.", "Use a rediss:// URL, or leave it out.")
        if name == "socket_keepalive" and settings.url.startswith("unix://"):
            yield Problem(f"OPTIONS[{name!r}] is for TCP only.", "Leave it out of a unix:// URL.")


def _find_fault(options: object) -> str | None:
    if not isinstance(options, dict):
        return f"is no dict. Give it options, for example {{'URL': {EXAMPLE_URL!r}}}."
    if unknown := _find_unknown(options, [name.upper() for name in _FIELDS]):
        return f"has no option {unknown}"
    if not options.get("URL"):
        return f"needs 'URL', for example {EXAMPLE_URL!r}."
    if not isinstance(options["URL"], str):
        return f"has a 'URL' that is no string. Give one, for example {EXAMPLE_URL!r}."
    if not isinstance(arguments := options.get("OPTIONS", {}), dict):
        return "has 'OPTIONS' that are no dict. Give connection arguments of redis-py."
    if unknown := _find_unknown(arguments, _ARGUMENTS):
        return f"allows no entry in 'OPTIONS' of the name {unknown}"
    return _find_url_fault(options["URL"])


def _find_url_fault(url: str) -> str | None:
    # No part of the URL is shown: behind an unescaped character, any part may belong to the password.
    if not url.startswith(("redis://", "rediss://", "unix://")):
        return "has a 'URL' of an unknown scheme. Begin it with redis://, rediss:// or unix://."
    try:
        parts = urlsplit(url)
        parse_url(url)
    except ValueError:
        return _UNREADABLE
    is_unix = parts.scheme == "unix"
    if is_unix and (parts.netloc.rpartition("@")[2] or not parts.path.strip("/")):
        return "has a unix:// 'URL' without a path. Write for example 'unix:///run/redis.sock?db=0'."
    if parts.port == 0 or parts.fragment or (not is_unix and "@" in parts.path + parts.query):
        return _UNREADABLE
    arguments = parse_qs(parts.query, keep_blank_values=True)
    numbers = [*arguments.pop("db", ()), "" if is_unix else parts.path.strip("/")]
    if not all(re.fullmatch("[0-9]{0,9}", number) for number in numbers):
        return "has a 'URL' with a database that is no number. Write for example /0 after the port."
    unknown = _find_unknown(arguments, _ARGUMENTS)
    return f"has a 'URL' with the unknown argument {unknown}" if unknown else None


def _find_unknown(names: Iterable[object], known: Collection[str]) -> str | None:
    for name in names:
        if name not in known:
            by_lower_case = {str(option).lower(): option for option in known}
            nearest = get_close_matches(str(name).lower(), by_lower_case, n=1)
            advice = f"Did you mean {by_lower_case[nearest[0]]!r}?" if nearest else f"Known: {', '.join(known)}."
            return f"{name!r}. {advice}"
    return None


def is_under_test() -> bool:
    """Whether Django's test runner, or pytest-django, has prepared this process: only then mail has an outbox."""
    return hasattr(mail, "outbox")


def get_django_setting(name: str) -> Any:
    """One of Django's own."""
    return getattr(django_settings, name)


@cache
def get_view_variations() -> tuple[bool, bool]:
    """Whether language, and whether time zone, make Django render one URL differently for two visitors."""
    return django_settings.USE_I18N, django_settings.USE_TZ
