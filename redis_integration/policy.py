"""What a call does next: a pure function over what is known so far. No I/O, no clock."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple


class Redis(StrEnum):
    """What this call knows of Redis."""

    UP = "up"
    # Full, busy, or this name is pending: the server may be well, but this call leaves it alone.
    SHY = "shy"
    DOWN = "down"


TierName = Literal["redis", "fallback"]


class Reading(NamedTuple):
    """What a call knows so far: Redis's state, the tier that held a fresh copy, the tiers that held none."""

    redis: Redis
    found: TierName | None = None
    asked: frozenset[TierName] = frozenset()


class Action(NamedTuple):
    """What to do next, and with which tier: ask it, answer from it, or compute and write to it (None: nowhere)."""

    verb: Literal["ask", "answer", "compute"]
    tier: TierName | None


def decide(reading: Reading) -> Action:
    """The next action of a call.

    | Redis | copy found | answer | written to |
    |---|---|---|---|
    | up | redis | redis | – |
    | up | none | computed | redis |
    | shy | none | computed | – |
    | down | fallback | fallback | – |
    | down | none | computed | fallback |

    Where the origin raises, its own error is the answer and nothing is written.
    """
    if reading.found is not None:
        return Action("answer", reading.found)
    if reading.redis is Redis.SHY:
        return Action("compute", None)
    tier: TierName = "redis" if reading.redis is Redis.UP else "fallback"
    return Action("compute" if tier in reading.asked else "ask", tier)
