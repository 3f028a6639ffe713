"""Times subjects in turn, round after round, so that a machine whose speed drifts slows them all; medians and ratios."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

Subject = Callable[[], object]
# Calls its subject so many times.
Batch = Callable[[int], object]


class Line(NamedTuple):
    """One subject: medians in microseconds for one call, and the medians of its ratios to the first subject."""

    name: str
    wall: float
    cpu: float
    wall_ratio: float
    cpu_ratio: float


def repeat(subjects: Mapping[str, Subject]) -> dict[str, Batch]:
    """A batch for each of these subjects."""

    def batch_of(subject: Subject) -> Batch:
        def batch(calls: int) -> None:
            for _ in range(calls):
                subject()

        return batch

    return {name: batch_of(subject) for name, subject in subjects.items()}


def repeat_async(
    subjects: Mapping[str, Callable[[], Awaitable[object]]], loop: asyncio.AbstractEventLoop
) -> dict[str, Batch]:
    """A batch on this event loop for each of these subjects: one call after the other."""

    def batch_of(subject: Callable[[], Awaitable[object]]) -> Batch:
        async def all_of(calls: int) -> None:
            for _ in range(calls):
                await subject()

        return lambda calls: loop.run_until_complete(all_of(calls))

    return {name: batch_of(subject) for name, subject in subjects.items()}


def measure(batches: Mapping[str, Batch], *, rounds: int, calls: int) -> list[Line]:
    """The lines of these subjects, the first one being what all are compared with, round by round.

    CPU time is that of this process, all its threads together; the server's is not in it.
    """
    walls: dict[str, list[float]] = {name: [] for name in batches}
    cpus: dict[str, list[float]] = {name: [] for name in batches}
    for batch in batches.values():
        batch(calls)
    for _ in range(rounds):
        for name in random.sample(list(batches), len(batches)):
            batch = batches[name]
            wall, cpu = time.perf_counter(), time.process_time()
            batch(calls)
            cpus[name].append((time.process_time() - cpu) / calls * 1e6)
            walls[name].append((time.perf_counter() - wall) / calls * 1e6)
    first = next(iter(batches))
    return [
        Line(
            name,
            statistics.median(walls[name]),
            statistics.median(cpus[name]),
            _median_ratio(walls[name], walls[first]),
            _median_ratio(cpus[name], cpus[first]),
        )
        for name in batches
    ]


def _median_ratio(times: list[float], firsts: list[float]) -> float:
    return statistics.median(mine / first for mine, first in zip(times, firsts, strict=True))


def table(title: str, lines: list[Line]) -> str:
    """A Markdown table of these lines."""
    width = max(len(title), *(len(line.name) for line in lines))
    rows = [
        f"| {line.name:<{width}} | {line.wall:>7.1f} µs | {line.cpu:>7.1f} µs "
        f"| {line.wall_ratio:>5.2f}× | {line.cpu_ratio:>5.2f}× |"
        for line in lines
    ]
    head = f"| {title:<{width}} | wall | CPU | wall against the first | CPU against the first |"
    return "\n".join([head, f"|{'-' * (width + 2)}|---:|---:|---:|---:|", *rows])


def machine() -> str:
    """The machine and the interpreter, in one line."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            processor = next(
                (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor
            )
    return f"{os.cpu_count()} × {processor}, {platform.system()}, Python {platform.python_version()}"
