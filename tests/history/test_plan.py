"""A seed gives one plan, whoever makes it and wherever."""

from __future__ import annotations

import subprocess
import sys

from tests.history.plan import KEYS, KINDS, READS, WORKERS, WRITES, Plan, make_plan, steadily
from tests.history.site import ROOT

SECONDS = 60.0
CODE = "from tests.history.plan import *; print(repr(make_plan(3, 60.0, KINDS, times=2)))"


def test_same_seed_gives_the_same_acts_and_faults_in_any_process():
    """No hash and no clock is in it."""
    made = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)

    assert made.stdout.strip() == repr(make_plan(3, SECONDS, KINDS, times=2))
    assert make_plan(4, SECONDS, KINDS, times=2).acts != make_plan(3, SECONDS, KINDS, times=2).acts


def test_each_kind_of_fault_comes_as_often_as_asked():
    """One after another, the last one over before the end."""
    faults = make_plan(3, SECONDS, KINDS, times=2).faults

    assert sorted(strike.kind for strike in faults) == sorted([*KINDS, *KINDS])
    assert all(one.at + one.seconds < other.at for one, other in zip(faults, faults[1:], strict=False))
    assert faults[-1].at + faults[-1].seconds < SECONDS


def test_every_act_and_every_key_occurs():
    """For each of the workers."""
    plan = make_plan(3, SECONDS, KINDS)
    acts = [act for actors in plan.acts for each in actors.values() for act in each]

    assert len(plan.acts) == WORKERS
    assert {act.what for act in acts} == READS.keys() | WRITES.keys()
    assert {key for act in acts for key in act.keys} == {*range(KEYS)}


def test_plan_comes_back_from_its_file(tmp_path):
    """As workers read it."""
    plan = make_plan(3, 1.0, KINDS)

    plan.save(tmp_path / "plan.json")

    assert Plan.load(tmp_path / "plan.json") == plan


def test_steady_acts_take_one_key_after_the_other():
    """At even distances."""
    acts = steadily("get", (1, 2), since=1.0, until=1.1, pause=0.04)

    assert [(act.at, act.keys) for act in acts] == [(1.0, (1,)), (1.04, (2,))]
