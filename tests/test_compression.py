from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_integration import compression
from redis_integration.compression import compress, expand, is_available
from redis_integration.exceptions import UnreadableEntry

TEXT = b"All happy families are alike; each unhappy family is unhappy in its own way. " * 50
LIMIT = 1_000_000


@pytest.fixture(params=["zlib", "zstd"])
def name(request):
    return request.param


@pytest.fixture
def no_zstd(monkeypatch):
    """An interpreter without zstd."""
    monkeypatch.setattr(compression, "_find_zstd", lambda: None)


def size_of(payload):
    return len(payload).to_bytes(4)


def test_payload_comes_back(name):
    """Smaller in between."""
    pressed, flags = compress(TEXT, name)

    assert len(pressed) < len(TEXT) / 10
    assert expand(pressed, flags, LIMIT) == TEXT


def test_flags_say_how():
    """Other processes and earlier versions read them."""
    assert [compress(TEXT, name)[1] for name in ("zlib", "zstd")] == [1, 2]


@pytest.mark.parametrize("payload", [b"", b"a", random.Random(1).randbytes(5000)], ids=["empty", "short", "random"])
def test_payload_that_would_not_be_smaller_is_left(name, payload):
    """The four bytes of its size counted."""
    assert compress(payload, name) == (payload, 0)


def test_recorded_size_above_the_limit_is_unreadable(name):
    """Nothing is decompressed to find out."""
    pressed, flags = compress(TEXT, name)

    with pytest.raises(UnreadableEntry, match="3,850 bytes are more than MAX_ENTRY_BYTES"):
        expand(pressed, flags, len(TEXT) - 1)
    assert expand(pressed, flags, len(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("flags", "bomb"), [(1, zlib.compress(bytes(50_000_000), 9, -15)), (2, zstd.compress(bytes(50_000_000)))]
)
@pytest.mark.parametrize("size", [1, 1000, LIMIT])
def test_bomb_makes_no_more_than_the_recorded_size(flags, bomb, size):
    """50 MB of zeros in 2 kB (zstd): a small size in front of it is a lie, which is found before the memory is taken."""
    tracemalloc.start()
    with pytest.raises(UnreadableEntry):
        expand(size.to_bytes(4) + bomb, flags, LIMIT)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 4 * LIMIT


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 255])
@pytest.mark.parametrize("pressed", [b"", b"\0\0\0", b"\0\0\0\0", b"\0\0\0\1", size_of(TEXT), size_of(TEXT) + TEXT])
def test_other_bytes_are_unreadable(pressed, flags):
    """Whatever the flags say."""
    with pytest.raises(UnreadableEntry):
        expand(pressed, flags, LIMIT)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=40), st.sampled_from([1, 2]))
def test_arbitrary_bytes_raise_nothing_but_unreadable_entry(body, flags):
    """Whatever lies in Redis."""
    with pytest.raises(UnreadableEntry):
        expand(size_of(TEXT) + body, flags, LIMIT)


def damaged(name):
    pressed, flags = compress(TEXT, name)
    yield pressed[:-1], flags
    yield pressed + b"\0", flags
    yield (len(TEXT) + 1).to_bytes(4) + pressed[4:], flags
    yield (len(TEXT) - 1).to_bytes(4) + pressed[4:], flags
    yield pressed, 3 - flags


@pytest.mark.parametrize("at", range(5), ids=["cut", "longer", "size + 1", "size - 1", "other flags"])
def test_damaged_payload_is_unreadable(name, at):
    """By its length or its form; the checksum of the entry finds the rest."""
    pressed, flags = [*damaged(name)][at]

    with pytest.raises(UnreadableEntry):
        expand(pressed, flags, LIMIT)


def test_zstd_frame_without_its_size_is_unreadable():
    """Nobody knows what memory it asks for; ours have it."""
    stream = zstd.ZstdCompressor()
    frame = stream.compress(TEXT) + stream.flush()

    with pytest.raises(UnreadableEntry, match="sizes differ"):
        expand(size_of(TEXT) + frame, 2, LIMIT)


def test_without_zstd_nothing_is_compressed_by_it(no_zstd):
    """It is stored as it is, and what others have compressed is unreadable."""
    assert (is_available("zlib"), is_available("zstd")) == (True, False)
    assert compress(TEXT, "zstd") == (TEXT, 0)
    with pytest.raises(UnreadableEntry, match="not available"):
        expand(size_of(TEXT) + zstd.compress(TEXT), 2, LIMIT)
