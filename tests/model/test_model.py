"""The protocol of design §5 holds in every order of steps and faults, and each of its rules is needed."""

from __future__ import annotations

import pytest

from tests.model.__main__ import EVERY, main
from tests.model.explore import explore
from tests.model.row_scenarios import ROW_MUTATIONS
from tests.model.scenarios import EITHER, EITHER_SCENARIO, MUTATIONS, SCENARIOS

EVERY_MUTATION = (*MUTATIONS, *ROW_MUTATIONS)


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
