"""Ends entries: after the commit of what is being changed, and never only perhaps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from time import monotonic

from django.core.exceptions import SynchronousOnlyOperation

from redis_integration import flights
from redis_integration.caching import Tiers
from redis_integration.conf import get_settings
from redis_integration.exceptions import JournalUnavailable, RedisUnavailable
from redis_integration.flow import Call, Flow, arun, run
from redis_integration.journal import Journal
from redis_integration.keys import MAX_KEY_BYTES, is_plain
from redis_integration.tags import tag_key
from redis_integration.transactions import open_connections, send_on_commit
from redis_integration.watch import watch

logger = logging.getLogger("redis_integration")


def invalidate(*, keys: Iterable[str] = (), tags: Iterable[str] = (), alias: str = "default") -> None:
    """End the entries of these full keys, as `key_for` gives them, and all entries with one of these tags. One round trip.

    Inside `atomic()` that happens after the commit, and not at all after a rollback. What Redis does not confirm goes into
    the journal, and is repeated before any process believes Redis again. Raises ValueError for a key outside KEY_PREFIX,
    SynchronousOnlyOperation on a running event loop, with JOURNAL = "always" JournalUnavailable.
    """
    refuse_event_loop("invalidate")
    run(end_entries(_names(keys, tags, alias), alias, is_async=False))


async def ainvalidate(*, keys: Iterable[str] = (), tags: Iterable[str] = (), alias: str = "default") -> None:
    """See `invalidate`."""
    await arun(end_entries(_names(keys, tags, alias), alias, is_async=True))


def refuse_event_loop(name: str) -> None:
    """Raise SynchronousOnlyOperation where an event loop is running in this thread."""
    if (
        asyncio._get_running_loop() is not None
    ):  # a tenth of what the public one costs, which raises where there is none
        raise SynchronousOnlyOperation(f"{name}() was called on a running event loop. Use `await a{name}(...)`.")


def _names(keys: Iterable[str], tags: Iterable[str], alias: str) -> list[str]:
    for option, given in {"keys": keys, "tags": tags}.items():
        if isinstance(given, str):
            raise TypeError(f"invalidate({option}={given!r}) got a string. Give a list: {option}=[{given!r}].")
    prefix = get_settings(alias).key_prefix
    names = list(keys)
    for key in names:
        if not key.startswith(f"{prefix}:") or not is_plain(key):
            raise ValueError(
                f"{key[:300]!r} is no key of this alias: keys are printable ASCII, at most {MAX_KEY_BYTES} letters, and begin "
                f"with {prefix + ':'!r}. Use what key_for() gives."
            )
    return [*names, *(tag_key(prefix, tag) for tag in tags)]


def end_entries(names: Sequence[str], alias: str, *, is_async: bool, softly: bool = False) -> Flow[bool]:
    """See `invalidate`; the names are not checked. False where Redis has not confirmed it.

    `softly` is for one key: one caller computes anew, the others get the stale copy meanwhile.
    """
    if not names or not get_settings(alias).enabled:
        return True
    tiers = Tiers(alias, is_async=is_async)
    journal = tiers.redis.journal
    if monotonic() > watch.overdue_at:
        yield from watch.catch_up(is_async=is_async)
    is_late = False
    rows: list[str] = []
    unwritten: JournalUnavailable | None = None

    def send() -> None:
        run(_end(names, Tiers(alias, is_async=False), rows, softly=softly))

    def register() -> bool:
        nonlocal rows, unwritten
        if journal.is_always:
            try:
                rows = _record(names, journal)
            except JournalUnavailable as error:
                if open_connections():
                    raise
                unwritten = error
        is_due = send_on_commit(names, send)
        if is_due and is_late:
            send()  # perhaps a transaction has ended since it was sent
        return is_due

    try:
        is_due = yield Call(register, must_run=True)
    except JournalUnavailable as error:
        logger.critical("redis_integration.journal_unwritten %s", error)
        raise
    except Exception as error:
        # Nobody can say whether there is a commit to wait for: to send is safe. A thread that was only busy sends again.
        logger.warning("redis_integration.transactions_unknown %s: %s", type(error).__name__, error)
        is_due = is_late = True
    except BaseException:  # cancelled or interrupted
        is_late = True
        journal.remember(names)
        tiers.fallback.remember(names)
        raise
    is_confirmed = not is_due or (yield from _end(names, tiers, rows, softly=softly))
    if unwritten is not None and not is_confirmed:
        raise unwritten
    return is_confirmed


def _record(names: Sequence[str], journal: Journal) -> list[str]:
    for connection in open_connections():
        if connection.alias != journal.database:
            raise JournalUnavailable(
                f"JOURNAL is 'always' and writes to the database {journal.database!r}, but this transaction is one of "
                f"{connection.alias!r}: a crash after its commit would lose the invalidation of {', '.join(names)}. Set DATABASE to "
                f"{connection.alias!r}, or 'JOURNAL': 'on_failure'."
            )
    return journal.record(names)


def _end(names: Sequence[str], tiers: Tiers, rows: Sequence[str], *, softly: bool) -> Flow[bool]:
    """End these entries, and rows of the journal that say so; whether Redis has confirmed."""
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
    is_over = is_confirmed and not (tiers.fallback.ends_every_row and tiers.fallback.is_unended(names))
    if is_confirmed and not is_over and not rows:
        tiers.redis.journal.remember(names)  # another process must end those rows, should this one not live to do it
    if rows if is_over else tiers.redis.journal.database:
        try:
            journal = tiers.redis.journal
            yield Call(partial(journal.delete, rows) if is_over else journal.write, must_run=True)
        except Exception as error:  # the thread that may touch the database is busy: the watch does it
            logger.debug("redis_integration.journal_unasked %s: %s", type(error).__name__, error)
    return is_confirmed
