"""Walks the keys of one Redis with SCAN, never KEYS, and asks what is to be known of each.

It reads no value, changes nothing, and never holds a connection from one page to the next.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, repeat
from time import monotonic
from typing import Any
from zlib import crc32

from redis_integration import pools
from redis_integration.conf import get_settings
from redis_integration.entries import HEADER_BYTES, TAG_BYTES, is_tagged
from redis_integration.exceptions import RedisUnavailable
from redis_integration.pools import pack
from redis_integration.scan.pace import Pace
from redis_integration.scan.search import TYPES, Found, Search, Tally
from redis_integration.tags import MAX_TAGS, tag_key

# Keys, and bytes of their names, in one UNLINK: the server is busy with it for a few milliseconds.
BATCH = 500
BATCH_BYTES = 256 * 1024
# Keys in one pipeline of questions: a page, which is often a little longer than COUNT. Of it each part is sent before the answers
# to the one before it are read: the server works at one while the other is packed or read, which took as long again. It takes a
# fourth less for one question about all keys after another than for all questions about one key after another.
ASKED = 2000
PART = 350
# Redis returns a key twice only where its hash table shrinks during the walk, and then one of those that it returned last: the
# buckets that become one are neighbours in the order of its cursor. Of 24 tables that shrank up to 2000-fold the farthest
# repetition came 1,832 keys later.
REMEMBERED_KEYS = 5_000

# A command up to its key. None of these resets the key's idle time.
_QUESTIONS = {
    "type": b"*2\r\n$4\r\nTYPE\r\n",
    "ttl": b"*2\r\n$4\r\nPTTL\r\n",
    "bytes": b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n",
    "idle": b"*3\r\n$6\r\nOBJECT\r\n$8\r\nIDLETIME\r\n",
}
_LENGTHS = dict(zip(TYPES, ("STRLEN", "LLEN", "SCARD", "ZCARD", "HLEN", "XLEN"), strict=True))
_NAMES = {name.encode(): name for name in TYPES}
_GONE = {"type": b"none", "ttl": -2, "bytes": None, "idle": None}


class Walk:
    """One walk, which its tally follows. Each method raises RedisUnavailable."""

    def __init__(self, alias: str, search: Search, tally: Tally) -> None:
        self.alias = alias
        self.search = search
        self.tally = tally
        self.pace = Pace(alias, at_most=search.count, max_rate=search.max_rate)
        self.is_over = False  # no page comes after this one
        # The next SCAN goes with the questions about a page, after them: the server walks on while the last answers are read.
        self._next: tuple[int, int] | None = None
        self._come: Any = None
        settings = get_settings(alias)
        self._prefix, self._address = settings.key_prefix, settings.address.encode()

    def pages(self, *, once: bool = True) -> Iterator[list[bytes]]:
        """The keys that match by name, and by type where there is one type, page by page: `once` each.

        One SCAN each, and a PING now and then. A page may be empty, or longer than COUNT.
        """
        search, tally = self.search, self.tally
        cursor, begun_in = search.start
        give_up = monotonic() + search.max_seconds if search.max_seconds is not None else None
        if not self._begin(begun_in):
            tally.complete = self.is_over = True
            return
        tally.resumed, start = cursor > 0, _share_of(cursor)
        older, recent, since = set[bytes](), set[bytes](), list[list[bytes]]()
        while True:
            tally.cursor = f"{cursor}-{self._origin}"
            cursor, keys, count = self._page_at(cursor)
            self.is_over = cursor == 0
            if search.names:
                keys = [*filter(search.names.fullmatch, keys)]
            if once:
                if len(recent) > REMEMBERED_KEYS:
                    older, recent, since = recent, set(), []
                before = len(recent)
                recent.update(keys)
                # To ask whether it grew takes half as long as to look for each key; `since` is what it was made of.
                if len(recent) < before + len(keys) or not older.isdisjoint(keys):
                    known = older.union(*since)
                    keys = [key for key in dict.fromkeys(keys) if key not in known]
                since.append(keys)
            tally.share = _share_of(cursor) or 1.0
            tally.walked = round((tally.share - start) * tally.total)
            yield keys
            if self.is_over:
                tally.complete, tally.cursor = True, ""
                return
            tally.cursor = f"{cursor}-{self._origin}"
            if give_up is not None and monotonic() >= give_up:
                return
            self.pace.rest(count)

    def found(self) -> Iterator[list[Found]]:
        """The keys that are looked for, with what is to be told of them, up to the limit; counted by the tally.

        One round trip for each page of at most 2000 keys, two more for lengths.
        """
        is_asked = bool(self.search.asked) or self.search.tag is not None
        for keys in self.pages():
            for batch in batches(keys, ASKED) if is_asked else [keys]:
                page = self.describe(batch)
                room = len(page) if self.search.limit is None else self.search.limit - self.tally.keys
                self.tally.add(page[:room], self.search.asked)
                yield page[:room]
                if len(page) > room or (self.search.limit == self.tally.keys and not self.is_over):
                    self.tally.cursor = ""  # to go on from here would show this page again, and never more
                    return

    def matching(self, keys: list[bytes]) -> list[bytes]:
        """Those of these keys that are looked for. No round trip where their names tell it."""
        if self.search.tag is None and not self.search.is_choosy:
            return keys
        return [found.key for found in self.describe(keys)]

    def describe(self, keys: Sequence[bytes]) -> list[Found]:
        """Those of these keys that are there and looked for, with what is asked of them. One round trip, two for lengths."""
        if self.search.tag is not None:
            keys = self._tagged(keys, tag_key(self._prefix, self.search.tag))
        asked = [fact for fact in _QUESTIONS if fact in self.search.asked]
        if not asked or not keys:
            return _found(keys)
        page = self._ask(keys, asked)
        if self.search.is_choosy:
            page = [*filter(self.search.accepts, page)]
        return self._with_lengths(page) if "length" in self.search.facts else page

    def _page_at(self, cursor: int) -> tuple[int, list[bytes], int]:
        """The page of this cursor, which may have come already: the cursor after it, its keys, and the COUNT that it took."""
        count = self.pace.count
        if self._next and self._come:
            (_, count), page = self._next, self._come
        else:
            [page] = self.pace.speak(self._scan(cursor, count))
        after = int(page[0])
        # Where it may not be wanted, or not so soon, it is asked for when it is.
        is_wanted = after and self.search.limit is None and self.search.max_rate is None
        self._next, self._come = (after, self.pace.count) if is_wanted else None, None
        return after, page[1], count

    def _ask(self, keys: Sequence[bytes], asked: Sequence[str]) -> list[Found]:
        """What is told of those of these keys that are there; with it comes the next page, if it has not come yet."""
        width = len(asked)
        page: list[Found] = []

        def pack_part(part: Sequence[bytes]) -> tuple[bytes, int]:
            keys = [b"$%d\r\n%b\r\n" % (len(key), key) for key in part]
            return b"".join([_QUESTIONS[fact] + _QUESTIONS[fact].join(keys) for fact in asked]), width * len(part)

        def read(part: Sequence[bytes], replies: list[Any]) -> None:
            # Most often there is none: to look at each takes longer than to look at the types that there are.
            if any(issubclass(kind, Exception) for kind in {*map(type, replies)}):
                pools.refuse_failures(self.alias, replies)
            size = len(part)
            page.extend(_read(part, {fact: replies[at * size : (at + 1) * size] for at, fact in enumerate(asked)}))

        def more(replies: list[Any]) -> Iterator[tuple[bytes, int]]:
            page.clear()
            for part, following in zip(parts, [*map(pack_part, parts[1:]), (pack(last), 1)], strict=True):
                yield following
                read(part, replies[-width * len(part) :])  # the server is busy with what follows

        parts = [*batches(keys, PART)]
        ahead = None if self._come else self._next
        last: list[pools.Command] = [self._scan(*ahead) if ahead else ("PING",)]
        replies = self.pace.ask(*pack_part(parts[0]), more)
        pools.refuse_failures(self.alias, replies[-1:])
        if ahead:
            self._come = replies[-1]
        return page

    def _tagged(self, keys: Sequence[bytes], tag: str, most: int = 32) -> list[bytes]:
        """Those of these keys that hold an entry which was made under the present generation of this tag."""
        # An entry's tags are in its first bytes. Few have more than 32 of them, and then it is asked once more.
        last = b"%d" % (HEADER_BYTES + most * TAG_BYTES - 1)
        template = b"*4\r\n$8\r\nGETRANGE\r\n$%d\r\n%b\r\n$1\r\n0\r\n$" + b"%d\r\n%b\r\n" % (len(last), last)
        packed = pack([("GET", tag)]) + b"".join([template % (len(key), key) for key in keys])
        generation, *starts = self.pace.peek(packed, 1 + len(keys))
        # A key of another type holds no entry.
        pools.refuse_failures(self.alias, [generation, *starts], types=False)
        answers = [isinstance(start, bytes) and is_tagged(start, generation or b"") for start in starts]
        longer = [key for key, answer in zip(keys, answers, strict=True) if answer is None]
        tagged = {*self._tagged(longer, tag, MAX_TAGS)} if longer and most < MAX_TAGS else set()
        return [key for key, answer in zip(keys, answers, strict=True) if answer or key in tagged]

    def _with_lengths(self, page: list[Found]) -> list[Found]:
        known = [found for found in page if found.type in _LENGTHS]  # a module's type has a command of its own
        packed = pack([(_LENGTHS[found.type or ""], found.key) for found in known])
        lengths = self.pace.peek(packed, len(known))
        # It may be of another type by now.
        by_key = {each.key: n for each, n in zip(known, lengths, strict=True) if isinstance(n, int)}
        pools.refuse_failures(self.alias, lengths, types=False)
        return [found._replace(length=by_key.get(found.key)) for found in page]

    @property
    def _origin(self) -> str:
        # To what orders its keys otherwise a cursor means nothing.
        return f"{crc32(self.pace.life + self._address):08x}"

    def _begin(self, begun_in: str) -> bool:
        """Whether there can be anything to find: no entry has a tag that has no generation."""
        tag = self.search.tag
        current: list[pools.Command] = [("GET", tag_key(self._prefix, tag))] if tag else []
        self.tally.total, *generation = self.pace.speak(("DBSIZE",), *current)
        if begun_in not in ("", self._origin):
            raise RedisUnavailable(
                "This cursor is of another database, or its server has restarted or failed over since.",
                remedy="Begin again without it.",
            )
        return generation != [None]

    def _scan(self, cursor: int, count: int) -> pools.Command:
        pattern = self.search.pattern.encode("utf-8", "surrogateescape")
        kind = ("TYPE", next(iter(self.search.types))) if len(self.search.types) == 1 else ()
        return ("SCAN", cursor, "MATCH", pattern, "COUNT", count, *kind)


def batches(keys: Sequence[bytes], most: int = BATCH) -> Iterator[list[bytes]]:
    """These keys in lists of at most so many, and of at most BATCH_BYTES of names unless there is only one."""
    for at in range(0, len(keys), most):
        batch, lengths = [*keys[at : at + most]], [*map(len, keys[at : at + most])]
        while sum(lengths) > BATCH_BYTES and len(batch) > 1:
            room = bisect_right([*accumulate(lengths)], BATCH_BYTES) or 1
            yield batch[:room]
            batch, lengths = batch[room:], lengths[room:]
        if batch:
            yield batch


def _read(keys: Sequence[bytes], columns: dict[str, list[Any]]) -> list[Found]:
    """What these replies tell of the keys that are there; a key may have gone since the SCAN, or between two questions."""
    gone = {
        at
        for fact, column in columns.items()
        if _GONE[fact] in column
        for at, reply in enumerate(column)
        if reply == _GONE[fact]
    }
    if "type" in columns:
        known = [*map(_NAMES.get, columns["type"])]
        if None in known:  # a module's
            known = [name.decode("utf-8", "replace") for name in columns["type"]]
        columns["type"] = known
    if "ttl" in columns:
        columns["ttl"] = [None if ttl < 0 else ttl for ttl in columns["ttl"]]
    page = _found(keys, columns)
    return [found for at, found in enumerate(page) if at not in gone] if gone else page


def _found(keys: Sequence[bytes], columns: Mapping[str, list[Any]] | None = None) -> list[Found]:
    # Found(...) takes five times as long: it is a function in Python.
    facts = (columns.get(fact) or repeat(None) if columns else repeat(None) for fact in (*_QUESTIONS, "length"))
    return [*map(partial(tuple.__new__, Found), zip(keys, *facts, strict=False))]


def _share_of(cursor: int) -> float:
    """The share of the hash table that this cursor has passed: SCAN counts in the bits of its cursor from the highest down."""
    return int(f"{cursor:064b}"[::-1], 2) / 2**64
