"""What is in a key: of an entry what its header says and its payload as text, of any other value its first elements.

Nothing is unpickled, and no class is looked up: text is bytes of the value, cut. Reading leaves idle times alone where the
server can do that (Redis 7.2).
"""

from __future__ import annotations

import time
from codecs import utf_8_decode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis_integration.caching import ERROR
from redis_integration.codecs import json_codec
from redis_integration.compression import expand
from redis_integration.conf import get_settings
from redis_integration.entries import HEADER_BYTES, TAG_BYTES, Entry, unpack
from redis_integration.exceptions import UnreadableEntry
from redis_integration.pickles import is_signed, pickle_codec
from redis_integration.pools import UNSET_LIFE, is_wrong_type, pack, refuse_failures
from redis_integration.responses import response_codec
from redis_integration.scan.pace import Pace
from redis_integration.scan.search import Found, Search, Tally
from redis_integration.scan.walk import Walk
from redis_integration.tags import MAX_TAGS
from redis_integration.tiers.leases import lease_key, owner_of
from redis_integration.tiers.scripts import HOLD

SHOWN_BYTES = 4096  # of a value, or of one of its elements
SHOWN_ELEMENTS = 10
# Redis cannot cut an element: in the worst case the whole value comes. Of a larger one none is asked for.
MOST_BYTES = 16_000_000
CHANGED = "its type has changed meanwhile"
_CODECS = {codec.number: codec.name for codec in (json_codec, response_codec, pickle_codec)} | {ERROR: "error"}
_ELEMENTS = {
    "list": ("LRANGE", 0, SHOWN_ELEMENTS - 1),
    "zset": ("ZRANGE", 0, SHOWN_ELEMENTS - 1, "WITHSCORES"),
    "set": ("SSCAN", 0, "COUNT", SHOWN_ELEMENTS),
    "hash": ("HSCAN", 0, "COUNT", SHOWN_ELEMENTS),
    "stream": ("XRANGE", "-", "+", "COUNT", SHOWN_ELEMENTS),
}


@dataclass(slots=True, kw_only=True)
class Value:
    """What is in one key. Of what is no entry of ours `codec` is "". Durations are in seconds, below 0 where over.

    `text` holds at most SHOWN_BYTES of the value, raw, of a collection `elements` the first ones; `why_not` says why there is
    none, or not all. `revoked` says why an entry is no longer valid; `tags` are the names of its tags that are still current.
    """

    found: Found
    codec: str = ""
    compressed: bool = False
    payload_bytes: int = 0
    age: float = 0.0
    took: float = 0.0
    fresh_for: float = 0.0
    revoked: str = ""
    tags: tuple[str, ...] = ()
    lease: str = ""
    text: bytes = b""
    elements: tuple[bytes, ...] = ()
    why_not: str = ""


def read_values(alias: str, page: Sequence[Found]) -> list[Value]:
    """What is in these keys, of which the type and the bytes were asked; a key that is gone has no value.

    One or two round trips for each, and where there are entries with tags one walk for the tags' names. Raises RedisUnavailable.
    """
    pace = Pace(alias, at_most=1, max_rate=None)
    values, generations = [], []
    for found in page:
        value, made = _read_string(pace, found) if found.type == "string" else (_read_elements(pace, found), ())
        values.append(value)
        generations.append(made)
    names = _names_of(alias, {each for made in generations for each in made})
    for value, made in zip(values, generations, strict=True):
        value.tags = tuple(sorted(names[each] for each in made if each in names))
        if missing := len(made) - len(value.tags):
            value.revoked = (
                value.revoked or f"perhaps: {missing} of its {len(made)} generations stands for a version or is over"
            )
    return values


def _read_string(pace: Pace, found: Found) -> tuple[Value, Sequence[bytes]]:
    value, settings = Value(found=found), get_settings(pace.alias)
    lease = lease_key(found.key.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    start, token = _peek(pace, ("GETRANGE", found.key, 0, SHOWN_BYTES), ("GET", lease))
    if start is None:
        return Value(found=found, why_not=CHANGED), ()
    try:
        if len(start) > SHOWN_BYTES:
            most = settings.max_entry_bytes + HEADER_BYTES + MAX_TAGS * TAG_BYTES
            (stored,) = _peek(pace, ("GETRANGE", found.key, 0, most))
        else:
            stored = start
        entry = unpack(stored or b"", found.key.decode(), settings.max_entry_bytes)
    except (UnreadableEntry, UnicodeDecodeError):
        value.text, value.why_not = _cut(start)
        return value, ()
    _read_entry(value, entry, settings.max_entry_bytes)
    if UNSET_LIFE not in (entry.life, pace.life) and entry.life != pace.life:
        value.revoked = "it was made in an earlier life of this server"
    if isinstance(token, bytes):
        value.lease = "held back, since the origin has just failed" if token == HOLD else owner_of(token)
    return value, entry.tags


def _read_entry(value: Value, entry: Entry, max_bytes: int) -> None:
    now, payload = time.time(), entry.payload
    value.codec = _CODECS.get(entry.codec, f"codec {entry.codec}")
    value.compressed, value.payload_bytes = entry.flags != 0, len(payload)
    value.age, value.took, value.fresh_for = now - entry.created, entry.took, entry.fresh_until - now
    try:
        payload = expand(payload, entry.flags, max_bytes) if entry.flags else payload
    except UnreadableEntry as error:
        value.why_not = str(error)
        return
    value.payload_bytes = len(payload)
    if entry.codec == pickle_codec.number:
        is_ours = is_signed(payload, value.found.key.decode())
        value.why_not = f"a pickle {'' if is_ours else 'not '}signed by this SECRET_KEY, and never unpickled here"
    else:
        value.text, value.why_not = _cut(payload)


def _read_elements(pace: Pace, found: Found) -> Value:
    kind = found.type or ""
    if kind not in _ELEMENTS:
        return Value(found=found, why_not="a type of a module" if kind else "it is gone")
    if (found.bytes or 0) > MOST_BYTES:
        return Value(found=found, why_not=f"more than {MOST_BYTES:,} bytes: too much to look into")
    name, *arguments = _ELEMENTS[kind]
    (reply,) = _peek(pace, (name, found.key, *arguments))
    if reply is None:
        return Value(found=found, why_not=CHANGED)
    rows = reply[1] if kind in ("set", "hash") else reply
    if kind in ("hash", "zset"):
        flat = [*_flat(rows)]
        rows = [*zip(flat[::2], flat[1::2], strict=True)]
    shown = [_cut(b" ".join(_flat(row)), SHOWN_BYTES // SHOWN_ELEMENTS)[0] for row in rows[:SHOWN_ELEMENTS]]
    return Value(found=found, elements=tuple(shown), why_not=f"at most {SHOWN_ELEMENTS} elements")


def _cut(text: bytes, most: int = SHOWN_BYTES) -> tuple[bytes, str]:
    """Its first bytes, with no part of a character at the end, and which they are where there are more."""
    if len(text) <= most:
        return text, ""
    cut = text[:most]
    with suppress(UnicodeDecodeError):
        cut = cut[: utf_8_decode(cut, "strict", False)[1]]
    return cut, f"the first {most:,} bytes"


def _peek(pace: Pace, *commands: Any) -> list[Any]:
    # What is of another type by now is None.
    replies = pace.peek(pack(commands), len(commands))
    refuse_failures(pace.alias, replies, types=False)
    return [None if is_wrong_type(reply) else reply for reply in replies]


def _flat(row: Any) -> Iterator[bytes]:
    if isinstance(row, (list, tuple)):
        for each in row:
            yield from _flat(each)
    else:
        yield row if isinstance(row, bytes) else str(row).removesuffix(".0").encode()


def _names_of(alias: str, generations: set[bytes]) -> dict[bytes, str]:
    """Which of these generations are current, and the tags that they stand for."""
    names: dict[bytes, str] = {}
    if not generations:
        return names
    start = f"{get_settings(alias).key_prefix}:#"
    walk = Walk(alias, Search(pattern=f"{start}*", types=["string"], facts=()), Tally())
    for keys in walk.pages():
        for key, generation in zip(keys, walk.pace.speak(("MGET", *keys))[0] if keys else (), strict=True):
            if generation in generations:
                names[generation] = key.decode().removeprefix(start)
        if len(names) == len(generations):
            break
    return names
