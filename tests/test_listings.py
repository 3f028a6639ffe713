"""What redis_scan prints, letter by letter. On no server."""

from __future__ import annotations

import csv
import json

import pytest

from redis_integration.management.listings import Branches, Rehearsal, Table, Top, Values
from redis_integration.management.records import Csv, Json, Keys
from redis_integration.scan import Found, Tally, Tree, Value
from redis_integration.text import Sheet

FACTS = {"type", "ttl", "bytes"}
HOSTILE = [b"t:\x1b[31m\n\xff\\", 't:\u202eevil,"quoted"\t'.encode(), b"t:" + b"n" * 10_000, b"t:\x9b31m\x00\r", b""]
PAGE = [
    Found(b"shop:leaderboard", "zset", None, 16_106_544),
    Found(b"shop:product:1", "string", 299_500, 612),
    Found("shop:é 日本".encode(), "hash", 86_399_000, 2_900_000),
]
ABOUT = {"alias": "default", "address": "localhost:6379/0", "pattern": "shop:*"}


class Stream:
    """A stream of this encoding that is a terminal, or not."""

    def __init__(self, encoding="utf-8", terminal=False):
        self.encoding = encoding
        self.isatty = lambda: terminal


@pytest.fixture
def printed():
    """Collects what is written; called, it is the text."""

    class Printed(list):
        def __call__(self):
            return "".join(self)

    return Printed()


def hostile():
    return [Found(key, "string", None, 100) for key in HOSTILE]


def test_a_table_on_a_terminal_of_80(printed, monkeypatch):
    """A heading, then a line for each key, of which none is longer."""
    monkeypatch.setenv("COLUMNS", "80")
    table = Table(printed.append, Sheet(Stream(terminal=True)), FACTS)

    table.add(PAGE)
    table.add([Found(b"shop:" + b"n" * 100 + b":7", "list", 999, 1)])

    assert printed() == (
        "   BYTES  TYPE     EXPIRES  KEY\n"
        " 15.4 MB  zset       never  shop:leaderboard\n"
        "   612 B  string    4m 59s  shop:product:1\n"
        "  2.8 MB  hash     23h 59m  shop:é 日本\n"
        "     1 B  list       999ms  shop:nnnnnnnnnnnnnnnnnnnn…nnnnnnnnnnnnnnnnnnnnnnnn:7\n"
    )


def test_a_table_in_a_pipe_has_no_heading_and_cuts_nothing(printed):
    """A line for each key, and nothing else; facts that were not told are a dash."""
    Table(printed.append, Sheet(Stream("ascii")), {*FACTS, "idle", "length"}).add(
        [*PAGE[2:], Found(b"t:" + b"n" * 100, "list", None, 5, 61, 1_234)]
    )

    assert printed() == (
        r"  2.8 MB  hash     23h 59m         -          -  shop:\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac"
        "\n     5 B  list       never     1m 1s      1,234  t:" + "n" * 100 + "\n"
    )


def test_a_table_of_nothing_is_nothing(printed):
    """No heading without a line."""
    table = Table(printed.append, Sheet(Stream(terminal=True)), FACTS)

    table.add([])
    table.end(Tally())

    assert printed() == ""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_hostile_names_stay_on_their_lines(printed, encoding):
    """In a table, as keys and as CSV: printable text, of as many lines as there are keys, in any encoding."""
    sheet = Sheet(Stream(encoding))
    shown = [sheet.show(key) for key in HOSTILE]

    Table(printed.append, sheet, FACTS).add(hostile())
    Keys(printed.append, sheet).add(hostile())
    Csv(printed.append, sheet, FACTS).add(hostile())

    printed().encode(encoding)
    lines = printed().split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    assert [line.rpartition("never  ")[2] for line in lines[:4]] == shown[:4]
    assert lines[5:10] == shown
    assert [row[0] for row in csv.reader(lines[11:])] == shown


def test_hostile_names_are_json(printed):
    """ASCII; what is no UTF-8 is in base64."""
    listing = Json(printed.append, FACTS, ABOUT)
    listing.add(hostile())
    listing.add([])
    listing.add(PAGE)
    listing.end(Tally(total=9, walked=8, keys=8, cursor="40960-1f3a9c0e"))

    document = json.loads(printed())

    assert printed().isascii()
    assert document["keys"][0] == {"key_b64": "dDobWzMxbQr/XA==", "type": "string", "ttl_ms": None, "bytes": 100}
    assert [each["key"].encode() for each in document["keys"][1:3]] == HOSTILE[1:3]
    assert len(document.pop("keys")) == 8
    assert document == {
        "schema": 1,
        **ABOUT,
        "total": 9,
        "walked": 8,
        "matched": 8,
        "complete": False,
        "cursor": "40960-1f3a9c0e",
    }


@pytest.mark.parametrize("about", [ABOUT, None])
def test_json_of_nothing_is_json_too(printed, about):
    """A document without keys; no line."""
    listing = Json(printed.append, FACTS, about)
    listing.end(Tally(complete=True))

    assert [json.loads(line)["keys"] for line in printed().splitlines()] == ([[]] if about else [])


def test_lines_of_json_are_one_for_each_key(printed):
    """Over pages."""
    listing = Json(printed.append, FACTS, None)
    listing.add(PAGE[:2])
    listing.add(PAGE[2:])
    listing.end(Tally())

    assert [json.loads(line)["bytes"] for line in printed().splitlines()] == [16_106_544, 612, 2_900_000]


def test_csv_has_a_heading_and_plain_numbers(printed):
    """What never expires is empty."""
    Csv(printed.append, Sheet(Stream()), FACTS).add(PAGE[:2])

    assert printed() == "key,type,ttl_ms,bytes\nshop:leaderboard,zset,,16106544\nshop:product:1,string,299500,612\n"


@pytest.mark.parametrize("first", "=+-@")
def test_no_key_in_csv_is_a_formula(printed, first):
    """A spreadsheet takes it for one by its first letter."""
    Csv(printed.append, Sheet(Stream()), []).add([Found(f"{first}1+1".encode()), Found(b""), Found(b"a=1")])

    assert printed() == f'key\n\\x{ord(first):02x}1+1\n""\na=1\n'


def test_raw_names_end_with_a_nul(printed):
    """For xargs -0: their bytes as they are."""
    Keys(printed.append, Sheet(Stream("ascii")), is_raw=True).add(hostile()[:2])

    assert printed().encode("utf-8", "surrogateescape") == HOSTILE[0] + b"\0" + HOSTILE[1] + b"\0"


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("bytes", [b"c", b"a"]),
        ("ttl", [b"b", b"c"]),
        ("idle", [b"a", b"b"]),
        ("length", [b"b", b"c"]),
        ("name", [b"a", b"b"]),
    ],
)
def test_the_first_in_an_order_are_shown_at_the_end(printed, order, expected):
    """Largest first, what never expires before what does; by name as in a dictionary."""
    top = Top(Keys(printed.append, Sheet(Stream())), 2, order)
    top.add([Found(b"b", "string", None, 1, 8, 9), Found(b"a", "string", 5, 3, 9, None)])
    top.add([Found(b"c", "string", 6, 4, 7, 3)])
    before = printed()
    top.end(Tally())

    assert (before, printed().encode().split()) == ("", expected)


TREE = [
    *(Found(b"shop:page:/p/%d/" % number, "string", 5_000, 5_000) for number in range(4)),
    *(Found(b"shop:product:%d" % number, "string", 5_000, 600) for number in range(9)),
    Found(b"shop:catalogue:all", "string", None, 5_000),
    Found(b"session:0123456789abcdef", "string", 5_000, 700),
    Found(b"counter", "string", None, 100),
    Found(b"{shop:product:1}:lease", "string", 5_000, 80),
]


def branches(printed, sheet, *, most=20, about=None, page=TREE):
    listing = Branches(printed.append, sheet, Tree(2, prefix="shop"), most=most, about=about)
    listing.add(page)
    listing.end(Tally(keys=len(page), total=99, walked=99, complete=True))
    return printed()


def test_a_tree_of_namespaces(printed):
    """Ids collapsed, the largest first, bars, and what is not ours."""
    assert branches(printed, Sheet(Stream())) == (
        "NAMESPACE       KEYS    BYTES  SHARE  NO TTL\n"
        "shop:             14  29.7 KB  97.2%       1  ███████████▋\n"
        "├ page:*           4  19.5 KB  63.9%       -  ███████▋\n"
        "├ product:*        9   5.3 KB  17.3%       -  ██▏\n"
        "└ catalogue:*      1   4.9 KB  16.0%       1  █▉\n"
        "session:*          1    700 B   2.2%       -  ▎  not ours\n"
        "(no namespace)     1    100 B   0.3%       1  ▏  not ours\n"
        "{shop:*}:lease     1     80 B   0.3%       -  ▏\n"
    )


def test_a_tree_in_ascii_sums_up_what_it_does_not_show(printed):
    """Where an encoding has no lines and blocks."""
    assert branches(printed, Sheet(Stream("ascii")), most=1) == (
        "NAMESPACE  KEYS    BYTES  SHARE  NO TTL\n"
        "shop:        14  29.7 KB  97.2%       1  ###########\n"
        "| page:*      4  19.5 KB  63.9%       -  #######\n"
        "` 2 more     10  10.2 KB  33.2%       1  ####\n"
        "3 more        3    880 B   2.8%       1  #\n"
    )


def test_a_tree_of_hostile_names_stays_in_its_lines(printed):
    """Each name is a cell like any other."""
    text = branches(printed, Sheet(Stream("ascii")), page=hostile())

    assert all(line.isprintable() for line in text.splitlines())
    assert text.isascii()


def test_a_tree_as_json(printed):
    """Nested, with what a document says of the walk."""
    document = json.loads(branches(printed, Sheet(Stream()), about=ABOUT))

    assert document["complete"] is True
    assert document["tree"]["keys"] == len(TREE)
    assert document["tree"]["branches"][0]["branches"][0] == {"name": "page:", "keys": 4, "bytes": 20_000, "never": 0}


def test_an_empty_tree_is_nothing(printed):
    """No heading."""
    assert branches(printed, Sheet(Stream()), page=[]) == ""


VALUE = Value(
    found=PAGE[1],
    codec="json",
    compressed=True,
    payload_bytes=2_000,
    age=41.2,
    took=0.1013,
    fresh_for=-12.9,
    tags=("products", "product:1"),
    lease="web-3:4711",
    text=b'{"name":"\x1b[31m"}',
    why_not="the first 4,096 bytes",
)
FOREIGN = Value(
    found=Found(b"shop:\n", "list", None, 100), elements=(b"1", b"\n\xff\x07"), why_not="at most 10 elements"
)


def test_a_value_is_a_block(printed):
    """Escaped, of an entry what its header says first."""
    values = Values(printed.append, Sheet(Stream()), lambda page: [VALUE, FOREIGN], None)
    values.add(PAGE)
    values.end(Tally())

    assert printed() == (
        "shop:product:1\n"
        "  type     string, 612 B of memory, kept for 4m 59s\n"
        "  entry    json, 2.0 KB, compressed\n"
        "  age      41s, stale since 12s; the origin took 0.101 s\n"
        "  tag      products\n"
        "  tag      product:1\n"
        "  lease    web-3:4711\n"
        '  value    {"name":"\\x1b[31m"}\n'
        "           (the first 4,096 bytes)\n"
        "shop:\\x0a\n"
        "  type     list, 100 B of memory, never expires\n"
        "  value    1\n"
        "  value    \\x0a\\xff\\x07\n"
        "           (at most 10 elements)\n"
    )


def test_values_as_json(printed):
    """What is known of an entry, and of another value only itself."""
    values = Values(printed.append, Sheet(Stream()), lambda page: [VALUE, FOREIGN], Json(printed.append, FACTS, None))
    values.end(Tally())

    entry, foreign = map(json.loads, printed().splitlines())

    assert (entry["codec"], entry["tags"], entry["value"]) == ("json", ["products", "product:1"], '{"name":"\x1b[31m"}')
    assert foreign == {
        "key": "shop:\n",
        "type": "list",
        "ttl_ms": None,
        "bytes": 100,
        "elements": [{"value": "1"}, {"value_b64": "Cv8H"}],
        "why_not": "at most 10 elements",
    }


def rehearse(printed, tally, *pages):
    rehearsal = Rehearsal(printed.append, Sheet(Stream()), "DRY RUN", trail="and their leases")
    [rehearsal.add(page) for page in pages]
    rehearsal.end(tally)
    return printed()


def test_a_rehearsal_shows_what_a_change_would_reach(printed):
    """Types, bytes, how long they live, five examples."""
    tally = Tally(keys=7, bytes=3_000_000, never=2)
    tally.types.update({"string": 5, "hash": 2})

    assert rehearse(printed, tally, PAGE, hostile()[:2], PAGE) == (
        "DRY RUN\n"
        "  string 5   hash 2   2.9 MB   2 never expire\n"
        "  e.g. shop:leaderboard\n"
        "  e.g. shop:product:1\n"
        "  e.g. shop:é 日本\n"
        "  e.g. t:\\x1b[31m\\x0a\\xff\\\\\n"
        '  e.g. t:\\xe2\\x80\\xaeevil,"quoted"\\x09\n'
        "  and their leases\n"
    )


def test_a_rehearsal_of_what_expires_says_when(printed):
    """The last of them."""
    tally = Tally(keys=1, bytes=612, longest_ms=299_500)
    tally.types.update({"string": 1})

    assert "  string 1   612 B   all expire within 4m 59s\n" in rehearse(printed, tally, PAGE[1:2])


def test_a_rehearsal_of_nothing_is_its_lead(printed):
    """Nothing would be reached."""
    assert rehearse(printed, Tally()) == "DRY RUN\n"
