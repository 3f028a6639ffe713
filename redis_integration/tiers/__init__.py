"""What a tier is: a place an entry may live. Tiers do not know each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from redis_integration.entries import Entry
from redis_integration.flow import Flow
from redis_integration.keys import Names


class Tier(Protocol):
    """Flows, so that one class serves sync and async code. A miss is None; each raises what its tier raises.

    `delete` takes full keys of entries and of tags. Nothing of ours is kept for ever.
    """

    def read(self, names: Names) -> Flow[Entry | None]: ...
    def delete(self, names: Sequence[str]) -> Flow[None]: ...
