"""Every row of the table of docs/outages.md, made by a real server, a socket or a proxy, for sync and async functions and for views."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest
import redis

from demo_project.server import start_server
from redis_integration.models import FallbackEntry
from tests.outage.callers import FORMS
from tests.outage.faults import (
    FAULTS,
    FOREIGN,
    FULL,
    MENDED,
    PASSWORD,
    UNREADABLE,
    USER,
)
from tests.outage.scene import WAYS, scene_of
from tests.stampede.watch import until

pytestmark = pytest.mark.django_db(transaction=True)

CALLS = ["warm", "cold", "warm"]
PAGE = Path(__file__).parent.parent.parent / "docs" / "outages.md"


def cases(*meanings, ways=None):
    """The faults of these meanings, or all, each for the callers that can meet it; of pages, which go by tags, one way."""
    every = [
        (fault, form, f"{name}-{title}")
        for name, fault in FAULTS.items()
        for title, form in FORMS.items()
        if form.is_async in fault.is_async and (fault.meaning in meanings or not meanings)
    ]
    if ways is None:
        return pytest.mark.parametrize(("fault", "form"), [pytest.param(*each, id=title) for *each, title in every])
    params = [
        pytest.param(fault, form, way, id=f"{title}-{way}")
        for fault, form, title in every
        for way in (ways[:1] if form.is_view else ways)
    ]
    return pytest.mark.parametrize(("fault", "form", "way"), params)


@pytest.fixture
def scene(fault, form, settings, server, prefix, tmp_path):
    with scene_of(fault, form, settings=settings, server=server, prefix=prefix, folder=tmp_path / "folder") as scene:
        scene.value = "origin"
        yield scene


def meet(scene, name, way="key"):
    """The answer to a call that may try Redis, and whether the breaker is open then."""
    scene.breaker._due = 0
    begun = time.perf_counter()
    answer = scene.load(name, way)
    scene.milliseconds.append((time.perf_counter() - begun) * 1000)
    return answer, not scene.breaker.is_closed


@cases()
def test_calls_have_their_answers_and_the_log_its_line(scene, fault, caplog, record_property):
    """No error; what may be read is read, what may not be stored is not; it is told once, with a remedy and no secret."""
    caplog.set_level(logging.DEBUG, "redis_integration")
    before, meaning = scene.stored(), fault.meaning

    with fault.strike(scene):
        met = [meet(scene, name) for name in CALLS[: len(meaning.answers)]]
    record_property("milliseconds", scene.milliseconds)

    records = [record for record in caplog.records if record.name == "redis_integration"]
    told = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert met == list(zip(meaning.answers, meaning.is_open, strict=True))
    assert {kind for kind, _ in scene.failures} == meaning.kinds
    # Of a page's two keys a node of a cluster may complain first; of a write a replica.
    assert not scene.failures or meaning.is_short in {is_short for _, is_short in scene.failures}
    assert [line.split()[0].removeprefix("redis_integration.") for line in told] == meaning.logs
    said = "".join(told[-1:])
    assert fault.remedy in said or (scene.form.is_view and "hash to the same slot" in said)
    assert PASSWORD not in "".join(record.getMessage() for record in records)
    assert (scene.stored() != before) is meaning.stores
    assert FallbackEntry.objects.exists() is any(meaning.is_open)


@cases(ways=WAYS)
def test_invalidation_is_not_lost(scene, fault, way):
    """It raises nothing. It is confirmed, or repeated before Redis, which mostly kept the entry, is believed again."""
    name = scene.names[way]

    with fault.strike(scene):
        scene.value = "new"
        scene.invalidate(way)
        is_pending = name in scene.tier.journal.pending
    # What nobody has heard of may be executed a little later.
    until(lambda: bool(scene.admin.exists(name)) is (is_pending and not fault.is_unheard))
    answer = meet(scene, "warm", way)

    assert is_pending is fault.meaning.is_pending
    assert answer == ("new", False)
    assert not scene.tier.journal.pending
    assert scene.admin.exists(scene.keys[way])


@cases(FOREIGN, UNREADABLE, ways=WAYS)
def test_foreign_value_is_left_alone(scene, fault, way, caplog):
    """It is whoever's it is; the log names its key."""
    with fault.strike(scene):
        before = scene.stored()
        answer = scene.load("warm", way)
        after = scene.stored()

    assert answer == "origin"
    assert before[scene.keys[way].encode()] == after[scene.keys[way].encode()]
    assert caplog.messages[0].startswith(f"redis_integration.entry_unreadable {scene.keys[way]}: ")
    assert fault.remedy in caplog.messages[0]


@cases(FULL)
def test_room_is_told_once(scene, fault, caplog):
    """When something was stored again."""
    with fault.strike(scene):
        scene.load("cold")
    caplog.clear()

    scene.load("cold")
    scene.load("other")

    assert caplog.messages == ["redis_integration.redis_has_room"]


@pytest.mark.parametrize("fault", [FAULTS["reset once"]])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_replica_is_left_for_the_primary(scene, fault):
    """The address leads to the new primary, the open connection to the old one: what is refused there is done anew."""
    with start_server(*USER) as primary:
        scene.proxy.target = ("127.0.0.1", primary.port)
        scene.admin.replicaof("127.0.0.1", "1")
        answers = [meet(scene, name) for name in ("warm", "cold")]
        with redis.Redis(unix_socket_path=primary.unixsocket, decode_responses=True) as admin:
            keys = admin.keys()
        scene.value = "new"
        scene.invalidate("key")
        answers.append(meet(scene, "warm"))

    assert answers == [("entry", False), ("origin", False), ("new", False)]
    assert scene.cached["key"].key_for("cold") in keys
    assert scene.failures == []


def rows():
    """First cell → what it is, and what becomes of an invalidation, of each row of the table in the docs."""
    cells = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {row[0]: (row[1].strip(), row[4].strip()) for row in cells[1:]}


def test_every_row_has_a_fault():
    """And each part of a row, as far as its failures are named."""
    parts = re.findall(r"`[A-Z]+`", "".join(rows()))

    assert [part for part in [*parts, *rows()] if not any(f.row and f.row in part for f in FAULTS.values())] == []


@pytest.mark.parametrize(
    "fault", [pytest.param(each, id=name) for name, each in FAULTS.items() if each.meaning != MENDED]
)
def test_row_says_what_its_fault_means(fault):
    """What it is called, and "pending" wherever an invalidation may be."""
    ((word, invalidations),) = [row for cell, row in rows().items() if fault.row in cell]

    assert word == fault.meaning.word
    assert invalidations.startswith("pending") or not fault.meaning.is_pending
