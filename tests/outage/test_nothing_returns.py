"""Each fault of faults.py with an invalidation, by key and by tag, made during it and after it: no process serves what was invalidated.

A process is an alias here, with a breaker, connections and a journal in memory of its own, over one database: see `Asker`.
"""

from __future__ import annotations

import pytest

from redis_integration.models import PendingInvalidation
from tests.outage.callers import FORMS
from tests.outage.faults import FAULTS
from tests.outage.scene import Asker, scene_of

pytestmark = pytest.mark.django_db(transaction=True)

cases = pytest.mark.parametrize(
    ("fault", "form"),
    [
        pytest.param(fault, FORMS[title], id=f"{name}-{title}")
        for name, fault in FAULTS.items()
        for title in ("sync", "async")
        if FORMS[title].is_async in fault.is_async
    ],
)


@pytest.fixture
def scene(fault, form, settings, server, prefix, tmp_path):
    with scene_of(fault, form, settings=settings, server=server, prefix=prefix, folder=tmp_path / "folder") as scene:
        yield scene.watched()


@pytest.fixture(params=["behind", "beside"])
def other(request, scene):
    """Another process: behind the proxy it meets every fault, beside it only those of the server."""
    other = Asker(request.param, form=scene.form, read=scene.read, run=scene.run)
    other.load_all()
    return other.watched()


@cases
def test_what_is_invalidated_during_it_does_not_return(scene, other, fault):
    """Who invalidates never serves it again, who could not know only until its next beat, and after it nothing is left to do."""
    with fault.strike(scene):
        scene.value = "new"
        scene.invalidate_all()
        at_once = scene.load_all()
        other.beat()
        during = [scene.load_all(), other.load_all()]
    other.beat()
    scene.beat()
    after = [scene.load_all(), other.load_all()]
    scene.value = "newer"
    other.invalidate_all()
    last = [other.load_all(), scene.load_all()]

    assert at_once == ["new"] * 2
    assert during == after == [["new"] * 2] * 2
    assert last == [["newer"] * 2] * 2
    assert not scene.journal.pending
    assert not other.journal.pending
    assert not PendingInvalidation.objects.exists()


@cases
@pytest.mark.parametrize("other", ["behind"], indirect=True)
def test_what_is_invalidated_right_after_it_does_not_return(scene, other, fault):
    """Before anybody has noticed that it is over, and by who is not the first to notice."""
    with fault.strike(scene):
        met = [scene.load_all(), other.load_all()]
    scene.value = "new"
    scene.invalidate_all()
    at_once = scene.load_all()
    other.beat()
    scene.beat()
    after = [scene.load_all(), other.load_all()]

    assert met == [["entry"] * 2] * 2
    assert at_once == ["new"] * 2
    assert after == [["new"] * 2] * 2
    assert not scene.journal.pending
    assert not other.journal.pending
    assert not PendingInvalidation.objects.exists()
