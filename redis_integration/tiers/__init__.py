"""What a tier is: a place an entry may live. Tiers do not know each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from redis_integration.entries import NO_LIFE, Entry
from redis_integration.flow import Flow
from redis_integration.keys import Names


class Lease(NamedTuple):
    """The right to fill one entry: who has it, in which life of the server, and what its tags stood for then."""

    token: bytes
    life: bytes = NO_LIFE
    generations: tuple[bytes, ...] = ()


class Tier(Protocol):
    """Flows, so that one class serves sync and async code. A miss is None; each raises what its tier raises.

    `delete` takes full keys of entries and of tags, `expire` one of an entry. Nothing of ours is kept for ever.
    """

    def read(self, names: Names) -> Flow[Entry | None]: ...
    def lease(
        self,
        names: Names,
        seen: Entry | None,
        token: bytes,
        *,
        seconds: float,
        kept: float,
        replace: bool = False,
        has_copy: bool = False,
    ) -> Flow[Lease | Entry | None]: ...
    def fill(self, names: Names, lease: Lease, entry: Entry | None, *, kept: float = 0.0) -> Flow[bool]: ...
    def expire(self, key: str) -> Flow[None]: ...
    def delete(self, names: Sequence[str]) -> Flow[None]: ...
