"""What happens in a run: who reads and writes what, and which fault comes when. The same seed gives the same plan.

A plan says nothing of answers. Times are seconds after the begin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Self

KEYS = 50
GROUPS = 10  # a tag each
WORKERS = 4
HOT = 10  # keys that get half of all acts

READERS = {"reader 0": False, "reader 1": False, "async reader 0": True, "async reader 1": True}
WRITERS = {"writer": False, "async writer": True}
READS = {"get": 70, "many": 15, "batch": 10, "refresh": 5}
WRITES = {"by key": 30, "by keys": 10, "by tag": 15, "by key in atomic": 25, "by tag in atomic": 15, "rolled back": 5}
KILLED_AMID = "by key in atomic, killed amid"  # between commit and invalidation; of no chance
READS_IN_ONE = 5
READER_PAUSE, WRITER_PAUSE = 0.06, 0.35  # seconds, on average

KINDS = (
    "refused",
    "frozen",
    "cut off",
    "no replicas",
    "disk full",
    "demoted",
    "reply lost",
    "old snapshot",
    "failover",
    "out of memory",
    "killed",
)
FIRST_FAULT = 1.0  # seconds of peace, in which the cache fills
LAST_SECONDS = 1.5  # of peace, in which everybody comes back


@dataclass(frozen=True)
class Act:
    """One act of one actor. `keys` are one or several; a tag is that of the first."""

    at: float
    what: str
    keys: tuple[int, ...]


@dataclass(frozen=True)
class Strike:
    """One fault: from when, for how long, and which worker it is for, where it is for one.

    Where it `holds`, it ends so many seconds after everything was written and acknowledged, at the earliest.
    """

    at: float
    kind: str
    seconds: float
    worker: int = 0
    holds: float | None = None


@dataclass(frozen=True)
class Plan:
    """`acts` by worker and actor. `name` says how to get it again. All must be well `settles_within` so many seconds of the end.

    A plan with a `tail`, made by hand, ends so many seconds after its last write and its last fault: on a busy machine all is
    later. Its origins take `work` seconds for what was written; those of others what shop.py gives them.
    """

    name: str
    seconds: float
    acts: tuple[dict[str, list[Act]], ...]
    faults: list[Strike] = field(default_factory=list)
    settles_within: float = 20.0  # the longest pause of a breaker, and then some
    tail: float | None = None
    work: float | None = None

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        found = json.loads(path.read_text())
        acts = tuple(
            {
                actor: [Act(each["at"], each["what"], tuple(each["keys"])) for each in acts]
                for actor, acts in one.items()
            }
            for one in found["acts"]
        )
        return cls(**{**found, "acts": acts, "faults": [Strike(**each) for each in found["faults"]]})

    def count_writes(self) -> int:
        """How many will be acknowledged."""
        every = [act for actors in self.acts for actor in WRITERS for act in actors.get(actor, ())]
        return sum(act.what != KILLED_AMID for act in every)


def make_plan(seed: int, seconds: float, kinds: Sequence[str], *, times: int = 1) -> Plan:
    """The plan of this seed: each of these kinds so many times, one after another, in an order of chance."""
    chance = Random(seed)
    faults = _make_faults(chance, seconds, [*kinds] * times)
    acts = tuple(_make_acts(chance, seconds) for _ in range(WORKERS))
    return Plan(f"seed {seed}, {seconds:g} s, {times} × {', '.join(kinds)}", seconds, acts, faults)


def _make_faults(chance: Random, seconds: float, kinds: list[str]) -> list[Strike]:
    chance.shuffle(kinds)
    slot = (seconds - FIRST_FAULT - LAST_SECONDS) / max(1, len(kinds))
    return [
        Strike(
            at=round(FIRST_FAULT + slot * (number + chance.uniform(0.0, 0.1)), 3),
            kind=kind,
            # The rest of its slot is peace.
            seconds=round(slot * chance.uniform(0.35, 0.65), 3),
            worker=chance.randrange(WORKERS),
        )
        for number, kind in enumerate(kinds)
    ]


def _make_acts(chance: Random, seconds: float) -> dict[str, list[Act]]:
    readers = {actor: [*_acts(chance, seconds, READS, READER_PAUSE)] for actor in READERS}
    return readers | {actor: [*_acts(chance, seconds, WRITES, WRITER_PAUSE)] for actor in WRITERS}


def _acts(chance: Random, seconds: float, weights: dict[str, int], pause: float) -> Iterable[Act]:
    at = chance.uniform(0, pause)
    while at < seconds:
        (what,) = chance.choices([*weights], [*weights.values()])
        yield Act(round(at, 3), what, tuple(_key(chance) for _ in range(READS_IN_ONE)))
        at += chance.uniform(0.2, 1.8) * pause


def _key(chance: Random) -> int:
    return chance.randrange(HOT if chance.random() < 0.5 else KEYS)


def group_of(key: int) -> int:
    """The group, and so the tag, of this key."""
    return key % GROUPS


def steadily(what: str, keys: Sequence[int], *, since: float, until: float, pause: float = 0.02) -> list[Act]:
    """The same act over and over, on one of these keys after the other: for plans made by hand."""
    count = int((until - since) / pause)
    return [Act(round(since + number * pause, 3), what, (keys[number % len(keys)],)) for number in range(count)]
