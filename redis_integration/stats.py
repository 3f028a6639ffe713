"""What all processes have counted: each adds its own to a hash for each minute, and `read` adds them up.

Counts that were not published stay where they are, as numbers: while Redis is away they wait, and stand in the minute of its return.
After a timeout it is not known whether they have arrived; they are sent again, and may then count twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

from redis_integration import counters, pools
from redis_integration.conf import RedisSettings, get_settings
from redis_integration.exceptions import RedisUnavailable
from redis_integration.flow import Flow
from redis_integration.tiers.leases import me
from redis_integration.tiers.redis import RedisTier, used_aliases

PAUSE = 10.0  # seconds between two publishings of a process
MINUTES = 60  # that can be asked for
KEPT = 3_900_000  # milliseconds that a minute's hash is kept
BATCH = 500  # commands in one exchange
WORKER, ERROR = "worker", "error"
ANSWERS = ("redis", "stale", "fallback", "joined", "computed")  # who answered
RATES = {"commands_per_second": "total_commands_processed", "evictions_per_second": "evicted_keys"}
_SERVER = re.compile(rb"^(total_commands_processed|evicted_keys|connected_clients):(\d+)", re.MULTILINE)

_due: dict[RedisSettings, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The calls of one decorated function, by who answered, and the calls of its origin, refreshes too; times are in seconds."""

    name: str
    redis: int = 0
    stale: int = 0
    fallback: int = 0
    joined: int = 0
    computed: int = 0
    origin: int = 0
    raised: int = 0
    refused: int = 0
    saved: float = 0.0
    spent: float = 0.0

    @property
    def calls(self) -> int:
        return sum(getattr(self, answer) for answer in ANSWERS)

    @property
    def hits(self) -> int:
        """The calls that a copy has answered."""
        return self.redis + self.stale + self.fallback

    @property
    def hit_ratio(self) -> float | None:
        """The share of calls that a copy has answered; None without calls."""
        return self.hits / self.calls if self.calls else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What was published in these minutes (unix time // 60); in `silent` ones there was nothing."""

    alias: str
    first: int
    last: int
    lines: tuple[Line, ...] = ()  # the most called first
    errors: dict[str, int]  # of Redis, by kind
    workers: int = 0  # processes that have published
    silent: tuple[int, ...] = ()

    @property
    def total(self) -> Line:
        fields = (*counters.FIELDS, *counters.TIMES)
        return Line(name="total", **{each: sum(getattr(line, each) for line in self.lines) for each in fields})


def read(alias: str = "default", *, minutes: int = 10) -> Stats:
    """What all processes have counted in this minute and those before it, at most MINUTES. One round trip.

    The last PAUSE seconds of each process are not there yet. Raises RedisUnavailable, ValueError.
    """
    if not 1 <= minutes <= MINUTES:
        raise ValueError(f"minutes is {minutes}. Give 1 to {MINUTES}: older counts are not kept.")
    last = int(time() // 60)
    asked = range(last - minutes + 1, last + 1)
    hashes = read_minutes(alias, asked)
    sums: Counter[tuple[str, str]] = Counter()
    for found in hashes.values():
        sums.update(found)
    by_name: dict[str, dict[str, float]] = {}
    for (field, name), count in sums.items():
        if field in counters.FIELDS:
            by_name.setdefault(name, {})[field] = count
        elif field in counters.TIMES:
            by_name.setdefault(name, {})[field] = count / 1000
    lines = [Line(name=name, **counts) for name, counts in by_name.items()]  # type: ignore[arg-type]
    return Stats(
        alias=alias,
        first=asked[0],
        last=last,
        lines=tuple(sorted(lines, key=lambda line: (-line.calls, line.name))),
        errors={name: count for (field, name), count in sorted(sums.items()) if field == ERROR},
        workers=sum(field == WORKER for field, _ in sums),
        silent=tuple(minute for minute in asked if not hashes[minute]),
    )


def read_minutes(alias: str, minutes: Sequence[int]) -> dict[int, dict[tuple[str, str], int]]:
    """Of each minute its counts, by field and name. One round trip. Raises RedisUnavailable."""
    replies, _ = pools.exchange(alias, [("HGETALL", _key(alias, minute)) for minute in minutes])
    pools.refuse_failures(alias, replies)
    return {minute: _counts(reply) for minute, reply in zip(minutes, replies, strict=True)}


class Look:
    """One look at the counts of all workers and at the server; what differs from the look before is a rate. Two round trips.

    `failure` says why there is nothing to see.
    """

    def __init__(self, alias: str) -> None:
        self.at, self.clock, self.failure = monotonic(), time(), ""
        self._counts: dict[int, Counter[str]] = {}
        self._server: dict[str, int] = {}
        last = int(self.clock // 60)
        try:
            for minute, found in read_minutes(alias, range(last - 2, last + 1)).items():
                self._counts[minute] = Counter()
                for (field, _), count in found.items():
                    self._counts[minute][field] += count
            [info], _ = pools.exchange(alias, [("INFO",)])
        except RedisUnavailable as failure:
            self.failure = str(failure)
        else:  # without +info the counts of the workers are shown all the same
            known = _SERVER.findall(info) if isinstance(info, bytes) else ()
            self._server = {name.decode(): int(count) for name, count in known}

    def since(self, before: Look | None) -> dict[str, Any]:
        """Rates since then, and how many calls were published, by who answered; None for what is not known."""
        found: dict[str, Any] = dict.fromkeys((*RATES, *ANSWERS))
        found |= {"time": self.clock, "clients": self._server.get("connected_clients"), "failure": self.failure or None}
        if before is None or self.failure:
            return found
        for name, counted in RATES.items():
            if counted in self._server and counted in before._server:
                found[name] = max(0, self._server[counted] - before._server[counted]) / (self.at - before.at)
        news: Counter[str] = Counter()
        for minute, counts in self._counts.items():
            news.update(counts - before._counts.get(minute, Counter()))
        return found | {answer: news[answer] for answer in ANSWERS}


def _counts(reply: Any) -> dict[tuple[str, str], int]:
    pairs = reply.items() if isinstance(reply, dict) else zip(*[iter(reply)] * 2, strict=True)  # RESP3, RESP2
    named = ((*field.decode("utf-8", "replace").partition(" ")[::2], count) for field, count in pairs)
    return {(field, name): int(count) for field, name, count in named}


def _key(alias: str, minute: int) -> str:
    # A tag cannot be called so: its second # would be escaped.
    return f"{get_settings(alias).key_prefix}:##stats:{minute}"


def publish_if_due(tier: RedisTier, *, is_async: bool) -> Flow[None]:
    """Add what this process has counted, each PAUSE seconds while Redis is up. One round trip, where there is something."""
    settings = get_settings(tier.alias)
    if tier.breaker.is_closed and monotonic() >= _due.get(settings, 0.0):
        _due[settings] = monotonic() + PAUSE
        # What cannot be sent now is sent later.
        with suppress(RedisUnavailable):
            yield from publish(tier.alias, is_async=is_async)


def publish(alias: str, *, is_async: bool) -> Flow[None]:
    """See `publish_if_due`; now. Raises RedisUnavailable."""
    settings = get_settings(alias)
    # Aliases of equal settings share a pool, a breaker and a beat.
    mine = {each for each in (alias, *used_aliases()) if get_settings(each) == settings}
    news = [
        (tally, name, count)
        for tally in counters.tallies()
        if tally.alias in mine
        for name, count in tally.unpublished().items()
    ]
    if not news:
        return
    key = _key(alias, int(time() // 60))
    exchange: Any = pools.aexchange if is_async else pools.exchange
    for at in range(0, len(news), BATCH):
        batch = news[at : at + BATCH]
        commands = [("HINCRBY", key, name, count) for _, name, count in batch]
        last = ("HINCRBY", key, f"{WORKER} {me()}", 1), ("PEXPIRE", key, KEPT)
        replies, _ = yield exchange(alias, [*commands, *last], idempotent=False)
        for (tally, name, count), reply in zip(batch, replies, strict=False):
            if not isinstance(reply, Exception):
                tally.confirm(name, count)


def _start_afresh() -> None:
    _due.clear()
    for tally in counters.tallies():
        tally.start_afresh()


pools.run_in_child(_start_afresh)
