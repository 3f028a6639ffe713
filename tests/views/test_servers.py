"""The table of tests/views/table.py through gunicorn and uvicorn, and two visitors who hammer the same pages.

HAMMER_REQUESTS (1600, a multiple of 8) says for how many of them; `make hammer` is the long form.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.stampede.crew import PATIENCE
from tests.views.table import ROWS, STORED

ROOT = Path(__file__).parent.parent.parent
PROJECT = "tests.servers.pages"
SERVERS = {
    "gunicorn": ["gunicorn", f"{PROJECT}:wsgi", "--workers=1", "--worker-class=gthread", "--threads=2"]
    + ["--log-level=warning", "--no-control-socket", "--bind=fd://{fd}"],
    "uvicorn": ["uvicorn", f"{PROJECT}:asgi", "--log-level=warning", "--lifespan=off", "--fd={fd}"],
}
# What Django's test client is told and no client can send: bytes beyond ASCII in a URL.
CARRIED = [row for row in ROWS if "QUERY_STRING" not in row.request]

REQUESTS = int(os.environ.get("HAMMER_REQUESTS", "1600"))
SLOWEST = 100  # requests/s of a busy machine; it is 900 on two cores

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
FORM = {"Cookie": f"csrftoken={'x' * 32}", "X-CSRFToken": "x" * 32}


@pytest.fixture
def environment(server, prefix, tmp_path):
    inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    where = {"TEST_DATABASE": str(tmp_path / "db.sqlite3"), "TEST_REDIS": server.url, "TEST_PREFIX": prefix}
    return {**inherited, **where, "PYTHONPATH": str(ROOT)}


@pytest.fixture(params=SERVERS)
def port(request, environment, tmp_path):
    """Of a web server that serves these pages."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        command = [part.format(fd=fd) for part in SERVERS[request.param]]
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *command], cwd=tmp_path, env=environment, pass_fds=[fd]
        )
        try:
            yield listening.getsockname()[1]
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(PATIENCE)


def visit(port, row):
    """A visitor's request of this row, on a connection of its own: status, body, and what Cache-Status says."""
    told = dict(row.request)
    query = f"?{urlencode(told['query_params'])}" if "query_params" in told else ""
    method = told.get("method", "get").upper()
    headers = {"User-Agent": "test", **(FORM if method in UNSAFE else {}), **told.get("headers", {})}
    body = b"x" * int(told.get("CONTENT_LENGTH", 0)) or None
    is_chunked = headers.pop("transfer-encoding", "") == "chunked"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(
            method,
            f"/{row.name}/{query}",
            body=iter([b"x"]) if is_chunked else body,
            headers=headers,
            encode_chunked=is_chunked,
        )
        response = connection.getresponse()
        return response.status, response.read(), response.headers.get("Cache-Status", "")
    finally:
        connection.close()


def is_right(row, first, second):
    """Whether the second visitor got the first one's page if it was to be stored, and his own, with the reason, if not."""
    if row.why == STORED:
        return STORED in first[2] and "; hit" in second[2] and second[:2] == first[:2]
    return row.why in first[2] and row.why in second[2] and "hit" not in second[2]


def test_table_holds_on_real_servers(port):
    """As in Django's test client, but for what only a test client can send."""
    seen = {row.name: (row, visit(port, row), visit(port, row)) for row in CARRIED}

    assert {name: visits for name, (row, *visits) in seen.items() if not is_right(row, *visits)} == {}
    assert len(seen) >= 60


def hammer(environment, requests, *arguments):
    ran = subprocess.run(
        [sys.executable, "-m", "tests.views.hammer", str(requests), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE + requests / SLOWEST,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_no_page_goes_to_another_visitor(environment):
    """Whatever of a visitor the views look at."""
    seen = hammer(environment, REQUESTS)
    print(seen)

    assert (seen["requests"], seen["crossed"], seen["errors"]) == (REQUESTS, 0, 0)
    assert seen["hits"] > 0


def test_pages_cross_where_nothing_counts(environment):
    """Else the hammer would prove nothing."""
    assert hammer(environment, 800, "--unsafe")["crossed"] > 0
