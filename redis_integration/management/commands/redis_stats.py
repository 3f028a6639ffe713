"""Reads the arguments of redis_stats and prints what stats.py added up. Decides nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Any

from django.core.management.base import CommandError, CommandParser

from redis_integration import stats
from redis_integration.conf import get_aliases, get_settings
from redis_integration.exceptions import RedisUnavailable
from redis_integration.management.console import ConsoleCommand, pause
from redis_integration.stats import ANSWERS, Line, Stats
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
        add("--watch", type=pause, metavar="SECONDS", help="a line each so many seconds, with the server's own rates")

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
        lead, minutes = f"{found.alias}: {get_settings(found.alias).address}", found.last - found.first + 1
        workers = f"{found.workers:,} worker{'' if found.workers == 1 else 's'}"
        self.stdout.write(self.style.MIGRATE_HEADING(f"{lead}, the last {minutes} minutes of {workers}"))
        lines = [*found.lines, found.total] if len(found.lines) > 1 else found.lines
        for text in self.sheet.table(COLUMNS, [_row(line) for line in lines]):
            self.stdout.write(text)
        for text in _remarks(found):
            self.stdout.write(text)

    def _watch(self, alias: str, seconds: float, *, is_json: bool) -> None:
        if not is_json:
            self.stdout.write(self.sheet.heading(RATES))
        before: stats.Look | None = None
        while True:
            now = stats.Look(alias)
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


def _row(line: Line) -> list[str]:
    shares = [_share(count, line.calls) for count in (line.hits, *(getattr(line, answer) for answer in ANSWERS[1:]))]
    return [f"{line.calls:,}", *shares, duration(1000 * line.saved), line.name]


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
    between = [minute for minute in found.silent if spoken and spoken[0] < minute < spoken[-1]]
    # What follows one another is as far from its place in the list.
    runs = [[minute for _, minute in run] for _, run in groupby(enumerate(between), lambda each: each[1] - each[0])]
    return ", ".join(" to ".join(map(_clock, dict.fromkeys((run[0], run[-1])))) for run in runs)


def _clock(minute: int) -> str:
    return time.strftime("%H:%M", time.localtime(minute * 60))


def _rates(rates: dict[str, Any]) -> list[str]:
    answers = [rates[answer] for answer in ANSWERS]
    calls = sum(filter(None, answers))
    return [
        time.strftime("%H:%M:%S", time.localtime(rates["time"])),
        *("-" if rates[name] is None else f"{rates[name]:,.0f}" for name in stats.RATES),
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
