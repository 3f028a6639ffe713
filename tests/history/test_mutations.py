"""The checker can fail: each rule of the protocol is switched off in the workers, and it finds what that rule is for.

Each plan is made by hand, so that little luck is needed; with the code as it is, it ends well.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.history import scenarios

SOON = 8.0  # seconds; some never settle
TRIES = 3  # on a machine so busy that nothing was in Redis before the fault, nothing old can be in it afterwards
# A busy machine must not look like a slow Redis: nothing is about timeouts here.
QUICK = {"WATCH_INTERVAL": 0.5, "FALLBACK_TTL": 2.0, "COMMAND_TIMEOUT": 2, "CONNECT_TIMEOUT": 2, "REQUEST_BUDGET": 10}
PLANS = [
    scenarios.writer_cut_off,
    scenarios.overtaken,
    scenarios.old_snapshot,
    scenarios.all_cut_off,
    scenarios.started_later,
]
MUTATIONS = {
    "no journal": (scenarios.writer_cut_off, {"JOURNAL": None}, "stale"),
    "no journal, writer killed": (scenarios.all_cut_off, {"JOURNAL": None}, "lost"),
    "no drain": (scenarios.all_cut_off, {}, "unsettled"),
    "no fence": (scenarios.overtaken, {}, "stale"),
    "no life": (scenarios.old_snapshot, {}, "stale"),
    "no barrier": (scenarios.all_cut_off, {}, "stale"),
    "no first poll": (scenarios.started_later, {}, "stale"),
}


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.__name__)
def test_plan_ends_well_with_the_code_as_it_is(plan, sqlite, carry_out):
    """Else a mutation of it would prove nothing."""
    _, verdict = carry_out(plan(), sqlite, **QUICK)

    assert verdict.findings == [], str(verdict)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_checker_finds_what_a_rule_is_for(mutation, sqlite, carry_out):
    """Once the rule is off."""
    make_plan, options, expected = MUTATIONS[mutation]
    plan = replace(make_plan(), settles_within=SOON)

    for _ in range(TRIES):
        _, verdict = carry_out(plan, sqlite, mutation=mutation, **QUICK, **options)
        if verdict.findings:
            break

    assert expected in {finding.what for finding in verdict.findings}, str(verdict)


def test_death_between_commit_and_invalidation_ends_well_with_journal_always(sqlite, carry_out):
    """It was written down in the same transaction."""
    history, verdict = carry_out(scenarios.killed_amid(), sqlite, **QUICK, JOURNAL="always")

    assert verdict.findings == [], str(verdict)
    assert len(history.killed) == 1


def test_checker_finds_a_death_between_commit_and_invalidation(sqlite, carry_out):
    """With JOURNAL = "on_failure", which does not promise it."""
    _, verdict = carry_out(scenarios.killed_amid(), sqlite, **QUICK, judged_as={"JOURNAL": "always"})

    assert {"stale", "lost"} <= {finding.what for finding in verdict.findings}, str(verdict)
