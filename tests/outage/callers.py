"""One origin cached in three ways, each called and invalidated from sync code: a function, a coroutine function, a view."""

from __future__ import annotations

import asyncio

from django.http import HttpResponse
from django.test import RequestFactory

from redis_integration import cache_aside, cache_aside_view
from redis_integration.tiers.redis import get_redis_tier


class Source:
    """The data an origin reads; counts the reads."""

    def __init__(self):
        self.value = "first"
        self.reads = 0

    def read(self):
        self.reads += 1
        return self.value


def cached_function(source, **options):
    load = cache_aside(ttl=60, key="value", **options)(lambda: source.read())
    return load, load.invalidate


def cached_coroutine(source, **options):
    @cache_aside(ttl=60, key="value", **options)
    async def load():
        return source.read()

    return lambda: asyncio.run(load()), lambda: asyncio.run(load.ainvalidate())


def cached_view(source, **options):
    request = RequestFactory().get("/page/")
    view = cache_aside_view(ttl=60, namespace="page", **options)(lambda request: HttpResponse(source.read()))
    return lambda: view(request).content.decode(), lambda: view.invalidate(request)


CALLERS = [cached_function, cached_coroutine, cached_view]


def retry_now(alias="default"):
    """Let the pause of the open breaker be over."""
    get_redis_tier(alias, is_async=False).breaker._due = 0
