"""
What a hit costs: a cached function and a cached view against a bare GET of redis-py and against Django's cache_page.

Usage: python -m benchmarks.hits [--rounds N] [--calls N]. Starts a server of its own on a free loopback port.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from benchmarks.rounds import Subject, machine, measure, table
from demo_project.server import start_server

HTML = "<li>A product with a name and a price</li>\n" * 120


def configure(url: str) -> None:
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        SECRET_KEY="benchmark",
        INSTALLED_APPS=["redis_integration"],
        REDIS_INTEGRATION={"default": {"URL": url, "KEY_PREFIX": "bench", "DATABASE": None}},
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url},
            "django_redis": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url},
        },
    )
    django.setup()


def functions(url: str) -> Mapping[str, Subject]:
    import redis

    from redis_integration import cache_aside, get_redis
    from redis_integration.pools import exchange

    value = {f"field{number}": number for number in range(20)}

    @cache_aside(ttl=600, key="value:{pk}")
    def load(pk: int) -> dict[str, int]:
        return value

    load(7)
    key = load.key_for(7)
    client = redis.Redis.from_url(url)
    pooled = get_redis()
    return {
        "redis-py GET, bytes": lambda: client.get(key),
        "GET on our pool, bytes": lambda: pooled.get(key),
        "exchange of a GET, bytes": lambda: exchange("default", [("GET", key)]),
        "@cache_aside function, value": lambda: load(7),
    }


def views(url: str) -> Mapping[str, Subject]:
    import redis
    from django.http import HttpRequest, HttpResponse
    from django.test import RequestFactory
    from django.views.decorators.cache import cache_page

    from redis_integration import cache_aside_view

    def page(request: HttpRequest) -> HttpResponse:
        return HttpResponse(HTML)

    decorated: dict[str, Any] = {
        "@cache_aside_view": cache_aside_view(ttl=600, namespace="page")(page),
        "cache_page, Django's RedisCache": cache_page(600)(page),
        "cache_page, django-redis": cache_page(600, cache="django_redis")(page),
    }
    requests = RequestFactory()
    client = redis.Redis.from_url(url)

    def visit(view: Any) -> Subject:
        return lambda: view(requests.get("/page/?a=1"))

    client.set("bench-page", HTML, ex=600)
    return {
        "redis-py GET of the page's bytes": lambda: client.get("bench-page"),
        **{name: visit(view) for name, view in decorated.items()},
        "making the request alone": lambda: requests.get("/page/?a=1"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    with start_server() as server:
        configure(server.url)
        packages = ", ".join(f"{name} {version(name)}" for name in ("django", "redis", "hiredis", "django-redis"))
        print(f"{machine()}; {server.name} on loopback; {packages}.")
        print(f"{options.rounds} rounds of {options.calls} calls, interleaved.\n")
        for title, make in {"cached function": functions, "cached view, 5 kB": views}.items():
            print(table(title, measure(make(server.url), rounds=options.rounds, calls=options.calls)), end="\n\n")


if __name__ == "__main__":
    main()
