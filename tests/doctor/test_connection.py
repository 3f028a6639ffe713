"""Rules about the way to the server, and what it is: each made to fire on a real server."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace

import pytest
import redis
from django.core.checks import ERROR, WARNING

from demo_project import proxy
from demo_project.server import free_port, start_server
from redis_integration.doctor import examine
from redis_integration.doctor.readings import gather
from tests.conftest import BRISK
from tests.doctor.conftest import about, is_redis_6, say
from tests.outage.callers import FORMS
from tests.outage.faults import FAULTS
from tests.outage.test_rows import scene  # noqa: F401  # a fixture
from tests.stampede.watch import until

pytestmark = pytest.mark.django_db(transaction=True)
# Of the request and of the call, not of the server; and what is over before anybody looks.
NOT_SEEN = {"budget spent", "reset once", "torn once", "lagging", "frozen once", "event loop closed"}


@pytest.mark.parametrize(
    ("fault", "form"),
    [pytest.param(fault, FORMS["sync"], id=name) for name, fault in FAULTS.items() if name not in NOT_SEEN],
)
def test_each_failure_is_told_with_its_remedy(scene, fault):  # noqa: F811
    """Each row of docs/outages.md, made by a real server or a proxy, is a finding of the gravest level that says what to do."""
    with fault.strike(scene):
        report = examine(tags=["connection", "access", "keys"])

    said = [f"{each.msg} {each.hint}" for each in report.findings if "D406" in each.id or each.level >= WARNING]
    remedy = fault.remedy.replace("no entry of format", "are no entries").replace(
        "Another program owns this key", "another program owns them"
    )
    assert [each for each in said if remedy in each] != []


@pytest.fixture
def slow_proxy(healthy, settings, monkeypatch):
    """A way to the server on which each half of a round trip takes 2 ms."""
    carry = proxy.End.data_received
    monkeypatch.setattr(
        proxy.End, "data_received", lambda end, chunk: end.proxy._loop.call_later(0.002, carry, end, chunk)
    )
    with proxy.CuttableProxy(healthy.port) as way:
        options = settings.REDIS_INTEGRATION["default"]
        settings.REDIS_INTEGRATION = {"default": {**options, "URL": f"redis://127.0.0.1:{way.port}/0"}}
        yield settings.REDIS_INTEGRATION["default"]


def test_slow_way_is_told(healthy, slow_proxy):
    """With the measured round trip, against the timeout."""
    found = say(tags=["connection"])

    assert found["D102"].level == WARNING
    assert "COMMAND_TIMEOUT is 1000 ms" in found["D102"].msg
    assert ("the server itself" in found["D102"].hint) is not is_redis_6(healthy)


def test_answer_that_comes_after_the_timeout_is_an_error(slow_proxy, settings):
    """The doctor waits longer than a worker does, so that it can say how long it takes."""
    settings.REDIS_INTEGRATION = {"default": {**slow_proxy, "COMMAND_TIMEOUT": 0.002}}

    found = say(tags=["connection"])

    assert found["D102"].level == ERROR
    assert "see SLOWLOG" in found["D101"].hint


@pytest.mark.parametrize(
    ("version", "ids"), [("5.0.7", {"D104"}), ("6.0.16", {"D104"}), ("6.2.0", set()), ("8.2.3", set())]
)
def test_old_server_is_told(healthy, version, ids):
    """No such server runs anywhere any more, so that a reading is altered."""
    reading = gather("default", {"info"})

    assert about(replace(reading, info={**reading.info, "redis_version": version})) & {"D104"} == ids


def test_replica_is_told_with_its_primary(admin):
    """A replica that has lost its primary says so; that it refuses writes is not told twice."""
    admin.replicaof("127.0.0.1", "1")

    found = say(tags=["connection"])

    assert "replica of 127.0.0.1:1, and has lost it" in found["D105"].msg
    assert "D103" not in found


def test_node_of_a_cluster_is_told(settings, prefix):
    """Also one that has all the keys."""
    with start_server("--cluster-enabled", "yes") as node:
        settings.REDIS_INTEGRATION = {"default": {"URL": node.url, "KEY_PREFIX": prefix, **BRISK}}

        assert "Redis Cluster" in say(tags=["connection"])["D105"].msg


def test_sentinel_is_told(healthy):
    """It has INFO of its own: a reading is altered."""
    reading = gather("default", {"info"})

    assert "D105" in about(replace(reading, info={**reading.info, "redis_mode": "sentinel"}))


def test_snapshot_that_failed_is_told(settings, prefix, tmp_path):
    """Its folder is gone, as on a disk that is."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with start_server("--save", "3600", "1", directory=folder) as server:
        settings.REDIS_INTEGRATION = {"default": {"URL": server.url, "KEY_PREFIX": prefix, **BRISK}}
        shutil.rmtree(folder)
        client = redis.Redis(port=server.port)
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")

        found = say(tags=["connection"])

        client.close()
    assert "The last snapshot has failed" in found["D106"].msg
    assert "MISCONF" in found["D103"].msg


def test_past_refusals_are_told(admin):
    """Also where the server is well again."""
    admin.config_set("maxmemory", 1)
    admin.config_set("maxmemory-policy", "noeviction")
    with pytest.raises(Exception, match="OOM|used memory"):
        admin.set("any", "thing")
    admin.config_set("maxmemory", "1gb")
    admin.config_set("maxmemory-policy", "allkeys-lru")

    found = say(tags=["connection"])

    assert found.keys() == {"D107"}
    assert found["D107"].msg.startswith("OOM was answered 1 times")


@pytest.mark.parametrize(("options", "ids"), [({"DISTRUST_RESTARTS": False}, {"D108"}), ({}, set())])
def test_snapshots_are_told_where_they_are_believed(healthy, admin, options, ids):
    """A restart would bring back what was invalidated."""
    admin.config_set("save", "3600 1")

    assert say(tags=["connection"]).keys() == ids


def test_primary_that_confirms_alone_is_told(admin, healthy):
    """Until it waits for one of its replicas."""
    with start_server("--replicaof", "127.0.0.1", str(healthy.port)):
        until(lambda: admin.info("replication")["connected_slaves"] == 1)
        before = say(tags=["connection"])
        admin.config_set("min-replicas-to-write", 1)
        after = say(tags=["connection"])

    assert before.keys() == {"D109"}
    assert "D109" not in after


def test_no_server_is_one_error(settings):
    """All that could not be looked at has the same reason."""
    settings.REDIS_INTEGRATION = {"default": {"URL": f"redis://127.0.0.1:{free_port()}/0", "KEY_PREFIX": "t"}}

    report = examine(tags=["connection", "memory", "load"])

    assert [each.id for each in report.findings] == ["redis_integration.D101"]
    assert {each.why for each in report.not_checked} == {report.findings[0].msg}
    assert report.checks == 2  # D101 and D103, which need no reply


def test_secrets_are_not_shown(settings):
    """Neither in a refusal."""
    with start_server("--requirepass", "letmein") as server:
        settings.REDIS_INTEGRATION = {"default": {"URL": f"redis://:opensesame@127.0.0.1:{server.port}/0"}}

        report = examine(tags=["connection"])

    assert "D101" in report.findings[0].id
    assert "opensesame" not in repr(report)


def test_too_many_clients_is_told(admin, healthy):
    """A server that takes nobody any more is none."""
    admin.config_set("maxclients", 1)
    with socket.create_connection(("127.0.0.1", healthy.port)):
        assert "maxclients" in say(tags=["connection"])["D101"].hint
