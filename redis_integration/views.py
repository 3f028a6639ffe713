"""`cache_aside_view`: pages of sync views, kept where that is plainly safe. What is safe stands in responses.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any, Protocol, cast

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone, translation

from redis_integration.cache_aside import MISS, find_answer, look
from redis_integration.caching import Answer, Caching, Outcome, attempt
from redis_integration.conf import get_settings, get_view_variations
from redis_integration.decorators import LEASE_TIMEOUT, Tags, value_of
from redis_integration.explain import Explanation, explain_call
from redis_integration.flow import run
from redis_integration.invalidation import end_entries, refuse_event_loop
from redis_integration.keys import Names, escape, full_key, namespace_of, view_key
from redis_integration.options import (
    Seconds,
    name_of,
    read_durable,
    read_seconds,
    refuse_misplaced,
    refuse_uncacheable,
)
from redis_integration.responses import response_codec, why_bypassed, why_not_stored, why_private
from redis_integration.tags import TagMaker


class CachedView(Protocol):
    """A cached view."""

    def __call__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase: ...
    def key_for(self, request: HttpRequest, *, path: str | None = None) -> str: ...
    def invalidate(self, request: HttpRequest, *, path: str | None = None) -> None: ...
    def expire(self, request: HttpRequest, *, path: str | None = None) -> None: ...
    def explain(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Explanation: ...


def cache_aside_view(
    *misplaced: object,
    ttl: Seconds,
    namespace: str | None = None,
    tags: Tags = (),
    durable: bool = False,
    lease_timeout: Seconds = LEASE_TIMEOUT,
    alias: str = "default",
) -> Callable[[Callable[..., HttpResponseBase]], CachedView]:
    """A decorator that keeps what a view answers to GET for `ttl` seconds, where that is plainly safe.

    The key holds scheme and host, path, the whole query, and language and time zone where Django uses them. What is not
    stored, and why, stands in `responses.why_not_stored`. Each answer to GET and HEAD says in `Cache-Status` (RFC 9211)
    where it came from. A class is decorated as `cache_aside_view(ttl=60)(MyView.as_view())`.

    `tags`, `durable` and `lease_timeout` are those of `cache_aside`; the arguments are the view's, with the request.

    The decorated view has `key_for`, `invalidate` and `expire`, which take a request of the same site, and `path` for
    another page, and `explain`, which takes the view's own arguments.
    Raises TypeError and ValueError at decoration for options without meaning, and for async views.
    """
    refuse_misplaced("cache_aside_view", misplaced)
    seconds, lease_seconds = read_seconds("ttl", ttl), read_seconds("lease_timeout", lease_timeout)
    is_durable = read_durable(durable)

    def decorate(view: Callable[..., HttpResponseBase]) -> CachedView:
        refuse_uncacheable("cache_aside_view", view)
        if iscoroutinefunction(view):
            raise TypeError(
                f"{name_of(view)} is an async view, which cache_aside_view does not cache yet. "
                "Decorate the coroutine functions it awaits with @cache_aside."
            )
        caching = Caching(
            name=name_of(view),
            codec=response_codec,
            alias=alias,
            ttl=seconds,
            durable=is_durable,
            lease_timeout=lease_seconds,
        )
        start = namespace_of(view) if namespace is None else escape(namespace)
        return _decorate_view(view, start, TagMaker(view, tags), caching=caching)

    return decorate


def _decorate_view(
    view: Callable[..., HttpResponseBase], namespace: str, tag_maker: TagMaker, *, caching: Caching
) -> CachedView:
    alias = caching.alias

    def key_for(request: HttpRequest, *, path: str | None = None) -> str:
        return full_key(get_settings(alias).key_prefix, _view_parts(request, namespace, path))

    def cached(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not isinstance(request, HttpRequest):
            raise TypeError(
                f"{caching.name} was not called with a request first. Decorate a view class as "
                "cache_aside_view(ttl=60)(MyView.as_view())."
            )
        call_view = partial(view, request, *args, **kwargs)
        if not get_settings(alias).enabled or why_bypassed(request):
            return call_view()
        try:
            prefix = get_settings(alias).key_prefix
            names = Names(key_for(request), tag_maker.names(prefix, (request, *args), kwargs))
        except DisallowedHost:
            # Django answers this request with 400 wherever it needs the host; here it is only not cached.
            return call_view()
        value, first = look(caching, names)
        if value is MISS:
            compute = partial(_attempt_view, call_view, request)
            answer = run(find_answer(caching, names, compute, is_async=False, first=first))
        else:
            answer = Answer(Outcome(value), "redis")
        status = _cache_status(answer)
        response: HttpResponseBase = value_of(answer)
        if isinstance(response, HttpResponseBase):  # else Django says it better
            response.headers["Cache-Status"] = status
        return response

    def invalidate(request: HttpRequest, *, path: str | None = None) -> None:
        refuse_event_loop("invalidate")
        run(end_entries([key_for(request, path=path)], alias, is_async=False))

    def expire(request: HttpRequest, *, path: str | None = None) -> None:
        refuse_event_loop("expire")
        run(end_entries([key_for(request, path=path)], alias, is_async=False, softly=True))

    def explain(request: HttpRequest | None = None, *args: Any, **kwargs: Any) -> Explanation:
        if not isinstance(request, HttpRequest):
            raise TypeError(
                f"{caching.name} is a view: call its explain() in Python, with a request and its arguments."
            )
        tags = tag_maker.names(get_settings(alias).key_prefix, (request, *args), kwargs)
        names, bypassed = Names(key_for(request), tags), why_bypassed(request)
        return run(explain_call(caching, names, is_async=False, bypassed=bypassed))

    decorated: Any = update_wrapper(cached, view)
    decorated.key_for, decorated.invalidate, decorated.expire = key_for, invalidate, expire
    decorated.explain = explain
    return cast(CachedView, decorated)


def _attempt_view(call_view: Callable[[], HttpResponseBase], request: HttpRequest) -> Outcome:
    outcome = attempt(call_view)
    if outcome.error:
        # An error may be a visitor's own too, such as PermissionDenied.
        return outcome._replace(why_not_stored=why_private(request))
    covered = frozenset({"accept-language"} if get_view_variations()[0] else ())
    return outcome._replace(why_not_stored=why_not_stored(request, outcome.value, key_headers=covered))


def _view_parts(request: HttpRequest, namespace: str, path: str | None) -> str:
    query = request.META.get("QUERY_STRING", "")
    if path is not None:
        path, _, query = path.partition("?")
    by_language, by_time_zone = get_view_variations()
    return view_key(
        namespace=namespace,
        scheme=request.scheme or "http",
        host=request.get_host(),
        path=request.path if path is None else path,
        query=query,
        language=translation.get_language() if by_language else None,
        time_zone=timezone.get_current_timezone_name() if by_time_zone else None,
    )


def _cache_status(answer: Answer) -> str:
    if answer.source == "flight":
        return "redis_integration; fwd=miss; collapsed"
    if answer.source != "origin":
        return f"redis_integration; hit; detail={'stale' if answer.is_stale else answer.source}"
    if answer.stored:
        return f"redis_integration; fwd=miss; stored; detail={answer.stored}"
    why = (answer.outcome.why_not_stored or "").replace('"', "'")
    return "redis_integration; fwd=miss" + (f'; detail="{why}"' if why else "")
