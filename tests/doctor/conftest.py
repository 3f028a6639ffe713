"""A server of the test's own that gives the doctor nothing to say, for tests that spoil one thing."""

from __future__ import annotations

from weakref import WeakSet

import pytest
import redis

from demo_project.server import start_server
from redis_integration.conf import get_settings
from redis_integration.doctor import examine
from redis_integration.doctor.permissions import needed, patterns
from redis_integration.doctor.readings import ALLOWED_BY, GRANTS_ON_6
from redis_integration.doctor.rules import RULES, consult
from tests.conftest import BRISK

PASSWORD = "hunter2"
LOOKING = " ".join([*ALLOWED_BY.values(), GRANTS_ON_6]).split()


def say(alias="default", **options):
    """Of each finding, by its short id, level and message."""
    return {each.id.removeprefix("redis_integration."): each for each in examine(alias, **options).findings}


def about(reading):
    """The ids of what the rules say about this reading, a set."""
    return {
        each.id.removeprefix("redis_integration.") for each in consult(reading, RULES.values()) if hasattr(each, "id")
    }


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch):
    """What other tests have decorated in this process is none of the doctor's business here."""
    monkeypatch.setattr("redis_integration.checks.every_caching", WeakSet())


@pytest.fixture
def arguments():
    """Of the server; a test module overrides it."""
    return ()


@pytest.fixture
def healthy(settings, prefix, options, arguments):
    """A server as it should be; the alias "default" leads to it, as a user who may what is needed, and look."""
    with start_server("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru", *arguments) as server:
        url = f"redis://app:{PASSWORD}@127.0.0.1:{server.port}/0"
        settings.REDIS_INTEGRATION = {"default": {"URL": url, "KEY_PREFIX": prefix, **BRISK, **options}}
        permit(server, "+@all", "~*")
        yield server


def is_redis_6(server):
    """It has no ACL DRYRUN, measures no latencies, and takes one option a CONFIG SET."""
    return " 6." in server.name


def permit(server, *rules):
    """Make these the rules of the application's user."""
    with redis.Redis(port=server.port) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", f">{PASSWORD}", "resetkeys", "-@all", *rules)


def permit_what_is_needed(server, *more, without=()):
    """The least that the application needs, and these rules."""
    settings = get_settings("default")
    rules = [rule for rule in (*patterns(settings), *needed(settings)) if rule not in without]
    permit(server, "resetchannels", *rules, *more)


@pytest.fixture
def admin(healthy):
    """A client of the operator's on that server."""
    with redis.Redis(port=healthy.port) as client:
        yield client
