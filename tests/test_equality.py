from __future__ import annotations

from collections import OrderedDict, namedtuple
from copy import deepcopy
from decimal import Decimal

import pytest
from hypothesis import given, settings

from redis_integration.equality import find_difference
from tests.test_codecs import LATE, endless, values

NAN = float("nan")
Point = namedtuple("Point", "x y")


class Plain:
    """A class without equality."""

    def __init__(self, **fields):
        vars(self).update(fields)


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class Bag(list):  # type: ignore[type-arg]
    """Its equality is that of its items, and it has a name besides."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]


class Array:
    """Equality without a truth, as numpy has it."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def __eq__(self, other):
        return Undecided()


class Undecided:
    def __bool__(self):
        raise ValueError("which one?")


class Closed:
    """Cannot be taken apart, and is equal to nothing."""

    def __reduce_ex__(self, protocol):
        raise TypeError("closed")


@settings(deadline=None)
@given(values)
def test_copies_are_the_same(value):
    """NaN, alone and in sets, included."""
    assert find_difference(value, deepcopy(value)) is None


@pytest.mark.parametrize(
    ("value", "again"),
    [
        (NAN, float("nan")),
        ({NAN, 1}, {float("nan"), 1}),
        (Decimal("sNaN"), Decimal("sNaN")),
        (complex(NAN, 1), complex(float("nan"), 1)),
        (Plain(a=1, b=[Plain(c=NAN)]), Plain(a=1, b=[Plain(c=float("nan"))])),
        (Slotted((1, Plain())), Slotted((1, Plain()))),
        (Bag([1, Plain()]), Bag([1, Plain()])),
        (Array(1, 2), Array(1, 2)),
        (OrderedDict(a=1), OrderedDict(a=1)),
        (Plain, Plain),
    ],
)
def test_same_values_have_no_difference(value, again):
    """Also of classes without equality, and of values that are not equal to themselves."""
    assert find_difference(value, again) is None


@pytest.mark.parametrize(
    ("value", "again", "found"),
    [
        (1, True, [1]),
        (1, 1.0, [1]),
        ("a", "b", ["a"]),
        ([1, 2], (1, 2), [[1, 2]]),
        ([1, 2], [1], [[1, 2]]),
        ([1], [1.0], [1, 0]),
        ({"a": [0, {"b": 1}]}, {"a": [0, {"b": True}]}, [1, "b", 1, "a"]),
        ({"a": 1}, {"b": 1}, [{"a": 1}]),
        ({1: "a"}, {True: "a"}, [{1: "a"}]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, [{"a": 1, "b": 2}]),
        ({(1,)}, {(1.0,)}, [{(1,)}]),
        ({1, 2}, {1}, [{1, 2}]),
        (1.5, NAN, [1.5]),
        (LATE, LATE.replace(year=2000), [LATE]),
        (OrderedDict(a=1), {"a": 1}, [OrderedDict(a=1)]),
    ],
)
def test_difference_is_named_with_the_way_to_it(value, again, found):
    """The innermost value that is not the same, and the steps from it to the whole."""
    assert find_difference(value, again) == found


@pytest.mark.parametrize(
    ("value", "again"),
    [
        (Plain(a=1), Plain(a=1.0)),
        (Plain(a=1), Plain()),
        (Slotted(1), Slotted(2)),
        (Bag([1]), Bag([2])),
        (Array(1), Array(2)),
        (Closed(), Closed()),
    ],
)
def test_objects_of_other_state_are_different(value, again):
    """Where a class has no equality, what pickle sees of it decides."""
    assert find_difference([value], [again]) == [value, 0]


def test_value_that_contains_itself_is_not_compared():
    """Its end would never come."""
    with pytest.raises(RecursionError):
        find_difference(endless(), endless())
