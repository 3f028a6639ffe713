"""What `explain` answers, and its text. It asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from redis_integration.text import escape_for_print

_FARTHEST = 2.0**36  # unix seconds, in the year 4147; beyond what a clock can tell a date would be an error


class TagState(NamedTuple):
    """A tag of the call: its full key, its generation now in hex ("": none), and whether the entry was made under it."""

    key: str
    generation: str
    is_current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a call would get at `now`, in unix seconds, and why; durations are in seconds. Its str() is aligned lines of ASCII.

    `redis` is "up", "shy", "down" or "not asked"; `answer` is the tier that would answer, or "origin". What is told of the
    entry is None or empty where there is none that can be read, and there even if it may not be served. `holder` has the
    lease: `host:pid`, or "" where nobody has it.
    """

    key: str
    now: float
    redis: str
    redis_why: str = ""
    answer: str = "origin"
    answer_why: str = ""
    size: int | None = None  # bytes, with the header
    codec: str = ""
    age: float | None = None
    took: float | None = None  # what the origin call lasted
    fresh_for: float | None = None  # below 0 where it is stale
    kept_for: float | None = None
    tags: tuple[TagState, ...] = ()
    holder: str = ""
    held_for: float | None = None
    parts: tuple[tuple[str, str], ...] = ()  # of a page: what is in its key, by name
    refused: str = ""  # of a page: why its last answer was not stored, as this process knows

    def __str__(self) -> str:
        # Tags and holders are what stands in Redis: nothing of it speaks to a terminal.
        return "\n".join(f"{name:<8}{escape_for_print(text, 'ascii')}".rstrip() for name, text in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "key", self.key
        yield "redis", _joined(": ", self.redis, self.redis_why)
        yield "answer", _joined(": ", self.answer, self.answer_why)
        for name, text in self.parts:
            yield "in key", _joined(" ", name, text)
        if self.refused:
            yield "refused", self.refused
        if self.size is not None:
            yield "size", _joined(", ", f"{self.size:,} bytes", self.codec)
        if self.age is not None:
            yield "age", f"{self.age:.1f} s; the origin took {self.took:.3f} s"
        if self.fresh_for is not None:
            yield "fresh" if self.fresh_for > 0 else "stale", self._limit(self.fresh_for)
        if self.kept_for is not None:
            yield "kept", self._limit(self.kept_for)
        width = max((len(tag.key) for tag in self.tags), default=0)
        for tag in self.tags:
            state = "" if self.age is None else "the entry's" if tag.is_current else "not the entry's"
            yield "tag", f"{tag.key:<{width}}  {tag.generation or 'no generation':<16}  {state}"
        if self.redis in ("up", "shy"):
            yield "lease", self.holder or "free"
        if self.held_for is not None:
            yield "held", self._limit(self.held_for)

    def _limit(self, seconds: float) -> str:
        moment = min(max(self.now + seconds, 0.0), _FARTHEST)
        if moment == 0.0:
            return "since it was expired"
        clock = f"{datetime.fromtimestamp(moment).astimezone():%Y-%m-%d %H:%M:%S%z}"
        return f"for {abs(seconds):.1f} s, {'until' if seconds > 0 else 'since'} {clock}"


def _joined(between: str, fact: str, more: str) -> str:
    return f"{fact}{between}{more}" if more else fact
