"""The options of the decorators: read and refused at decoration time, before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Literal

from redis_integration.caching import MAX_TTL
from redis_integration.codecs import Codec, json_codec
from redis_integration.exceptions import RedisIntegrationError
from redis_integration.pickles import pickle_codec

Seconds = float | timedelta
CodecName = Literal["json", "pickle"]
# Seconds. Longer than nearly every page takes, shorter than web servers wait for one (gunicorn: 30).
LEASE_TIMEOUT = 10.0


def name_of(function: Callable[..., Any]) -> str:
    """Module and qualified name, for humans."""
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"


def refuse_uncacheable(decorator: str, function: Any) -> None:
    """Raise TypeError for what is no plain function, with the way to write it."""
    if getattr(function, "__module__", "") == "django.utils.decorators":
        raise TypeError(
            f"method_decorator hides what {decorator} decorates. Decorate a view class as "
            "cache_aside_view(ttl=60)(MyView.as_view()), a method directly, with @cache_aside above it."
        )
    if isinstance(function, (classmethod, staticmethod, property, type)) or not callable(function):
        raise TypeError(
            f"{decorator} decorates functions, and this is a {type(function).__name__}. Put @{decorator}(…) below every "
            "other decorator that makes it something else."
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name_of(function)} is a generator, which can be read only once. Return a list.")


def refuse_misplaced(decorator: str, misplaced: tuple[object, ...]) -> None:
    """Raise TypeError for options by position."""
    if misplaced:
        raise TypeError(f"{decorator} takes options by name only. Write @{decorator}(ttl=60).")


def read_options(
    *,
    ttl: Seconds | Callable[[Any], float],
    stale_for: Seconds = 0,
    refresh: str | None = None,
    eager: float | None = None,
    error_ttl: Seconds = 1.0,
    negative_ttl: Mapping[type[Exception], Seconds] | None = None,
    cache_if: Callable[[Any], bool] | None = None,
    codec: CodecName = "json",
    durable: bool = False,
    lease_timeout: Seconds = LEASE_TIMEOUT,
    alias: str = "default",
) -> dict[str, Any]:
    """These options as fields of Caching, all but its name. Raises TypeError and ValueError."""
    if cache_if is not None and not callable(cache_if):
        raise TypeError(f"cache_if is {cache_if!r}. Give a function of the result, such as bool.")
    return {
        **read_freshness(ttl, stale_for=stale_for, refresh=refresh, eager=eager, error_ttl=error_ttl),
        "negative_ttl": read_negative_ttl(negative_ttl or {}),
        "cache_if": cache_if,
        "codec": read_codec(codec),
        "durable": read_durable(durable),
        "lease_timeout": read_seconds("lease_timeout", lease_timeout),
        "alias": alias,
    }


def read_freshness(
    ttl: Seconds | Callable[[Any], float],
    *,
    stale_for: Seconds,
    refresh: str | None,
    eager: float | None,
    error_ttl: Seconds,
) -> dict[str, Any]:
    """These options as fields of Caching. Raises TypeError and ValueError."""
    if refresh not in (None, "background", "caller"):
        raise ValueError(f'refresh is {refresh!r}. Give "background" or "caller".')
    if eager is not None and (isinstance(eager, bool) or not isinstance(eager, (int, float))):
        raise TypeError(f"eager is {eager!r}. Give a number between 0 and 1, such as 0.8.")
    if eager is not None and not 0 < eager < 1:
        raise ValueError(f"eager is {eager!r}. Give a number between 0 and 1, such as 0.8: the share of the ttl.")
    kept = read_seconds("stale_for", stale_for) if stale_for else 0.0
    return {
        "ttl": ttl if callable(ttl) else read_seconds("ttl", ttl),
        "stale_for": kept,
        # Threads start only for who asked for them.
        "in_background": refresh == "background" or (refresh is None and (kept > 0 or eager is not None)),
        "eager": 1.0 if eager is None else float(eager),
        "error_ttl": read_seconds("error_ttl", error_ttl),
    }


def read_negative_ttl(negative_ttl: Mapping[type[Exception], Seconds]) -> dict[type[Exception], float]:
    """These classes and their seconds. Raises TypeError and ValueError."""
    if not isinstance(negative_ttl, Mapping):
        raise TypeError(f"negative_ttl is {negative_ttl!r}. Give seconds for each class: {{Product.DoesNotExist: 5}}.")
    for kind in negative_ttl:
        if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, RedisIntegrationError):
            raise TypeError(f"negative_ttl lists {kind!r}. Give classes of errors that the function itself raises.")
    return {kind: read_seconds("negative_ttl", seconds) for kind, seconds in negative_ttl.items()}


def read_durable(durable: bool) -> bool:
    """Whether it is durable. Raises TypeError."""
    if not isinstance(durable, bool):
        raise TypeError(f"durable is {durable!r}. Give True or False.")
    return durable


def read_version(version: str | int | None) -> tuple[bytes, ...]:
    """What stands for this version in an entry. Raises TypeError."""
    if version is None:
        return ()
    if isinstance(version, bool) or not isinstance(version, (str, int)):
        raise TypeError(f"version is {version!r}. Give a str or an int, another one for each meaning of the result.")
    return (blake2b(repr(version).encode(), digest_size=8).digest(),)


def read_codec(codec: CodecName) -> Codec:
    """The codec of this name. Raises ValueError."""
    for each in (json_codec, pickle_codec):
        if each.name == codec:
            return each
    raise ValueError(f'codec is {codec!r}. Give "json" or "pickle".')


def read_items(name: str, items: Iterable[Any]) -> list[Any]:
    """These items as a list. Raises TypeError for what is one item itself."""
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise TypeError(f"{name} was given the {type(items).__name__} {items!r:.60}. Give a list of items first.")
    return [*items]


def read_seconds(option: str, duration: Seconds) -> float:
    """A duration in seconds. Raises TypeError and ValueError."""
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    if isinstance(duration, bool) or not isinstance(duration, (int, float)):
        raise TypeError(f"{option} is {duration!r}. Give seconds as a number, or a timedelta.")
    if not 0 < duration <= MAX_TTL:
        raise ValueError(
            f"{option} is {duration!r}. Give more than 0 seconds, at most ten years; to end an entry, call invalidate()."
        )
    return float(duration)
