from __future__ import annotations

import dis
import gc
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from redis_integration import cache_aside, computation, flights, get_redis
from tests.stampede.watch import watched_flights

HERE = Path(__file__).parent
PACKAGE = str(Path(computation.__file__).parent)
SECONDS = os.environ.get("STORM_SECONDS", "3")


@pytest.fixture(autouse=True)
def flights_end(monkeypatch):
    with watched_flights(monkeypatch):
        yield


def storm(server, subject):
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "storm.py"), server.url, subject, "0", SECONDS],
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=float(SECONDS) + 120,
    )
    assert finished.returncode == 0, finished.stderr
    print(finished.stdout)
    return json.loads(finished.stdout)


@pytest.mark.parametrize("subject", ["decorated", "decorated_limit", "adecorated"])
def test_interrupted_calls_leave_no_wrong_value_and_nothing_behind(server, subject):
    """After a storm of interrupts, time limits or cancellations every answer was its key's, and as new as it had to be.

    No flight, lease or connection is left, and the next calls compute.
    """
    count = storm(server, subject)

    assert min(count["interrupts"], count["answers"], count["invalidations"]) > 0
    assert count["wrong"] == 0, count
    left = {name: count.get(name, 0) for name in ("threads", "flights", "aboard", "late leases", "slow")}
    assert left == dict.fromkeys(left, 0), count
    assert count["slots"] == 5, count


class Interrupted(BaseException):
    pass


# Python looks for signals after a call, where a function begins, and where a loop turns.
LOOKS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD"}


class Instants:
    """Raises Interrupted at one of the instants at which a signal could, in the package's own code or below."""

    def __init__(self, at):
        self.left = at
        self.previous = {}

    def __enter__(self):
        sys.settrace(self.trace)

    def __exit__(self, *_):
        sys.settrace(None)

    def trace(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event != "opcode":
            return self.trace
        name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        previous = self.previous.get(id(frame))
        self.previous[id(frame)] = name
        if previous in LOOKS:
            self.left -= 1
            if self.left < 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                raise Interrupted(self.where)
        return self.trace


def interrupt_everywhere(price, key):
    """Interrupts one miss at each instant in turn; what was left behind after which."""
    left, at, caught = [], 0, True
    while caught:
        get_redis().unlink(key, f"{{{key}}}:lease")
        instants, caught = Instants(at), None
        try:
            with instants:
                price(7)
        except Interrupted as error:
            caught = str(error)
        sys.settrace(None)
        found = [
            *(["flight"] * any(not flight.is_over for flight in flights._flights.values())),
            # What is over is dropped by the next call.
            *(["aboard"] * any(not flight.is_over for flight in flights._aboard.get())),
            *(["lease"] * get_redis().exists(f"{{{key}}}:lease")),
        ]
        left += [(what, caught) for what in found]
        flights._aboard.set(())
        flights._flights.clear()
        at += 1
    gc.collect()
    return at, left


@pytest.fixture(scope="module")
def instants():
    return {}


@pytest.mark.parametrize("thing", ["flight", "aboard", "lease"])
def test_no_instant_of_an_interrupt_leaves_something_behind(live, instants, thing):
    """An interrupt at any instant of a miss, leaves no flight that would be joined in vain, and no lease."""
    price = cache_aside(ttl=60, key="price:{pk}", tags=["all"])(lambda pk: pk)
    price(7)

    # A thread of its own: Python keeps the error that such an interrupt met as the thread's current one, for ever.
    with ThreadPoolExecutor(1) as thread:
        count, left = thread.submit(interrupt_everywhere, price, price.key_for(7)).result()

    assert count > 100
    assert [where for what, where in left if what == thing] == []
