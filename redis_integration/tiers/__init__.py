"""What a tier is: a place an entry may live. Tiers do not know each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from redis_integration.entries import Entry
from redis_integration.flow import Flow


class Tier(Protocol):
    """Three flows, so that one class serves sync and async code. A miss is None; each raises what its tier raises.

    `write` keeps the entry for as long as it is fresh, and says whether it did; nothing of ours is kept for ever.
    """

    def read(self, key: str) -> Flow[Entry | None]: ...
    def write(self, key: str, entry: Entry) -> Flow[bool]: ...
    def delete(self, keys: Sequence[str]) -> Flow[None]: ...
