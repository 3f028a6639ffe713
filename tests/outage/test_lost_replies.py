"""Redis does what it is told, and nobody hears of it; or it does so much later, when something else has happened meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import socket

import pytest

from demo_project.proxy import End, FarEnd, NearEnd
from redis_integration.models import PendingInvalidation
from tests.outage.callers import FORMS
from tests.outage.faults import FAULTS, impatient
from tests.outage.scene import WAYS, Asker, scene_of

pytestmark = pytest.mark.django_db(transaction=True)

# Seconds for which a lease lasts: one that is given late is nobody's.
BRIEF = {"lease_timeout": 0.3}


@pytest.fixture(params=["sync", "async"])
def scene(request, settings, server, prefix, tmp_path):
    fault, folder = FAULTS["reset once"], tmp_path / "folder"
    with scene_of(
        fault, FORMS[request.param], settings=settings, server=server, prefix=prefix, folder=folder, **BRIEF
    ) as scene:
        yield scene.watched()


@pytest.fixture
def other(scene):
    """Another process, which Redis answers."""
    other = Asker("beside", form=scene.form, read=scene.read, run=scene.run, **BRIEF)
    other.load_all()
    return other.watched()


@contextlib.contextmanager
def kept_back(scene, end, number):
    """The timeouts are short, and the chunk of this number that arrives at these ends goes no further: a list of it."""
    kept, numbers = [], itertools.count()

    def carry(end, chunk):
        if next(numbers) == number:
            kept.append(chunk)
        else:
            End.data_received(end, chunk)

    with pytest.MonkeyPatch.context() as patch, impatient(scene):
        patch.setattr(end, "data_received", carry, raising=False)
        yield kept
        assert kept


@contextlib.contextmanager
def swallowed(scene, number):
    """The reply of this number is lost."""
    with kept_back(scene, FarEnd, number):
        yield


@contextlib.contextmanager
def late(scene, number):
    """The command of this number arrives at the end, when nobody waits for it any more."""
    with kept_back(scene, NearEnd, number) as kept:
        yield
    with socket.create_connection(("127.0.0.1", scene.server.port)) as connection:
        connection.sendall(kept[0])
        connection.recv(1000)


ways = pytest.mark.parametrize("way", WAYS)
both = pytest.mark.parametrize("fault", [swallowed, late])


def assert_nothing_is_left(*askers):
    """Of what was pending, and after a beat of each."""
    [asker.beat() for asker in askers]
    assert [asker.journal.pending for asker in askers] == [{}] * len(askers)
    assert not PendingInvalidation.objects.exists()


@ways
@both
@pytest.mark.parametrize("number", [0, 1, 2], ids=["read", "lease", "fill"])
def test_call_that_is_executed_unheard_stores_nothing_that_is_invalidated_later(scene, other, way, fault, number):
    """Neither at once, nor when its command arrives late; a lease that is given late is waited for no longer than it lasts."""
    with fault(scene, number):
        answer = scene.load("cold", way)
        scene.value = "new"
        other.cached[way].invalidate("cold")
        other.invalidate("tag")
    after = [scene.load("cold", way), other.load("cold", way), scene.load("cold", way)]
    assert_nothing_is_left(scene, other)

    assert answer == "entry"
    assert after == ["new"] * 3
    assert [scene.load("cold", way), other.load("cold", way)] == ["new"] * 2


@ways
@both
def test_invalidation_that_is_executed_unheard_is_made_once_more(scene, other, way, fault):
    """What is stored in between is true, and so is what is stored after the repetition, and after the late one."""
    with fault(scene, 0):
        scene.value = "new"
        scene.invalidate(way)
        is_pending = scene.names[way] in scene.journal.pending
        at_once = scene.load("warm", way)
        other.beat()
        during = [scene.load("warm", way), other.load("warm", way)]
        scene.value = "newer"
        other.invalidate(way)
    after = [scene.load("warm", way), other.load("warm", way)]
    assert_nothing_is_left(scene, other)

    assert is_pending
    assert [at_once, *during] == ["new"] * 3
    assert [*after, scene.load("warm", way), other.load("warm", way)] == ["newer"] * 4
