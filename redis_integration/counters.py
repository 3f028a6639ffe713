"""What a process counts: plain numbers, for each decorated function, and for each breaker. It publishes nothing: see stats.py.

`counts.redis += 1` takes some 50 ns and no lock: CPython switches threads at calls and loops, and there is none between its read
and its write. Where there is no such lock (free-threaded Python), a count may be lost now and then.
"""

from __future__ import annotations

from weakref import WeakSet

# Of calls, by who answered: an entry of Redis, one past its time, a row, a computation that another call had begun, the call's own.
# Then of origin calls, refreshes too: how many, how many raised, and how many results the tier refused.
FIELDS = ("redis", "stale", "fallback", "joined", "computed", "origin", "raised", "refused")
# Milliseconds, of origin calls that hits made unnecessary, and of those that were made.
TIMES = ("saved", "spent")


class Tally:
    """Numbers that only grow, and how much of each was published. `alias` is whose they are."""

    __slots__ = ("__weakref__", "_published", "alias")

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._published: dict[str, int] = {}
        every.add(self)

    def totals(self) -> dict[str, int]:
        raise NotImplementedError

    def unpublished(self) -> dict[str, int]:
        """What was counted since it was confirmed."""
        known = self._published
        return {
            name: count - known.get(name, 0) for name, count in self.totals().items() if count != known.get(name, 0)
        }

    def confirm(self, name: str, count: int) -> None:
        """So many of these were published."""
        self._published[name] = self._published.get(name, 0) + count

    def start_afresh(self) -> None:
        """What was counted until now is somebody else's to publish."""
        self._published = self.totals()


class Counts(Tally):
    """The calls of one decorated function in this process; `saved` and `spent` are seconds."""

    __slots__ = (*FIELDS, *TIMES, "name")

    def __init__(self, alias: str, name: str) -> None:
        super().__init__(alias)
        self.name = name
        self.redis = self.stale = self.fallback = self.joined = self.computed = 0
        self.origin = self.raised = self.refused = 0
        self.saved = self.spent = 0.0

    def note_copy(self, tier: str, took: float, *, is_stale: bool) -> None:
        """A call was answered by a copy, whose computation had taken so many seconds."""
        self.saved += took
        if is_stale:
            self.stale += 1
        elif tier == "redis":
            self.redis += 1
        else:
            self.fallback += 1

    def note_origin(self, took: float, error: object) -> float:
        """The origin was called, which took so many seconds, and raised if there is an `error`; gives the seconds."""
        self.origin += 1
        self.raised += bool(error)
        self.spent += took
        return took

    def totals(self) -> dict[str, int]:
        whole = {f"{field} {self.name}": getattr(self, field) for field in FIELDS}
        return whole | {f"{field} {self.name}": int(1000 * getattr(self, field)) for field in TIMES}


class Failures(Tally):
    """What went wrong with one Redis, by kind; one failure may be that of many calls."""

    __slots__ = ("kinds",)

    def __init__(self, alias: str) -> None:
        super().__init__(alias)
        self.kinds: dict[str, int] = {}

    def note(self, kind: str) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def totals(self) -> dict[str, int]:
        return {f"error {kind}": count for kind, count in self.kinds.copy().items()}


every: WeakSet[Tally] = WeakSet()


def tallies() -> list[Tally]:
    """All there are now."""
    while True:
        try:
            return [*every]
        except RuntimeError:  # another thread has decorated a function meanwhile
            continue
