"""The scenarios of the journal, played by the code itself: a real server, a real database, real faults."""

from __future__ import annotations

import os

import pytest

from redis_integration import journal
from redis_integration.tiers import redis as redis_tier
from tests.databases import added_databases
from tests.model.against_journal import JournalStage, prepare_database
from tests.model.edits import drop
from tests.model.explore import explore
from tests.model.journal_edits import JOURNAL_EDITS
from tests.model.journal_scenarios import JOURNAL_MUTATIONS, JOURNAL_SCENARIOS
from tests.model.orders import JOURNAL_FAULTS, JOURNAL_LEAVES, following
from tests.model.play_journal import OTHER_DATABASE
from tests.model.players import DATABASE

# Orders of each scenario, besides those that the model has found to matter; more of them look longer.
ORDERS = int(os.environ.get("MODEL_ORDERS", "8"))


@pytest.fixture
def stage(settings, server, prefix, monkeypatch, django_db_blocker, tmp_path):
    """The package under a conductor, on a server and a database of this test's own."""
    path = str(tmp_path / "model.sqlite3")
    engine = {"ENGINE": "django.db.backends.sqlite3"}
    databases = {DATABASE: {**engine, "NAME": path}, OTHER_DATABASE: {**engine, "NAME": ":memory:"}}
    with added_databases(databases), django_db_blocker.unblock():
        prepare_database()
        yield JournalStage(monkeypatch, prefix, settings=settings, url=server.url, path=path)
    redis_tier.start_afresh()
    journal._journals.clear()


@pytest.mark.parametrize("scenario", JOURNAL_SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_code_holds_in_scenario(stage, scenario):
    """In none of the sampled orders is an answer stale, an invalidation lost, or a row left for ever."""
    played = stage.sample(scenario, ORDERS)

    assert played.wrong == "", str(played)


@pytest.mark.parametrize("mutation", JOURNAL_MUTATIONS, ids=lambda mutation: mutation.rule)
def test_code_holds_where_the_model_breaks_without_a_rule(stage, mutation):
    """The very order that shows what a rule is for does the code no harm."""
    scenario = JOURNAL_SCENARIOS[mutation.scenario]

    played = stage.run(scenario, along(explore(scenario, frozenset({mutation.rule})).trace))

    assert played.wrong == "", str(played)


@pytest.mark.parametrize("mutation", JOURNAL_MUTATIONS, ids=lambda mutation: mutation.rule)
def test_code_without_a_rule_breaks_as_the_model_does(stage, monkeypatch, mutation):
    """The rule stands in the code: with that line gone, the model's shortest trace leads to what is wrong."""
    scenario = JOURNAL_SCENARIOS[mutation.scenario]
    finding = explore(scenario, frozenset({mutation.rule}))
    drop(mutation.rule, monkeypatch, JOURNAL_EDITS)

    played = stage.run(scenario, along(finding.trace))

    assert kind_of(played.wrong) == kind_of(finding.wrong), f"{played}\n\nThe model: {finding}"


def test_every_rule_of_the_journal_stands_in_the_code():
    """No rule of the model is without its lines in the code."""
    assert set(JOURNAL_EDITS) == {mutation.rule for mutation in JOURNAL_MUTATIONS}


def along(trace):
    """Choices that lead the code along this trace."""
    return following(trace, JOURNAL_LEAVES, JOURNAL_FAULTS)


def kind_of(wrong):
    """STALE, STUCK…, the first word of what is wrong."""
    return wrong.partition(":")[0]
