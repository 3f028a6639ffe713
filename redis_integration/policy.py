"""What a call does next: a pure function over what is known so far. No I/O, no clock."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple


class Redis(StrEnum):
    """What this call knows of Redis."""

    UP = "up"
    # Full, busy, or a name of this call is pending: the server may be well, but this call leaves it alone. Or it is down, and
    # so is the database.
    SHY = "shy"
    DOWN = "down"


class Right(StrEnum):
    """What this call knows of its right to compute: of the lease, or of a flight of this process."""

    UNKNOWN = "unknown"
    WON = "won"
    HELD = "held"  # by another, who will store what it computes
    LATE = "late"  # by another, and waited for in vain
    UNWANTED = "unwanted"  # what it computes is nobody else's business, as is known before


TierName = Literal["redis", "fallback"]


class Reading(NamedTuple):
    """What a call knows so far: Redis's state, the tier that held a copy, the tiers that were asked, the right to compute."""

    redis: Redis
    found: TierName | None = None
    is_stale: bool = False
    # Fresh, but to be refreshed before it is stale.
    is_due: bool = False
    # Whether a copy is answered at once and refreshed in the background; else the caller refreshes it.
    in_background: bool = False
    asked: frozenset[TierName] = frozenset()
    right: Right = Right.UNKNOWN


class Action(NamedTuple):
    """What to do next, and with which tier: ask it, answer from it, take its lease, wait for it, or compute and write to it.

    To refresh is to answer from it and have it computed in the background. To compute and write to None is to compute
    without a lease.
    """

    verb: Literal["ask", "answer", "refresh", "lease", "wait", "compute"]
    tier: TierName | None


def decide(reading: Reading) -> Action:
    """The next action of a call.

    | Redis | copy found | lease | answer | written to |
    |---|---|---|---|---|
    | up | redis, fresh | | redis | – |
    | up | redis, due | held | redis | – |
    | up | redis, due | won | computed | redis |
    | up | redis, due, in background | | redis, refreshed | – |
    | up | redis, stale | held | redis | – |
    | up | redis, stale | won | computed | redis |
    | up | redis, stale, in background | | redis, refreshed | – |
    | up | none | won | computed | redis |
    | up | none | held | waits | – |
    | up | none | late | computed | – |
    | up | redis, stale | unwanted | redis | – |
    | up | none | unwanted | computed | – |
    | shy | none | | computed | – |
    | down | fallback, fresh | | fallback | – |
    | down | none | won | computed | fallback |
    | down | none | held | waits | – |
    | down | none | late | computed | – |

    Due is fresh, past the share of its time that `eager` names. Where the origin raises, a copy of Redis is the answer, even
    a stale one, or a durable row, even one past its ttl, else its own error; nothing is written.
    """
    is_wanted = reading.is_stale or (reading.is_due and reading.redis is Redis.UP)
    if reading.found is not None and not is_wanted:
        return Action("answer", reading.found)
    if reading.redis is Redis.SHY:
        return Action("compute", None)
    tier: TierName = "redis" if reading.redis is Redis.UP else "fallback"
    if tier not in reading.asked:
        return Action("ask", tier)
    if reading.right is Right.UNWANTED:
        return Action("compute", None) if reading.found is None else Action("answer", reading.found)
    if reading.right is Right.HELD:
        return Action("wait", tier) if reading.found is None else Action("answer", reading.found)
    if reading.right is Right.UNKNOWN:
        is_later = reading.found is not None and reading.in_background and tier == "redis"
        return Action("refresh" if is_later else "lease", tier)
    return Action("compute", tier if reading.right is Right.WON else None)
