"""Several processes read and write while Redis fails in all ways: the checker finds nothing outside the documented bounds.

HISTORY_SECONDS (60: each kind of fault twice, in each run) and HISTORY_SEED choose another plan; `make history` is the long form.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from tests.databases import DatabaseMissing, skip_or_fail
from tests.history.plan import KEYS, KINDS, WORKERS, make_plan

SHORT, LONG = 12.0, 60.0
SECONDS = float(os.environ.get("HISTORY_SECONDS", SHORT))
SEED = int(os.environ.get("HISTORY_SEED", "1"))
FINAL_READS = 3  # of each key in each process

pytestmark = pytest.mark.xdist_group("history")

RUNS = {
    "SQLite, on_failure, outage": {"JOURNAL": "on_failure", "FALLBACK": "outage"},
    "PostgreSQL, always, durable": {"JOURNAL": "always", "FALLBACK": "durable"},
}


def plan_of(run):
    """All kinds twice; in a short run half of them once, and in the other the other half."""
    if SECONDS >= LONG:
        return make_plan(SEED, SECONDS, KINDS, times=2)
    kinds = Random(SEED).sample(KINDS, len(KINDS))
    return make_plan(SEED, SECONDS, kinds[[*RUNS].index(run) :: len(RUNS)])


@pytest.fixture
def database(request, run):
    try:
        return request.getfixturevalue("sqlite" if run.startswith("SQLite") else "postgres_of_its_own")
    except DatabaseMissing as missing:
        skip_or_fail("postgres", str(missing))


@pytest.mark.parametrize("run", RUNS)
def test_nothing_old_is_answered_and_no_invalidation_is_lost(run, database, carry_out):
    """After an acknowledged invalidation, outside the bounds; and whatever happened, no act raises, and all settles."""
    plan = plan_of(run)

    history, verdict = carry_out(plan, database, **RUNS[run])

    print(f"{plan.name}: {verdict}")
    assert verdict.findings == [], f"HISTORY_SEED={SEED} HISTORY_SECONDS={SECONDS:g}, {run}: {plan.name}\n{verdict}"
    assert sorted(fault.what.partition(" (")[0] for fault in history.faults) == sorted(
        each.kind for each in plan.faults
    )
    assert sum(read.how == "final" for read in history.reads) == FINAL_READS * KEYS * WORKERS
    assert any(not write.confirmed for write in history.writes)
