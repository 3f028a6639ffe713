"""Ends entries: after the commit of what is being changed, and never only perhaps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial

from django.core.exceptions import SynchronousOnlyOperation

from redis_integration.cache_aside import Tiers
from redis_integration.conf import get_settings
from redis_integration.exceptions import RedisUnavailable
from redis_integration.flow import Call, Flow, arun, run
from redis_integration.transactions import open_connections

logger = logging.getLogger("redis_integration")


def invalidate(*, keys: Iterable[str], alias: str = "default") -> None:
    """End the entries of these full keys, as `key_for` gives them. One round trip.

    Inside `atomic()` that happens after the commit, and not at all after a rollback. While Redis is away it is repeated
    before this process believes Redis again. Raises ValueError for a key outside KEY_PREFIX, SynchronousOnlyOperation on
    a running event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        run(end_entries(_checked(keys, alias), alias, is_async=False))
    else:
        raise SynchronousOnlyOperation("invalidate() was called on a running event loop. Use `await ainvalidate(...)`.")


async def ainvalidate(*, keys: Iterable[str], alias: str = "default") -> None:
    """See `invalidate`."""
    await arun(end_entries(_checked(keys, alias), alias, is_async=True))


def _checked(keys: Iterable[str], alias: str) -> list[str]:
    if isinstance(keys, str):
        raise TypeError(f"invalidate(keys={keys!r}) got a string. Give a list: keys=[{keys!r}].")
    prefix, checked = f"{get_settings(alias).key_prefix}:", list(keys)
    for key in checked:
        if not key.startswith(prefix) or not key.isascii():
            raise ValueError(
                f"{key!r} is no key of this alias: keys are ASCII and begin with {prefix!r}. Use what key_for() gives."
            )
    return checked


def end_entries(keys: Sequence[str], alias: str, *, is_async: bool) -> Flow[None]:
    """See `invalidate`; the keys are not checked."""
    if not keys or not get_settings(alias).enabled:
        return
    try:
        waits = yield Call(partial(_send_on_commit, keys, alias))
    except Exception as error:
        # Nobody can say whether there is a commit to wait for: to send is safe.
        logger.warning("redis_integration.transactions_unknown %s: %s", type(error).__name__, error)
        waits = False
    except BaseException:  # cancelled or interrupted
        Tiers(alias, is_async=is_async).redis.remember(keys)
        raise
    if not waits:
        yield from _send(keys, alias, is_async=is_async)


def _send_on_commit(keys: Sequence[str], alias: str) -> bool:
    """Whether there is a commit to wait for. Each open connection's commit sends: too often is safe."""
    blocks = open_connections()
    for connection in blocks:
        connection.on_commit(lambda: run(_send(keys, alias, is_async=False)), robust=True)
    return bool(blocks)


def _send(keys: Sequence[str], alias: str, *, is_async: bool) -> Flow[None]:
    tiers = Tiers(alias, is_async=is_async)
    try:
        yield from tiers.redis.delete(keys)
    except RedisUnavailable as failure:
        logger.debug("redis_integration.invalidation_pending %s: %s", ", ".join(keys), failure)
        yield from tiers.by_name("fallback").delete(keys)
