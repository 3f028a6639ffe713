"""`python -m tests.model [-v] [word]`: a table of scenarios and mutations; -v adds the shortest trace of each mutation."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from tests.model.explore import AnyScenario, explore
from tests.model.journal_scenarios import JOURNAL_MUTATIONS, JOURNAL_SCENARIOS
from tests.model.row_scenarios import ROW_MUTATIONS, ROW_SCENARIOS
from tests.model.scenarios import EITHER, EITHER_SCENARIO, MUTATIONS, SCENARIOS

Run = tuple[str, AnyScenario, frozenset[str], str]
EVERY: dict[str, AnyScenario] = {**SCENARIOS, **ROW_SCENARIOS, **JOURNAL_SCENARIOS}
EVERY_MUTATION = (*MUTATIONS, *ROW_MUTATIONS, *JOURNAL_MUTATIONS)


def runs() -> Iterator[Run]:
    for name, scenario in EVERY.items():
        yield name, scenario, frozenset(), ""
    for rule, name, breaks in EVERY_MUTATION:
        yield f"without: {rule}", EVERY[name], frozenset({rule}), breaks
    yield f"without: {EITHER[0]}, and its twin", SCENARIOS[EITHER_SCENARIO], frozenset(EITHER), "neither is there"


def main(words: list[str], *, is_verbose: bool) -> int:
    """Print the table; 0 if all scenarios hold and all mutations are caught."""
    failures = 0
    print(f"{'':44}{'states':>8}{'seconds':>9}")
    for name, scenario, dropped, breaks in runs():
        if words and not any(word in name for word in words):
            continue
        begun = time.perf_counter()
        finding = explore(scenario, dropped)
        failures += bool(finding.wrong) != bool(dropped)
        verdict = f"caught in {scenario.name!r}: {breaks}" if dropped else "holds"
        if dropped and not finding.wrong:
            verdict = f"MISSED in {scenario.name!r}"
        elif finding.wrong and not dropped:
            verdict = "BROKEN"
        stalls = f", where a time limit must help ({finding.stalls} of its states)" if finding.stalls else ""
        print(f"{name:44}{finding.states:>8,}{time.perf_counter() - begun:>9.2f}  {verdict}{stalls}", flush=True)
        if finding.wrong and (is_verbose or not dropped):
            print("".join(f"{'':8}{step}\n" for step in (*finding.trace, finding.wrong)))
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main([word for word in sys.argv[1:] if word != "-v"], is_verbose="-v" in sys.argv))
