"""What a tier is: a place an entry may live. Tiers do not know each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from redis_integration.entries import Entry
from redis_integration.flow import Flow


class Tier(Protocol):
    """Three flows, so that one class serves sync and async code. Keys and entries in and out."""

    def read(self, key: str) -> Flow[Entry | None]:
        """The entry, or None for a miss. Raises what its tier raises."""
        ...

    def write(self, key: str, entry: Entry) -> Flow[bool]:
        """Store the entry for as long as it is fresh, and say whether it is; nothing of ours is kept for ever."""
        ...

    def delete(self, keys: Sequence[str]) -> Flow[None]:
        """End the entries of these keys."""
        ...
