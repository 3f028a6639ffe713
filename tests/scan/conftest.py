from __future__ import annotations

import pytest
import redis

from demo_project.server import start_server


@pytest.fixture(scope="session")
def scan_server():
    """A server of these modules' own: it is emptied before each test."""
    with start_server() as server:
        yield server


@pytest.fixture
def client(settings, scan_server):
    """A client of the test's own on the emptied server, to which the alias "default" leads."""
    settings.REDIS_INTEGRATION = {"default": {"URL": scan_server.url, "KEY_PREFIX": "t"}}
    with redis.Redis(port=scan_server.port) as client:
        client.flushall()
        client.config_resetstat()
        yield client
