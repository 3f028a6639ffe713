"""A process that lives through 50 outages is as large at the end as after the first few: an interpreter of its own, sync and async calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo_project.server import start_server
from tests.outage.long_lived import FEW

ROOT = Path(__file__).parent.parent.parent
OUTAGES = 90
# What leaks does so in each of the 50 outages between. A thread in the middle of something has a connection more, which is three of our
# objects and, with its end in the proxy, three files; the caches of Python and Django breathe, by 300 blocks and more.
SLACK = {"threads": 1, "files": 6, "connections": 2, "keys": 0, "rows": 0, "objects": 6, "blocks": 500}


def live(folder, watch_interval):
    """What the process says that lived through the outages."""
    with start_server() as server:
        finished = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.outage.long_lived", server.url, server.unixsocket]
            + [str(folder), watch_interval, str(OUTAGES)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def least(measured):
    """The smallest of each size."""
    return {what: min(sizes[what] for sizes in measured) for what in SLACK}


@pytest.mark.parametrize("watch_interval", ["0", "0.05"], ids=["calls", "watch"])
def test_fifty_outages_leave_nothing_behind(tmp_path, watch_interval):
    """Every answer is right, all that was pending is repeated, and nothing grows, whether calls try Redis or the watch."""
    lived = live(tmp_path, watch_interval)
    measured = lived["measured"]

    first, last = least(measured[:FEW]), least(measured[FEW:])

    assert lived["wrong"] == 0
    assert [sizes["names"] for sizes in measured] == [0] * 2 * FEW
    assert {what: (first[what], last[what]) for what in SLACK if last[what] > first[what] + SLACK[what]} == {}
