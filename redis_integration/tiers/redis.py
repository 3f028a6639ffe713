"""The tier in Redis: entries under their keys, behind the breaker. It never waits for a Redis that is down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from django.core.signals import setting_changed
from django.dispatch import receiver

from redis_integration import pools
from redis_integration.breaker import Breaker
from redis_integration.conf import RedisSettings, get_settings
from redis_integration.entries import Entry, pack, unpack
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.flow import Flow
from redis_integration.policy import Redis

logger = logging.getLogger("redis_integration")

# Names in one UNLINK: more would hold up a server's other clients.
BATCH = 500

_breakers: dict[RedisSettings, Breaker] = {}
# Invalidations that Redis did not confirm, each with a token of its own: the name may become pending again while an
# earlier invalidation of it is being repeated, and that confirmation must not count for the later one.
_pending: dict[RedisSettings, dict[object, str]] = {}
_tiers: dict[tuple[str, bool], RedisTier] = {}


class RedisTier:
    """Entries in Redis. Every operation is one round trip and raises RedisUnavailable.

    `state` comes first: it is where an open breaker is tried again. A server that refuses our writes is not believed.
    """

    def __init__(self, alias: str, exchange: Callable[..., Any]) -> None:
        settings = get_settings(alias)
        self.alias = alias
        self.prefix = settings.key_prefix
        self.breaker = _breakers.setdefault(settings, Breaker())
        self.pending = _pending.setdefault(settings, {})
        self._exchange = exchange

    def state(self, key: str) -> Flow[Redis]:
        """What a call for this key knows of Redis before it asks. No round trip while Redis is well."""
        if self.pending or not self.breaker.is_closed:
            if self.breaker.is_due():
                yield from self._recover()
            if not self.breaker.is_closed:
                return Redis.DOWN
            if key in list(self.pending.values()):
                return Redis.SHY
        return Redis.UP

    def _recover(self) -> Flow[None]:
        """Repeat the pending invalidations, then believe Redis: an entry that should be gone must not be read."""
        pending = list(self.pending.items())
        try:
            # Also with nothing pending: a replica, or a server whose disk is full, answers reads happily.
            yield from self._unlink([f"{self.prefix}:#probe", *dict.fromkeys(name for _, name in pending)])
        except RedisUnavailable as failure:
            logger.debug("redis_integration.probe_failed %s", failure)
            return
        for token, _ in pending:
            self.pending.pop(token, None)
        if not self.pending:
            self.breaker.close()

    def read(self, key: str) -> Flow[Entry | None]:
        """See `Tier.read`. Raises UnreadableEntry for bytes that are not ours."""
        (stored,) = yield from self._speak([("GET", key)])
        return None if stored is None else unpack(stored, key)

    def write(self, key: str, entry: Entry) -> Flow[bool]:
        milliseconds = max(1, int((entry.fresh_until - entry.created) * 1000))
        yield from self._speak([("SET", key, pack(entry, key), "PX", milliseconds)])
        return True

    def delete(self, keys: Sequence[str]) -> Flow[None]:
        """See `Tier.delete`. What Redis does not confirm is pending: bypassed, and repeated before Redis is believed."""
        try:
            if not self.breaker.is_closed:
                raise RedisUnavailable("Redis is down.")
            yield from self._unlink(keys)
        except BaseException:  # an interrupt too
            self.remember(keys)
            raise

    def remember(self, keys: Sequence[str]) -> None:
        """Make these names pending."""
        self.pending.update((object(), key) for key in keys)

    def _unlink(self, keys: Sequence[str]) -> Flow[None]:
        for start in range(0, len(keys), BATCH):
            yield from self._speak([("UNLINK", *keys[start : start + BATCH])])

    def _speak(self, commands: Sequence[pools.Command]) -> Flow[list[Any]]:
        try:
            replies, _life = yield self._exchange(self.alias, commands)
            failure = pools.first_failure(self.alias, replies)
            if failure is not None:
                raise failure
        except RedisUnavailable as failure:
            if failure.kind is Kind.DOWN:
                self.breaker.open(failure)
            raise
        return replies  # type: ignore[no-any-return]


def get_redis_tier(alias: str, *, is_async: bool) -> RedisTier:
    """The tier of this alias; sync and async share their breaker and what is pending."""
    tier = _tiers.get((alias, is_async))
    if tier is None:
        tier = _tiers[alias, is_async] = RedisTier(alias, pools.aexchange if is_async else pools.exchange)
    return tier


def start_afresh() -> None:
    """Forget what was learnt about Redis; what is pending stays. For a forked child, and for tests."""
    _breakers.clear()
    _tiers.clear()


@receiver(setting_changed, dispatch_uid="redis_integration.tiers.redis")
def _forget_tiers(*, setting: str, **kwargs: Any) -> None:
    if setting == "REDIS_INTEGRATION":
        start_afresh()


pools.run_in_child(start_afresh)
