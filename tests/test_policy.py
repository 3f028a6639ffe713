from __future__ import annotations

import re

import pytest

from redis_integration.policy import Action, Reading, Redis, decide

# The table in the docstring of decide(), row by row.
ROWS = [line.strip("| ").split(" | ") for line in re.findall(r"^ *\|(.+)\|$", decide.__doc__ or "", re.MULTILINE)[2:]]


def follow(redis, found):
    """What a call does in this state, asked tier by tier until it answers or computes."""
    reading = Reading(redis)
    action = decide(reading)
    while action.verb == "ask":
        hit = action.tier if action.tier == found else None
        reading = reading._replace(found=hit, asked=reading.asked | {action.tier})
        action = decide(reading)
    return action


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row))
def test_policy_is_its_table(row):
    """Every row of the table in the docstring is what decide() does."""
    redis, found, answer, written_to = row

    action = follow(Redis(redis), found)

    expected = Action("compute", {"–": None}.get(written_to, written_to))
    assert action == (expected if answer == "computed" else Action("answer", answer))


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
