"""How redis_scan shows people what it finds: a table, a tree, values. Each takes pages of keys, and ends once."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from typing import Any, Protocol

from redis_integration.management.records import FIELDS, SCHEMA, Json, Write, so_far, text_or_base64
from redis_integration.scan.search import Found, Tally
from redis_integration.scan.tree import ANY, Branch, Tree
from redis_integration.scan.values import Value
from redis_integration.text import Column, Sheet, duration, size

# What a table shows of a key, in this order.
COLUMNS = {
    "bytes": Column("BYTES", 8, ">"),
    "type": Column("TYPE", 6),
    "ttl": Column("EXPIRES", 8, ">"),
    "idle": Column("IDLE", 8, ">"),
    "length": Column("LENGTH", 9, ">"),
}
_CELLS: dict[str, Callable[[Any], str]] = {
    "bytes": size,
    "type": str,
    "ttl": duration,
    "idle": lambda seconds: duration(seconds * 1000),
    "length": lambda count: f"{count:,}",
}
_BAR = 12
_EXAMPLES = 5
_ROWS = 3  # of a terminal, for one value


class Listing(Protocol):
    """What is shown of the keys of a walk. `end` comes once, also after an interrupt."""

    def add(self, page: Sequence[Any]) -> None: ...
    def end(self, tally: Tally) -> None: ...


class Table:
    """A line for each key; a heading on a terminal."""

    def __init__(
        self, write: Write, sheet: Sheet, facts: Collection[str], *, paint: Callable[[str], str] = str
    ) -> None:
        self._write, self._sheet, self._paint = write, sheet, paint
        self._facts = [fact for fact in COLUMNS if fact in facts]
        self._columns = [*(COLUMNS[fact] for fact in self._facts), Column("KEY", stretch=True)]
        self._is_begun = not sheet.is_terminal

    def add(self, page: Sequence[Found]) -> None:
        if page and not self._is_begun:
            self._is_begun = True
            self._write(self._paint(self._sheet.heading(self._columns)) + "\n")
        self._write("".join([self._sheet.line(self._columns, self._cells(found)) + "\n" for found in page]))

    def _cells(self, found: Found) -> list[str | bytes]:
        facts = [(fact, getattr(found, FIELDS[fact])) for fact in self._facts]
        return [*("-" if it is None and fact != "ttl" else _CELLS[fact](it) for fact, it in facts), found.key]

    def end(self, tally: Tally) -> None:
        pass


class Top:
    """Shows the N first in an order, when all are known; it keeps no others."""

    def __init__(self, listing: Listing, count: int, order: str) -> None:
        self._listing, self._count, self._order = listing, count, order
        self._best: list[Found] = []

    def add(self, page: Sequence[Found]) -> None:
        every = chain(self._best, page)
        if self._order == "name":
            self._best = heapq.nsmallest(self._count, every)
        else:
            self._best = heapq.nlargest(self._count, every, key=self._rank)

    def _rank(self, found: Found) -> float:
        fact = getattr(found, FIELDS[self._order])
        return (float("inf") if self._order == "ttl" else -1) if fact is None else fact

    def end(self, tally: Tally) -> None:
        self._listing.add(self._best)
        self._listing.end(tally)


class Values:
    """What is in the keys, a block each; or as JSON. `read` asks Redis for it."""

    def __init__(
        self, write: Write, sheet: Sheet, read: Callable[[Sequence[Found]], list[Value]], json: Json | None
    ) -> None:
        self._write, self._sheet, self._read, self._json = write, sheet, read, json
        self._page: list[Found] = []

    def add(self, page: Sequence[Found]) -> None:
        self._page += page

    def end(self, tally: Tally) -> None:
        if self._json:
            try:
                self._json.add(self._read(self._page))
            finally:
                self._json.end(tally)
            return
        for value in self._read(self._page):
            self._write(f"{self._sheet.cut(self._sheet.show(value.found.key), self._sheet.width)}\n")
            for name, text in _lines(value):
                self._write(f"  {name:<7}  {self._sheet.cut(self._sheet.show(text), _ROWS * self._sheet.width)}\n")


def _lines(value: Value) -> list[tuple[str, str | bytes]]:
    found = value.found
    expires = "never expires" if found.ttl_ms is None else f"kept for {duration(found.ttl_ms)}"
    lines: list[tuple[str, str | bytes]] = [("type", f"{found.type}, {size(found.bytes or 0)} of memory, {expires}")]
    if value.codec:
        pressed = ", compressed" if value.compressed else ""
        fresh = f"{'fresh for' if value.fresh_for > 0 else 'stale since'} {duration(abs(value.fresh_for) * 1000)}"
        lines += [
            ("entry", f"{value.codec}, {size(value.payload_bytes)}{pressed}"),
            ("age", f"{duration(value.age * 1000)}, {fresh}; the origin took {value.took:.3f} s"),
        ]
        lines += [("tag", tag) for tag in value.tags]
        lines += [("revoked", value.revoked)] * bool(value.revoked) + [("lease", value.lease)] * bool(value.lease)
    lines += [("value", element) for element in value.elements]
    if value.text or not value.why_not:
        lines.append(("value", value.text))
    return lines + [("", f"({value.why_not})")] * bool(value.why_not)


class Branches:
    """The keys as a tree of namespaces with bars; or as JSON."""

    def __init__(self, write: Write, sheet: Sheet, tree: Tree, *, most: int, about: dict[str, Any] | None) -> None:
        self._write, self._sheet, self._tree = write, sheet, tree
        self._most, self._about = most, about

    def add(self, page: Sequence[Found]) -> None:
        self._tree.add(page)

    def end(self, tally: Tally) -> None:
        if self._about is not None:
            document = {"schema": SCHEMA, **self._about, **so_far(tally), "tree": _document(self._tree.root)}
            self._write(json.dumps(document, indent=1) + "\n")
            return
        columns = [
            Column("NAMESPACE", stretch=True),
            *(Column(heading, align=">") for heading in ("KEYS", "BYTES", "SHARE", "NO TTL")),
            Column("", _BAR),
        ]
        rows: list[list[str | bytes]] = []
        self._grow(rows, self._tree.root, None)
        self._write("".join(f"{line}\n" for line in self._sheet.table(columns, rows)) if tally.keys else "")

    def _grow(self, rows: list[list[str | bytes]], branch: Branch, indent: str | None) -> None:
        branches = branch.largest()
        hidden = branches[self._most :]
        for at, (name, each) in enumerate(branches[: self._most]):
            is_last = at == len(branches) - 1
            lead = "" if indent is None else indent + self._sheet.pick(*(("└ ", "` ") if is_last else ("├ ", "| ")))
            label = b"(no namespace)" if indent is None and name == ANY else name
            is_twig = each.branches.keys() <= {ANY}
            if is_twig and name.endswith(self._tree.separator):
                label += ANY
            note = "" if indent is not None or each.ours == each.keys else f"  {'partly' if each.ours else 'not'} ours"
            rows.append(self._row(lead.encode() + label, each, note))
            below = "" if indent is None else indent + ("  " if is_last else self._sheet.pick("│ ", "| "))
            if not is_twig:
                self._grow(rows, each, below)
        if hidden:
            rest = Branch()
            rest.keys = sum(each.keys for _, each in hidden)
            rest.bytes = sum(each.bytes for _, each in hidden)
            rest.never = sum(each.never for _, each in hidden)
            lead = "" if indent is None else indent + self._sheet.pick("└ ", "` ")
            rows.append(self._row(f"{lead}{len(hidden):,} more".encode(), rest, ""))

    def _row(self, label: bytes, branch: Branch, note: str) -> list[str | bytes]:
        share = branch.bytes / (self._tree.root.bytes or 1)
        never = f"{branch.never:,}" if branch.never else "-"
        bar = self._sheet.bar(share, _BAR) + note
        return [label, f"{branch.keys:,}", size(branch.bytes), f"{share:.1%}", never, bar]


def _document(branch: Branch) -> dict[str, Any]:
    below = [{**text_or_base64("name", name), **_document(each)} for name, each in branch.largest()]
    return {"keys": branch.keys, "bytes": branch.bytes, "never": branch.never, **({"branches": below} if below else {})}


class Rehearsal:
    """What a change would do: to what, how long that lives, and a few examples."""

    def __init__(self, write: Write, sheet: Sheet, lead: str, *, trail: str = "") -> None:
        self._write, self._sheet, self._lead, self._trail = write, sheet, lead, trail
        self._examples: list[Found] = []

    def add(self, page: Sequence[Found]) -> None:
        self._examples += page[: _EXAMPLES - len(self._examples)]

    def end(self, tally: Tally) -> None:
        self._write(f"{self._lead}\n")
        if not tally.keys:
            return
        ends = f"{tally.never:,} never expire" if tally.never else f"all expire within {duration(tally.longest_ms)}"
        types = [f"{name} {count:,}" for name, count in tally.types.most_common()]
        self._write(f"  {self._sheet.show('   '.join([*types, size(tally.bytes), ends]))}\n")
        for found in self._examples:
            self._write(f"  e.g. {self._sheet.cut(self._sheet.show(found.key), self._sheet.width - 7)}\n")
        self._write(f"  {self._trail}\n" if self._trail else "")
