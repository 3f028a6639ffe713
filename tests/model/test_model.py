"""The protocol of design §5 holds in every order of steps and faults, and each of its rules is needed."""

from __future__ import annotations

import pytest

from tests.model.__main__ import EVERY, EVERY_MUTATION, main
from tests.model.explore import explore
from tests.model.scenarios import EITHER, EITHER_SCENARIO, SCENARIOS

# The simplifications that the design's own specification has found to break it, and the rule that each of them lacks.
DESIGN = {
    "no-fence": "fill needs the lease",
    "fill-creates-generation": "generations with the lease",
    "life-at-fill": "life of the lease",
    "life-per-pool": "own life",
    "old-life-accepted": "refused in another life",
    "same-token-again": "a new token each try",
    "joiner-takes-any": "joiners need the fill",
    "joined-after-fill": "joined until the fill",
    "shared-without-lease": "bare until it begins",
    "tiers-share-flight": "a flight for each tier",
    "swallow": "what is not confirmed is journalled",
    "no-pending": "pending",
    "pending-by-name": "pending is kept per row",
    "pending-needs-row": "what is not written stays pending",
    "journal-upsert": "a row for each invalidation",
    "drain-after-closing": "the breaker closes after the poll",
    "read-before-poll": "polled before it is believed",
    "rows-survive": "unconfirmed invalidations end rows",
    "row-tags-at-fill": "row generations before the origin",
    "row-no-fence": "row fill needs the lease",
    "old-rows": "rows of this outage",
}


@pytest.mark.parametrize("scenario", EVERY.values(), ids=lambda scenario: scenario.name)
def test_scenario_holds(scenario):
    """No order of its steps and faults gives a stale or an uncommitted answer, a second computation, or an endless wait."""
    finding = explore(scenario)

    assert (finding.wrong, finding.trace) == ("", ())
    assert bool(finding.stalls) == scenario.stalls


@pytest.mark.parametrize("mutation", EVERY_MUTATION, ids=lambda mutation: mutation.rule)
def test_protocol_without_a_rule_is_caught(mutation):
    """What breaks without this rule is found in its scenario, with the steps that lead there."""
    finding = explore(EVERY[mutation.scenario], frozenset({mutation.rule}))

    assert finding.wrong
    assert finding.trace


def test_every_rule_has_one_mutation():
    """A rule that is listed twice has two scenarios, of which one is enough."""
    assert len({mutation.rule for mutation in EVERY_MUTATION}) == len(EVERY_MUTATION)


def test_every_simplification_of_the_design_is_caught():
    """Each of the 21 is the lack of one of these rules, and no two of the same."""
    assert len(DESIGN) == 21
    assert len({*DESIGN.values()} & {mutation.rule for mutation in EVERY_MUTATION}) == 21


@pytest.mark.parametrize("rule", EITHER)
def test_one_of_two_rules_for_the_same_case_is_enough(rule):
    """A caller of a pending name would not harm itself by joining a flight: the local invalidation has ended it."""
    assert explore(SCENARIOS[EITHER_SCENARIO], frozenset({rule})).wrong == ""


def test_both_rules_for_the_same_case_may_not_go():
    """Else a caller of a pending name joins a flight from before the write."""
    assert "STALE" in explore(SCENARIOS[EITHER_SCENARIO], frozenset(EITHER)).wrong


def test_table_names_what_fails(capsys):
    """The command prints a line for each run, and the steps where asked."""
    assert main(["bypass"], is_verbose=True) == 0

    printed = capsys.readouterr().out

    assert "caught in 'its own write'" in printed
    assert "A: BEGIN" in printed
