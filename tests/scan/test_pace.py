"""How a walk gives way. The clock is the test's own."""

from __future__ import annotations

import pytest

from redis_integration import RedisUnavailable, pools
from redis_integration.exceptions import Kind
from redis_integration.scan import pace as pace_module
from redis_integration.scan.pace import Pace


class Clock:
    """Seconds that pass only in sleep."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace_module, "monotonic", lambda: clock.now)
    monkeypatch.setattr(pace_module.time, "sleep", clock.sleep)
    return clock


@pytest.fixture
def redis_takes(monkeypatch, clock):
    """Lets each exchange take the next of these seconds, or raise the next of these errors."""

    def script(*answers):
        steps = iter(answers)

        def exchange(alias, packed, count, more=None):
            step = next(steps)
            if isinstance(step, Exception):
                raise step
            clock.now += step
            return [b"PONG"] * count, b"one life"

        monkeypatch.setattr(pools, "exchange_packed", exchange)

    return script


def make(at_most=1000, max_rate=None):
    return Pace("default", at_most=at_most, max_rate=max_rate)


def silence():
    return RedisUnavailable("No answer.", kind=Kind.SLOW)


def test_count_grows_while_redis_answers_quickly(clock, redis_takes):
    """From 500 to what is allowed, by a quarter with each PING."""
    redis_takes(*[0.0003] * 4)
    pace = make()
    counts = [pace.count, *(rest(pace, clock) for _ in range(4))]

    assert counts == [500, 626, 783, 979, 1000]
    assert clock.slept == []


def test_count_falls_and_the_walk_pauses_while_others_wait(clock, redis_takes):
    """Two PINGs in a row that take five times as long as the shortest."""
    redis_takes(0.001, 0.02, 0.03)
    pace = make()

    assert [rest(pace, clock), rest(pace, clock)] == [626, 313]
    assert clock.slept == [pytest.approx(0.15)]


def test_one_slow_ping_is_noise(clock, redis_takes):
    """The next one is quick, so it was not Redis."""
    redis_takes(0.001, 0.02, 0.001)
    pace = make()

    assert [rest(pace, clock), rest(pace, clock)] == [626, 783]
    assert clock.slept == []


def test_what_nobody_would_notice_is_not_slow(clock, redis_takes):
    """Twenty times as long, and still below 2 ms."""
    redis_takes(0.00005, 0.001)
    pace = make()

    assert [rest(pace, clock), rest(pace, clock)] == [626, 783]


def test_count_and_pauses_have_their_bounds(clock, redis_takes):
    """100 keys take Redis 0.05 ms; half a second is a long time."""
    redis_takes(0.001, *[5.0] * 8)
    pace = make()

    assert [rest(pace, clock) for _ in range(5)] == [626, 313, 156, 100, 100]
    assert clock.slept == [0.5] * 4


def test_a_ping_comes_now_and_then(clock, redis_takes):
    """Not after each page."""
    redis_takes(0.001)
    pace = make()

    assert [rest(pace, clock), pace.rest(500), pace.rest(500)] == [626, None, None]


def test_no_more_keys_a_second_than_asked_for(clock, redis_takes):
    """2,000 keys at 1,000 a second take two seconds, whatever Redis could do."""
    redis_takes(*[0.0] * 20)
    pace = make(max_rate=1000)
    began = clock.now

    [pace.rest(100) for _ in range(20)]

    assert pace.count == 100
    assert clock.now - began == pytest.approx(2.0)


def test_a_silent_redis_is_asked_again_and_less(clock, redis_takes):
    """A page that took too long is asked for once more, after a pause; the next one is smaller."""
    redis_takes(silence(), silence(), 0.001)
    pace = make()

    assert pace.speak(("PING",)) == [b"PONG"]

    assert clock.slept == [0.05, 0.2]
    assert pace.count == 125


def test_a_redis_that_stays_silent_is_given_up(clock, redis_takes):
    """After four tries."""
    redis_takes(*[silence() for _ in range(4)])

    with pytest.raises(RedisUnavailable, match="No answer"):
        make().speak(("PING",))

    assert clock.slept == [0.05, 0.2, 1.0]


def test_what_is_down_is_not_asked_again(clock, redis_takes):
    """A refused connection, a missing rule."""
    redis_takes(RedisUnavailable("It is gone."))

    with pytest.raises(RedisUnavailable, match="It is gone"):
        make().speak(("PING",))

    assert clock.slept == []


def rest(pace, clock):
    """COUNT after a page that came a second later."""
    clock.now += 1
    pace.rest(500)
    return pace.count
