"""Times subjects in turn, round after round, so that a machine whose speed drifts slows them all; medians and ratios."""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

Subject = Callable[[], object]


class Line(NamedTuple):
    """One subject: medians in microseconds for one call, and the median of its ratios to the first subject."""

    name: str
    wall: float
    cpu: float
    ratio: float


def measure(subjects: Mapping[str, Subject], *, rounds: int, calls: int) -> list[Line]:
    """The lines of these subjects, the first one being what all are compared with, round by round."""
    walls: dict[str, list[float]] = {name: [] for name in subjects}
    cpus: dict[str, list[float]] = {name: [] for name in subjects}
    for subject in subjects.values():
        for _ in range(calls):
            subject()
    for _ in range(rounds):
        for name in random.sample(list(subjects), len(subjects)):
            subject = subjects[name]
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                subject()
            walls[name].append((time.perf_counter() - wall) / calls * 1e6)
            cpus[name].append((time.process_time() - cpu) / calls * 1e6)
    base = walls[next(iter(subjects))]
    return [
        Line(
            name,
            statistics.median(walls[name]),
            statistics.median(cpus[name]),
            statistics.median(wall / first for wall, first in zip(walls[name], base, strict=True)),
        )
        for name in subjects
    ]


def table(title: str, lines: list[Line]) -> str:
    """A Markdown table of these lines."""
    width = max(len(line.name) for line in [*lines])
    rows = [
        f"| {line.name:<{width}} | {line.wall:>7.1f} µs | {line.cpu:>7.1f} µs | {line.ratio:>5.2f}× |" for line in lines
    ]
    head = f"| {title:<{width}} | wall, median | CPU, median | wall against the first |\n|{'-' * (width + 2)}|---:|---:|---:|"
    return "\n".join([head, *rows])


def machine() -> str:
    """The machine and the interpreter, in one line."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            processor = next(
                (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor
            )
    return f"{os.cpu_count()} × {processor}, {platform.system()}, Python {platform.python_version()}"
