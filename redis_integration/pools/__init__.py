"""Pools by alias, plain clients on them, and `exchange`, by which the tiers speak to Redis.

The only builder of redis clients, and the only place where redis-py's errors become ours. It decides no policy.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import redis
import redis.asyncio
from django.core.signals import setting_changed
from django.dispatch import receiver

from redis_integration import budget
from redis_integration.conf import RedisSettings, get_settings
from redis_integration.exceptions import Kind
from redis_integration.pools.asynchronous import AsyncPool
from redis_integration.pools.failures import translate as translate
from redis_integration.pools.failures import unwrap
from redis_integration.pools.life import UNSET_LIFE as UNSET_LIFE
from redis_integration.pools.replies import More as More
from redis_integration.pools.slots import Trial
from redis_integration.pools.sync import Pool

Command = Sequence[bytes | str | int]
Exchange = tuple[list[Any], bytes]
_P = TypeVar("_P", Pool, AsyncPool)

_pools: dict[RedisSettings, Pool] = {}
_async_pools: dict[RedisSettings, AsyncPool] = {}
# Aliases find their pool without hashing a whole settings object at each call.
_by_alias: dict[str, Pool] = {}
_async_by_alias: dict[str, AsyncPool] = {}
_unlimited = nullcontext()
_every_pool: weakref.WeakSet[Pool | AsyncPool] = weakref.WeakSet()


def get_pool(alias: str = "default") -> Pool:
    """The pool of this alias; aliases with equal settings share one. Raises ImproperlyConfigured."""
    return _by_alias.get(alias) or _open(alias, Pool, _pools, _by_alias)


def aget_pool(alias: str = "default") -> AsyncPool:
    """See `get_pool`."""
    return _async_by_alias.get(alias) or _open(alias, AsyncPool, _async_pools, _async_by_alias)


def _open(alias: str, pool_class: type[_P], pools: dict[RedisSettings, _P], by_alias: dict[str, _P]) -> _P:
    settings = get_settings(alias)
    # No lock: a pool that comes second has no connection yet and is forgotten.
    pool = pools.get(settings) or pools.setdefault(settings, pool_class(settings))
    _every_pool.add(pool)
    by_alias[alias] = pool
    return pool


def get_redis(alias: str = "default") -> redis.Redis:
    """A plain redis-py client on the pool of this alias; it may be kept and shared between threads.

    Its commands raise redis-py's own errors and are never sent twice; connecting is tried again RETRIES times.
    """
    return get_pool(alias).client


def aget_redis(alias: str = "default") -> redis.asyncio.Redis:
    """See `get_redis`; the client may be kept and used from every event loop."""
    return aget_pool(alias).client


def pack(commands: Sequence[Command]) -> bytes:
    """The bytes of RESP for these commands: https://redis.io/docs/latest/develop/reference/protocol-spec/"""
    parts = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        contents = [each if isinstance(each, bytes) else str(each).encode() for each in command]
        parts += [b"$%d\r\n%b\r\n" % (len(content), content) for content in contents]
    return b"".join(parts)


def exchange(alias: str, commands: Sequence[Command], *, idempotent: bool = True) -> Exchange:
    """The replies to these commands, and the life of the server that gave them. One round trip.

    Server errors among the replies are values. With `idempotent`, a lost connection is replaced and the commands are
    sent again, at most RETRIES times. Raises RedisUnavailable.
    """
    return exchange_packed(alias, pack(commands), len(commands), idempotent=idempotent)


def exchange_packed(
    alias: str, packed: bytes, count: int, more: More | None = None, *, idempotent: bool = True
) -> Exchange:
    """See `exchange`: `count` commands whose bytes are made already. `more` gives further ones, anew for each try."""
    pool, trial = get_pool(alias), None
    with budget.current.get() or _unlimited:
        while True:
            try:
                return pool.exchange(packed, count, more)
            except Exception as error:
                _forget_lost(error, pool)
                trial = trial or Trial(pool.settings, retries=pool.settings.retries * idempotent)
                time.sleep(trial.pause_after(error))


async def aexchange(alias: str, commands: Sequence[Command], *, idempotent: bool = True) -> Exchange:
    """See `exchange`."""
    pool = aget_pool(alias)
    packed, trial = pack(commands), None
    with budget.current.get() or _unlimited:
        while True:
            try:
                return await pool.exchange(packed, len(commands))
            except Exception as error:
                _forget_lost(error, pool)
                trial = trial or Trial(pool.settings, retries=pool.settings.retries * idempotent)
                await asyncio.sleep(trial.pause_after(error))


def _forget_lost(error: Exception, pool: Pool | AsyncPool) -> None:
    # What was idle beside a connection that broke is broken too: without this, fifty calls would each find one.
    failure = translate(error)
    if failure is not None and failure.lost:
        pool.drop_idle()


def first_failure(alias: str, replies: Sequence[Any]) -> Exception | None:
    """The first server error among replies, as ours; None where there is none. READONLY closes the connections."""
    refusals = [unwrap(reply) for reply in replies if isinstance(reply, Exception)]
    if not refusals:
        return None
    if any(isinstance(refusal, redis.ReadOnlyError) for refusal in refusals):
        # They lead to what was the primary; new ones may lead to what is.
        distrust_connections(alias)
    return translate(refusals[0], get_settings(alias).address) or refusals[0]


def refuse_failures(alias: str, replies: Sequence[Any], *, types: bool = True) -> None:
    """Raise the first server error among replies, as ours. Without `types`, not that a key is of another type: it may be by now."""
    if failure := first_failure(alias, replies if types else [each for each in replies if not is_wrong_type(each)]):
        raise failure


def is_wrong_type(reply: Any) -> bool:
    """Whether this reply says that a key is of another type."""
    return isinstance(reply, Exception) and getattr(translate(unwrap(reply)), "kind", None) is Kind.FOREIGN


def distrust_connections(alias: str) -> None:
    """Close the connections of this alias, those in use when they come back: their server is another than it was."""
    settings = get_settings(alias)
    for pool in filter(None, (_pools.get(settings), _async_pools.get(settings))):
        pool.life = UNSET_LIFE


def life_commands(alias: str) -> Sequence[Command]:
    """The commands whose replies `life_of` takes."""
    return (("INFO", "server"), ("INFO", "replication")) if get_settings(alias).distrust_restarts else ()


def close_pools() -> None:
    """Close the sync connections of this process. The pools open again when they are used again."""
    for pool in list(_every_pool):
        if isinstance(pool, Pool):
            pool.disconnect()


async def aclose_pools() -> None:
    """Close the connections of the running event loop; they are closed with the loop in any case."""
    for pool in list(_every_pool):
        if isinstance(pool, AsyncPool):
            await pool.disconnect()


@receiver(setting_changed, dispatch_uid="redis_integration.pools")
def _forget_pools(*, setting: str, **kwargs: Any) -> None:
    if setting == "REDIS_INTEGRATION":
        close_pools()
        for registry in (_pools, _by_alias, _async_pools, _async_by_alias):
            registry.clear()


def run_in_child(function: Callable[[], None]) -> None:
    """Call it in each forked child, before anything else of this package runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def _start_afresh() -> None:
    for pool in list(_every_pool):
        pool.reset()


atexit.register(close_pools)
run_in_child(_start_afresh)
