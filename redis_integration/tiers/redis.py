"""The tier in Redis: entries, leases and generations, behind the breaker. It never waits for a Redis that is down.

Each operation is one exchange and raises RedisUnavailable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from django.core.signals import setting_changed
from django.dispatch import receiver
from redis.exceptions import NoScriptError

from redis_integration import pools
from redis_integration.breaker import Breaker
from redis_integration.conf import RedisSettings, get_settings
from redis_integration.entries import FORMAT, FRESH_UNTIL_AT, STALE, Entry, head, pack, unpack
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.flow import Flow
from redis_integration.journal import get_journal
from redis_integration.keys import Names, probe_key
from redis_integration.policy import Redis
from redis_integration.pools.life import life_of
from redis_integration.tiers import Lease
from redis_integration.tiers.leases import lease_key, make_generation
from redis_integration.tiers.scripts import EXPIRE, FILL, LEASE, PROBE, Script

logger = logging.getLogger("redis_integration")

# Names in one UNLINK: more would hold up a server's other clients.
BATCH = 500

# What a call has learnt already when it enters the flow.
First = pools.Exchange | RedisUnavailable | None

_breakers: dict[RedisSettings, Breaker] = {}
_tiers: dict[tuple[str, bool], RedisTier] = {}


class RedisTier:
    """Entries in Redis. `state` comes first; recovery.py tries an open breaker, and repeats what is pending."""

    def __init__(self, alias: str, exchange: Callable[..., Any]) -> None:
        settings = get_settings(alias)
        self.alias = alias
        self.prefix = settings.key_prefix
        self.breaker = _breakers.setdefault(settings, Breaker(alias))
        self.max_bytes = settings.max_entry_bytes
        self.journal = get_journal(settings)
        self._exchange = exchange

    def state(self, names: Names) -> Redis:
        """What a call for this entry knows of Redis before it asks."""
        if not self.breaker.is_closed:
            return Redis.DOWN
        if self.journal.pending and self.journal.bypasses((names.key, *names.tags)):
            return Redis.SHY
        return Redis.UP

    def probe(self) -> Flow[None]:
        """Try all that a call needs: to write, to run a script, to read; and whether it is still the server that its
        connections know. One round trip.
        """
        tries = ("UNLINK", probe := probe_key(self.prefix)), ("EVAL", PROBE.source, 1, probe)
        replies, life = yield from self._speak(*tries, *pools.life_commands(self.alias))
        if life_of(replies[len(tries) :]) != life:
            # A primary that was demoted kept its process and its connections.
            pools.distrust_connections(self.alias)

    @property
    def is_quiet(self) -> bool:
        """Whether Redis is believed as it is: nothing is to be repeated, nothing to be tried first."""
        return not self.journal.pending and self.breaker.opened_at is None and not self.breaker.timeouts

    def question(self, names: Names) -> pools.Command:
        """The one command that reads an entry, with the generations of its tags."""
        return ("MGET", names.key, *names.tags) if names.tags else ("GET", names.key)

    def read(self, names: Names, first: First = None) -> Flow[Entry | None]:
        """See `Tier.read`; `first` is what `question` has brought already. Raises UnreadableEntry for what is not ours."""
        replies, life = yield from self._speak(self.question(names), first=first)
        return self.judge(names, replies[0] if names.tags else replies, life)

    def read_all(self, every: Sequence[Names]) -> Flow[list[First]]:
        """What `read` of each of these takes as `first`. One round trip."""
        replies, life = yield from self._speak(("MGET", *(name for each in every for name in (each.key, *each.tags))))
        found = iter(replies[0])
        parts = ([*islice(found, 1 + len(each.tags))] for each in every)
        return [([part] if len(part) > 1 else part, life) for part in parts]

    def judge(self, names: Names, found: Sequence[bytes | None], life: bytes) -> Entry | None:
        """The entry among these replies, and whether it was revoked. Raises UnreadableEntry."""
        if found[0] is None:
            return None
        entry = unpack(found[0], names.key, self.max_bytes)
        # A server that lost its memory may have brought back what was invalidated; an unset life equals nothing.
        if entry.life != life or life == pools.UNSET_LIFE or entry.tags != (*found[1:], *names.stamp):
            return entry._replace(is_revoked=True)
        return entry

    def lease(
        self,
        names: Names,
        seen: Entry | None,
        token: bytes,
        *,
        seconds: float,
        kept: float,
        replace: bool = False,
        has_copy: bool = False,
    ) -> Flow[Lease | Entry | None]:
        """The lease; or the entry, if another was filled since `seen` was read; or None, while another has the lease.

        `token` is a new one (`make_token`). It lasts for `seconds`, of an entry that will be kept for `kept` seconds. With `replace` it is taken from another;
        who `has_copy` leaves the origin alone for a while after it failed.
        Never sent twice: a first try that arrives late must not find its token granted.
        """
        milliseconds = _milliseconds(seconds)
        arguments = (
            token,
            milliseconds,
            milliseconds + _milliseconds(kept),
            b"replace" if replace else b"copy" if has_copy else b"",
            b"" if seen is None else head(seen, names.key),
            *(make_generation() for _ in names.tags),
        )
        reply, life = yield from self._run(LEASE, names, arguments)
        if reply[0] == 0:
            return None
        if reply[0] == 1:
            self.breaker.note_room()
            return Lease(token, life, tuple(reply[2:]))
        return self.judge(names, reply[1:], life)

    def fill(self, names: Names, lease: Lease, entry: Entry | None, *, kept: float = 0.0) -> Flow[bool]:
        """Store the entry for `kept` seconds and let the lease go; None only lets it go, after `kept`. Whether accepted.

        Not if the entry, or one of its tags, was invalidated since the lease was given.
        """
        stored = b""
        if entry is not None:
            stored = pack(entry._replace(life=lease.life, tags=lease.generations + names.stamp), names.key)
        arguments = (lease.token, stored, _milliseconds(kept) if kept else 0, *lease.generations)
        # A second try after one that was executed is refused, which costs those who joined another look.
        reply, life = yield from self._run(FILL, names, arguments, idempotent=True)
        if reply == 2:
            raise RedisUnavailable(f"{names.key} holds what is no entry.", kind=Kind.FOREIGN)
        return bool(reply) and life == lease.life

    def expire(self, key: str) -> Flow[None]:
        """Make the entry stale and revoke its lease. What Redis does not confirm is pending, as an invalidation."""
        try:
            self._refuse_if_open()
            yield from self._run(EXPIRE, Names(key), (FORMAT.to_bytes(), FRESH_UNTIL_AT, STALE), idempotent=True)
        except BaseException:
            self.journal.remember([key])
            raise

    def delete(self, names: Sequence[str]) -> Flow[None]:
        """See `Tier.delete`. What Redis does not confirm is pending: bypassed, and repeated before Redis is believed."""
        try:
            self._refuse_if_open()
            yield from self.unlink(names)
        except BaseException:  # an interrupt too
            self.journal.remember(names)
            raise

    def _refuse_if_open(self) -> None:
        if not self.breaker.is_closed:
            raise RedisUnavailable("Redis is down.")

    def unlink(self, names: Sequence[str]) -> Flow[None]:
        """Delete these entries with their leases, and these tags. One round trip for 500 names."""
        tags = f"{self.prefix}:#"
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            # Without its lease an entry would be filled again by who computed it before it was invalidated.
            leases = [lease_key(name) for name in batch if not name.startswith(tags)]
            yield from self._speak(("UNLINK", *batch, *leases))

    def _run(
        self, script: Script, names: Names, arguments: Sequence[Any], *, idempotent: bool = False
    ) -> Flow[tuple[Any, bytes]]:
        keys = (names.key, lease_key(names.key), *names.tags)
        tail = (len(keys), *keys, *arguments)
        (reply,), life = yield from self._speak(("EVALSHA", script.sha, *tail), idempotent=idempotent)
        if isinstance(reply, NoScriptError):
            # The server forgot its scripts, or never saw this one; nothing was done yet.
            (reply,), life = yield from self._speak(("EVAL", script.source, *tail), idempotent=idempotent)
        return reply, life

    def _speak(self, *commands: pools.Command, idempotent: bool = True, first: First = None) -> Flow[pools.Exchange]:
        try:
            if isinstance(first, RedisUnavailable):
                raise first
            replies, life = first or (yield self._exchange(self.alias, commands, idempotent=idempotent))
            failure = self._find_failure(replies)
            if failure is not None and failure.lost:
                # It is a replica now, and did nothing. A new connection may lead to the primary.
                replies, life = yield self._exchange(self.alias, commands, idempotent=idempotent)
                failure = self._find_failure(replies)
            if failure is not None:
                raise failure
        except RedisUnavailable as failure:
            self.breaker.note(failure)
            raise
        self.breaker.timeouts = 0
        return replies, life

    def _find_failure(self, replies: Sequence[Any]) -> RedisUnavailable | None:
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
                failure = pools.first_failure(self.alias, replies)
                if isinstance(failure, RedisUnavailable):
                    return failure
                raise failure or reply
        return None


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def get_redis_tier(alias: str, *, is_async: bool) -> RedisTier:
    """The tier of this alias; sync and async share their breaker and what is pending."""
    tier = _tiers.get((alias, is_async))
    if tier is None:
        tier = _tiers[alias, is_async] = RedisTier(alias, pools.aexchange if is_async else pools.exchange)
    return tier


def used_aliases() -> list[str]:
    """The aliases whose tier was asked for in this process."""
    return [*dict.fromkeys(alias for alias, _ in _tiers.copy())]


def start_afresh() -> None:
    """Forget what was learnt about Redis; what is pending stays. For a forked child, and for tests."""
    _breakers.clear()
    _tiers.clear()


@receiver(setting_changed, dispatch_uid="redis_integration.tiers.redis")
def _forget_tiers(*, setting: str, **kwargs: Any) -> None:
    if setting == "REDIS_INTEGRATION":
        start_afresh()


pools.run_in_child(start_afresh)
