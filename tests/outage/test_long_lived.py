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
OUTAGES = 50
# What leaks does so in each of the 40 outages between. A thread in the middle of something has a connection more, which is three of our
# objects and, with its end in the proxy, three files; the caches of Python and Django breathe.
SLACK = {"threads": 1, "files": 6, "connections": 2, "keys": 0, "rows": 0, "names": 0, "objects": 6, "blocks": 300}


@pytest.fixture(scope="module", params=["0", "0.05"], ids=["calls", "watch"])
def lived(request, tmp_path_factory):
    """What the process said: its calls try Redis, or its watch does."""
    folder = tmp_path_factory.mktemp("long_lived")
    with start_server() as server:
        finished = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.outage.long_lived", server.url, server.unixsocket]
            + [str(folder), request.param, str(OUTAGES)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.xdist_group("long_lived")
def test_every_answer_is_right(lived):
    """Before, in and after each outage, and after each change."""
    assert lived["wrong"] == 0


@pytest.mark.xdist_group("long_lived")
@pytest.mark.parametrize("what", SLACK)
def test_nothing_grows(lived, what):
    """Neither threads, open files, connections of the server, keys, rows, names still to be ended, our objects, nor memory."""
    sizes = [measured[what] for measured in lived["measured"]]

    assert len(sizes) == 2 * FEW
    assert min(sizes[FEW:]) <= min(sizes[1:FEW]) + SLACK[what]


@pytest.mark.xdist_group("long_lived")
def test_nothing_is_left_to_be_ended(lived):
    """What was pending in an outage has been repeated after it."""
    assert [measured["names"] for measured in lived["measured"]] == [0] * 2 * FEW
