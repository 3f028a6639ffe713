"""What a run has recorded: each worker writes lines of JSON, and they become a History. Times are those of CLOCK_MONOTONIC.

It is one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, NamedTuple


class Life(NamedTuple):
    """One process of a worker: who is killed is started again, and that is another life."""

    worker: int
    number: int


class Read(NamedTuple):
    """One answer for one key. `how` is the act; "final" is one of the reads at the end."""

    life: Life
    start: float
    end: float
    key: int
    version: int
    stamp: str
    how: str = "get"
    answered_key: int | None = None  # where it is another one


class Write(NamedTuple):
    """One new version of one key. It is acknowledged at `end`, when the invalidation has returned; never, where that is infinite.

    `confirmed`: whether Redis has confirmed the invalidation; `ends_rows`: whether the database has, of rows. `stamp` names the act, which may have written several keys.
    """

    life: Life
    start: float
    end: float
    key: int
    version: int
    stamp: str
    how: str = "by key"
    confirmed: bool = True
    ends_rows: bool = True


class Span(NamedTuple):
    """From when to when a life did not believe Redis, or the machine did not let it run, or a fault lasted."""

    start: float
    end: float
    what: str = ""
    life: Life | None = None


@dataclass
class History:
    """`committed` is what the database holds at the end: by key and version, the stamp. `errors` are what acts have raised.

    `unsettled`: who still did not believe Redis at the end, or what was still in the journal.
    """

    reads: list[Read] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    outages: list[Span] = field(default_factory=list)
    stalls: list[Span] = field(default_factory=list)
    faults: list[Span] = field(default_factory=list)
    began: dict[Life, float] = field(default_factory=dict)
    killed: dict[Life, float] = field(default_factory=dict)
    committed: dict[tuple[int, int], str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)


class Recorder:
    """Writes lines, each at once and whole, so that a killed process leaves all but its last act."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, what: str, **fields: Any) -> None:
        os.write(self._file, json.dumps({"what": what, **fields}).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def path_of(folder: Path, life: Life) -> Path:
    return folder / f"worker-{life.worker}-{life.number}.jsonl"


def count_acknowledged(folder: Path) -> int:
    """How many writes were acknowledged by now."""
    return sum(path.read_text().count('"acknowledged"') for path in folder.glob("worker-*.jsonl"))


def load(folder: Path) -> History:
    """The history that the workers have recorded in this folder."""
    history = History()
    for path in sorted(folder.glob("worker-*.jsonl")):
        _, worker, number = path.stem.split("-")
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]  # the last one may be cut short
        _add(history, Life(int(worker), int(number)), [json.loads(line) for line in lines])
    history.reads.sort(key=lambda read: read.start)
    history.writes.sort(key=lambda write: write.start)
    return history


def _add(history: History, life: Life, lines: list[dict[str, Any]]) -> None:
    of: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        of.setdefault(line.pop("what"), []).append(line)
    for line in of.get("began", ()):
        history.began[life] = line["at"]
    history.errors += [f"{life}: {line['text']}" for line in of.get("error", ())]
    history.reads += [Read(life, **line) for line in of.get("read", ())]
    history.stalls += [Span(line["start"], line["end"], "stall", life) for line in of.get("stall", ())]
    acks = {line["stamp"]: line for line in of.get("acknowledged", ())}
    for line in of.get("written", ()):
        ack = acks.get(line["stamp"], {"end": inf, "confirmed": False, "ends_rows": False, "stamp": line["stamp"]})
        made = [
            {"key": key, "version": version, "start": line["start"], "how": line["how"]}
            for key, version in line["made"]
        ]
        history.writes += [Write(life, **each, **ack) for each in made]
    history.outages += _outages(life, [*of.get("lost", ()), *of.get("back", ())])


def _outages(life: Life, ends: Iterable[dict[str, Any]]) -> list[Span]:
    spans: list[Span] = []
    for end in sorted(ends, key=lambda end: end["at"]):
        if end["is_open"]:
            spans.append(Span(end["at"], inf, end.get("reason", ""), life))
        else:
            spans[-1] = spans[-1]._replace(end=end["at"])
    return spans
