"""A sample of the keys of one database: what they are, and how long and how large. Bounded, and never KEYS.

TYPE, PTTL and MEMORY USAGE leave a key's idle time alone; of at most 100 strings the first byte is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.exceptions import RedisError

Ask = Callable[[Sequence[Sequence[Any]]], list[Any]]

PAGE = 500  # the COUNT of a SCAN
HEADS = 100  # strings whose first byte is read


class Key(NamedTuple):
    """A key under our prefix; `ttl` in seconds (None: it never expires), `size` in bytes (None: not known)."""

    name: bytes
    type: str
    ttl: float | None
    size: int | None

    @property
    def namespace(self) -> bytes:
        """Prefix and the part that follows it."""
        return b":".join(self.name.split(b":", 2)[:2])


@dataclass(slots=True, kw_only=True)
class Sample:
    """`walked` keys of `total` in the database; those of others by their first part; the first byte of a few strings."""

    total: int = 0
    walked: int = 0
    keys: list[Key] = field(default_factory=list)
    others: Counter[bytes] = field(default_factory=Counter)
    heads: dict[bytes, bytes] = field(default_factory=dict)


def take_sample(prefix: str, most: int, ask: Ask) -> tuple[Sample, dict[str, RedisError]]:
    """Walks `most` keys, and what was refused of what is asked about them. Two round trips for each 500, and one more."""
    sample = Sample()
    refused: dict[str, RedisError] = {}
    mine, cursor = f"{prefix}:".encode(), 0
    seen: set[bytes] = set()
    while True:
        page, total = ask([("SCAN", cursor, "COUNT", PAGE), ("DBSIZE",)])
        for reply in (page, total):
            if isinstance(reply, RedisError):
                return sample, dict.fromkeys(("keys", "sizes", "heads"), reply)
        sample.total = total
        cursor, names = page
        fresh = [name for name in dict.fromkeys(names) if name not in seen]
        seen.update(fresh)
        sample.walked += len(fresh)
        sample.others.update(name.split(b":")[0] for name in fresh if not name.startswith(mine))
        _describe(sample, [name for name in fresh if name.startswith(mine)], ask, refused)
        if cursor == 0 or sample.walked >= most or "keys" in refused:
            break
    _read_heads(sample, ask, refused)
    return sample, refused


def _describe(sample: Sample, names: Sequence[bytes], ask: Ask, refused: dict[str, RedisError]) -> None:
    replies = ask([each for name in names for each in (("TYPE", name), ("PTTL", name), ("MEMORY USAGE", name))])
    for name, (kind, left, size) in zip(names, zip(*[iter(replies)] * 3, strict=True), strict=True):
        for need, reply in (("keys", kind), ("keys", left), ("sizes", size)):
            if isinstance(reply, RedisError):
                refused[need] = reply
        if "keys" in refused:
            return
        if left != -2:  # gone since the SCAN
            known = size if isinstance(size, int) else None
            sample.keys.append(Key(name, kind.decode(), None if left < 0 else left / 1000, known))


def _read_heads(sample: Sample, ask: Ask, refused: dict[str, RedisError]) -> None:
    strings = [key.name for key in sample.keys if key.type == "string" and b":#" not in key.name][:HEADS]
    # From 7.2 on they stay as idle as they were; before, and where it is refused, a hundred keys look used.
    _, *replies = ask([("CLIENT NO-TOUCH", "ON"), *(("GETRANGE", name, 0, 0) for name in strings)])
    for name, head in zip(strings, replies, strict=True):
        if isinstance(head, RedisError):
            refused["heads"] = head
            return
        sample.heads[name] = head
