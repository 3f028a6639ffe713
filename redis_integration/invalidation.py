"""Ends entries: after the commit of what is being changed, and never only perhaps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from time import monotonic

from django.core.exceptions import SynchronousOnlyOperation

from redis_integration import flights
from redis_integration.caching import Tiers
from redis_integration.conf import get_settings
from redis_integration.exceptions import RedisUnavailable
from redis_integration.flow import Call, Flow, arun, run
from redis_integration.tags import tag_key
from redis_integration.transactions import send_on_commit
from redis_integration.watch import watch

logger = logging.getLogger("redis_integration")


def invalidate(*, keys: Iterable[str] = (), tags: Iterable[str] = (), alias: str = "default") -> None:
    """End the entries of these full keys, as `key_for` gives them, and all entries with one of these tags. One round trip.

    Inside `atomic()` that happens after the commit, and not at all after a rollback. While Redis is away it is repeated
    before this process believes Redis again. Raises ValueError for a key outside KEY_PREFIX, SynchronousOnlyOperation on
    a running event loop.
    """
    refuse_event_loop("invalidate")
    run(end_entries(_names(keys, tags, alias), alias, is_async=False))


async def ainvalidate(*, keys: Iterable[str] = (), tags: Iterable[str] = (), alias: str = "default") -> None:
    """See `invalidate`."""
    await arun(end_entries(_names(keys, tags, alias), alias, is_async=True))


def refuse_event_loop(name: str) -> None:
    """Raise SynchronousOnlyOperation where an event loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SynchronousOnlyOperation(f"{name}() was called on a running event loop. Use `await a{name}(...)`.")


def _names(keys: Iterable[str], tags: Iterable[str], alias: str) -> list[str]:
    for option, given in {"keys": keys, "tags": tags}.items():
        if isinstance(given, str):
            raise TypeError(f"invalidate({option}={given!r}) got a string. Give a list: {option}=[{given!r}].")
    prefix = get_settings(alias).key_prefix
    names = list(keys)
    for key in names:
        if not key.startswith(f"{prefix}:") or not key.isascii():
            raise ValueError(
                f"{key!r} is no key of this alias: keys are ASCII and begin with {prefix + ':'!r}. "
                "Use what key_for() gives."
            )
    return [*names, *(tag_key(prefix, tag) for tag in tags)]


def end_entries(names: Sequence[str], alias: str, *, is_async: bool, softly: bool = False) -> Flow[None]:
    """See `invalidate`; the names are not checked.

    `softly` is for one key: one caller computes anew, the others get the stale copy meanwhile.
    """
    if not names or not get_settings(alias).enabled:
        return
    tiers = Tiers(alias, is_async=is_async)
    if monotonic() > watch.overdue_at:
        yield from watch.catch_up(is_async=is_async)
    is_late = False

    def send() -> None:
        run(_end(names, Tiers(alias, is_async=False), softly=softly))

    def register() -> bool:
        is_due = send_on_commit(names, send)
        if is_due and is_late:
            send()  # perhaps a transaction has ended since it was sent
        return is_due

    try:
        is_due = yield Call(register, must_run=True)
    except Exception as error:
        # Nobody can say whether there is a commit to wait for: to send is safe. A thread that was only busy sends again.
        logger.warning("redis_integration.transactions_unknown %s: %s", type(error).__name__, error)
        is_due = is_late = True
    except BaseException:  # cancelled or interrupted
        is_late = True
        tiers.redis.remember(names)
        tiers.fallback.remember(names)
        raise
    if is_due:
        yield from _end(names, tiers, softly=softly)


def _end(names: Sequence[str], tiers: Tiers, *, softly: bool) -> Flow[None]:
    flights.end(names)
    is_confirmed = True
    try:
        yield from (tiers.redis.expire(*names) if softly else tiers.redis.delete(names))
    except RedisUnavailable as failure:
        logger.debug("redis_integration.invalidation_pending %s: %s", ", ".join(names), failure)
        is_confirmed = False
    except BaseException:  # an interrupt
        tiers.fallback.remember(names)
        raise
    if not is_confirmed or tiers.fallback.ends_every_row:
        yield from (tiers.fallback.expire(*names) if softly else tiers.fallback.delete(names))
