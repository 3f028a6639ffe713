"""The scenarios of the model, played by the code itself on a real server."""

from __future__ import annotations

import os

import pytest

from redis_integration.tiers import redis as redis_tier
from tests.conftest import PATIENT
from tests.databases import added_databases
from tests.model.against_code import Stage
from tests.model.edits import EDITS, drop
from tests.model.explore import explore
from tests.model.orders import following
from tests.model.play import LOOK
from tests.model.players import DATABASE, HOMES
from tests.model.scenarios import EITHER, EITHER_SCENARIO, MUTATIONS, SCENARIOS

# Orders of each scenario, besides those that the model has found to matter; more of them look longer.
ORDERS = int(os.environ.get("MODEL_ORDERS", "25"))


@pytest.fixture
def stage(settings, server, prefix, monkeypatch, django_db_blocker):
    """The package under a conductor, on a server and a database of this test's own."""
    common = {"URL": server.url, "KEY_PREFIX": prefix, "DATABASE": None, **PATIENT}
    settings.REDIS_INTEGRATION = {alias: {**common, "CLIENT_NAME": alias} for alias in ("default", *HOMES, LOOK)}
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    with added_databases({DATABASE: database}), django_db_blocker.unblock():
        yield Stage(monkeypatch, prefix)
    redis_tier.start_afresh()


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_code_holds_in_scenario(stage, scenario):
    """In none of the sampled orders is an answer stale or uncommitted, or an agent stuck."""
    played = stage.sample(scenario, ORDERS)

    assert played.wrong == "", str(played)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_code_holds_where_the_model_breaks_without_a_rule(stage, mutation):
    """The very order that shows what a rule is for does the code no harm."""
    scenario = SCENARIOS[mutation.scenario]

    played = stage.run(scenario, following(explore(scenario, frozenset({mutation.rule})).trace))

    assert played.wrong == "", str(played)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_code_without_a_rule_breaks_as_the_model_does(stage, monkeypatch, mutation):
    """The rule stands in the code: with that line gone, the model's shortest trace leads to what is wrong."""
    scenario = SCENARIOS[mutation.scenario]
    finding = explore(scenario, frozenset({mutation.rule}))
    drop(mutation.rule, monkeypatch)

    played = stage.run(scenario, following(finding.trace))

    assert kind_of(played.wrong) == kind_of(finding.wrong), f"{played}\n\nThe model: {finding}"


def test_code_without_both_of_two_rules_breaks(stage, monkeypatch):
    """Each of the two is enough, and one of them is needed."""
    finding = explore(SCENARIOS[EITHER_SCENARIO], frozenset(EITHER))
    drop(EITHER[0], monkeypatch)
    drop(EITHER[1], monkeypatch)

    played = stage.run(SCENARIOS[EITHER_SCENARIO], following(finding.trace))

    assert kind_of(played.wrong) == "STALE", str(played)


def test_every_rule_stands_in_the_code():
    """No rule of the model is without its lines in the code."""
    assert set(EDITS) == {*EITHER, *(mutation.rule for mutation in MUTATIONS)}


def kind_of(wrong):
    """STALE, STUCK…, the first word of what is wrong."""
    return wrong.partition(":")[0]
