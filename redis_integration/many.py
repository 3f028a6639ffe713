"""`cache_aside_many`, for functions that take a list and give a value for each item; what it does stands in batches.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial, update_wrapper
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from redis_integration.batches import Batch
from redis_integration.caching import Answer, Caching, aattempt, attempt
from redis_integration.conf import get_settings
from redis_integration.decorators import LEASE_TIMEOUT, NamesMaker, Tags, is_coroutine, names_maker, value_of
from redis_integration.explain import Explanation, aexplainer, explainer
from redis_integration.flow import arun, run
from redis_integration.invalidation import end_entries, refuse_event_loop
from redis_integration.options import (
    CodecName,
    Seconds,
    name_of,
    read_codec,
    read_freshness,
    read_items,
    read_seconds,
    read_version,
    refuse_misplaced,
    refuse_uncacheable,
)

P = ParamSpec("P")
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")


class CachedMany(Protocol[T_contra, P, R]):
    """A cached function of a list. The named calls take one item in its place."""

    def __call__(self, items: Iterable[T_contra], /, *args: P.args, **kwargs: P.kwargs) -> list[R]: ...
    def key_for(self, item: T_contra, /, *args: P.args, **kwargs: P.kwargs) -> str: ...
    def invalidate(self, item: T_contra, /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    def expire(self, item: T_contra, /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    def explain(self, item: T_contra, /, *args: P.args, **kwargs: P.kwargs) -> Explanation: ...


class CachedManyCoroutine(Protocol[T_contra, P, R]):
    """See `CachedMany`; for a coroutine function."""

    def __call__(
        self, items: Iterable[T_contra], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, list[R]]: ...
    def key_for(self, item: T_contra, /, *args: P.args, **kwargs: P.kwargs) -> str: ...
    def ainvalidate(self, item: T_contra, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, None]: ...
    def aexpire(self, item: T_contra, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, None]: ...
    def aexplain(self, item: T_contra, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Explanation]: ...


class ManyDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[Concatenate[list[T], P], Coroutine[Any, Any, Collection[R]]], /
    ) -> CachedManyCoroutine[T, P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[list[T], P], Collection[R]], /) -> CachedMany[T, P, R]: ...


def cache_aside_many(
    *misplaced: object,
    ttl: Seconds | Callable[[Any], float],
    key: str | None = None,
    namespace: str | None = None,
    tags: Tags = (),
    stale_for: Seconds = 0,
    version: str | int | None = None,
    codec: CodecName = "json",
    lease_timeout: Seconds = LEASE_TIMEOUT,
    alias: str = "default",
) -> ManyDecorator:
    """A decorator for a function of a list of items, which returns a list with one value for each: an entry for each item.

    It is called with any list, duplicates too, and gives a list in the same order; the function gets, in one call, the items
    that are missing. In `key` and `tags` its first parameter stands for one item: `key="price:{pks}"`. The options mean
    what they mean for `cache_aside`; a stale entry is computed anew by the caller, and answered where the function raises.

    One round trip where all are hits, else 3, whatever the number of items. What another caller is computing is waited for.
    Inside `atomic()`, and while Redis is away, what is missing is computed and not stored.

    The decorated function has `key_for`, `invalidate`, `expire` and `explain` (for coroutine functions `ainvalidate` and so
    on), which take one item. Raises TypeError and ValueError at decoration for options without meaning; at a call TypeError and
    ValueError where the function returns something else than one value for each item, and what the function itself raises.
    """
    refuse_misplaced("cache_aside_many", misplaced)
    freshness = read_freshness(ttl, stale_for=stale_for, refresh="caller", eager=None, error_ttl=1.0)
    stamp, chosen = read_version(version), read_codec(codec)

    def decorate(function: Callable[..., Any]) -> Any:
        refuse_uncacheable("cache_aside_many", function)
        names_for = names_maker(function, key=key, namespace=namespace, tags=tags, stamp=stamp, alias=alias)
        caching = Caching(
            name=name_of(function),
            pattern=names_for.pattern,
            codec=chosen,
            alias=alias,
            lease_timeout=read_seconds("lease_timeout", lease_timeout),
            **freshness,
        )
        return (_decorate_async if is_coroutine(function) else _decorate_sync)(function, names_for, caching)

    return decorate


class _Wanted:
    """The items of one call and their names; items of one key are computed once."""

    def __init__(self, caching: Caching, items: Iterable[Any], names_for: NamesMaker, args: Any, kwargs: Any) -> None:
        self.items = read_items(caching.name, items)
        every = [names_for((item, *args), kwargs) for item in self.items]
        self.keys = [names.key for names in every]
        distinct = {names.key: (names, item) for names, item in zip(every, self.items, strict=True)}
        self.names = [names for names, _ in distinct.values()]
        self._distinct = [item for _, item in distinct.values()]

    def chosen(self, indices: Sequence[int]) -> list[Any]:
        return [self._distinct[index] for index in indices]

    def values(self, answer: Answer) -> list[Any]:
        by_key = dict(zip((names.key for names in self.names), value_of(answer), strict=True))
        return [by_key[key] for key in self.keys]


def _decorate_sync(function: Callable[..., Any], names_for: NamesMaker, caching: Caching) -> Any:
    alias = caching.alias

    def call(items: list[Any], args: Any, kwargs: Any) -> list[Any]:
        return _one_for_each(function(items, *args, **kwargs), items, caching.name)

    def cached(items: Iterable[Any], /, *args: Any, **kwargs: Any) -> list[Any]:
        if not get_settings(alias).enabled:
            return call(read_items(caching.name, items), args, kwargs)
        wanted = _Wanted(caching, items, names_for, args, kwargs)

        def compute(indices: Sequence[int]) -> Any:
            return attempt(partial(call, wanted.chosen(indices), args, kwargs))

        return wanted.values(Answer(run(Batch(caching, wanted.names, compute, is_async=False).answer()), "origin"))

    def invalidate(*args: Any, **kwargs: Any) -> None:
        refuse_event_loop("invalidate")
        run(end_entries([names_for(args, kwargs).key], alias, is_async=False))

    def expire(*args: Any, **kwargs: Any) -> None:
        refuse_event_loop("expire")
        run(end_entries([names_for(args, kwargs).key], alias, is_async=False, softly=True))

    decorated: Any = update_wrapper(cached, function)
    decorated.key_for, decorated.invalidate, decorated.expire = names_for.key_for, invalidate, expire
    decorated.explain = explainer(caching, names_for)
    return decorated


def _decorate_async(function: Callable[..., Any], names_for: NamesMaker, caching: Caching) -> Any:
    alias = caching.alias

    async def call(items: list[Any], args: Any, kwargs: Any) -> list[Any]:
        return _one_for_each(await function(items, *args, **kwargs), items, caching.name)

    async def cached(items: Iterable[Any], /, *args: Any, **kwargs: Any) -> list[Any]:
        if not get_settings(alias).enabled:
            return await call(read_items(caching.name, items), args, kwargs)
        wanted = _Wanted(caching, items, names_for, args, kwargs)

        def compute(indices: Sequence[int]) -> Any:
            return aattempt(partial(call, wanted.chosen(indices), args, kwargs))

        return wanted.values(
            Answer(await arun(Batch(caching, wanted.names, compute, is_async=True).answer()), "origin")
        )

    async def ainvalidate(*args: Any, **kwargs: Any) -> None:
        await arun(end_entries([names_for(args, kwargs).key], alias, is_async=True))

    async def aexpire(*args: Any, **kwargs: Any) -> None:
        await arun(end_entries([names_for(args, kwargs).key], alias, is_async=True, softly=True))

    decorated: Any = update_wrapper(cached, function)
    decorated.key_for, decorated.ainvalidate, decorated.aexpire = names_for.key_for, ainvalidate, aexpire
    decorated.aexplain = aexplainer(caching, names_for)
    return decorated


def _one_for_each(values: Any, items: list[Any], name: str) -> list[Any]:
    remedy = "Return a list with one value for each item, in the same order; None for what does not exist."
    if isinstance(values, (str, bytes, Mapping, set, frozenset)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} returned a {type(values).__name__}. {remedy}")
    found = [*values]
    if len(found) != len(items):
        raise ValueError(f"{name} was given {len(items)} items and returned {len(found)} values. {remedy}")
    return found
