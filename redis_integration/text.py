"""Plain text for commands: what a person sees never breaks a line, a column or a terminal, whatever it was made of.

`Sheet(stream)` knows where text goes: `encoding`, `is_terminal`, `width` in cells (80 where there is no terminal).

    columns = [Column("BYTES", 9, ">"), Column("KEY", stretch=True)]
    for line in sheet.table(columns, rows): ...    # of a list of rows: columns are as wide as what is in them
    sheet.heading(columns), sheet.line(columns, row)    # one by one, for rows without end

Cells are raw text or bytes: escaped there, and nowhere else (`sheet.show` for what stands outside of a table). On a terminal
the stretching column is cut in its middle where the line would be too long; elsewhere nothing is cut. `sheet.bar(share, cells)`
and `sheet.pick("├ ", "+ ")` fall back to ASCII. `escape_for_print`, `duration`, `size`, `read_duration`, `read_size` need no
sheet. Colour is Django's, put around a whole line by the command (management/console.py). Nothing here reads or prints.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from unicodedata import combining, east_asian_width

Cell = str | bytes
_LOG_WIDTH = 80
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


class Column(NamedTuple):
    """One column of a table: at least `width` cells, aligned left or right; at most one of a table may stretch."""

    heading: str
    width: int = 0
    align: str = "<"
    stretch: bool = False


class Sheet:
    """A stream as a place for text; see the module."""

    def __init__(self, stream: Any) -> None:
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"
        self.is_terminal: bool = stream.isatty()
        self.width = shutil.get_terminal_size().columns if self.is_terminal else _LOG_WIDTH

    def show(self, text: Cell) -> str:
        """The text as one printable line in this encoding."""
        return escape_for_print(text, self.encoding)

    def pick(self, text: str, plain: str) -> str:
        """`text` where this encoding has all of it, else `plain`, which is ASCII."""
        return text if text.encode(self.encoding, "ignore").decode(self.encoding) == text else plain

    def bar(self, share: float, cells: int) -> str:
        """A bar of at most so many cells for a share of 0 to 1; not empty unless the share is 0."""
        eighths = min(max(round(share * cells * 8), 1 if share > 0 else 0), cells * 8)
        fine = _EIGHTHS[-1] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        return self.pick(fine, "#" * max(eighths // 8, 1 if share > 0 else 0))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> Iterator[str]:
        """The heading and all rows."""
        shown = [[self.show(cell) for cell in row] for row in rows]
        fitted = [
            column._replace(width=max([column.width, *(width_of(row[at]) for row in shown)]))
            for at, column in enumerate(columns)
        ]
        rest = self._rest_for(fitted, [""] * len(fitted))
        fitted = [column._replace(width=min(column.width, rest)) if column.stretch else column for column in fitted]
        yield self.heading(fitted)
        for row in shown:
            yield self._join(fitted, row)

    def heading(self, columns: Sequence[Column]) -> str:
        return self._join(columns, [column.heading for column in columns])

    def line(self, columns: Sequence[Column], cells: Sequence[Cell]) -> str:
        """One row, in columns of the width that they have."""
        return self._join(columns, [self.show(cell) for cell in cells])

    def _join(self, columns: Sequence[Column], shown: Sequence[str]) -> str:
        rest, parts = self._rest_for(columns, shown), []
        for column, text in zip(columns, shown, strict=True):
            text = self.cut(text, rest) if column.stretch else text
            room = " " * (max(column.width, width_of(column.heading)) - width_of(text))
            # A key that ends in spaces keeps them, and no others stand at the end of a line.
            parts.append(room + text if column.align == ">" else text if column is columns[-1] else text + room)
        return "  ".join(parts) if parts[-1] else "  ".join(parts).rstrip(" ")

    def _rest_for(self, columns: Sequence[Column], shown: Sequence[str]) -> int:
        fixed = [
            max(column.width, width_of(column.heading), width_of(text))
            for column, text in zip(columns, shown, strict=True)
            if not column.stretch
        ]
        return max(self.width - sum(fixed) - 2 * len(fixed), 8)

    def cut(self, text: str, cells: int) -> str:
        """The text in at most so many cells: on a terminal its middle goes, elsewhere nothing."""
        if not self.is_terminal or width_of(text) <= cells:
            return text
        gap = self.pick("…", "~")
        head = _begin(text, (cells - 1) // 2)
        return head + gap + _begin(text[::-1], cells - 1 - width_of(head))[::-1]


def _begin(text: str, cells: int) -> str:
    at = width = 0
    while at < len(text) and (width := width + width_of(text[at])) <= cells:
        at += 1
    return text[:at]


def width_of(text: str) -> int:
    """How many cells of a terminal this printable text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def escape_for_print(key: Cell, encoding: str | None = "utf-8") -> str:
    """The key as one line of printable text in `encoding`; no two keys give the same.

    Bytes that are not printable UTF-8 (control characters, line ends, directional marks) become \\xNN; a backslash is
    doubled.
    """
    text = key if isinstance(key, str) else key.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape_character(character, encoding or "utf-8") for character in text)


def _escape_character(character: str, encoding: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable() and character.encode(encoding, "ignore"):
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def size(count: float) -> str:
    """Bytes for people, in units of 1024 as in Redis's used_memory_human: 612 B, 15.4 MB."""
    units = ["TB", "GB", "MB", "KB", "B"]
    while count >= 1023.5 and len(units) > 1:
        count /= 1024
        units.pop()
    return f"{count:.0f} {units[-1]}" if units[-1] == "B" or count >= 99.95 else f"{count:.1f} {units[-1]}"


def duration(milliseconds: float | None) -> str:
    """A time for people: two units at most, rounded down; None is "never"."""
    if milliseconds is None:
        return "never"
    seconds = int(milliseconds // 1000)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    if minutes:
        return f"{minutes}m {seconds % 60}s"
    return f"{seconds}s" if seconds else f"{milliseconds:.0f}ms"


def read_duration(text: str) -> float:
    """Seconds: `90`, `1.5h`, `7d` (s, m, h, d, w). Raises ValueError with a message for the user."""
    return _read(text, _SECONDS, "seconds, or a number with s, m, h, d or w, such as 7d")


def read_size(text: str) -> int:
    """Bytes: `512`, `100k`, `1.5mb` (units of 1024). Raises ValueError with a message for the user."""
    return int(_read(text.lower().removesuffix("b"), _BYTES, "bytes, or a number with k, m or g, such as 100k"))


def _read(text: str, units: dict[str, int], wanted: str) -> float:
    found = re.fullmatch(rf"([0-9]+(?:\.[0-9]+)?)\s*([{''.join(units)}]?)", text.strip().lower(), re.ASCII)
    if found is None:
        raise ValueError(f"{escape_for_print(text)!r} cannot be read. Give {wanted}.")
    return float(found[1]) * units.get(found[2], 1)
