"""Exchanges with a Redis that others use: slower when its PING is, again when it does not answer, never faster than asked."""

from __future__ import annotations

import time
from time import monotonic
from typing import Any

from redis_integration import pools
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.pools import Command, More, pack

# Seconds from PING to PING. A page of 1000 keys takes 1 to 2 ms, so that they cost less than a hundredth of a walk.
PING_EVERY = 0.05
# A PING so many times as long as the shortest one, and longer than nobody would notice, means that others wait too, if the next
# one is as long: else it was this machine.
SLOW_TIMES = 5
SLOW_SECONDS = 0.002
LONGEST_PAUSE = 0.5
LEAST_COUNT = 100  # takes Redis 0.05 ms
FIRST_COUNT = 500
# Seconds before an exchange is tried again that was not answered, or whose connection was lost. One that cannot be answered is given
# up after 2 s.
PAUSES = (0.05, 0.2, 1.0)
_UNSEEN, _SEEN = ("CLIENT", "NO-TOUCH", "ON"), ("CLIENT", "NO-TOUCH", "OFF")


class Pace:
    """`count` is the COUNT of the next SCAN: up to `at_most` while Redis answers quickly, down to 100 while it does not."""

    def __init__(self, alias: str, *, at_most: int, max_rate: float | None) -> None:
        if max_rate is not None:
            at_most = min(at_most, max(1, int(max_rate / 10)))
        self.alias = alias
        self.count = min(FIRST_COUNT, at_most)
        self.life = pools.UNSET_LIFE
        self._at_most = at_most
        self._max_rate = max_rate
        self._next_ping = 0.0
        self._patience = float("inf")  # seconds: a PING that takes longer means that others wait
        self._free_at = monotonic()

    def ask(self, packed: bytes, count: int, more: More | None = None) -> list[Any]:
        """The replies to these idempotent commands; server errors among them are values. Raises RedisUnavailable.

        Also where another server answers than at first: a cursor means nothing to it.
        """
        for pause in (*PAUSES, None):
            try:
                replies, life = pools.exchange_packed(self.alias, packed, count, more)
            except RedisUnavailable as failure:
                # Amid a walk, a lost connection is mostly one that comes back; who has never answered is not waited for.
                is_known = self.life != pools.UNSET_LIFE
                is_passing = failure.kind is Kind.SLOW or (is_known and (failure.lost or failure.is_short))
                if not is_passing or pause is None:
                    raise
                self._slow_down()
                time.sleep(pause)
            else:
                break
        if self.life not in (pools.UNSET_LIFE, life):
            raise RedisUnavailable(
                "The server restarted or failed over during the walk.",
                remedy="Begin again: a cursor means nothing to it.",
            )
        self.life = life
        return replies

    def speak(self, *commands: Command) -> list[Any]:
        """See `ask`; raises the first server error among the replies too, as ours."""
        replies = self.ask(pack(commands), len(commands))
        pools.refuse_failures(self.alias, replies)
        return replies

    def peek(self, packed: bytes, count: int) -> list[Any]:
        """See `ask`, for commands that read a key: its idle time stays, from Redis 7.2 on and where the ACL allows that."""
        return self.ask(pack([_UNSEEN]) + packed + pack([_SEEN]), count + 2)[1:-1]

    def rest(self, walked: int) -> None:
        """Between two pages, the last of which took this COUNT: see how Redis is, and wait if need be."""
        if monotonic() >= self._next_ping:
            took = self._ping()
            if took > self._patience and (took := self._ping()) > self._patience:
                self._slow_down()
                time.sleep(min(SLOW_TIMES * took, LONGEST_PAUSE))
            else:
                self.count = min(self._at_most, self.count * 5 // 4 + 1)
            self._next_ping = monotonic() + PING_EVERY
        if self._max_rate is not None:
            self._free_at = max(self._free_at, monotonic() - 1.0) + walked / self._max_rate
            time.sleep(max(0.0, self._free_at - monotonic()))

    def _ping(self) -> float:
        began = monotonic()
        self.speak(("PING",))
        took = monotonic() - began
        self._patience = min(self._patience, max(SLOW_TIMES * took, SLOW_SECONDS))
        return took

    def _slow_down(self) -> None:
        self.count = max(min(LEAST_COUNT, self._at_most), self.count // 2)
