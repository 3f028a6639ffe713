"""`cache_aside_view`: pages of views, sync and async, kept where that is plainly safe. What is safe stands in responses.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, update_wrapper
from typing import Any, cast

from django.http import HttpRequest

from redis_integration.answers import Pages, pass_by
from redis_integration.cache_aside import MISS, alook, find_answer, look
from redis_integration.decorators import Tags, is_coroutine
from redis_integration.explain import Explanation
from redis_integration.flow import arun, run
from redis_integration.headers import Advice
from redis_integration.invalidation import end_entries, refuse_event_loop
from redis_integration.keys import escape, namespace_of
from redis_integration.options import (
    LEASE_TIMEOUT,
    Seconds,
    name_of,
    read_options,
    read_seconds,
    refuse_misplaced,
    refuse_uncacheable,
)
from redis_integration.pages import PageCaching, PageMaker, VaryOn
from redis_integration.protocols import ViewDecorator
from redis_integration.responses import response_codec
from redis_integration.tags import TagMaker


def cache_aside_view(
    *misplaced: object,
    ttl: Seconds,
    namespace: str | None = None,
    tags: Tags = (),
    vary_on: VaryOn = (),
    query: Iterable[str] | None = None,
    ignore_query: Iterable[str] = (),
    stale_for: Seconds = 0,
    eager: float | None = None,
    error_ttl: Seconds = 1.0,
    negative_ttl: Seconds = 0,
    browser_ttl: Seconds = 0,
    stale_while_revalidate: Seconds = 0,
    stale_if_error: Seconds = 0,
    durable: bool = False,
    lease_timeout: Seconds = LEASE_TIMEOUT,
    alias: str = "default",
) -> ViewDecorator:
    """A decorator that keeps what a view, sync or async, answers to GET for `ttl` seconds, where that is plainly safe.

    The key holds scheme and host, path, query, language and time zone where Django uses them, and what `vary_on` names:
    headers ("Accept-Language"), cookies ("cookie:theme"), "user", functions of the request. `query` lists the parameters
    that count, `ignore_query` patterns of those that do not ("utm_*"); the view does not see the others. What is not stored,
    and why, stands in responses.py and sight.py; Cache-Status (RFC 9211) says where each answer came from. Layers around the
    view are heard where CacheAsideMiddleware is the first in MIDDLEWARE. A class is decorated as
    `cache_aside_view(ttl=60)(MyView.as_view())`.

    `tags`, `stale_for`, `eager`, `error_ttl`, `durable` and `lease_timeout` are those of `cache_aside`; the arguments are the
    view's, with the request. A stale page is computed anew by a caller, never in the background, where the request would
    outlive its response. `negative_ttl` is how many seconds a 404 or 410 is remembered. `browser_ttl`,
    `stale_while_revalidate` and `stale_if_error` (RFC 5861) are what browsers are told; by default they ask each time.

    The decorated view has `invalidate`, which takes a request or a path and ends that page in all variants, `key_for` and
    `expire`, which take a request, and `explain`, which takes the view's own arguments; an async view `ainvalidate` and so on.
    Raises TypeError and ValueError at decoration for options without meaning.
    """
    refuse_misplaced("cache_aside_view", misplaced)
    options = read_options(
        ttl=read_seconds("ttl", ttl),
        stale_for=stale_for,
        refresh="caller",
        eager=eager,
        error_ttl=error_ttl,
        durable=durable,
        lease_timeout=lease_timeout,
        alias=alias,
    )
    negative = read_seconds("negative_ttl", negative_ttl) if negative_ttl else 0.0
    told = {
        "browser_ttl": browser_ttl,
        "stale_while_revalidate": stale_while_revalidate,
        "stale_if_error": stale_if_error,
    }
    seconds = {name: int(read_seconds(name, given)) if given else 0 for name, given in told.items()}

    def decorate(view: Callable[..., Any]) -> Any:
        refuse_uncacheable("cache_aside_view", view)
        start = namespace_of(view) if namespace is None else escape(namespace)
        maker = PageMaker(
            start, TagMaker(view, tags), vary_on=vary_on, query=query, ignore_query=ignore_query, alias=alias
        )
        fields = {**options, "codec": response_codec, "negative": negative, "pattern": maker.pattern}
        caching = PageCaching(name=name_of(view), **fields)
        pages = Pages(caching, maker, Advice(vary=maker.vary, **seconds))
        return (_decorate_async if is_coroutine(view) else _decorate_sync)(view, pages)

    return cast(ViewDecorator, decorate)


def _decorate_sync(view: Callable[..., Any], pages: Pages) -> Any:
    caching, maker = pages.caching, pages.maker

    def cached(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if not pages.is_enabled():
            return view(request, *args, **kwargs)
        page = pages.find(request, args, kwargs)
        if isinstance(page, str):
            return pass_by(view(request, *args, **kwargs), page)
        value, first = look(caching, page.names)
        if value is not MISS:
            return pages.hit(page, value)
        visit = pages.visit(page, partial(view, request, *args, **kwargs), is_async=False)
        flow = find_answer(caching, page.names, visit.compute, is_async=False, may_store=visit.why is None, first=first)
        return pages.answer(visit, flow, run(flow))

    def invalidate(page: HttpRequest | str) -> None:
        refuse_event_loop("invalidate")
        run(end_entries([maker.tag(page)], caching.alias, is_async=False))

    def expire(request: HttpRequest) -> None:
        refuse_event_loop("expire")
        run(end_entries([maker.key(request)], caching.alias, is_async=False, softly=True))

    def explain(request: HttpRequest | None = None, *args: Any, **kwargs: Any) -> Explanation:
        return run(pages.explain(request, args, kwargs, is_async=False))

    decorated: Any = update_wrapper(cached, view)
    decorated.key_for, decorated.invalidate, decorated.expire = maker.key, invalidate, expire
    decorated.explain = explain
    return decorated


def _decorate_async(view: Callable[..., Any], pages: Pages) -> Any:
    caching, maker = pages.caching, pages.maker

    async def cached(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if not pages.is_enabled():
            return await view(request, *args, **kwargs)
        await maker.prepare(request)
        page = pages.find(request, args, kwargs)
        if isinstance(page, str):
            return pass_by(await view(request, *args, **kwargs), page)
        value, first = await alook(caching, page.names)
        if value is not MISS:
            return pages.hit(page, value)
        visit = pages.visit(page, partial(view, request, *args, **kwargs), is_async=True)
        flow = find_answer(caching, page.names, visit.acompute, is_async=True, may_store=visit.why is None, first=first)
        return pages.answer(visit, flow, await arun(flow))

    async def ainvalidate(page: HttpRequest | str) -> None:
        await arun(end_entries([maker.tag(page)], caching.alias, is_async=True))

    async def aexpire(request: HttpRequest) -> None:
        await maker.prepare(request)
        await arun(end_entries([maker.key(request)], caching.alias, is_async=True, softly=True))

    async def aexplain(request: HttpRequest, *args: Any, **kwargs: Any) -> Explanation:
        await maker.prepare(request)
        return await arun(pages.explain(request, args, kwargs, is_async=True))

    decorated: Any = update_wrapper(cached, view)
    decorated.key_for, decorated.ainvalidate, decorated.aexpire = maker.key, ainvalidate, aexpire
    decorated.aexplain = aexplain
    return decorated
