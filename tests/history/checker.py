"""Finds in a history what must never be: a pure function. It knows the documented bounds, and whom each of them excuses.

An answer is stale that is older than what was acknowledged when its call began. Three circumstances excuse it, each for a time:

- `COULD_NOT_KNOW`, WATCH_INTERVAL: Redis did not confirm the invalidation, and the reader is another process, which ran already and
  has neither looked for itself nor come back to Redis since;
- `CUT_OFF`, FALLBACK_TTL: Redis confirmed it, and the reader, another process, had not believed Redis since before that;
- `ROW_LEFT`, WATCH_INTERVAL: the database did not end its row, and the reader, another process, did not believe Redis.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from tests.history.plan import KILLED_AMID
from tests.history.records import History, Life, Read, Span, Write

COULD_NOT_KNOW, CUT_OFF, ROW_LEFT = "could not know", "cut off", "row left"
# How an invalidation is made where JOURNAL = "always" survives the death of its process.
IN_TRANSACTION = ("by key in atomic", "by tag in atomic", KILLED_AMID)
TICK = 0.1  # seconds from the moment a breaker opens or closes to that of its signal, at most


class Bounds(NamedTuple):
    """Seconds. `grace` is what a beat of the watch itself may take: two timeouts of a Redis that does not answer.

    `fallback_ttl` is 0 where every invalidation ends rows. `is_always`: JOURNAL = "always".
    """

    watch_interval: float = 1.0
    fallback_ttl: float = 10.0
    grace: float = 0.5
    is_always: bool = False


class Finding(NamedTuple):
    """`what` is stale, lost, foreign (another key's value), uncommitted, raised or unsettled; `text` tells its circumstances."""

    what: str
    text: str


@dataclass
class Verdict:
    """`excused` are the ages of stale answers, by what excuses them."""

    findings: list[Finding] = field(default_factory=list)
    excused: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    reads: int = 0
    writes: int = 0

    def __str__(self) -> str:
        ages = {why: f"{len(all_)} × {why}, at most {max(all_):.2f} s" for why, all_ in sorted(self.excused.items())}
        told = [f"{self.reads:,} reads, {self.writes:,} writes; excused: {', '.join(ages.values()) or 'none'}"]
        kinds = defaultdict(list)
        for finding in self.findings:
            kinds[finding.what].append(finding.text)
        told += [f"{len(texts)} × {what}, first:\n  {texts[0]}" for what, texts in kinds.items()]
        return "\n".join(told)


def judge(history: History, bounds: Bounds) -> Verdict:
    """All that is wrong with this history."""
    return _Judge(history, bounds).verdict()


class _Judge:
    def __init__(self, history: History, bounds: Bounds) -> None:
        self.history = history
        self.bounds = bounds
        self.writes: dict[int, list[Write]] = defaultdict(list)
        for write in map(self._known, history.writes):
            if write.end < inf:
                self.writes[write.key].append(write)
        self.outages: dict[Life | None, list[Span]] = defaultdict(list)
        for outage in history.outages:
            self.outages[outage.life].append(outage)

    def _known(self, write: Write) -> Write:
        """A write whose process was killed before it could acknowledge: with JOURNAL = "always" it counts from that death on."""
        is_journalled = self.bounds.is_always and write.how in IN_TRANSACTION
        is_committed = self.history.committed.get((write.key, write.version)) == write.stamp
        if write.end == inf and write.life in self.history.killed and is_journalled and is_committed:
            return write._replace(end=self.history.killed[write.life], confirmed=False, ends_rows=False)
        return write

    def verdict(self) -> Verdict:
        verdict = Verdict(reads=len(self.history.reads), writes=len(self.history.writes))
        verdict.findings += [Finding("raised", error) for error in self.history.errors]
        verdict.findings += [Finding("unsettled", text) for text in self.history.unsettled]
        for read in self.history.reads:
            if read.answered_key is not None:
                verdict.findings.append(Finding("foreign", f"{_told(read)}: it is the value of {read.answered_key}"))
            elif self.history.committed.get((read.key, read.version)) != read.stamp:
                verdict.findings.append(Finding("uncommitted", f"{_told(read)}: nobody committed it"))
            else:
                self._judge(read, verdict)
        return verdict

    def _judge(self, read: Read, verdict: Verdict) -> None:
        missed = [each for each in self.writes[read.key] if each.version > read.version and each.end < read.start]
        excuses = [(write, self._excuse(read, write)) for write in missed]
        unexcused = [write for write, excuse in excuses if not excuse]
        if unexcused:
            oldest = min(unexcused, key=lambda write: write.end)
            what = "lost" if read.how == "final" else "stale"
            verdict.findings.append(Finding(what, self._text(read, oldest)))
        elif excuses:
            # The oldest that it did not know decides how old the answer was.
            write, excuse = min(excuses, key=lambda each: each[0].end)
            verdict.excused[excuse].append(read.start - write.end)

    def _excuse(self, read: Read, write: Write) -> str:
        """Why this read need not know this write, which was acknowledged before it began; "" if it must."""
        if read.how == "final" or read.life == write.life:
            return ""
        age = read.start - write.end
        patience = self.bounds.grace + self._stalled(read.life, write.end, read.start)
        outage = next((each for each in self.outages[read.life] if self._overlaps(each, read)), None)
        if outage and not write.ends_rows and age <= self.bounds.watch_interval + patience:
            return ROW_LEFT
        if write.confirmed:
            was_out = outage is not None and outage.start <= write.end + TICK
            return CUT_OFF if was_out and age <= self.bounds.fallback_ttl else ""
        if outage is not None and outage.start <= read.start and read.end <= outage.end - TICK:
            return ""  # it read rows, which this invalidation has ended
        if self.history.began[read.life] > write.end:
            return ""  # it has polled before it first believed Redis
        if any(write.end + patience < each.end <= read.start for each in self.outages[read.life]):
            return ""  # it has polled before it believed Redis again
        return COULD_NOT_KNOW if age <= self.bounds.watch_interval + patience else ""

    @staticmethod
    def _overlaps(span: Span, read: Read) -> bool:
        return span.start - TICK <= read.end and read.start <= span.end

    def _stalled(self, life: Life, since: float, until: float) -> float:
        """For how many of these seconds the machine did not let this process run."""
        return sum(
            max(0.0, min(until, stall.end) - max(since, stall.start))
            for stall in self.history.stalls
            if stall.life == life
        )

    def _text(self, read: Read, write: Write) -> str:
        around = [fault for fault in self.history.faults if fault.start <= read.end and write.start <= fault.end]
        lines = [
            f"{_told(read)}, {read.start - write.end:.3f} s after",
            f"version {write.version} was acknowledged at {write.end:.3f} ({write.how}, stamp {write.stamp}, begun {write.start:.3f}, "
            f"{'' if write.confirmed else 'not '}confirmed by Redis)",
            *(f"fault {fault.what}: {fault.start:.3f} to {fault.end:.3f}" for fault in around),
            *(
                f"worker {life.worker} ({life.number}) did not believe Redis: {outage.start:.3f} to {outage.end:.3f}"
                for life in {read.life: 0, write.life: 0}
                for outage in self.outages[life]
                if outage.start <= read.end and write.start <= outage.end
            ),
        ]
        return "\n    ".join(lines)


def _told(read: Read) -> str:
    return (
        f"worker {read.life.worker} ({read.life.number}) {read.how} {read.key} = version {read.version} ({read.stamp}), "
        f"{read.start:.3f} to {read.end:.3f}"
    )
