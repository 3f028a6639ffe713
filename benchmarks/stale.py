"""
What callers of a hot key feel when its ttl ends, and when its origin fails.

Usage: python -m benchmarks.stale [--seconds N] [--callers N] [--origin-ms N]. Starts a server of its own on a free loopback port.
The callers are threads that ask for one key every few milliseconds; its ttl is one second.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.setting import configure, describe
from demo_project.server import start_server

TTL = 1.0  # seconds
PAUSE = 0.02  # seconds between two calls of one caller


class OriginDown(Exception):
    """What the origin raises while it fails."""


class Origin:
    """Takes `seconds`, and fails while `is_down`; counts its calls."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_down = False
        self.calls = 0

    def compute(self, key: str) -> dict[str, str]:
        self.calls += 1
        time.sleep(self.seconds)
        if self.is_down:
            raise OriginDown
        return {"key": key}


class Felt(NamedTuple):
    """Seconds that each call took, sorted; calls of the origin; calls that raised."""

    seconds: list[float]
    origin_calls: int
    errors: int


def ask(subject: Callable[[], object], origin: Origin, *, callers: int, seconds: float) -> Felt:
    """All callers ask again and again for so many seconds."""
    origin.calls = 0
    give_up = time.monotonic() + seconds
    took: list[float] = []
    errors: list[OriginDown] = []

    def call() -> None:
        while time.monotonic() < give_up:
            begun = time.perf_counter()
            try:
                subject()
            except OriginDown as error:
                errors.append(error)
            took.append(time.perf_counter() - begun)
            time.sleep(PAUSE)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Felt(sorted(took), origin.calls, len(errors))


def subjects(origin: Origin) -> dict[str, Callable[[], object]]:
    from django.core.cache import caches

    from redis_integration import cache_aside

    plain = cache_aside(ttl=TTL, key="plain:{key}")(origin.compute)
    stale = cache_aside(ttl=TTL, key="stale:{key}", stale_for=60)(origin.compute)
    eager = cache_aside(ttl=TTL, key="eager:{key}", stale_for=60, eager=0.8)(origin.compute)
    django_redis = caches["django_redis"]
    return {
        "@cache_aside, stale_for=60": lambda: stale("a"),
        "@cache_aside, stale_for=60, eager=0.8": lambda: eager("a"),
        "@cache_aside": lambda: plain("a"),
        "get_or_set, django-redis": lambda: django_redis.get_or_set("a", lambda: origin.compute("a"), TTL),
    }


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=100)
    parser.add_argument("--origin-ms", type=int, default=300)
    options = parser.parse_args()
    with start_server() as server:
        configure(server.url)
        print(describe(server.name))
        print(
            f"{options.callers} callers for {options.seconds:g} s, the origin takes {options.origin_ms} ms, the ttl is 1 s.\n"
        )
        origin = Origin(options.origin_ms / 1000)
        print("| | calls | median ms | p99 ms | slowest ms | origin calls |\n|---|---|---|---|---|---|")
        asked = subjects(origin)
        for name, subject in asked.items():
            subject()
            felt = ask(subject, origin, callers=options.callers, seconds=options.seconds)
            p99 = felt.seconds[int(len(felt.seconds) * 0.99)]
            numbers = [milliseconds(each) for each in (statistics.median(felt.seconds), p99, felt.seconds[-1])]
            print(f"| {name} | {len(felt.seconds):,} | {' | '.join(numbers)} | {felt.origin_calls} |", flush=True)
        print("\nThe same while the origin fails:\n")
        print("| | calls | errors | slowest ms | origin calls |\n|---|---|---|---|---|")
        for name, subject in asked.items():
            origin.is_down, origin.seconds = False, 0.01
            subject()
            origin.is_down = True
            felt = ask(subject, origin, callers=options.callers, seconds=options.seconds)
            slowest = milliseconds(felt.seconds[-1])
            print(
                f"| {name} | {len(felt.seconds):,} | {felt.errors:,} | {slowest} | {felt.origin_calls:,} |", flush=True
            )


if __name__ == "__main__":
    main()
