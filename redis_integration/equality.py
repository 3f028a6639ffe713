"""Whether a value came back the same: equal, and of the same types. It knows no codec."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

_plain = frozenset({type(None), bool, int, float, str, bytes})
# Types with nothing inside that their equality would not see.
_leaves = _plain | {Decimal, datetime, date, time, timedelta, UUID}


def find_difference(value: Any, again: Any) -> list[Any] | None:
    """What in `value` is not the same in `again`, then the steps to it, the innermost first; None if all is the same.

    Inside lists, tuples, dicts and sets types count, and NaN is NaN. Other objects are the same if they are equal, or else
    (classes without equality) if their attributes and what pickle sees of them are. Raises RecursionError where a value contains itself.
    """
    kind = type(value)
    if kind is not type(again):
        return [value]
    if kind is list or kind is tuple:
        return _find_in(value, again, range(len(value))) if len(value) == len(again) else [value]
    if kind is dict:
        # In their order, which every codec keeps.
        return [value] if find_difference([*value], [*again]) else _find_in(value.values(), again.values(), value)
    if kind is set or kind is frozenset:
        return None if len(value) == len(again) and _has_all(again, value) else [value]
    if _is_equal(value, again):
        return None
    return [value] if kind in _plain or find_difference(_parts(value), _parts(again)) else None


def _find_in(items: Collection[Any], others: Collection[Any], steps: Iterable[Any]) -> list[Any] | None:
    kinds = [*map(type, items)]
    # Nearly always so, and at the speed of C.
    if _leaves.issuperset(kinds) and kinds == [*map(type, others)] and _is_equal([*items], [*others]):
        return None
    for item, other, step in zip(items, others, steps, strict=True):
        if found := find_difference(item, other):
            return [*found, step]
    return None


def _has_all(members: Collection[Any], wanted: Collection[Any]) -> bool:
    found = {each: each for each in members}
    # A NaN is found by looking at each: its hash is another one.
    return all(
        not find_difference(each, found.get(each)) or not all(find_difference(each, other) for other in members)
        for each in wanted
    )


def _is_equal(value: Any, again: Any) -> bool:
    try:
        return bool(value == again or (value != value and again != again))
    except RecursionError:
        raise
    except Exception:  # an array has no truth, a signalling NaN cannot be compared
        return False


def _parts(value: Any) -> Any:
    try:
        found = value.__reduce_ex__(4)
        if isinstance(found, str):  # the name of a global
            return found
        # All attributes, some of which its own __getstate__ may leave out; items of lists and dicts come as iterators.
        return object.__getstate__(value), *found[:3], *([*(each or ())] for each in found[3:5])
    except Exception:
        return id(value)  # no other's
