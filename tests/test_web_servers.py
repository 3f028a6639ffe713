from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.stampede.crew import PATIENCE
from tests.stampede.watch import until

ROOT = Path(__file__).parent.parent
KEYS = range(12)  # more than there are threads for refreshes
PROJECT = "tests.servers.project"
GUNICORN = [
    "gunicorn",
    f"{PROJECT}:wsgi",
    "--workers=1",
    "--log-level=warning",
    "--no-control-socket",
    "--bind=fd://{fd}",
]
WATCH = "redis_integration.watch"  # one in each worker, for as long as it lives
THREADS = ("ThreadPoolExecutor-0_",)  # gunicorn's, as many as there was load for
TASKS = ("ASGIHandler.", "RequestResponseCycle.", "Server.")
UVICORN = ["uvicorn", f"{PROJECT}:asgi", "--log-level=warning", "--lifespan=off", "--fd={fd}"]
SERVERS = {
    "gunicorn_sync": ([*GUNICORN, "--worker-class=sync"], "sync", ()),
    "gunicorn_gthread": ([*GUNICORN, "--worker-class=gthread", "--threads=4"], "sync", THREADS),
    "uvicorn": (UVICORN, "async", TASKS),
    "uvicorn_sync_views": (UVICORN, "sync", TASKS),
}


class Site:
    """A project behind a web server on a free loopback port."""

    def __init__(self, url, own):
        self.url = url
        self.own = own

    def get(self, page):
        with urllib.request.urlopen(f"{self.url}/{page}", timeout=PATIENCE) as response:
            return json.load(response)

    def left(self):
        """What there is in the worker, without what is the server's own and serves requests."""
        found = self.get("left")
        names = [*found["threads"], *found["tasks"], *["database"] * found["databases"]]
        return [name for name in names if not name.startswith(self.own)]


@pytest.fixture(params=SERVERS)
def site(request, server, prefix, tmp_path):
    command, kind, own = SERVERS[request.param]
    database = tmp_path / "db.sqlite3"
    database.touch()
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        **{"TEST_DATABASE": str(database), "TEST_REDIS": server.url, "TEST_PREFIX": prefix, "PYTHONPATH": str(ROOT)},
    }
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *(part.format(fd=fd) for part in command)],
            cwd=tmp_path,
            env=environment,
            pass_fds=[fd],
        )
        try:
            yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}/{kind}", own)
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(PATIENCE)


def test_refreshes_leave_no_connection_thread_or_task_behind(site):
    """After many refreshes in the background a worker has nothing that serves no request, but for its watch."""
    assert [site.get(f"price/{key}") for key in KEYS] == [{"answer": 1}] * len(KEYS)
    [site.get(f"expire/{key}") for key in KEYS]

    with ThreadPoolExecutor(4) as threads:
        stale = list(threads.map(lambda key: site.get(f"price/{key}"), KEYS))
    until(lambda: [site.get(f"price/{key}")["answer"] for key in KEYS] == [2] * len(KEYS))

    assert stale == [{"answer": 1}] * len(KEYS)
    until(lambda: site.left() == [WATCH])
