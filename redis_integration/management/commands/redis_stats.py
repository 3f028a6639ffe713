"""Reads the arguments of redis_stats and prints what stats.py added up. Decides nothing."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser

from redis_integration import pools, stats
from redis_integration.conf import get_aliases, get_settings
from redis_integration.exceptions import RedisUnavailable
from redis_integration.management.console import ConsoleCommand
from redis_integration.stats import Line, Stats
from redis_integration.text import Column, duration

AWAY = (
    "What the workers count meanwhile they keep: it stands in the minute in which Redis comes back. What they answered with, "
    "each logs as redis_lost and redis_back."
)
COLUMNS = [
    Column("CALLS", 7, ">"),
    Column("HIT", 6, ">"),
    Column("STALE", 5, ">"),
    Column("FALLBACK", 8, ">"),
    Column("JOINED", 6, ">"),
    Column("COMPUTED", 8, ">"),
    Column("SAVED", 6, ">"),
    Column("FUNCTION", stretch=True),
]
ANSWERS = ("redis", "stale", "fallback", "joined", "computed")
# In 80 columns.
RATES = [
    Column("TIME", 8),
    *(Column(name, 6, ">") for name in ("CMD/S", "EVICT/S", "CALLS", *(answer.upper() for answer in ANSWERS))),
]


class Command(ConsoleCommand):
    help = "Says what the cached functions of all workers were answered with: hits by tier, misses, time saved, errors."

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--alias", help="only this alias of REDIS_INTEGRATION; default: all")
        add(
            "--minutes",
            type=int,
            default=10,
            metavar="N",
            help=f"this minute and those before it; default 10, at most {stats.MINUTES}",
        )
        add("--format", choices=["table", "json"], default="table", help="json: one document on one line")
        add(
            "--watch", type=_seconds, metavar="SECONDS", help="a line each so many seconds, with the server's own rates"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        aliases = [options["alias"]] if options["alias"] else get_aliases()
        try:
            if options["watch"]:
                self._watch(aliases[0], options["watch"], is_json=options["format"] == "json")
                return
            found = [stats.read(alias, minutes=options["minutes"]) for alias in aliases]
        except RedisUnavailable as failure:
            raise CommandError(f"{failure} {AWAY}") from failure
        except ValueError as error:
            raise CommandError(f"{error}") from error
        if options["format"] == "json":
            self.stdout.write(json.dumps({"schema": 1, "aliases": [_document(each) for each in found]}))
        else:
            for each in found:
                self._show(each)

    def _show(self, found: Stats) -> None:
        address = get_settings(found.alias).address
        minutes = found.last - found.first + 1
        self.stdout.write(
            self.style.MIGRATE_HEADING(
                f"{found.alias}: {address}, the last {minutes} minutes of {found.workers:,} worker{'' if found.workers == 1 else 's'}"
            )
        )
        lines = [*found.lines, found.total] if len(found.lines) > 1 else found.lines
        for text in self.sheet.table(COLUMNS, [_row(line) for line in lines]):
            self.stdout.write(text)
        for text in _remarks(found):
            self.stdout.write(text)

    def _watch(self, alias: str, seconds: float, *, is_json: bool) -> None:
        if not is_json:
            self.stdout.write(self.sheet.heading(RATES))
        before: Look | None = None
        while True:
            now = Look(alias)
            if is_json:
                self.stdout.write(json.dumps(now.since(before)))
            else:
                self.stdout.write(self.sheet.line(RATES, _rates(now.since(before))))
                if now.failure:
                    self.stderr.write(self.style.WARNING(f"{now.failure} {AWAY}"))
            self.stdout.flush()
            # What an outage hides is not taken for a rate of none.
            before = before if now.failure else now
            time.sleep(seconds)


class Look:
    """One look at the counts of all workers and at the server; what differs from the look before is a rate."""

    def __init__(self, alias: str) -> None:
        self.at, self.clock = time.monotonic(), time.time()
        self.failure = ""
        self.counts: dict[int, Counter[str]] = {}
        self.server: dict[str, Any] = {}
        last = int(self.clock // 60)
        try:
            for minute, found in stats.read_minutes(alias, range(last - 2, last + 1)).items():
                self.counts[minute] = Counter()
                for (field, _), count in found.items():
                    self.counts[minute][field] += count
            self.server = _ask_server(alias)
        except RedisUnavailable as failure:
            self.failure = str(failure)

    def since(self, before: Look | None) -> dict[str, Any]:
        """Rates since then, and how many calls were published, by who answered; None for what is not known."""
        found: dict[str, Any] = dict.fromkeys(("commands_per_second", "evictions_per_second", *ANSWERS))
        found |= {"time": self.clock, "clients": self.server.get("connected_clients"), "failure": self.failure or None}
        if before is None or self.failure:
            return found
        seconds = self.at - before.at
        for name, counted in (
            ("commands_per_second", "total_commands_processed"),
            ("evictions_per_second", "evicted_keys"),
        ):
            if counted in self.server and counted in before.server:
                found[name] = max(0, self.server[counted] - before.server[counted]) / seconds
        news: Counter[str] = Counter()
        for minute, counts in self.counts.items():
            news.update(counts - before.counts.get(minute, Counter()))
        return found | {answer: news[answer] for answer in ANSWERS}


def _ask_server(alias: str) -> dict[str, Any]:
    # Without +info the counts of the workers are shown all the same.
    with pools.get_redis(alias).pipeline(transaction=False) as pipeline:
        try:
            for section in ("stats", "clients"):
                pipeline.info(section)
            replies = pipeline.execute(raise_on_error=False)
        except Exception as error:
            failure = pools.translate(error, get_settings(alias).address)
            if failure is None:
                raise
            raise failure from error
    return {name: value for reply in replies if isinstance(reply, dict) for name, value in reply.items()}


def _row(line: Line) -> list[str]:
    return [
        f"{line.calls:,}",
        _share(line.redis + line.stale + line.fallback, line.calls),
        *(_share(getattr(line, answer), line.calls) for answer in ANSWERS[1:]),
        duration(1000 * line.saved),
        line.name,
    ]


def _share(part: int, whole: int) -> str:
    if not whole:
        return "-"
    # What is there must not look like nothing, nor what is missing like all.
    return "0" if not part else "100%" if part == whole else f"{min(max(100 * part / whole, 0.1), 99.9):.1f}%"


def _remarks(found: Stats) -> Iterator[str]:
    if not found.lines:
        yield "Nothing was published: no worker has used the cache, or its watch does not run (WATCH_INTERVAL)."
        return
    for name, words in (
        ("raised", "Origins raised"),
        ("refused", "Stores refused, since it was invalidated meanwhile"),
    ):
        if some := [f"{line.name} {count:,}" for line in found.lines if (count := getattr(line, name))]:
            yield f"{words}: {', '.join(some)}."
    if found.errors:
        yield f"Redis failed: {', '.join(f'{kind} {count:,}' for kind, count in found.errors.items())}."
    if gaps := _gaps(found):
        yield f"Nothing was published at {gaps}: Redis was away, or nobody called."
    yield f"The last {stats.PAUSE:.0f} s are not there yet."


def _gaps(found: Stats) -> str:
    """The silent minutes between others, as times of the day."""
    spoken = sorted({*range(found.first, found.last + 1)} - {*found.silent})
    gaps: list[list[int]] = []
    for minute in found.silent:
        if not spoken or not spoken[0] < minute < spoken[-1]:
            continue
        if gaps and gaps[-1][-1] == minute - 1:
            gaps[-1].append(minute)
        else:
            gaps.append([minute])
    return ", ".join(_clock(gap[0]) if len(gap) == 1 else f"{_clock(gap[0])} to {_clock(gap[-1])}" for gap in gaps)


def _clock(minute: int) -> str:
    return time.strftime("%H:%M", time.localtime(minute * 60))


def _rates(rates: dict[str, Any]) -> list[str]:
    answers = [rates[answer] for answer in ANSWERS]
    calls = sum(filter(None, answers))
    known = ("commands_per_second", "evictions_per_second")
    return [
        time.strftime("%H:%M:%S", time.localtime(rates["time"])),
        *("-" if rates[name] is None else f"{rates[name]:,.0f}" for name in known),
        "-" if answers[0] is None else f"{calls:,}",
        *("-" if not calls else _share(answer or 0, calls) for answer in answers),
    ]


def _document(found: Stats) -> dict[str, Any]:
    return {
        "alias": found.alias,
        "from": found.first * 60,
        "to": (found.last + 1) * 60,
        "workers": found.workers,
        "functions": [asdict(line) | {"calls": line.calls, "hit_ratio": line.hit_ratio} for line in found.lines],
        "errors": found.errors,
        "silent_minutes": [minute * 60 for minute in found.silent],
    }


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise ValueError
    return seconds
