"""Breadth-first search over all states of a scenario: whether it holds, and the shortest way to what is wrong."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from tests.model.journal import JournalProtocol
from tests.model.journal_scenarios import JournalScenario
from tests.model.protocol import Protocol
from tests.model.row_scenarios import RowScenario
from tests.model.rows import RowProtocol
from tests.model.scenarios import Scenario

AnyScenario = Scenario | RowScenario | JournalScenario


class Finding(NamedTuple):
    """What a search has found; `wrong` is "" where all is well, `trace` the steps that lead to it."""

    states: int
    wrong: str
    trace: tuple[str, ...]
    stalls: int  # states in which only a time limit helps


def explore(scenario: AnyScenario, dropped: frozenset[str] = frozenset()) -> Finding:
    """Visit every state that the scenario can reach, up to the first that is wrong."""
    if isinstance(scenario, JournalScenario):
        return _search(JournalProtocol(scenario, dropped), scenario)
    if isinstance(scenario, RowScenario):
        return _search(RowProtocol(scenario, dropped), scenario)
    return _search(Protocol(scenario, dropped), scenario)


def _search(protocol: Any, scenario: AnyScenario) -> Finding:
    start = protocol.start()
    came_from: dict[Any, tuple[Any, str] | None] = {start: None}
    queue, stalls = deque([start]), 0
    while queue:
        world = queue.popleft()
        wrong = protocol.wrong(world)
        if not wrong:
            kinds = set()
            for kind, who, what, after in protocol.moves(world):
                kinds.add(kind)
                if after not in came_from:
                    came_from[after] = world, f"{who}: {what}"
                    queue.append(after)
            stalls += "time" in kinds
            if "time" in kinds and not scenario.stalls:
                wrong = "STALL: only a time limit helps"
            elif not kinds & {"step", "time"}:
                wrong = protocol.unfinished(world)
        if wrong:
            return Finding(len(came_from), wrong, _trace(came_from, world), stalls)
    return Finding(len(came_from), "", (), stalls)


def _trace(came_from: dict[Any, tuple[Any, str] | None], world: Any) -> tuple[str, ...]:
    steps = []
    while (origin := came_from[world]) is not None:
        world, step = origin
        steps.append(step)
    return tuple(reversed(steps))
