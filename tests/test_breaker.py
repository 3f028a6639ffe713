from __future__ import annotations

import asyncio
import logging

import pytest

from redis_integration.breaker import FIRST_PAUSE, LONGEST_PAUSE, RAMP, TELL_AGAIN, Breaker
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.signals import redis_back, redis_lost

DOWN = RedisUnavailable("gone")


def late():
    """A timeout, each its own."""
    return RedisUnavailable("late", kind=Kind.SLOW)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker(clock=clock)


def test_open_breaker_is_due_once_in_each_pause(breaker, clock):
    """One caller tries Redis in each pause; all others do not wait for it."""
    breaker.open("gone")

    assert not breaker.is_due()
    clock.now += FIRST_PAUSE
    assert [breaker.is_due(), breaker.is_due()] == [True, False]
    clock.now += FIRST_PAUSE
    assert breaker.is_due()


def test_failed_try_keeps_it_open_for_another_pause(breaker, clock):
    """A failure while it is open starts another pause and keeps the time it opened."""
    breaker.open("gone")
    clock.now += FIRST_PAUSE

    breaker.open("still gone")

    assert not breaker.is_due()
    assert breaker.seconds_open() == FIRST_PAUSE


def test_an_outage_is_logged_twice(breaker, clock, caplog):
    """One line when it opens and one when it closes, however often it fails between."""
    caplog.set_level(logging.DEBUG, "redis_integration")

    breaker.open("gone")
    breaker.open("gone")
    clock.now += 2.5
    breaker.close()
    breaker.close()

    assert caplog.messages == ["redis_integration.redis_lost gone", "redis_integration.redis_back after 2.5 s"]


def test_closed_breaker_has_been_open_for_no_time(breaker):
    """A breaker that never opened believes no row of an earlier outage."""
    assert breaker.is_closed
    assert breaker.seconds_open() == 0


def test_pauses_grow_up_to_a_limit(breaker, clock, monkeypatch):
    """A long outage is tried less often, and never more rarely than every LONGEST_PAUSE."""
    monkeypatch.setattr("redis_integration.breaker.uniform", lambda least, most: most)
    pauses = []
    for _ in range(6):
        breaker.open("gone")
        pauses.append(breaker._due - clock.now)

    assert pauses == [1.0, 1.5, 2.25, 3.375, LONGEST_PAUSE, LONGEST_PAUSE]


def test_pauses_of_processes_differ(clock):
    """Those that lost Redis together do not come back together."""
    due = set()
    for _ in range(20):
        breaker = Breaker(clock=clock)
        breaker.open("gone")
        due.add(breaker._due)

    assert len(due) > 1
    assert clock.now + FIRST_PAUSE / 2 <= min(due) <= max(due) <= clock.now + FIRST_PAUSE


def test_server_that_says_what_it_waits_for_is_tried_again_soon(breaker, clock):
    """Loading its data, say: the pauses do not grow."""
    for _ in range(6):
        breaker.note(RedisUnavailable("LOADING", is_short=True))

    assert breaker._due <= clock.now + FIRST_PAUSE


def test_second_timeout_in_a_row_opens_it(breaker):
    """One late reply is no outage."""
    breaker.note(late())
    opened = [breaker.is_closed]
    breaker.note(late())

    assert [*opened, breaker.is_closed] == [True, False]


def test_one_timeout_of_many_calls_is_one(breaker):
    """Those of a list, which share an exchange, opened it together."""
    failure = late()
    breaker.note(failure)
    breaker.note(failure)

    assert breaker.is_closed


def test_answer_between_two_timeouts_keeps_it_closed(breaker):
    """They are not in a row."""
    breaker.note(late())
    breaker.timeouts = 0  # what an answer does
    breaker.note(late())

    assert breaker.is_closed


@pytest.mark.parametrize("kind", [Kind.BUSY, Kind.FULL, Kind.FOREIGN])
def test_full_pool_full_server_and_foreign_key_never_open_it(breaker, kind):
    """The server may be well."""
    breaker.note(RedisUnavailable("no", kind=kind))
    breaker.note(RedisUnavailable("no", kind=kind))

    assert breaker.is_closed


def test_half_open_while_somebody_tries(breaker, clock):
    """And open again when he has failed, or was never heard of again."""
    breaker.open("gone")
    clock.now += FIRST_PAUSE
    states = [breaker.state]
    breaker.is_due()
    states.append(breaker.state)
    clock.now += FIRST_PAUSE
    states.append(breaker.state)
    breaker.close()

    assert [*states, breaker.state] == ["open", "half-open", "open", "closed"]


def test_full_server_is_told_once_and_so_is_room(breaker, caplog):
    """One line for each change."""
    breaker.note(RedisUnavailable("OOM.", kind=Kind.FULL))
    breaker.note(RedisUnavailable("OOM.", kind=Kind.FULL))
    breaker.note_room()
    breaker.note_room()

    assert caplog.messages == [
        "redis_integration.redis_full Nothing is stored. OOM.",
        "redis_integration.redis_has_room",
    ]


def test_empty_pool_is_told_once_a_minute(breaker, clock, caplog):
    """However many calls meet it."""
    breaker.note(RedisUnavailable("All in use.", kind=Kind.BUSY))
    breaker.note(RedisUnavailable("All in use.", kind=Kind.BUSY))
    clock.now += TELL_AGAIN
    breaker.note(RedisUnavailable("All in use.", kind=Kind.BUSY))

    assert caplog.messages == ["redis_integration.redis_busy All in use."] * 2


def test_signals_tell_of_both_ends(clock):
    """Once each, with the alias as their sender; a receiver that raises disturbs nobody."""
    told = []

    def note(sender, signal, **arguments):
        told.append((sender, arguments))
        raise ValueError("of the receiver")

    breaker = Breaker("cold", clock=clock)
    redis_lost.connect(note)
    redis_back.connect(note)
    breaker.open("gone")
    breaker.open("gone")
    clock.now += 2
    breaker.close()
    redis_lost.disconnect(note)
    redis_back.disconnect(note)

    assert told == [("cold", {"reason": "gone"}), ("cold", {"seconds": 2.0})]


def test_async_receiver_disturbs_no_task(clock, caplog):
    """Django cannot call one from the thread of an event loop: its RuntimeError was the view's."""

    async def note(**arguments):
        pass

    async def lose():
        Breaker("elsewhere", clock=clock).open("gone")

    redis_lost.connect(note)
    asyncio.run(lose())
    redis_lost.disconnect(note)

    assert "signal_failed" in caplog.messages[-1]


def test_cache_is_cold_during_an_outage_and_for_a_while_afterwards(breaker, clock):
    """Before it, it is not."""
    cold = [breaker.is_cold()]
    breaker.open("gone")
    cold.append(breaker.is_cold())
    breaker.close()
    cold.append(breaker.is_cold())
    clock.now += RAMP

    assert [*cold, breaker.is_cold()] == [False, True, True, False]
