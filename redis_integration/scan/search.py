"""What to look for, what was found, and how far a walk has come. It asks nobody."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import takewhile
from math import inf
from typing import Final, NamedTuple

from redis_integration.text import escape_for_print

TYPES: Final = ("string", "list", "set", "zset", "hash", "stream")
# What can be told of a key besides its name. "length" is the only one that resets a key's idle time (before Redis 7.2).
FACTS: Final = ("type", "ttl", "bytes", "idle", "length")
# 1000 walk a million keys in 1.2 s, 10 in 4 to 8 s; 5000 are no faster and make other clients wait 4 to 14 ms.
DEFAULT_COUNT: Final = 1000
MAX_COUNT: Final = 10_000

# What Redis takes for one element of a pattern: a literal, or a wildcard or class. In "[a-]" the range eats the bracket.
_ELEMENT = re.compile(r"(\\.|[^\\*?\[])|([*?]|\[\^?+(?:\\.|[^\]\\]-.|[^\]\\])*+\])", re.DOTALL)
_CURSOR = re.compile(r"([0-9]{1,20})-([0-9a-f]{8})", re.ASCII)


class Found(NamedTuple):
    """One key, and what was asked about it; what was not is None.

    Its type as Redis names it; its time to live (None also: it never expires); bytes of memory, as Redis estimates them; seconds
    since it was last used; elements, of a string bytes.
    """

    key: bytes
    type: str | None = None
    ttl_ms: int | None = None
    bytes: int | None = None
    idle: int | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for, what to tell of it (`facts`, of FACTS), and how gently. Raises ValueError, with a message for the user.

    Durations are in seconds. `names` is what the bytes of a key must match wholly (see owners.py); `tag` is a tag as the user
    writes it. `limit` counts keys that are found; `count` is the largest COUNT of one SCAN; `max_rate` keys walked in a
    second; `cursor` a token from a Tally.
    """

    pattern: str
    types: Collection[str] = ()
    no_ttl: bool = False
    ttl_under: float | None = None
    ttl_over: float | None = None
    idle_over: float | None = None
    bytes_over: int | None = None
    tag: str | None = None
    names: re.Pattern[bytes] | None = None
    facts: Collection[str] = ("type", "ttl")
    limit: int | None = None
    count: int = DEFAULT_COUNT
    max_rate: float | None = None
    max_seconds: float | None = None
    cursor: str = ""

    def __post_init__(self) -> None:
        if not self.pattern or "\0" in self.pattern:
            raise ValueError("The pattern is empty, or contains a NUL. Give one such as 'shop:product:*'.")
        if not _elements(self.pattern):
            raise ValueError(
                f"The pattern {escape_for_print(self.pattern)} has a '[' without its ']', or ends in a backslash. "
                "Write '\\[' or '\\\\' to mean the character itself."
            )
        for name in self.types:
            if name not in TYPES:
                raise ValueError(f"No type is called {name!r}. Choose from {', '.join(TYPES)}.")
        if self.no_ttl and (self.ttl_under is not None or self.ttl_over is not None):
            raise ValueError("A key that never expires has no time to live. Look for one or the other.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"The limit is {self.limit}. Give 1 or more, or none for all keys.")
        if not 1 <= self.count <= MAX_COUNT:
            raise ValueError(
                f"The count is {self.count}. Give 1 to {MAX_COUNT}: more makes every other client wait for one SCAN."
            )
        if self.max_rate is not None and not 1 <= self.max_rate < inf:
            raise ValueError(f"The rate is {self.max_rate}. Give at least 1 key in a second.")
        if self.cursor and not _CURSOR.fullmatch(self.cursor):
            raise ValueError(
                f"The cursor {escape_for_print(self.cursor)} is none that an earlier walk has printed, such as 40960-1f3a9c0e."
            )

    @property
    def start(self) -> tuple[int, str]:
        """The cursor of SCAN to begin with, and the sign of what gave it ("": any)."""
        found = _CURSOR.fullmatch(self.cursor)
        return (int(found[1]), found[2]) if found else (0, "")

    @property
    def asked(self) -> set[str]:
        """The facts that must be asked: those to be told and those to choose by."""
        chosen_by = {
            "type": len(self.types) > 1 or "length" in self.facts,  # one type is SCAN's own option
            "ttl": self.no_ttl or self.ttl_under is not None or self.ttl_over is not None,
            "bytes": self.bytes_over is not None,
            "idle": self.idle_over is not None,
        }
        return {*self.facts, *(fact for fact, is_asked in chosen_by.items() if is_asked)}

    def accepts(self, found: Found) -> bool:
        """Whether what was asked of this key is as it should be."""
        ttl, idle, size = found.ttl_ms, found.idle, found.bytes
        return (
            (not self.types or found.type is None or found.type in self.types)
            and (not self.no_ttl or ttl is None)
            and (self.ttl_under is None or (ttl is not None and ttl < self.ttl_under * 1000))
            and (self.ttl_over is None or (ttl is not None and ttl > self.ttl_over * 1000))
            and (self.idle_over is None or (idle is not None and idle > self.idle_over))
            and (self.bytes_over is None or (size is not None and size > self.bytes_over))
        )

    @property
    def is_choosy(self) -> bool:
        """Whether `accepts` looks at anything."""
        numbers = (self.ttl_under, self.ttl_over, self.idle_over, self.bytes_over)
        return self.no_ttl or len(self.types) > 1 or any(number is not None for number in numbers)


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far a walk has come, true at every moment, so that an interrupted one can still say what it did.

    `total` is DBSIZE when the walk began. `walked` of them are estimated by the share of Redis's hash table that the cursor has passed.
    `bytes`, `types`, `never` (expires) and `longest_ms` sum up what was asked of the `keys`. `cursor` is what to go on from: nothing that
    stayed is left out, some of the last page may come again; "" where there is nothing to go on with. `in_doubt` keys were to be
    changed, and nobody knows whether they were; where that `is_journalled`, what may be an entry is invalidated once more.
    """

    total: int = 0
    walked: int = 0
    keys: int = 0
    bytes: int = 0
    types: Counter[str] = field(default_factory=Counter)
    never: int = 0
    longest_ms: int = 0
    in_doubt: int = 0
    is_journalled: bool = False
    complete: bool = False
    resumed: bool = False
    cursor: str = ""
    share: float = 0.0

    def add(self, page: Collection[Found], asked: Collection[str]) -> None:
        """Count these."""
        self.keys += len(page)
        if not page or not asked:
            return
        # By columns: a name of a field takes as long as all else here.
        _, types, ttls, sizes, *_ = zip(*page, strict=True)
        if "type" in asked:
            self.types.update(types)
        if "bytes" in asked:
            self.bytes += sum(filter(None, sizes))
        if "ttl" in asked:
            self.never += ttls.count(None)
            self.longest_ms = max(self.longest_ms, max(filter(None, ttls), default=0))


def is_everything(pattern: str, prefix: str) -> bool:
    """Whether `pattern` names nothing in particular: no literal but colons, or none behind what all keys of ours begin with."""
    start = f"{prefix}:"
    elements = _elements(pattern.removeprefix(start)) or []
    head = [*takewhile(bool, (literal for literal, _ in elements))]
    if not pattern.startswith(start) and start.startswith("".join(head)) and len(head) < len(elements):
        elements = elements[len(head) :]
    return not any(literal.strip(":") for literal, _ in elements)


def _elements(pattern: str) -> list[tuple[str, str]] | None:
    # None: some part is no element, which Redis would silently read in a way of its own.
    elements = _ELEMENT.findall(pattern)
    return elements if sum(len(literal) + len(glob) for literal, glob in elements) == len(pattern) else None
