"""`cache_aside` for functions, `cache_aside_view` for views: the public face of the policy.

Two real functions, one sync and one async, are made at decoration time; what they do stands in cache_aside.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial, update_wrapper
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone, translation

from redis_integration.cache_aside import Answer, Caching, Outcome, aattempt, attempt
from redis_integration.codecs import json_codec
from redis_integration.conf import get_settings, get_view_variations
from redis_integration.flow import arun, run
from redis_integration.invalidation import ainvalidate, end_entries, invalidate
from redis_integration.keys import KeyMaker, escape, full_key, namespace_of, view_key
from redis_integration.responses import response_codec, why_bypassed, why_not_stored

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Seconds = float | timedelta
MAX_TTL = 10 * 365 * 86_400  # seconds; Redis refuses what does not fit into its clock
_FORM = "Decorate a view class as cache_aside_view(ttl=60)(MyView.as_view()), a method directly, with @cache_aside above it."


class CachedFunction(Protocol[P, R_co]):
    """A cached function. The named calls take the origin's own arguments."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str: ...
    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None: ...
    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class CachedCoroutine(Protocol[P, R_co]):
    """A cached coroutine function; it has the `a…` twins only."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...
    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str: ...
    def ainvalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, None]: ...
    def arefresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...


class CachedView(Protocol):
    """A cached view."""

    def __call__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase: ...
    def key_for(self, request: HttpRequest, *, path: str | None = None) -> str: ...
    def invalidate(self, request: HttpRequest, *, path: str | None = None) -> None: ...


class FunctionDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CachedCoroutine[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...


def cache_aside(
    *misplaced: object, ttl: Seconds, key: str | None = None, namespace: str | None = None, alias: str = "default"
) -> FunctionDecorator:
    """A decorator that keeps the results of a function, or of a coroutine function, for `ttl` seconds.

    `key` is a template over the arguments ("price:{pk}"); without it, the key is `namespace` (default: module and
    qualified name) and all arguments by name. One round trip for a hit, 2 for a miss. The decorated function has
    `key_for`, `invalidate` and `refresh` (`ainvalidate` and `arefresh` for coroutine functions), each called with the
    function's own arguments.

    Raises TypeError and ValueError at decoration for options without meaning, UncacheableCall for a call whose
    arguments make no key, and what the function itself raises.
    """
    seconds = _seconds("cache_aside", ttl, misplaced)

    def decorate(function: Callable[..., Any]) -> Any:
        _refuse_uncacheable("cache_aside", function)
        maker = KeyMaker(function, key=key, namespace=namespace)
        caching = Caching(name=_name(function), ttl=seconds, codec=json_codec, alias=alias)

        def key_for(*args: Any, **kwargs: Any) -> str:
            return full_key(get_settings(alias).key_prefix, maker.parts(args, kwargs))

        is_async = iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)
        return (_decorate_async if is_async else _decorate_sync)(function, key_for, caching)

    return decorate


def _decorate_sync(function: Callable[..., Any], key_for: Callable[..., str], caching: Caching) -> Any:
    def answer(args: Any, kwargs: Any, refresh: bool = False) -> Any:
        if not get_settings(caching.alias).enabled:
            return function(*args, **kwargs)
        compute = partial(attempt, partial(function, *args, **kwargs))
        key = key_for(*args, **kwargs)
        found = run(caching.answer(key, compute, is_async=False, refresh=refresh))
        if refresh and _left_old(found):
            run(end_entries([key], caching.alias, is_async=False))
        return _value(found)

    def cached(*args: Any, **kwargs: Any) -> Any:
        return answer(args, kwargs)

    decorated: Any = update_wrapper(cached, function)
    decorated.key_for = key_for
    decorated.invalidate = lambda *args, **kwargs: invalidate(keys=[key_for(*args, **kwargs)], alias=caching.alias)
    decorated.refresh = lambda *args, **kwargs: answer(args, kwargs, refresh=True)
    return decorated


def _decorate_async(function: Callable[..., Any], key_for: Callable[..., str], caching: Caching) -> Any:
    async def answer(args: Any, kwargs: Any, refresh: bool = False) -> Any:
        if not get_settings(caching.alias).enabled:
            return await function(*args, **kwargs)
        compute = partial(aattempt, partial(function, *args, **kwargs))
        key = key_for(*args, **kwargs)
        found = await arun(caching.answer(key, compute, is_async=True, refresh=refresh))
        if refresh and _left_old(found):
            await arun(end_entries([key], caching.alias, is_async=True))
        return _value(found)

    async def cached(*args: Any, **kwargs: Any) -> Any:
        return await answer(args, kwargs)

    decorated: Any = update_wrapper(cached, function)
    decorated.key_for = key_for
    decorated.ainvalidate = lambda *args, **kwargs: ainvalidate(keys=[key_for(*args, **kwargs)], alias=caching.alias)
    decorated.arefresh = lambda *args, **kwargs: answer(args, kwargs, refresh=True)
    return decorated


def _left_old(answer: Answer) -> bool:
    """Whether Redis may still hold an older value than this refresh gave: that one must not come back."""
    return not answer.outcome.error and answer.stored != "redis" and not answer.is_foreign


def _value(answer: Answer) -> Any:
    if not answer.outcome.error:
        return answer.outcome.value
    error = answer.outcome.error.pop()
    try:
        raise error
    finally:
        # The traceback holds this frame: without this, each error would wait for the garbage collector.
        del error


def cache_aside_view(
    *misplaced: object, ttl: Seconds, namespace: str | None = None, alias: str = "default"
) -> Callable[[Callable[..., HttpResponseBase]], CachedView]:
    """A decorator that keeps what a view answers to GET for `ttl` seconds, where that is plainly safe.

    The key holds scheme and host, path, the whole query, and language and time zone where Django uses them. What is not
    stored, and why, stands in `responses.why_not_stored`. Each answer to GET and HEAD says in `Cache-Status` (RFC 9211)
    where it came from. A class is decorated as `cache_aside_view(ttl=60)(MyView.as_view())`.

    The decorated view has `key_for` and `invalidate`, which take a request of the same site, and `path` for another page.
    Raises TypeError and ValueError at decoration for options without meaning, and for async views.
    """
    seconds = _seconds("cache_aside_view", ttl, misplaced)

    def decorate(view: Callable[..., HttpResponseBase]) -> CachedView:
        _refuse_uncacheable("cache_aside_view", view)
        if iscoroutinefunction(view):
            raise TypeError(
                f"{_name(view)} is an async view, which cache_aside_view does not cache yet. "
                "Decorate the coroutine functions it awaits with @cache_aside."
            )
        caching = Caching(name=_name(view), ttl=seconds, codec=response_codec, alias=alias)
        return _decorate_view(view, namespace_of(view) if namespace is None else escape(namespace), caching)

    return decorate


def _decorate_view(view: Callable[..., HttpResponseBase], namespace: str, caching: Caching) -> CachedView:
    alias = caching.alias

    def key_for(request: HttpRequest, *, path: str | None = None) -> str:
        return full_key(get_settings(alias).key_prefix, _view_parts(request, namespace, path))

    def cached(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not isinstance(request, HttpRequest):
            raise TypeError(f"{caching.name} was not called with a request first. {_FORM}")
        call_view = partial(view, request, *args, **kwargs)
        if not get_settings(alias).enabled or why_bypassed(request):
            return call_view()
        try:
            key = key_for(request)
        except DisallowedHost:
            # Django answers this request with 400 wherever it needs the host; here it is only not cached.
            return call_view()
        answer = run(caching.answer(key, partial(_attempt_view, call_view, request), is_async=False))
        status = _cache_status(answer)
        response: HttpResponseBase = _value(answer)
        if isinstance(response, HttpResponseBase):  # else Django says it better
            response.headers["Cache-Status"] = status
        return response

    decorated: Any = update_wrapper(cached, view)
    decorated.key_for = key_for
    decorated.invalidate = lambda request, *, path=None: invalidate(keys=[key_for(request, path=path)], alias=alias)
    return cast(CachedView, decorated)


def _attempt_view(call_view: Callable[[], HttpResponseBase], request: HttpRequest) -> Outcome:
    outcome = attempt(call_view)
    if outcome.error:
        return outcome
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
    if answer.source != "origin":
        return f"redis_integration; hit; detail={answer.source}"
    if answer.stored:
        return f"redis_integration; fwd=miss; stored; detail={answer.stored}"
    why = (answer.outcome.why_not_stored or "").replace('"', "'")
    return "redis_integration; fwd=miss" + (f'; detail="{why}"' if why else "")


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"


def _refuse_uncacheable(name: str, function: Any) -> None:
    if getattr(function, "__module__", "") == "django.utils.decorators":
        raise TypeError(f"method_decorator hides what {name} decorates. {_FORM}")
    if isinstance(function, (classmethod, staticmethod, property, type)) or not callable(function):
        raise TypeError(
            f"{name} decorates functions, and this is a {type(function).__name__}. Put @{name}(…) below every other "
            "decorator that makes it something else."
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{_name(function)} is a generator, which can be read only once. Return a list.")


def _seconds(name: str, ttl: Seconds, misplaced: tuple[object, ...]) -> float:
    if misplaced:
        raise TypeError(f"{name} takes options by name only. Write @{name}(ttl=60).")
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise TypeError(f"ttl is {ttl!r}. Give seconds as a number, or a timedelta.")
    if not 0 < ttl <= MAX_TTL:
        raise ValueError(
            f"ttl is {ttl!r}. Give more than 0 seconds, at most ten years; to end an entry, call invalidate()."
        )
    return float(ttl)
