from __future__ import annotations

import pickle
import threading
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_integration.exceptions import UnreadableEntry, UnstorableValue
from redis_integration.pickles import VERSION, pickle_codec
from tests.test_codecs import OddZone

KEY = "shop:price:7"
trips: list[str] = []


def trip():
    trips.append("unpickled")


class Basket:
    def __init__(self, *items):
        self.items = items

    def __eq__(self, other):
        return self.items == other.items


class Tripwire:
    """Runs something when it is unpickled."""

    def __reduce__(self):
        return trip, ()


class Moved:
    """A class whose instances cannot be made any more."""

    def __setstate__(self, state):
        raise KeyError("moved")


class Stubborn:
    def __reduce__(self):
        raise ZeroDivisionError("not today")


@pytest.fixture
def tripwire(monkeypatch):
    """Fails the test if anything is unpickled."""
    unpickled = []
    monkeypatch.setattr("redis_integration.pickles.pickle.loads", unpickled.append)
    yield
    assert unpickled == []


@pytest.mark.parametrize("value", [Basket(1, Decimal("1.50")), OddZone, {1: {2}}, [None, b"\0"], 1j])
def test_nearly_any_value_comes_back(value):
    """Instances of classes, and classes themselves, too."""
    assert pickle_codec.decode(pickle_codec.encode(value, KEY), KEY) == value


def test_layout_does_not_change():
    """Other processes and earlier versions read these bytes: VERSION changes when this test must."""
    payload = pickle_codec.encode("a", KEY)

    assert payload.hex() == (
        "019cefa7ec132e759004f3e2e49bfea5c611ecd8f2c34ca7cfc014fde830432d0d80059505000000000000008c0161942e"
    )


def test_what_was_signed_for_another_key_is_unreadable(tripwire):
    """An entry that somebody copied to another key is refused, before it is unpickled."""
    payload = pickle_codec.encode(Basket(1), KEY)

    with pytest.raises(UnreadableEntry, match="not signed"):
        pickle_codec.decode(payload, "shop:price:8")


def test_end_of_the_key_is_not_the_beginning_of_the_pickle(tripwire):
    """Key and pickle are signed apart: moving the border between them is a change."""
    payload = pickle_codec.encode(1, KEY)

    with pytest.raises(UnreadableEntry):
        pickle_codec.decode(payload[:33] + b"7" + payload[33:], KEY[:-1])


@pytest.mark.parametrize("secrets", [("new", []), ("new", ["older", "other"])])
def test_other_secret_is_refused(settings, secrets, tripwire):
    """What another project signed is foreign."""
    settings.SECRET_KEY = "old"
    payload = pickle_codec.encode(1, KEY)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = secrets

    with pytest.raises(UnreadableEntry, match="SECRET_KEY"):
        pickle_codec.decode(payload, KEY)


def test_fallback_secrets_are_read_and_not_written(settings):
    """A rotation of SECRET_KEY costs no entry, and nothing new is signed with the old one."""
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "old", []
    old = pickle_codec.encode(1, KEY)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = b"new", ["older", "old"]
    new = pickle_codec.encode(1, KEY)
    found = pickle_codec.decode(old, KEY)
    settings.SECRET_KEY_FALLBACKS = []

    assert (found, pickle_codec.decode(new, KEY)) == (1, 1)
    with pytest.raises(UnreadableEntry):
        pickle_codec.decode(old, KEY)


@pytest.mark.parametrize(
    "forge",
    [
        lambda body: body,
        lambda body: VERSION.to_bytes() + bytes(32) + body,
        lambda body: pickle_codec.encode(1, KEY)[:33] + body,
        lambda body: pickle_codec.encode(1, KEY) + body,
        lambda body: b"\x02" + pickle_codec.encode(1, KEY)[1:],
    ],
    ids=["bare", "no signature", "another's signature", "behind its end", "another version"],
)
def test_foreign_pickle_never_runs(forge, tripwire):
    """What this project has not signed is refused before pickle sees it, whatever it would run."""
    with pytest.raises(UnreadableEntry):
        pickle_codec.decode(forge(pickle.dumps(Tripwire())), KEY)

    assert trips == []


def test_the_foreign_pickle_would_run():
    """Else the test above could not fail."""
    pickle.loads(pickle.dumps(Tripwire()))

    assert [trips.pop()] == ["unpickled"]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=80) | st.binary(min_size=33, max_size=80).map(lambda rest: b"\x01" + rest))
def test_arbitrary_bytes_are_unreadable(payload):
    """Whatever lies in Redis is refused as such."""
    with pytest.raises(UnreadableEntry):
        pickle_codec.decode(payload, KEY)


@pytest.mark.parametrize("length", range(0, 48))
def test_cut_payload_is_unreadable(length):
    """No prefix of a payload is one."""
    with pytest.raises(UnreadableEntry):
        pickle_codec.decode(pickle_codec.encode("a", KEY)[:length], KEY)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 8 * 47))
def test_flipped_bit_is_unreadable(at):
    """Wherever the damage is."""
    payload = bytearray(pickle_codec.encode("a", KEY))
    payload[at // 8 % len(payload)] ^= 1 << at % 8

    with pytest.raises(UnreadableEntry):
        pickle_codec.decode(bytes(payload), KEY)


def test_what_raises_when_it_is_unpickled_is_unreadable():
    """A class that has changed since the entry was written is a miss."""
    moved = Moved()
    moved.a = 1

    with pytest.raises(UnreadableEntry, match="KeyError"):
        pickle_codec.decode(pickle_codec.encode(moved, KEY), KEY)


@pytest.mark.parametrize(
    ("value", "name"),
    [(threading.Lock(), "_thread.lock"), (lambda: 1, "builtins.function"), (Stubborn(), "Stubborn")],
    ids=["lock", "lambda", "stubborn"],
)
def test_what_cannot_be_pickled_is_refused_by_name(value, name):
    """Whatever error pickling raises."""
    with pytest.raises(UnstorableValue, match=name):
        pickle_codec.encode(value, KEY)


def test_codec_names_itself():
    """The header of an entry says 3 for pickle."""
    assert (pickle_codec.number, pickle_codec.name) == (3, "pickle")
