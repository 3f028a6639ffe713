"""What people see: escaped, aligned, cut and in units. On no server."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_integration.text import Column, Sheet, duration, escape_for_print, read_duration, read_size, size, width_of

COLUMNS = [Column("BYTES", 9, ">"), Column("TYPE", 6), Column("KEY", stretch=True)]


class Stream:
    """A stream of this encoding that is a terminal, or not."""

    def __init__(self, encoding="utf-8", terminal=False):
        self.encoding = encoding
        self.isatty = lambda: terminal


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 40 cells."""
    monkeypatch.setenv("COLUMNS", "40")
    return Sheet(Stream(terminal=True))


@pytest.mark.parametrize(
    ("key", "printed"),
    [
        (b"shop:product:1", "shop:product:1"),
        ("shop:é日本".encode(), "shop:é日本"),
        (b"a b", "a b"),
        (b"a\nb\r\t", r"a\x0ab\x0d\x09"),
        (b"\x1b[31mred", r"\x1b[31mred"),
        (b"\xff\x00", r"\xff\x00"),
        (rb"a\x0a", r"a\\x0a"),
        ("\u202eevil\u200b".encode(), r"\xe2\x80\xaeevil\xe2\x80\x8b"),
        ("\x9b31m".encode(), r"\xc2\x9b31m"),
        (b"[bold]x[/bold]", "[bold]x[/bold]"),
    ],
)
def test_a_hostile_key_becomes_printable(key, printed):
    """Control characters, line ends, bytes that are no UTF-8 and directional marks appear as the bytes they are."""
    assert escape_for_print(key) == printed


def test_a_character_the_terminal_cannot_show_becomes_its_bytes():
    """Printing never raises UnicodeEncodeError."""
    assert escape_for_print("é".encode(), "ascii") == r"\xc3\xa9"


@given(st.binary())
def test_the_printed_form_is_one_line_and_unambiguous(key):
    """The bytes of the key can be read back from it."""
    printed = escape_for_print(key)

    assert printed.isprintable()
    assert (
        re.sub(
            rb"\\(\\|x(..))",
            lambda escape: bytes.fromhex(escape[2].decode()) if escape[2] else b"\\",
            printed.encode(),
        )
        == key
    )


def test_a_table_is_aligned_under_its_headings():
    """Numbers to the right, text to the left, nothing behind the last cell."""
    lines = Sheet(Stream()).table(COLUMNS, [["15.4 MB", "zset", b"shop:leaderboard"], ["612 B", "string", "shop:1"]])

    assert [*lines] == [
        "    BYTES  TYPE    KEY",
        "  15.4 MB  zset    shop:leaderboard",
        "    612 B  string  shop:1",
    ]


def test_a_table_is_as_wide_as_what_is_in_it():
    """The rows of a list are all known: a column grows to its widest cell."""
    lines = Sheet(Stream()).table([Column("NAME"), Column("N", align=">")], [["a", "1"], ["a:long:name", "1,000,000"]])

    assert [*lines] == ["NAME                 N", "a                    1", "a:long:name  1,000,000"]


def test_a_column_that_stretches_in_the_middle_is_cut_to_what_the_others_leave(narrow):
    """The last column ends where the terminal does."""
    columns = [Column("NAMESPACE", stretch=True), Column("KEYS", align=">"), Column("BYTES", align=">")]

    lines = [*narrow.table(columns, [["shop:a:name:that:is:much:too:long:*", "27,472", "82.6 MB"]])]

    assert lines == ["NAMESPACE                  KEYS    BYTES", "shop:a:name…:too:long:*  27,472  82.6 MB"]
    assert {width_of(line) for line in lines} == {40}


def test_a_row_without_its_table_has_the_same_columns():
    """Rows that come one by one cannot wait for the widest."""
    sheet = Sheet(Stream())

    assert sheet.heading(COLUMNS) == "    BYTES  TYPE    KEY"
    assert sheet.line(COLUMNS, ["612 B", "string", b"a\nb"]) == r"    612 B  string  a\x0ab"


def test_a_key_that_ends_in_spaces_keeps_them_and_an_empty_cell_leaves_none():
    """The end of a line is the end of what is in it."""
    sheet = Sheet(Stream())

    assert sheet.line(COLUMNS, ["1 B", "string", b"a "]) == "      1 B  string  a "
    assert sheet.line(COLUMNS, ["1 B", "set", b""]) == "      1 B  set"


def test_on_a_terminal_the_middle_of_a_long_key_goes(narrow):
    """Both ends of a key tell it from others; the line ends where the terminal does."""
    line = narrow.line(COLUMNS, ["612 B", "string", b"shop:" + b"x" * 10_000 + b":7"])

    assert line == "    612 B  string  shop:xxxxx…xxxxxxxx:7"
    assert width_of(line) == 40


def test_wide_characters_take_two_cells_and_combining_ones_none(narrow):
    """A terminal shows them so."""
    line = narrow.line(COLUMNS, ["612 B", "string", "日本" * 20])

    assert width_of("e\u0301日") == 3
    assert width_of(line) in (39, 40)


def test_in_a_pipe_nothing_is_cut():
    """A log of 80 columns, too: who greps it wants the key."""
    assert Sheet(Stream()).line(COLUMNS, ["1 B", "string", b"x" * 10_000]).endswith("x" * 10_000)


def test_a_stream_without_encoding_is_one_of_utf8():
    """A StringIO, as tests give it."""
    assert Sheet(io.StringIO()).encoding == "utf-8"


@pytest.mark.parametrize(("encoding", "cut"), [("latin-1", "xxx~xxx"), ("ascii", "xxx~xxx")])
def test_what_an_encoding_lacks_has_an_ascii_form(encoding, cut):
    """Bars, branches and the mark of a cut; keys become their bytes."""
    sheet = Sheet(Stream(encoding, terminal=True))

    assert sheet.bar(0.5, 8) == "####"
    assert sheet.pick("├ ", "+ ") == "+ "
    assert sheet.cut("x" * 20, 7) == cut
    assert sheet.show("日".encode()) == r"\xe6\x97\xa5"


@pytest.mark.parametrize(
    ("share", "fine", "plain"),
    [
        (0, "", ""),
        (0.0001, "▏", "#"),
        (0.5, "█" * 5 + "▌", "#####"),
        (1, "█" * 11, "#" * 11),
        (1.2, "█" * 11, "#" * 11),
    ],
)
def test_a_bar_is_as_long_as_its_share(share, fine, plain):
    """Something is never nothing."""
    assert Sheet(Stream()).bar(share, 11) == fine
    assert Sheet(Stream("ascii")).bar(share, 11) == plain


@pytest.mark.parametrize(
    ("count", "printed"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (752_640, "735 KB"),
        (1024**2 - 1, "1.0 MB"),
        (86_614_016, "82.6 MB"),
        (5 * 1024**3, "5.0 GB"),
        (3000 * 1024**4, "3000 TB"),
    ],
)
def test_sizes_are_those_of_redis(count, printed):
    """Units of 1024, as in used_memory_human."""
    assert size(count) == printed


@pytest.mark.parametrize(
    ("milliseconds", "printed"),
    [
        (None, "never"),
        (0, "0ms"),
        (999, "999ms"),
        (59_999, "59s"),
        (299_500, "4m 59s"),
        (86_399_000, "23h 59m"),
        (1_209_600_000, "14d 0h"),
    ],
)
def test_times_are_for_people(milliseconds, printed):
    """Two units at most, rounded down."""
    assert duration(milliseconds) == printed


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("7d", 604_800), ("2w", 1_209_600), ("10 m", 600)]
)
def test_durations_are_read_with_their_unit(text, seconds):
    """Seconds without one."""
    assert read_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("512", 512), ("100k", 102_400), ("100KB", 102_400), ("1.5mb", 1_572_864), ("1g", 1024**3)]
)
def test_sizes_are_read_with_their_unit(text, count):
    """Bytes without one."""
    assert read_size(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1y", "d", "1e9", "nan", "٤", "7 d 3"])
@pytest.mark.parametrize("read", [read_duration, read_size])
def test_what_has_no_meaning_is_refused(read, text):
    """The message says what to give."""
    with pytest.raises(ValueError, match="cannot be read. Give .* such as"):
        read(text)
