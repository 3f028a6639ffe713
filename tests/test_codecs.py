from __future__ import annotations

import io
import json
import os
import sys
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum
from struct import pack
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.utils.safestring import SafeString
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_integration.caching import verify
from redis_integration.codecs import MAX_DEPTH, json_codec
from redis_integration.exceptions import UnreadableEntry, UnstorableValue
from redis_integration.pickles import pickle_codec

# CODEC_VALUES=10000 for a long run.
VALUES = int(os.environ.get("CODEC_VALUES", "200"))
KEY = "shop:price:7"
BERLIN = ZoneInfo("Europe/Berlin")
LATE = datetime(2024, 10, 27, 2, 30, 0, 7)

Point = namedtuple("Point", "x y")


class Colour(IntEnum):
    RED = 1


class Metres(float):
    pass


class OddZone(tzinfo):
    def utcoffset(self, moment):
        return timedelta(hours=1)

    def dst(self, moment):
        return None

    def tzname(self, moment):
        return "odd"


class Untold:
    pass


def exact(value):
    """A form that is equal only for equal values of the same types: nan, -0.0, fold and zone included."""
    kind = type(value)
    if kind is dict:
        return kind, [(exact(name), exact(item)) for name, item in value.items()]
    if kind in (list, tuple):
        return kind, [exact(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(map(repr, map(exact, value)))
    return kind, repr(value), repr(getattr(value, "tzinfo", None)), getattr(value, "fold", 0)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def endless():
    value = {}
    value["self"] = [value]
    return value


offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
zones = st.one_of(
    st.none(),
    st.just(UTC),
    st.builds(timezone, offsets),
    st.builds(timezone, offsets, st.text(max_size=5)),
    st.sampled_from([BERLIN, ZoneInfo("UTC"), ZoneInfo("Asia/Kathmandu")]),
)
folds = st.sampled_from([0, 1])
texts = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(["!decimal", "!", "\n!dict", '{"!'])
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts,
    st.binary(max_size=8),
    st.decimals() | st.sampled_from([Decimal("-0"), Decimal("NaN123"), Decimal("1.50E+7"), Decimal("-Infinity")]),
    st.uuids(),
    st.dates(),
    st.builds(lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, folds),
    st.builds(lambda clock, zone, fold: clock.replace(tzinfo=zone, fold=fold), st.times(), zones, folds),
    st.timedeltas(),
)
keys = st.one_of(texts, st.none(), st.integers(), st.floats(), st.dates(), st.tuples(texts, st.integers()))
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("codec", [json_codec, pickle_codec], ids=lambda codec: codec.name)
@settings(deadline=None, max_examples=VALUES)
@given(value=values)
def test_any_value_comes_back_equal_with_its_types(codec, value):
    """What is decoded is what was encoded, exact types, order and sign of zero included; and DEBUG's verification agrees."""
    payload = codec.encode(value, KEY)

    assert exact(codec.decode(payload, KEY)) == exact(value)
    verify(codec, value, payload, KEY)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("-inf"),
        -0.0,
        10**400,
        "\ud800 alone, \udc00 and \ud83d\ude00 apart",
        {"!decimal": "1.50"},
        {"!dict": []},
        {"plain": 1, "!tag": 2},
        {1: "int", "1": "str", None: "none", (1, 2.0): "tuple", True + 1: "two"},
        {"z": 1, "a": 2},
        {},
        (),
        set(),
        frozenset({frozenset(), (1, "a"), Decimal("1.0")}),
        [1, 1.0, True, "1"],
        Decimal("sNaN"),
        Decimal("1E+1000"),
        b"\x00\xff",
        LATE,
        LATE.replace(fold=1),
        LATE.replace(tzinfo=BERLIN),
        LATE.replace(tzinfo=BERLIN, fold=1),
        LATE.replace(tzinfo=UTC),
        LATE.replace(tzinfo=ZoneInfo("UTC")),
        LATE.replace(tzinfo=timezone(timedelta(hours=-3, microseconds=1))),
        LATE.replace(tzinfo=timezone(timedelta(hours=1), "CET")),
        datetime.min,
        datetime.max,
        time(2, 30, tzinfo=BERLIN, fold=1),
        time(2, 30, tzinfo=UTC),
        date(1, 1, 1),
        timedelta(days=-1, microseconds=1),
        timedelta.max,
        UUID(int=7),
    ],
)
def test_tricky_values_come_back_equal_with_their_types(value):
    """The corner cases of each type survive, alone and inside containers."""
    held = {"in": [value, (value,)]}

    assert exact(json_codec.decode(json_codec.encode(value))) == exact(value)
    assert exact(json_codec.decode(json_codec.encode(held))) == exact(held)


def test_utc_comes_back_as_the_same_object():
    """Code that asks `tzinfo is timezone.utc` sees no difference between hit and miss."""
    assert json_codec.decode(json_codec.encode(LATE.replace(tzinfo=UTC))).tzinfo is UTC


def test_zone_comes_back_as_the_same_object():
    """Datetimes of one ZoneInfo object are compared by wall clock, so the object must be the same."""
    assert json_codec.decode(json_codec.encode(LATE.replace(tzinfo=BERLIN))).tzinfo is BERLIN


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({"name": "Zoë", "tags": ["a", None, True], "price": 1.5}, '{"name":"Zoë","tags":["a",null,true],"price":1.5}'),
        (Decimal("1.50"), '{"!decimal":"1.50"}'),
        ((1, "a"), '{"!tuple":[1,"a"]}'),
        ({7: date(2024, 5, 1)}, '{"!dict":[[7,{"!date":"2024-05-01"}]]}'),
        ({"!tag": 1}, '{"!dict":[["!tag",1]]}'),
        (LATE.replace(tzinfo=BERLIN, fold=1), '{"!datetime":["2024-10-27T02:30:00.000007","Europe/Berlin",1]}'),
    ],
)
def test_payload_is_readable_json(value, stored):
    """What redis-cli shows is JSON in UTF-8 without escapes or blanks."""
    assert json_codec.encode(value) == stored.encode()


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (SafeString("a"), "django.utils.safestring.SafeString"),
        (Colour.RED, "Colour"),
        (Metres(1), "Metres"),
        (Point(1, 2), "Point"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (bytearray(b"a"), "builtins.bytearray"),
        (Untold(), "Untold"),
        (1j, "builtins.complex"),
        (LATE.replace(tzinfo=OddZone()), "OddZone"),
        (LATE.replace(tzinfo=ZoneInfo.no_cache("Europe/Berlin")), "ZoneInfo"),
    ],
)
@pytest.mark.parametrize(
    ("hold", "place"),
    [
        (lambda value: value, "(value)"),
        (lambda value: [1, {"a b": value}], "(value[1]['a b'])"),
        (lambda value: {"deep": (None, value)}, "(value['deep'][1])"),
    ],
)
def test_unknown_type_is_refused_by_name_and_place(value, names, hold, place):
    """A value that would come back as another type is refused; the error says which and where."""
    with pytest.raises(UnstorableValue) as caught:
        json_codec.encode(hold(value))

    assert names in str(caught.value)
    assert place in str(caught.value)


@pytest.mark.parametrize("hold", [lambda value: {value: 1}, lambda value: {value}, lambda value: frozenset([value])])
@pytest.mark.parametrize("value", [SafeString("a"), Colour.RED, Point(1, 2)])
def test_unknown_type_is_refused_as_key_and_member(hold, value):
    """Keys and members of sets are examined like any other value."""
    with pytest.raises(UnstorableValue):
        json_codec.encode(hold(value))


def test_zone_read_from_a_file_is_refused():
    """A ZoneInfo without a name, or with a wrong one, could not be found again."""
    rules = b"TZif" + bytes(16) + pack(">6I", 0, 0, 0, 0, 1, 4) + pack(">iBB", 3600, 0, 0) + b"CET\0"
    unnamed = ZoneInfo.from_file(io.BytesIO(rules))
    misnamed = ZoneInfo.from_file(io.BytesIO(rules), key="No/Such")

    with pytest.raises(UnstorableValue, match="ZoneInfo"):
        json_codec.encode(LATE.replace(tzinfo=unnamed))
    with pytest.raises(UnstorableValue, match="No/Such"):
        json_codec.encode(LATE.replace(tzinfo=misnamed))


@pytest.mark.parametrize("value", [endless(), nested(MAX_DEPTH + 1), nested(100_000)], ids=["endless", "101", "100000"])
def test_cycle_and_depth_are_refused(value):
    """A value that contains itself, or is nested too deep to be read back everywhere, is refused."""
    with pytest.raises(UnstorableValue, match="nested more than 100 deep"):
        json_codec.encode(value)


def test_depth_up_to_the_limit_is_stored():
    """What is stored can be read, at the deepest."""
    value = nested(MAX_DEPTH)

    assert json_codec.decode(json_codec.encode(value)) == value


def test_int_beyond_the_limit_of_digits_is_refused():
    """Python refuses to read such an int, so it is not written."""
    with pytest.raises(UnstorableValue, match="builtins.list.*digits"):
        json_codec.encode([10 ** (sys.get_int_max_str_digits() + 1)])


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"nul",
        b"1 2",
        b"[1]]",
        b"\xff",
        b"[" * 100_000,
        b'{"!tuple":' * 100_000,
        b"1" * 5000,
        b'{"!unknown":1}',
        b'{"!":1}',
        b'{"!set":[[1]]}',
        b'{"!dict":[[[],1]]}',
        b'{"!dict":1}',
        b'{"!decimal":"x"}',
        b'{"!decimal":{}}',
        b'{"!uuid":5}',
        b'{"!uuid":"5"}',
        b'{"!bytes":"a*"}',
        b'{"!date":"2024-13-01"}',
        b'{"!datetime":["2024-01-01T00:00:00","../../etc/passwd",0]}',
        b'{"!datetime":["2024-01-01T00:00:00","Europe",0]}',
        b'{"!datetime":["2024-01-01T00:00:00","No/Such",0]}',
        b'{"!datetime":["2024-01-01T00:00:00",[1e400,0,0,"x"],0]}',
        b'{"!datetime":["2024-01-01T00:00:00",null,7]}',
        b'{"!time":[]}',
        b'{"!timedelta":[1e308,1e308,1e308]}',
        b'{"!timedelta":{"days":1}}',
    ],
    ids=lambda payload: repr(payload[:60]),
)
def test_damaged_payload_is_unreadable(payload):
    """Truncated, foreign and hostile bytes raise UnreadableEntry, whatever error they cause inside."""
    with pytest.raises(UnreadableEntry):
        json_codec.decode(payload)


fragments = st.sampled_from(
    [
        '{"!',
        'dict"',
        ":",
        "[",
        "]",
        "}",
        ",",
        '"',
        "tuple",
        "set",
        "datetime",
        "decimal",
        "1e999",
        "null",
        '"UTC"',
        "\\u",
    ]
)


def read_or_refuse(payload):
    try:
        return json_codec.decode(payload)
    except UnreadableEntry:
        return None


@settings(deadline=None, max_examples=200)
@given(st.binary() | st.lists(fragments, max_size=30).map(lambda parts: "".join(parts).encode()))
def test_arbitrary_bytes_raise_nothing_but_unreadable_entry(payload):
    """Whatever lies in Redis is a value or UnreadableEntry."""
    read_or_refuse(payload)


@settings(deadline=None, max_examples=200)
@given(values, st.integers(min_value=0), st.integers(0, 7))
def test_flipped_bit_raises_nothing_but_unreadable_entry(value, at, bit):
    """Damage inside a tag is damage like any other."""
    payload = bytearray(json_codec.encode(value))
    payload[at % len(payload)] ^= 1 << bit

    read_or_refuse(bytes(payload))


def test_payload_without_tags_is_what_json_reads():
    """Another language can read a plain payload with its own JSON parser."""
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": "x"}}

    assert json.loads(json_codec.encode(value)) == value


def test_codec_names_itself():
    """The header of an entry says 1 for json, and nobody can change it in passing."""
    assert (json_codec.number, json_codec.name) == (1, "json")

    with pytest.raises(AttributeError):
        json_codec.number = 2


def test_offset_below_a_second_survives():
    """A datetime whose offset has microseconds came back as UTC."""
    value = datetime(2020, 1, 1, tzinfo=timezone(timedelta(microseconds=1)))

    assert json_codec.decode(json_codec.encode(value)) == value
