"""`cache_aside` for functions and coroutine functions; for views see views.py.

Two real functions, one sync and one async, are made at decoration time; what they do stands in cache_aside.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, update_wrapper
from typing import Any, Literal, Protocol, cast

from asgiref.sync import iscoroutinefunction

from redis_integration.cache_aside import MISS, alook, find_answer, look, look_all
from redis_integration.caching import Answer, Caching, aattempt, attempt
from redis_integration.conf import get_settings
from redis_integration.explain import aexplainer, explainer
from redis_integration.flow import arun, run
from redis_integration.invalidation import end_entries, refuse_event_loop
from redis_integration.keys import KeyMaker, Names, full_key
from redis_integration.options import LEASE_TIMEOUT as LEASE_TIMEOUT
from redis_integration.options import (
    CodecName,
    Seconds,
    name_of,
    read_items,
    read_options,
    read_version,
    refuse_misplaced,
    refuse_uncacheable,
)
from redis_integration.protocols import FunctionDecorator
from redis_integration.tags import TagMaker
from redis_integration.tiers.redis import First

# Templates over the arguments ("product:{pk}"), or a function of the arguments.
Tags = Sequence[str] | Callable[..., Iterable[str]]
# Missing entries of one `amany` that are computed at a time.
AT_ONCE = 10
# What a look has brought: the value of a hit or MISS, and what the flow goes on with.
Seen = tuple[Any, First]


def cache_aside(
    *misplaced: object,
    ttl: Seconds | Callable[[Any], float],
    key: str | None = None,
    namespace: str | None = None,
    tags: Tags = (),
    stale_for: Seconds = 0,
    refresh: Literal["background", "caller"] | None = None,
    eager: float | None = None,
    error_ttl: Seconds = 1.0,
    negative_ttl: Mapping[type[Exception], Seconds] | None = None,
    cache_if: Callable[[Any], bool] | None = None,
    version: str | int | None = None,
    codec: CodecName = "json",
    durable: bool = False,
    lease_timeout: Seconds = LEASE_TIMEOUT,
    alias: str = "default",
) -> FunctionDecorator:
    """A decorator that keeps the results of a function, or of a coroutine function, for `ttl` seconds.

    `key` is a template over the arguments ("price:{pk}"); without it, the key is `namespace` (default: module and
    qualified name) and all arguments by name. `tags` are templates too, or a function of the arguments; see
    `invalidate(tags=…)`. One caller computes while the others wait, for `lease_timeout` seconds at most; an origin that
    takes longer is not stored.

    `ttl` may be a function of the result. Up to a tenth of it is taken off at random. `stale_for` is how long an entry is
    kept past its ttl: it is answered at once while it is refreshed, by default in the background (`refresh="caller"`: by
    one caller), and where the origin raises, which is then tried again every `error_ttl` seconds. With `eager=0.8` the
    refresh starts after that share of the ttl. `negative_ttl={Product.DoesNotExist: 5}` remembers errors of exactly these
    classes for so many seconds, and raises them again. Results for which `cache_if` is false are not stored. Another `version`
    makes all entries misses. `codec="pickle"` stores nearly any type, signed; the default knows the types of `codecs.JsonCodec`.
    A `durable` entry is also stored in the database, whether Redis is up or down, and answers while it
    is down, or past its ttl where the function raises; it needs `FALLBACK = "durable"`.

    One round trip for a hit, 3 for a miss; inside `atomic()` 2, and 1 after the commit. The decorated function has
    `key_for`, `invalidate` (the entry is gone), `expire` (others get it until one has computed anew), `refresh` (computes
    now) and `explain` (why a call gets what it gets), for coroutine functions `ainvalidate` and so on, each called with the
    function's own arguments; and `many` (`amany`), called with a list of first arguments, which reads all entries in one round trip and
    computes what is missing call by call, up to 10 at a time where it is async.

    Raises TypeError and ValueError at decoration for options without meaning, UncacheableCall for a call whose
    arguments make no key or no tag, and what the function itself raises.
    """
    refuse_misplaced("cache_aside", misplaced)
    options = read_options(
        ttl=ttl,
        stale_for=stale_for,
        refresh=refresh,
        eager=eager,
        error_ttl=error_ttl,
        negative_ttl=negative_ttl,
        cache_if=cache_if,
        codec=codec,
        durable=durable,
        lease_timeout=lease_timeout,
        alias=alias,
    )
    stamp = read_version(version)

    def decorate(function: Callable[..., Any]) -> Any:
        refuse_uncacheable("cache_aside", function)
        names_for = names_maker(function, key=key, namespace=namespace, tags=tags, stamp=stamp, alias=alias)
        caching = Caching(name=name_of(function), pattern=names_for.pattern, **options)
        return (_decorate_async if is_coroutine(function) else _decorate_sync)(function, names_for, caching)

    return decorate


def is_coroutine(function: Callable[..., Any]) -> bool:
    """Whether its calls are awaited."""
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


class NamesMaker(Protocol):
    """What gives the names of a call's entry; `pattern` is that of its KeyMaker."""

    pattern: str

    def __call__(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Names: ...
    def key_for(self, *args: Any, **kwargs: Any) -> str: ...


def names_maker(
    function: Callable[..., Any], *, key: str | None, namespace: str | None, tags: Tags, stamp: Any, alias: str
) -> NamesMaker:
    """What gives the names of a call's entry. Raises TypeError and ValueError for templates without meaning."""
    key_maker, tag_maker = KeyMaker(function, key=key, namespace=namespace), TagMaker(function, tags)

    def names_for(args: Sequence[Any], kwargs: dict[str, Any]) -> Names:
        prefix = get_settings(alias).key_prefix
        return Names(full_key(prefix, key_maker.parts(args, kwargs)), tag_maker.names(prefix, args, kwargs), stamp)

    def key_for(*args: Any, **kwargs: Any) -> str:
        return full_key(get_settings(alias).key_prefix, key_maker.parts(args, kwargs))

    made: Any = names_for
    made.key_for, made.pattern = key_for, key_maker.pattern
    return cast(NamesMaker, made)


def _decorate_sync(function: Callable[..., Any], names_for: NamesMaker, caching: Caching) -> Any:
    alias = caching.alias

    def answer(args: Any, kwargs: Any, refresh: bool = False, seen: Seen | None = None) -> Any:
        if not get_settings(alias).enabled:
            return function(*args, **kwargs)
        names, first = names_for(args, kwargs), None
        if not refresh:
            value, first = seen or look(caching, names)
            if value is not MISS:
                return value
        compute = partial(attempt, partial(function, *args, **kwargs))
        found = run(find_answer(caching, names, compute, is_async=False, refresh=refresh, first=first))
        first = None  # where it is an error, its frames hold this one
        if refresh and _left_old(found):
            run(end_entries([names.key], alias, is_async=False))
        return value_of(found)

    def cached(*args: Any, **kwargs: Any) -> Any:
        return answer(args, kwargs)

    def invalidate(*args: Any, **kwargs: Any) -> None:
        refuse_event_loop("invalidate")
        run(end_entries([names_for(args, kwargs).key], alias, is_async=False))

    def expire(*args: Any, **kwargs: Any) -> None:
        refuse_event_loop("expire")
        run(end_entries([names_for(args, kwargs).key], alias, is_async=False, softly=True))

    def many(items: Iterable[Any], /, *args: Any, **kwargs: Any) -> list[Any]:
        calls = [(item, *args) for item in read_items(f"{caching.name}.many()", items)]
        if not get_settings(alias).enabled:
            return [function(*call, **kwargs) for call in calls]
        names = [names_for(call, kwargs) for call in calls]
        distinct = {each.key: (each, call) for each, call in zip(names, calls, strict=True)}
        seen = run(look_all(caching, [each for each, _ in distinct.values()], is_async=False))
        values = {
            key: answer(call, kwargs, seen=each) if each[0] is MISS else each[0]
            for (key, (_, call)), each in zip(distinct.items(), seen, strict=True)
        }
        return [values[each.key] for each in names]

    decorated: Any = update_wrapper(cached, function)
    decorated.many, decorated.key_for = many, names_for.key_for
    decorated.invalidate, decorated.expire = invalidate, expire
    decorated.explain = explainer(caching, names_for)
    decorated.refresh = lambda *args, **kwargs: answer(args, kwargs, refresh=True)
    return decorated


def _decorate_async(function: Callable[..., Any], names_for: NamesMaker, caching: Caching) -> Any:
    alias = caching.alias

    async def answer(args: Any, kwargs: Any, refresh: bool = False, seen: Seen | None = None) -> Any:
        if not get_settings(alias).enabled:
            return await function(*args, **kwargs)
        names, first = names_for(args, kwargs), None
        if not refresh:
            value, first = seen or await alook(caching, names)
            if value is not MISS:
                return value
        compute = partial(aattempt, partial(function, *args, **kwargs))
        found = await arun(find_answer(caching, names, compute, is_async=True, refresh=refresh, first=first))
        first = None  # where it is an error, its frames hold this one
        if refresh and _left_old(found):
            await arun(end_entries([names.key], alias, is_async=True))
        return value_of(found)

    async def cached(*args: Any, **kwargs: Any) -> Any:
        return await answer(args, kwargs)

    async def ainvalidate(*args: Any, **kwargs: Any) -> None:
        await arun(end_entries([names_for(args, kwargs).key], alias, is_async=True))

    async def aexpire(*args: Any, **kwargs: Any) -> None:
        await arun(end_entries([names_for(args, kwargs).key], alias, is_async=True, softly=True))

    async def arefresh(*args: Any, **kwargs: Any) -> Any:
        return await answer(args, kwargs, refresh=True)

    async def amany(items: Iterable[Any], /, *args: Any, **kwargs: Any) -> list[Any]:
        calls = [(item, *args) for item in read_items(f"{caching.name}.amany()", items)]
        if not get_settings(alias).enabled:
            return [await function(*call, **kwargs) for call in calls]
        names = [names_for(call, kwargs) for call in calls]
        distinct = {each.key: (each, call) for each, call in zip(names, calls, strict=True)}
        seen = await arun(look_all(caching, [each for each, _ in distinct.values()], is_async=True))
        places = asyncio.Semaphore(AT_ONCE)

        async def one(call: Any, each: Seen) -> Any:
            if each[0] is not MISS:
                return each[0]
            async with places:
                return await answer(call, kwargs, seen=each)

        computing = [
            asyncio.ensure_future(one(call, each)) for (_, call), each in zip(distinct.values(), seen, strict=True)
        ]
        try:
            values = dict(zip(distinct, await asyncio.gather(*computing), strict=True))
        finally:
            for task in computing:  # one has raised, or nobody waits any more
                task.cancel()
        return [values[each.key] for each in names]

    decorated: Any = update_wrapper(cached, function)
    decorated.amany, decorated.key_for = amany, names_for.key_for
    decorated.aexplain = aexplainer(caching, names_for)
    decorated.ainvalidate, decorated.aexpire, decorated.arefresh = ainvalidate, aexpire, arefresh
    return decorated


def _left_old(answer: Answer) -> bool:
    """Whether Redis may still hold an older value than this refresh gave: that one must not come back."""
    return not answer.outcome.error and answer.stored != "redis" and not answer.is_foreign


def value_of(answer: Answer) -> Any:
    """The value of this answer. Raises the origin's error where that is the answer."""
    if not answer.outcome.error:
        return answer.outcome.value
    error = answer.outcome.error.pop()
    try:
        raise error
    finally:
        # The traceback holds this frame: without this, each error would wait for the garbage collector.
        del error
