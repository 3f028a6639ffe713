"""Deletes the keys that a walk finds, or changes their time to live. A key of ours goes as an invalidation goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from redis_integration.caching import Tiers
from redis_integration.conf import get_settings
from redis_integration.exceptions import RedisUnavailable
from redis_integration.flow import run
from redis_integration.invalidation import end_entries, refuse_event_loop
from redis_integration.keys import is_plain, probe_key
from redis_integration.pools import Command, pack, refuse_failures
from redis_integration.recovery import recover
from redis_integration.scan.pace import PAUSES, Pace
from redis_integration.scan.search import Search, Tally
from redis_integration.scan.walk import BATCH, Walk, batches
from redis_integration.tiers.fallback import FallbackTier
from redis_integration.tiers.leases import lease_key
from redis_integration.tiers.redis import get_redis_tier

# What is done to at most BATCH keys.
Act = Callable[[Pace, Sequence[bytes]], None]


def delete(alias: str, search: Search, tally: Tally) -> Iterator[int]:
    """Deletes the keys that are looked for, and yields after each batch how many were there.

    What may be an entry is invalidated: with its lease, so that what is being computed now is not stored; after the commit, inside
    `atomic()`; repeated where Redis does not confirm it. Other keys are unlinked. Nothing happens until it is iterated.
    Two round trips for each batch, four where some keys are ours and some are not, three of those where there is a limit. What
    was deleted before an error stays so. Raises RedisUnavailable.
    """
    refuse_event_loop("delete")
    settings = get_settings(alias)
    prefix = f"{settings.key_prefix}:"

    def count(pace: Pace, keys: Sequence[bytes | str]) -> int:
        is_known = search.limit is not None or not keys  # those that are gone were left out
        return len(keys) if is_known else int(pace.speak(("EXISTS", *keys))[0])

    def act(pace: Pace, keys: Sequence[bytes]) -> None:
        if search.limit is not None:
            keys = _there(pace, keys)  # one that is made anew meanwhile would be deleted, and not counted
        names = [key.decode(errors="replace") for key in keys]
        ours = [name for name in names if name.startswith(prefix) and is_plain(name)] if settings.enabled else []
        mine = {*ours}
        others = [key for key, name in zip(keys, names, strict=True) if name not in mine]
        # UNLINK says how many were there too, but also of leases, and not where it is sent again since its reply was lost.
        if others:
            _apply(pace, tally, [("UNLINK", *others)], count(pace, others))
        there = count(pace, ours)
        tally.in_doubt = len(ours)
        is_sure = run(end_entries(ours, alias, is_async=False)) and not _rows(alias).is_unended(ours)
        if not (is_sure or _repeated(ours, alias)):
            pace.speak(("UNLINK", probe, lease_key(probe)))  # it says better what is wrong
            raise RedisUnavailable(
                "A deletion was not confirmed: by Redis, or by the database, which may have rows of these keys.",
                remedy="What the journal could not take either is named in the log: invalidate(keys=[...]) ends it.",
            )
        tally.keys += there

    probe = probe_key(settings.key_prefix)
    return _change(alias, search, tally, act, "UNLINK", lease_key(probe))


def expire(alias: str, search: Search, tally: Tally, seconds: float) -> Iterator[int]:
    """Gives the keys that are looked for so many seconds to live, and yields after each batch how many were there.

    Leases of ours are left alone. See `delete`; two round trips for each batch.
    """
    milliseconds = max(1, int(seconds * 1000))

    def act(pace: Pace, keys: Sequence[bytes]) -> None:
        # PEXPIRE says it too, but not where it is sent again, and the time is over.
        there = _there(pace, _without_leases(alias, keys))
        _apply(pace, tally, [("PEXPIRE", key, milliseconds) for key in there])

    yield from _change(alias, search, tally, act, "PEXPIRE", milliseconds)
    if search.limit == tally.keys:
        tally.cursor = ""  # to go on from here would change this page again, and never more


def persist(alias: str, search: Search, tally: Tally) -> Iterator[int]:
    """Takes the time to live off the keys that are looked for, and yields after each batch how many had one.

    See `expire`; two round trips for each batch.
    """

    def act(pace: Pace, keys: Sequence[bytes]) -> None:
        free = _without_leases(alias, keys)
        # PERSIST says it too, but not where it is sent again since its reply was lost.
        ttls = _ask_each(pace, free, "PTTL")
        _apply(pace, tally, [("PERSIST", key) for key, ttl in zip(free, ttls, strict=True) if ttl >= 0])

    return _change(alias, search, tally, act, "PERSIST")


def _without_leases(alias: str, keys: Sequence[bytes]) -> list[bytes]:
    lease = b"{%b:" % get_settings(alias).key_prefix.encode()
    return [key for key in keys if not (key.startswith(lease) and key.endswith(b"}:lease"))]


def _ask_each(pace: Pace, keys: Sequence[bytes], name: str) -> list[int]:
    """What Redis says to this command of each key."""
    return pace.speak(*[(name, key) for key in keys]) if keys else []


def _there(pace: Pace, keys: Sequence[bytes]) -> list[bytes]:
    return [key for key, is_there in zip(keys, _ask_each(pace, keys, "EXISTS"), strict=True) if is_there]


def _apply(pace: Pace, tally: Tally, commands: Sequence[Command], keys_each: int = 1) -> None:
    """Change so many keys by each of these, and count them. What is refused is told, and in no doubt."""
    tally.in_doubt = keys_each * len(commands)
    replies = pace.ask(pack(commands), len(commands)) if commands else []
    tally.in_doubt = 0
    tally.keys += keys_each * sum(not isinstance(reply, Exception) for reply in replies)
    refuse_failures(pace.alias, replies)


def _repeated(names: Sequence[str], alias: str) -> bool:
    """Whether Redis and the database have confirmed at a later try that these are gone."""
    tier, rows = get_redis_tier(alias, is_async=False), _rows(alias)
    for pause in PAUSES:
        time.sleep(pause)
        run(recover(tier))
        run(rows.retry_unended())
        if not tier.journal.bypasses(names) and not rows.is_unended(names):
            return True
    # Of rows that are left another process may yet hear so.
    tier.journal.remember([name for name in names if name not in tier.journal.pending])
    return False


def _rows(alias: str) -> FallbackTier:
    return Tiers(alias, is_async=False).fallback


def _change(alias: str, search: Search, tally: Tally, act: Act, *command: str | int) -> Iterator[int]:
    try:
        walk = Walk(alias, search, tally)
        # Before anything is done: who may not is told so, and nothing is in doubt.
        walk.pace.speak((command[0], probe_key(get_settings(alias).key_prefix), *command[1:]))
        # A key that was written again since it came first is to be changed again.
        for keys in walk.pages(once=False):
            page = [*chain.from_iterable(walk.matching(batch) for batch in batches([*dict.fromkeys(keys)]))]
            while page:
                room = BATCH if search.limit is None else min(BATCH, search.limit - tally.keys)
                if room <= 0:
                    return
                batch = next(batches(page, room))
                before = tally.keys
                act(walk.pace, batch)
                tally.in_doubt = 0
                page = page[len(batch) :]
                yield tally.keys - before
            if search.limit == tally.keys and not walk.is_over:
                return
    finally:
        # This process may end now, by an interrupt too.
        tally.is_journalled = get_redis_tier(alias, is_async=False).journal.write()
