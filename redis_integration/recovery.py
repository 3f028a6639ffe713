"""The way back: Redis is tried, what it did not confirm is repeated, and only then it is believed. Entries are never copied into it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from django.db.models import Count
from django.db.models.functions import Now

from redis_integration.conf import get_settings
from redis_integration.exceptions import RedisUnavailable
from redis_integration.flow import Call, Flow, run
from redis_integration.keys import Names
from redis_integration.policy import Redis
from redis_integration.tiers.fallback import FallbackTier
from redis_integration.tiers.redis import RedisTier, get_redis_tier

logger = logging.getLogger("redis_integration")

# Names in one UNLINK of the journal, each with its lease.
BATCH = 500
# Polls of one beat: 20,000 rows. What is left waits for the next beat, and Redis is bypassed meanwhile.
ROUNDS = 20
# Seconds for which a call waits until this process has looked into the journal for the first time.
FIRST_WAIT = 0.5


class Drained(NamedTuple):
    """How many names were invalidated once more; whether this process knows by name all that is left."""

    names: int
    is_all: bool


def state(tier: RedisTier, names: Names) -> Flow[Redis]:
    """What a call for this entry knows of Redis before it asks. No round trip while Redis is well, nor where a watch tries it."""
    if tier.journal.pending or not tier.breaker.is_closed:
        if not tier.breaker.is_watched and tier.breaker.is_due():
            yield from recover(tier)
        if tier.breaker.is_closed and not tier.journal.first_look.is_set() and tier.journal.is_unpolled:
            # A process that starts may be the only one which does not know yet what Redis should have forgotten.
            yield from _surely(partial(tier.journal.first_look.wait, FIRST_WAIT))
            tier.journal.first_look.set()  # one wait is enough, where threads do not run
    return tier.state(names)


def recover(tier: RedisTier) -> Flow[None]:
    """One try: a write to Redis, then the journal. One round trip and one query where nothing is pending.

    An open breaker closes after it, and never before: an entry that should be gone must not be read.
    """
    try:
        yield from tier.probe()
        drained = yield from drain(tier)
    except RedisUnavailable as failure:
        logger.debug("redis_integration.probe_failed %s", failure)
        if tier.breaker.is_closed:
            # A first timeout, of a server whose writes are slow and whose reads are not: what is in the journal is to be known.
            yield from _poll(tier)
        return
    finally:
        tier.journal.first_look.set()
    if drained.is_all:
        # What became pending meanwhile is bypassed until the next try: a site that invalidates all the time would wait for ever.
        tier.breaker.close()
    elif tier.journal.is_flooded or not tier.breaker.is_closed:
        tier.breaker.open("Not all pending invalidations could be repeated yet.", is_short=True)


def drain(tier: RedisTier) -> Flow[Drained]:
    """Repeat what this process, and what any other, could not send. Raises RedisUnavailable."""
    count = 0
    for _ in range(ROUNDS):
        is_learnt = yield from _poll(tier)
        count += yield from repeat(tier, tier.journal.known())
        if not is_learnt or not tier.journal.is_flooded:
            return Drained(count, is_learnt)
    return Drained(count, False)


def repeat(tier: RedisTier, pending: Mapping[str, list[str]]) -> Flow[int]:
    """Invalidate these names once more, in Redis and among the rows, and forget these marks of theirs. How many they were.

    For 500 names one round trip, and 2 queries and 1 for each 150 rows. Raises RedisUnavailable.
    """
    rows = FallbackTier(get_settings(tier.alias), seconds_open=tier.breaker.seconds_open)
    names = [*pending]
    for at in range(0, len(names), BATCH):
        batch = {name: pending[name] for name in names[at : at + BATCH]}
        try:
            yield from tier.unlink([*batch])
        except RedisUnavailable:
            yield from _surely(partial(tier.journal.note_try, batch))
            raise
        # Who journalled it may have been killed before it could end the rows.
        yield from rows.delete([*batch])
        # Where rows are left, so is what the journal says of them: the next poll brings it back.
        yield from _surely(partial(tier.journal.settle, batch, delete=not rows.is_unended([*batch])))
    return len(names)


def _poll(tier: RedisTier) -> Flow[bool]:
    return bool((yield from _surely(tier.journal.poll)))


def _surely(query: Callable[[], Any]) -> Flow[Any]:
    try:
        return (yield Call(query))
    except Exception as error:  # the thread that may touch the database is busy
        logger.debug("redis_integration.journal_unasked %s: %s", type(error).__name__, error)


class JournalStatus(NamedTuple):
    """What is in the journal of one alias; ages in seconds, by the database's clock. `first` are the oldest rows."""

    database: str
    rows: int
    names: int
    first: list[Pending]


class Pending(NamedTuple):
    """One row: a full key or a tag's, for how long it is pending, and how often it was repeated in vain."""

    name: str
    age: timedelta
    tries: int


SHOWN = 10


def journal_status(alias: str = "default") -> JournalStatus:
    """What no process could send yet; 2 queries. Raises FallbackUnavailable, and what the database raises."""
    journal = get_redis_tier(alias, is_async=False).journal
    rows = journal.rows()
    counts = rows.aggregate(rows=Count("pk"), names=Count("name", distinct=True))
    first = rows.annotate(now=Now()).order_by("created", "pk")[:SHOWN]
    return JournalStatus(
        journal.database or "", **counts, first=[Pending(row.name, row.now - row.created, row.tries) for row in first]
    )


def drain_now(alias: str = "default", only: Mapping[str, list[str]] | None = None) -> Drained:
    """Drain the journal of this alias, or only these ids by name, whatever the breaker says.

    Raises RedisUnavailable; FallbackUnavailable where there is no journal, and what the database raises.
    """
    tier = get_redis_tier(alias, is_async=False)
    tier.journal.rows().exists()  # an error of the database is the caller's here
    run(tier.probe())
    return run(drain(tier)) if only is None else Drained(run(repeat(tier, only)), True)
