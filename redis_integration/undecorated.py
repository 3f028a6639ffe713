"""`get_or_compute`, for code that cannot be decorated: the same policy, and what a decorator makes once is kept by its options."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from redis_integration.cache_aside import MISS, alook, find_answer, look
from redis_integration.caching import Caching, Outcome, aattempt, attempt
from redis_integration.conf import get_settings
from redis_integration.decorators import value_of
from redis_integration.explain import Explanation, explain_call
from redis_integration.flow import arun, run
from redis_integration.invalidation import refuse_event_loop
from redis_integration.keys import Key, Names, full_key, plain_key
from redis_integration.options import CodecName, Seconds, name_of, read_options, read_version
from redis_integration.tags import tag_keys

R = TypeVar("R")
# Combinations of an origin and options of which a process remembers what they mean.
MOST_REMEMBERED = 1000


class Options(TypedDict, total=False):
    """What these calls take beside `ttl`, `tags` and `alias`; see `cache_aside`."""

    stale_for: Seconds
    refresh: Literal["background", "caller"] | None
    eager: float | None
    error_ttl: Seconds
    negative_ttl: Mapping[type[Exception], Seconds] | None
    cache_if: Callable[[Any], bool] | None
    version: str | int | None
    codec: CodecName
    durable: bool
    lease_timeout: Seconds


# By the name of an origin and its options, with their types: 1 is True, and not all that is right as one is as the other.
_known: dict[tuple[Any, ...], tuple[Caching, tuple[bytes, ...]]] = {}


def caching_of(name: str, ttl: Any, alias: str, options: Mapping[str, Any]) -> tuple[Caching, tuple[bytes, ...]]:
    """What these options mean, and what stands for their version. Raises TypeError and ValueError where they are new."""
    try:
        return _known[_as_known(name, ttl, alias, options)]
    except (KeyError, TypeError):  # new, or with a dict in it
        return _read(name, ttl, alias, options)


def _read(name: str, ttl: Any, alias: str, options: Mapping[str, Any]) -> tuple[Caching, tuple[bytes, ...]]:
    rest = {**options}
    if isinstance(errors := rest.get("negative_ttl"), Mapping):
        return caching_of(name, ttl, alias, {**rest, "negative_ttl": (*errors.items(),)})
    functions = {option: each for option, each in (("ttl", ttl), ("cache_if", rest.get("cache_if"))) if callable(each)}
    if functions:
        # They are not remembered: each call may bring new ones, with all that they close over.
        if "cache_if" in functions:
            del rest["cache_if"]
        known, stamp = caching_of(name, 1.0 if "ttl" in functions else ttl, alias, rest)
        return replace(known, **functions), stamp
    if isinstance(errors, tuple):
        rest["negative_ttl"] = dict(errors)
    stamp = read_version(rest.pop("version", None))
    made = Caching(name=name, **read_options(ttl=ttl, alias=alias, **rest)), stamp
    if len(_known) >= MOST_REMEMBERED:
        _known.clear()
    _known[_as_known(name, ttl, alias, options)] = made
    return made


def _as_known(name: str, ttl: Any, alias: str, options: Mapping[str, Any]) -> tuple[Any, ...]:
    return name, ttl, type(ttl), alias, *options.items(), *map(type, options.values())


def answer(caching: Caching, names: Names, compute: Callable[[], Outcome]) -> Any:
    """The value that a sync call for this entry gets. Raises what the origin raised."""
    value, first = look(caching, names)
    if value is not MISS:
        return value
    found = run(find_answer(caching, names, compute, is_async=False, first=first))
    first = None  # where it is an error, its frames hold this one
    return value_of(found)


def _prepare(
    key: Key, origin: Any, ttl: Any, tags: Iterable[str], alias: str, options: Options
) -> tuple[Caching, Names]:
    if not callable(origin):
        raise TypeError(f"The origin is a {type(origin).__name__}. Give a function of no arguments, not its result.")
    # A name is what the log calls it. A partial, and an object that can be called, have none.
    named = getattr(origin, "func", origin)
    name = name_of(named if hasattr(named, "__qualname__") else type(named))
    caching, stamp = caching_of(name, ttl, alias, options)
    return caching, _names(key, tags, alias, stamp)


def _names(key: Key, tags: Iterable[str], alias: str, stamp: tuple[bytes, ...]) -> Names:
    prefix = get_settings(alias).key_prefix
    return Names(full_key(prefix, plain_key(key)), tag_keys(prefix, tags, "tags=") if tags else (), stamp)


def _call(origin: Callable[[], R]) -> R:
    value = origin()
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("The origin of get_or_compute() is a coroutine function. Use `await aget_or_compute(...)`.")
    return value


async def _acall(origin: Callable[[], Awaitable[R]]) -> R:
    awaitable = origin()
    if not inspect.isawaitable(awaitable):
        raise TypeError(
            f"The origin of aget_or_compute() gave a {type(awaitable).__name__}, which cannot be awaited. Give a coroutine "
            "function, or sync_to_async(origin)."
        )
    return await awaitable


class _Keys:
    def key_for(self, key: Key, *, alias: str = "default") -> str:
        """The full key of this entry, for `invalidate(keys=…)`."""
        return _names(key, (), alias, ()).key


class GetOrCompute(_Keys):
    """`get_or_compute(key, origin, ttl=60)`: the value of the entry at this key; where there is none, what `origin()` gives.

    `key` is a name whose parts stand between ":", such as f"report:{year}"; KEY_PREFIX is put in front of it, and what could
    forge a glob is escaped. Of a tuple, ("search", words), each part is escaped by itself, ":" too: for what users type.
    `tags` are a list of tags as they are. All other options, and what the call costs, are those of `cache_aside`.

    Raises UncacheableCall, TypeError and ValueError for arguments without meaning, SynchronousOnlyOperation on a running event
    loop, and what the origin raises.
    """

    def __call__(
        self,
        key: Key,
        origin: Callable[[], R],
        *,
        ttl: Seconds | Callable[[R], float],
        tags: Iterable[str] = (),
        alias: str = "default",
        **options: Unpack[Options],
    ) -> R:
        refuse_event_loop("get_or_compute")
        caching, names = _prepare(key, origin, ttl, tags, alias, options)
        if not get_settings(alias).enabled:
            return _call(origin)
        return answer(caching, names, partial(attempt, partial(_call, origin)))  # type: ignore[no-any-return]

    def explain(
        self, key: Key, *, tags: Iterable[str] = (), alias: str = "default", **options: Unpack[Options]
    ) -> Explanation:
        """What a call with these options would get now, and why. One round trip, or two queries while Redis is down."""
        caching, stamp = caching_of("", 1.0, alias, options)
        return run(explain_call(caching, _names(key, tags, alias, stamp), is_async=False))


class AGetOrCompute(_Keys):
    """See `get_or_compute`; `await aget_or_compute(key, origin, ttl=60)`, of an origin that is awaited."""

    async def __call__(
        self,
        key: Key,
        origin: Callable[[], Awaitable[R]],
        *,
        ttl: Seconds | Callable[[R], float],
        tags: Iterable[str] = (),
        alias: str = "default",
        **options: Unpack[Options],
    ) -> R:
        caching, names = _prepare(key, origin, ttl, tags, alias, options)
        if not get_settings(alias).enabled:
            return await _acall(origin)
        value, first = await alook(caching, names)
        if value is not MISS:
            return value  # type: ignore[no-any-return]
        compute = partial(aattempt, partial(_acall, origin))
        found = await arun(find_answer(caching, names, compute, is_async=True, first=first))
        first = None  # where it is an error, its frames hold this one
        return value_of(found)  # type: ignore[no-any-return]

    async def aexplain(
        self, key: Key, *, tags: Iterable[str] = (), alias: str = "default", **options: Unpack[Options]
    ) -> Explanation:
        """See `get_or_compute.explain`."""
        caching, stamp = caching_of("", 1.0, alias, options)
        return await arun(explain_call(caching, _names(key, tags, alias, stamp), is_async=True))


get_or_compute = GetOrCompute()
aget_or_compute = AGetOrCompute()
