"""One origin cached in three ways, each called and invalidated from sync code: a function, a coroutine function, a view."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from django.http import HttpResponse
from django.test import RequestFactory

from redis_integration import cache_aside, cache_aside_view
from redis_integration.conf import get_settings
from redis_integration.tags import tag_key
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


class Form(NamedTuple):
    """As what an origin is cached in test_rows.py."""

    is_async: bool
    is_view: bool


FORMS = {
    "sync": Form(is_async=False, is_view=False),
    "async": Form(is_async=True, is_view=False),
    "view": Form(is_async=False, is_view=True),
    "async view": Form(is_async=True, is_view=True),
}


class Cached:
    """An entry of each name, a function's argument or a page of its own; what is awaitable is for `run`."""

    def __init__(self, form, read, namespace, *, run, **options):
        self.form = form
        self.run = run

        def origin(name):
            return HttpResponse(read()) if form.is_view else read()

        async def aorigin(name):
            return origin(name)

        decorate = (
            cache_aside_view(ttl=60, namespace=namespace, **options)
            if form.is_view
            else cache_aside(ttl=60, key=f"{namespace}:{{name}}", **options)
        )
        self.cached = decorate(aorigin if form.is_async else origin)

    def load(self, name):
        answer = self.run(self.cached(self._argument(name)))
        return answer.content.decode() if self.form.is_view else answer

    def invalidate(self, name):
        invalidate = self.cached.ainvalidate if self.form.is_async else self.cached.invalidate
        self.run(invalidate(self._argument(name)))

    def key_for(self, name):
        return self.cached.key_for(self._argument(name))

    def name_for(self, name):
        """What `invalidate` names to Redis and the journal: of a page the tag of its path, all variants of which it ends."""
        if not self.form.is_view:
            return self.key_for(name)
        return tag_key(get_settings().key_prefix, f"page:/{name}/")

    def _argument(self, name):
        return RequestFactory().get(f"/{name}/") if self.form.is_view else name


def retry_now(alias="default"):
    """Let the pause of the open breaker be over."""
    get_redis_tier(alias, is_async=False).breaker._due = 0
