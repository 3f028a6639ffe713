from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_integration.entries import FORMAT, FRESH_UNTIL_AT, NO_LIFE, STALE, Entry, MisplacedEntry, pack, unpack
from redis_integration.exceptions import UnreadableEntry

KEY = "shop:price:7"
ENTRY = Entry(
    b"12.50", 1, created=1_700_000_000.25, fresh_until=1_700_000_300.25, took=0.5, flags=3, tags=(b"digest-1",)
)

numbers = st.integers(0, 255)
times = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)
entries = st.builds(
    Entry,
    payload=st.binary(max_size=100),
    codec=numbers,
    created=times,
    fresh_until=times,
    took=st.floats(width=32, min_value=0, allow_infinity=False, allow_nan=False),
    flags=numbers,
    life=st.binary(min_size=8, max_size=8),
    tags=st.lists(st.binary(min_size=8, max_size=8), max_size=5).map(tuple),
    is_revoked=st.just(False),
)
keys = st.text(st.characters(exclude_categories=()), max_size=30)


def read_or_refuse(stored, key=KEY):
    try:
        return unpack(stored, key)
    except UnreadableEntry as exc:
        return type(exc)


@settings(deadline=None)
@given(entries, keys)
def test_entry_comes_back_equal(entry, key):
    """Every field of the header, and the payload, survive."""
    assert unpack(pack(entry, key), key) == entry


def test_header_has_52_bytes_and_8_per_tag():
    """The cost of an entry beyond its payload is known and small."""
    assert len(pack(Entry(b"", 1, 0.0, 1.0), KEY)) == 52
    assert len(pack(ENTRY, KEY)) == 52 + 8 + len(b"12.50")


def test_bytes_of_format_2_do_not_change():
    """Other processes and earlier versions read these bytes: FORMAT changes when this test must."""
    stored = bytes.fromhex(
        "02"
        "41d954fc8b100000"
        "82eb3e7b"
        "a7db623d"
        "010301"
        "ce9af922e2c327aa"
        "0000000000000000"
        "41d954fc40100000"
        "3f000000"
        "00000005"
        "6469676573742d31"
        "31322e3530"
    )

    assert (FORMAT, pack(ENTRY, KEY).hex()) == (2, stored.hex())


def test_life_and_tags_are_empty_unless_given():
    """An entry without tags belongs to the unset life."""
    entry = unpack(pack(Entry(b"x", 1, 0.0, 1.0), KEY), KEY)

    assert (entry.life, entry.tags) == (NO_LIFE, ())


@pytest.mark.parametrize(
    ("now", "fresh"), [(1_700_000_300.0, True), (1_700_000_300.25, False), (1_700_000_301.0, False)]
)
def test_entry_is_fresh_until_its_time(now, fresh):
    """Freshness ends at fresh_until, by the clock that is passed in."""
    assert ENTRY.is_fresh(now) is fresh


def test_payload_above_the_limit_is_unreadable():
    """It is not ours to decode, whoever stored it."""
    assert unpack(pack(ENTRY, KEY), KEY, 5) == ENTRY
    with pytest.raises(UnreadableEntry, match="5 bytes are more than MAX_ENTRY_BYTES"):
        unpack(pack(ENTRY, KEY), KEY, 4)


def test_entry_of_another_key_is_misplaced():
    """An entry names its key: mixed-up replies do not become answers."""
    with pytest.raises(MisplacedEntry, match="another key"):
        unpack(pack(ENTRY, KEY), "shop:price:8")


def test_misplaced_entry_is_unreadable():
    """Who only wants to know whether there is an entry catches one class."""
    assert issubclass(MisplacedEntry, UnreadableEntry)


@pytest.mark.parametrize("stored", [b"", b"x" * 100, b"\x00" * 100, b"\x03" + pack(ENTRY, KEY)[1:], b"\x80\x04K\x07."])
def test_other_formats_are_unreadable(stored):
    """Bytes of a later format, or of another program, are a miss."""
    with pytest.raises(UnreadableEntry, match="format 2"):
        unpack(stored, KEY)


@pytest.mark.parametrize("length", range(len(pack(ENTRY, KEY))))
def test_cut_entry_is_unreadable(length):
    """No prefix of an entry is taken for an entry."""
    assert read_or_refuse(pack(ENTRY, KEY)[:length]) is UnreadableEntry


def test_longer_entry_is_unreadable():
    """Bytes behind the end are damage too (APPEND by another program)."""
    assert read_or_refuse(pack(ENTRY, KEY) + b"0") is UnreadableEntry


@pytest.mark.parametrize("field", ["created", "fresh_until", "took"])
@pytest.mark.parametrize("moment", [inf, -inf, nan])
def test_times_that_are_not_finite_are_unreadable(field, moment):
    """An entry that would be fresh for ever is damage."""
    with pytest.raises(UnreadableEntry, match="not finite"):
        unpack(pack(ENTRY._replace(**{field: moment}), KEY), KEY)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(min_size=51, max_size=68).map(lambda rest: b"\x02" + rest))
def test_arbitrary_bytes_raise_nothing_but_unreadable_entry(stored):
    """Whatever lies at the key is refused as such."""
    assert read_or_refuse(stored) in (UnreadableEntry, MisplacedEntry)


@settings(deadline=None)
@given(entries, st.integers(min_value=0), st.integers(0, 7))
def test_flipped_bit_is_noticed(entry, at, bit):
    """A damaged entry is never an answer, wherever the damage is."""
    stored = bytearray(pack(entry, KEY))
    stored[at % len(stored)] ^= 1 << bit

    assert read_or_refuse(bytes(stored)) in (UnreadableEntry, MisplacedEntry)


def test_entry_that_was_made_stale_in_place_is_read():
    """What `expire` writes into an entry has its own checksum."""
    stored = pack(ENTRY, KEY)
    stale = stored[:FRESH_UNTIL_AT] + STALE + stored[FRESH_UNTIL_AT + len(STALE) :]

    assert unpack(stale, KEY) == ENTRY._replace(fresh_until=0.0)
