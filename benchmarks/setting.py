"""What all benchmarks stand on: Django's settings around one server, and the peers that are installed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.rounds import machine

PACKAGES = ("django", "redis", "hiredis", "django-redis")
# From benchmarks/requirements.txt, as they are installed and imported.
PEERS = ("dogpile.cache", "cashews")

SQLITE = {"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20}}


def configure(url: str, *, folder: str | None = None) -> None:
    """Set Django up with this server; with a fallback tier where there is a folder for its database."""
    import django
    from django.conf import settings
    from django.core.management import call_command

    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        SECRET_KEY="benchmark",
        INSTALLED_APPS=["redis_integration"],
        DATABASES={"default": {**SQLITE, "NAME": f"{folder}/db.sqlite3"}} if folder else {},
        REDIS_INTEGRATION={"default": {"URL": url, "KEY_PREFIX": "bench", "DATABASE": "default" if folder else None}},
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url},
            "memory": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "django_redis": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url},
            # Keys as benchmarks/scan.py makes them.
            "raw": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": url,
                "KEY_FUNCTION": "benchmarks.setting.bench_key",
            },
            "django_redis_ignoring": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": url,
                "OPTIONS": {"IGNORE_EXCEPTIONS": True},
            },
        },
    )
    django.setup()
    if folder:
        call_command("migrate", verbosity=0)


def bench_key(key: str, prefix: str, version: int) -> str:
    return f"bench:{key}"


def describe(server_name: str) -> str:
    """Machine, server and versions, and a line for each peer that is missing."""
    installed = [name for name in PEERS if find_peer(name) is not None]
    missing = [name for name in PEERS if name not in installed]
    packages = ", ".join(f"{name} {version(name)}" for name in (*PACKAGES, *installed))
    lines = [f"{machine()}; {server_name} on loopback; {packages}."]
    lines += [f"{name} is not installed: its rows are left out (see benchmarks/requirements.txt)." for name in missing]
    return "\n".join(lines)


def find_peer(name: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def dogpile_cached(url: str) -> Callable[[Any], Any] | None:
    """A decorator of dogpile.cache on this server, locking across processes; None where it is not installed."""
    dogpile = find_peer("dogpile.cache")
    if dogpile is None:
        return None
    arguments = {"url": url, "distributed_lock": True, "thread_local_lock": False, "lock_timeout": 10}
    region = dogpile.make_region().configure(
        "dogpile.cache.redis", expiration_time=600, arguments={**arguments, "redis_expiration_time": 700}
    )
    decorator: Callable[[Any], Any] = region.cache_on_arguments()
    return decorator


def cashews_cache(url: str) -> Any:
    """A Cache of cashews on this server, None where it is not installed. To be closed on the loop that used it."""
    cashews = find_peer("cashews")
    if cashews is None:
        return None
    cache = cashews.Cache()
    # As many connections as ours may have; its default of 10 is fewer than the callers of a stampede.
    cache.setup(url, max_connections=50)
    return cache
