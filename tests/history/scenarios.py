"""Plans made by hand: each would show at once what a rule of the protocol is for. Two workers; no chance in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.history.plan import KILLED_AMID, Act, Plan, Strike, steadily

FEW = tuple(range(5))  # keys
LATEST = 20.0  # seconds; it ends long before
WARM = 1.5  # seconds, by when a busy machine too has something in Redis
OLD = 1.5  # seconds after which nobody may answer what was invalidated: an interval, a beat


def _once(what: str, keys: Sequence[int], at: float) -> list[Act]:
    return [Act(round(at + number * 0.02, 3), what, (key,)) for number, key in enumerate(keys)]


def _reading(keys: Sequence[int] = FEW) -> dict[str, list[Act]]:
    """Who reads these keys all the time, by sync code and by async code."""
    acts = steadily("get", keys, since=0.0, until=LATEST)
    return {"reader 0": acts, "async reader 0": [*acts]}


def _plan(name: str, acts: list[dict[str, list[Act]]], *faults: Strike, tail: float = 0.0) -> Plan:
    return Plan(name, LATEST, tuple(acts), [*faults], tail=tail)


def writer_cut_off() -> Plan:
    """Its invalidations do not reach Redis, which answers everybody else."""
    writing = {"writer": _once("by key", FEW, 1.0) + _once("by tag", FEW, 1.2), **_reading()}
    return _plan("writer cut off", [writing, _reading()], Strike(0.5, "cut off", 1.0, worker=0, holds=OLD))


def overtaken() -> Plan:
    """An origin reads, a writer commits and invalidates, the origin's result is to be stored."""
    writing = {"writer": [Act(0.1, "by key", (1,)), Act(0.9, "by key", (1,))]}
    return replace(_plan("overtaken", [{"reader 0": [Act(0.5, "get", (1,))]}, writing], tail=1.0), work=1.0)


def old_snapshot() -> Plan:
    """What was invalidated after it was saved is in Redis again."""
    writing = {"writer": _once("by key", FEW, 1.0) + _once("by tag", FEW, 1.2)}
    return _plan("old snapshot", [writing, _reading()], Strike(0.5, "old snapshot", 0.7, holds=0.1))


def all_cut_off() -> Plan:
    """All come back to a Redis that has kept what was invalidated meanwhile, and whoever did it is dead."""
    writing = {"writer": _once("by key", FEW, WARM + 0.5), **_reading()}
    faults = [Strike(WARM, "refused", 1.5, holds=OLD), Strike(WARM, "killed for good", 1.0, worker=0, holds=0.0)]
    return _plan("all cut off", [writing, _reading()], *faults)


def started_later() -> Plan:
    """As before; and who comes to Redis then has just been started."""
    plan = all_cut_off()
    return replace(plan, name="started later", faults=[*plan.faults, Strike(WARM + 0.5, "killed", 1.1, worker=1)])


def killed_amid() -> Plan:
    """A process kills itself between its commit and its invalidation."""
    writing = {"writer": [Act(0.5, KILLED_AMID, (FEW[1],))]}
    return _plan("killed amid", [writing, _reading()], Strike(0.4, "dies", 0.1, worker=0), tail=OLD + 0.5)
