"""What redis_scan prints for programs: names, CSV, JSON. Each takes pages of keys, and ends once."""

from __future__ import annotations

import csv
import io
import json
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from redis_integration.scan.search import Found, Tally
from redis_integration.scan.values import Value
from redis_integration.text import Sheet

Write = Callable[[str], object]
SCHEMA = 1  # of what is printed as JSON
# What is told of a key, and under which name.
FIELDS = {"type": "type", "ttl": "ttl_ms", "bytes": "bytes", "idle": "idle", "length": "length"}


class Keys:
    """The names alone: escaped, a line each, or as they are, with a NUL behind each (in UTF-8 with surrogate escapes)."""

    def __init__(self, write: Write, sheet: Sheet, *, is_raw: bool = False) -> None:
        self._write, self._sheet, self._is_raw = write, sheet, is_raw

    def add(self, page: Sequence[Found]) -> None:
        if self._is_raw:
            self._write("".join([found.key.decode("utf-8", "surrogateescape") + "\0" for found in page]))
        elif page:
            self._write("\n".join([self._sheet.show(found.key) for found in page]) + "\n")

    def end(self, tally: Tally) -> None:
        pass


class Csv:
    """A heading, then a line for each key, which is escaped as in a table. Numbers as in JSON; what never expires is empty.

    The first letter of a key is escaped where it would make a formula of it in a spreadsheet.
    """

    def __init__(self, write: Write, sheet: Sheet, facts: Collection[str]) -> None:
        self._write, self._sheet = write, sheet
        self._fields = [field for fact, field in FIELDS.items() if fact in facts]
        self._lines([["key", *self._fields]])

    def add(self, page: Sequence[Found]) -> None:
        self._lines([self._name(found.key), *(getattr(found, field) for field in self._fields)] for found in page)

    def _name(self, key: bytes) -> str:
        shown = self._sheet.show(key)
        return f"\\x{key[0]:02x}{shown[1:]}" if key.startswith((b"=", b"+", b"-", b"@")) else shown

    def _lines(self, rows: Iterable[Sequence[Any]]) -> None:
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows(rows)
        self._write(written.getvalue())

    def end(self, tally: Tally) -> None:
        pass


class Json:
    """One object for each key: in lines, or as the keys of one document that also says how far the walk came. ASCII."""

    def __init__(self, write: Write, facts: Collection[str], about: dict[str, Any] | None) -> None:
        self._write = write
        self._fields = [field for fact, field in FIELDS.items() if fact in facts]
        self._between = "\n" if about is None else ",\n "
        self._is_document = about is not None
        self._is_begun = False
        if about is not None:
            write(json.dumps({"schema": SCHEMA, **about})[:-1] + ', "keys": [')

    def add(self, page: Sequence[Found | Value]) -> None:
        records = [json.dumps(self._record(each)) for each in page]
        if records:
            self._write((self._between if self._is_begun else "") + self._between.join(records))
            self._is_begun = True

    def _record(self, each: Found | Value) -> dict[str, Any]:
        found, more = (each, {}) if isinstance(each, Found) else (each.found, _about(each))
        return {**text_or_base64("key", found.key), **{field: getattr(found, field) for field in self._fields}, **more}

    def end(self, tally: Tally) -> None:
        if self._is_document:
            self._write("], " + json.dumps(so_far(tally))[1:])
        if self._is_document or self._is_begun:
            self._write("\n")


def so_far(tally: Tally) -> dict[str, Any]:
    """What a document says of the walk."""
    return {
        "total": tally.total,
        "walked": tally.walked,
        "matched": tally.keys,
        "complete": tally.complete,
        "cursor": tally.cursor or None,
    }


def _about(value: Value) -> dict[str, Any]:
    names = ("codec", "compressed", "payload_bytes", "age", "took", "fresh_for", "revoked", "tags", "lease")
    known = {name: getattr(value, name) for name in names if value.codec}
    text = {"elements": [text_or_base64("value", element) for element in value.elements]}
    return {**known, **(text if value.elements else text_or_base64("value", value.text)), "why_not": value.why_not}


def text_or_base64(name: str, content: bytes) -> dict[str, str]:
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_b64": b64encode(content).decode()}
