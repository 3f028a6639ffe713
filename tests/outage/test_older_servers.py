"""Redis comes back older than it was: from a snapshot, as a replica that lagged, as a primary that was a replica meanwhile.

In each copy there are entries, generations and leases from before an invalidation, and who holds such a lease fills after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from demo_project.server import start_server
from redis_integration.models import PendingInvalidation
from tests.outage.callers import FORMS
from tests.outage.faults import FAULTS, USER
from tests.outage.scene import WAYS, Asker, scene_of
from tests.stampede.crew import PATIENCE
from tests.stampede.watch import until

pytestmark = pytest.mark.django_db(transaction=True)

NAMES = ["warm", "cold"]
# One is stored, the other is being computed.
# Seconds for which a caller waits for another's lease: the old copies hold one that nobody lets go.
PATIENT_FOR = {"lease_timeout": 0.1}
EVERY = [(name, way) for name in NAMES for way in WAYS]


@pytest.fixture(params=["sync", "async"])
def form(request):
    return FORMS[request.param]


@pytest.fixture
def scene(form, settings, server, prefix, tmp_path):
    fault, folder = FAULTS["reset once"], tmp_path / "folder"
    with scene_of(fault, form, settings=settings, server=server, prefix=prefix, folder=folder, **PATIENT_FOR) as scene:
        scene.admin.config_set("repl-diskless-sync-delay", 0)
        yield scene.watched()


def run_anywhere(result):
    """In any thread, on an event loop of its own."""
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


@pytest.fixture
def other(scene):
    """The process that invalidates."""
    return Asker("behind", form=scene.form, read=scene.read, run=run_anywhere, **PATIENT_FOR).watched()


def change(scene, other, value="new"):
    scene.value = value
    for name in NAMES:
        other.cached["key"].invalidate(name)
    other.invalidate("tag")


def answers(*askers):
    return [asker.load(name, way) for asker in askers for name, way in EVERY]


@contextlib.contextmanager
def computing(scene):
    """A third process holds the leases of what is not stored, and has read what is old; at the end it fills."""
    has_read, may_go = threading.Semaphore(0), threading.Event()

    def read():
        value = scene.value
        has_read.release()
        may_go.wait(PATIENCE)
        return value

    third = Asker("third", form=scene.form, read=read, run=run_anywhere, lease_timeout=PATIENCE)
    with ThreadPoolExecutor(len(WAYS)) as threads:
        calls = [threads.submit(third.load, "cold", way) for way in WAYS]
        [has_read.acquire(timeout=PATIENCE) for _ in WAYS]
        yield
        may_go.set()
        [call.result(PATIENCE) for call in calls]


def connections(scene):
    """Those of the process that only asks."""
    return {client["id"] for client in scene.admin.client_list() if client["name"] == "redis_integration"}


def in_turn(*steps, at, what):
    """These steps, and `what` before the one with this number."""
    [step() for step in (*steps[:at], what, *steps[at:])]


class Replica:
    """A replica of the scene's server, once it has copied what that holds."""

    def __init__(self, scene, server):
        self.scene, self.server, self.keys = scene, server, []
        self.admin = redis.Redis(
            unix_socket_path=server.unixsocket, decode_responses=True, single_connection_client=True
        )

    def copy(self):
        self.admin.replicaof("127.0.0.1", self.scene.server.port)
        self.follow(self.admin, self.scene.admin)
        self.keys = sorted(self.admin.keys())

    def follow(self, younger, older):
        """Wait until it has a copy."""
        until(lambda: younger.info("replication").get("master_link_status") == "up")
        until(lambda: sorted(younger.keys()) == sorted(older.keys()))

    def lag(self):
        """From now on it hears nothing."""
        self.server.pause()
        self.scene.admin.client_kill_filter(_type="replica")

    def promote(self):
        # Told before it wakes up, which would ask the primary for what it has missed.
        self.admin.connection.send_command("REPLICAOF", "NO", "ONE")
        self.server.resume()
        self.admin.connection.read_response()
        assert sorted(self.admin.keys()) == self.keys

    def lead(self):
        """New connections lead to it."""
        self.promote()
        self.scene.proxy.target = ("127.0.0.1", self.server.port)

    def demote_primary(self):
        """It takes what the replica had."""
        self.promote()
        self.admin.config_set("repl-diskless-sync-delay", 0)
        self.scene.admin.replicaof("127.0.0.1", self.server.port)
        self.follow(self.scene.admin, self.admin)

    def promote_primary(self):
        assert sorted(self.scene.admin.keys()) == self.keys
        self.scene.admin.replicaof("NO", "ONE")


@pytest.fixture
def replica(scene):
    with start_server(*USER) as server:
        replica = Replica(scene, server)
        yield replica
        replica.admin.close()
        server.kill()


def assert_nothing_is_left(*askers):
    """Of what was pending, and after a beat of each."""
    [asker.beat() for asker in askers]
    assert [asker.journal.pending for asker in askers] == [{}] * len(askers)
    assert not PendingInvalidation.objects.exists()


@pytest.mark.parametrize("at", [0, 1, 2], ids=["before the crash", "while it is gone", "after the restart"])
def test_old_snapshot_brings_nothing_back(scene, other, at):
    """Not for a moment, whether Redis had confirmed it or not; what is stored afterwards is believed, and can be invalidated."""
    with computing(scene):
        scene.admin.save()
        in_turn(scene.server.kill, scene.server.start, at=at, what=lambda: change(scene, other))
        at_once = answers(scene, other)
    filled_late = answers(scene, other)
    assert_nothing_is_left(scene, other)
    after = answers(scene, other)
    change(scene, other, "newer")

    assert at_once == filled_late == after == ["new"] * 8
    assert answers(scene, other) == ["newer"] * 8


@pytest.mark.parametrize("at", [1, 2, 3], ids=["lost by the replica", "while there is none", "by the new primary"])
def test_failover_to_a_replica_that_lags_brings_nothing_back(scene, other, replica, at):
    """Not for a moment: the new primary is another life."""
    with computing(scene):
        replica.copy()
        in_turn(replica.lag, scene.server.kill, replica.lead, at=at, what=lambda: change(scene, other))
        at_once = answers(scene, other)
    filled_late = answers(scene, other)
    assert_nothing_is_left(scene, other)
    after = answers(scene, other)
    change(scene, other, "newer")

    assert at_once == filled_late == after == ["new"] * 8
    assert answers(scene, other) == ["newer"] * 8


@pytest.mark.parametrize("at", [1, 2, 3], ids=["lost by the replica", "while it is a replica", "when it is back"])
def test_primary_that_was_a_replica_meanwhile_brings_nothing_back(scene, other, replica, at):
    """Connections stay open and say nothing, so that who could not know is right after its next beat."""
    with computing(scene):
        replica.copy()
        before = connections(scene)
        in_turn(replica.lag, replica.demote_primary, replica.promote_primary, at=at, what=lambda: change(scene, other))
    kept = connections(scene)
    [asker.beat() for asker in (other, scene)]
    after = answers(scene, other)
    assert_nothing_is_left(scene, other)
    change(scene, other, "newer")

    assert kept == before != set()
    assert after == ["new"] * 8
    assert answers(scene, other) == ["newer"] * 8
