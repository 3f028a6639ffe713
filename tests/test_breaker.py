from __future__ import annotations

import logging

import pytest

from redis_integration.breaker import PAUSE, Breaker


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
    clock.now += PAUSE
    assert [breaker.is_due(), breaker.is_due()] == [True, False]
    clock.now += PAUSE
    assert breaker.is_due()


def test_failed_try_keeps_it_open_for_another_pause(breaker, clock):
    """A failure while it is open starts the pause again and keeps the time it opened."""
    breaker.open("gone")
    clock.now += PAUSE

    breaker.open("still gone")

    assert not breaker.is_due()
    assert breaker.seconds_open() == PAUSE


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
