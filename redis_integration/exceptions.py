"""The errors of this package. None of them reaches a view because Redis is away."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a failure of Redis means for the caller: the kinds of the failure table in the docs."""

    DOWN = "down"  # not reachable, or not to be believed: fallback rows, breaker opens
    SLOW = "slow"  # no answer in time: once means busy, twice in a row means down
    BUSY = "busy"  # the own pool is empty, or this request has waited enough: this call computes without waiting
    FULL = "full"  # the server refuses stores for lack of memory, and nothing else
    FOREIGN = "foreign key"  # something that is not ours lies at the key


class RedisIntegrationError(Exception):
    """Base class for errors of this package. Do not raise directly."""


class RedisUnavailable(RedisIntegrationError):
    """Redis could not be reached, did not answer in time, or refused the command.

    `kind` says what it means, `remedy` what to do about it; `lost` that a connection broke, which a new one may mend;
    `is_short` that the server says itself what it is waiting for.
    """

    def __init__(
        self, reason: str, *, kind: Kind = Kind.DOWN, remedy: str = "", lost: bool = False, is_short: bool = False
    ) -> None:
        super().__init__(f"{reason} {remedy}".rstrip())
        self.reason = reason
        self.kind = kind
        self.remedy = remedy
        self.lost = lost
        self.is_short = is_short
        # `flights.begun` when the call began that has met it, as far as somebody noted it.
        self.since: int | None = None
        # Whether the breaker has counted it: one failure may be that of many calls.
        self.is_noted = False


class FallbackUnavailable(RedisIntegrationError):
    """There is no fallback tier, or its database did not do what was asked."""


class JournalUnavailable(RedisIntegrationError):
    """With JOURNAL = "always": this invalidation could not be written down, so that a crash would lose it."""


class UnreadableEntry(RedisIntegrationError):
    """Stored bytes are damaged, from another format version, or not ours."""


class UnstorableValue(RedisIntegrationError, TypeError):
    """The codec could not bring this value back equal, types included, or it is too large. `about` names the type."""

    def __init__(self, reason: str, about: str = "") -> None:
        super().__init__(reason)
        self.about = about


class UncacheableCall(RedisIntegrationError, TypeError):
    """The arguments of this call cannot be turned into a key."""
