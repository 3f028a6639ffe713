from __future__ import annotations

import re

import pytest

from redis_integration.policy import Action, Reading, Redis, Right, decide

# The table in the docstring of decide(), row by row.
ROWS = [
    [cell.strip() for cell in line.split("|")]
    for line in re.findall(r"^ *\|(.+)\|$", decide.__doc__ or "", re.MULTILINE)[2:]
]


def follow(redis, copy, right):
    """What a call does in this state, asked tier by tier until there is nothing more to ask."""
    tier, *words = copy.split(", ")
    reading = Reading(redis, in_background="in background" in words)
    action = decide(reading)
    while action.verb in ("ask", "lease"):
        if action.verb == "lease":
            reading = reading._replace(right=right)
        else:
            hit = action.tier if action.tier == tier else None
            reading = reading._replace(found=hit, is_stale="stale" in words, is_due="due" in words)
            reading = reading._replace(asked=reading.asked | {action.tier})
        action = decide(reading)
    return action


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row))
def test_policy_is_its_table(row):
    """Every row of the table in the docstring is what decide() does."""
    redis, copy, lease, answer, written_to = row
    expected = {
        "computed": Action("compute", {"–": None}.get(written_to, written_to)),
        "waits": Action("wait", {"down": "fallback"}.get(redis, "redis")),
        "redis, refreshed": Action("refresh", "redis"),
    }

    action = follow(Redis(redis), copy, Right(lease or "unknown"))

    assert action == expected.get(answer, Action("answer", answer))


def test_table_has_a_row_for_every_state_of_redis():
    """No state of Redis is without a row."""
    assert {row[0] for row in ROWS} == {state.value for state in Redis}


def test_redis_that_fails_while_it_is_asked_leads_to_the_fallback():
    """A call that finds Redis down asks the fallback tier next."""
    reading = Reading(Redis.DOWN, asked=frozenset({"redis"}))

    assert decide(reading) == Action("ask", "fallback")


def test_redis_that_is_shy_is_neither_asked_nor_written():
    """A full pool or a pending name means the origin, at once."""
    assert decide(Reading(Redis.SHY)) == Action("compute", None)
