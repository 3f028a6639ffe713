"""Threads of two processes invalidate, read and drain one journal, whose statements fail at random, before or after they are done.

JOURNAL_STORM (seconds) makes it longer.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time

import pytest

from redis_integration import journal
from redis_integration.conf import get_settings
from tests.model.edits import drop
from tests.model.journal_edits import JOURNAL_EDITS

SECONDS = float(os.environ.get("JOURNAL_STORM", "1.5"))
PATIENCE = 60.0  # seconds; what is wrong is found within one
READ, OTHERS = [f"t:{number}" for number in range(6)], [f"t:other:{number}" for number in range(60)]
MOST, BATCH = 40, 7


class Failure(Exception):
    """Of the database."""


def nap():
    if random.random() < 0.5:
        time.sleep(random.random() * 0.002)


def fail(share):
    nap()
    if random.random() < share:
        raise Failure


class Memory(journal.Journal):
    """The journal of one process, whose table is a dict that all of them share."""

    table: dict[str, str]

    def _insert(self, batch):
        fail(0.5)
        for mark, name in batch.items():
            self.table.setdefault(mark, name)
        fail(0.3)  # nobody hears that it was done

    def _select(self):
        fail(0.1)
        rows = [*self.table.copy().items()]
        random.shuffle(rows)  # a query without an order
        nap()
        return rows[: MOST + 1]

    def delete(self, rows):
        nap()
        if random.random() < 0.8:
            for mark in rows:
                self.table.pop(mark, None)


class Storm:
    """`versions` are the data; `floors` what each process has acknowledged of them; Redis keeps what it had, and confirms nothing."""

    def __init__(self):
        Memory.table = {}
        self.processes = [Memory(get_settings()) for _ in range(2)]
        self.lock = threading.Lock()
        self.versions = dict.fromkeys([*READ, *OTHERS], 0)
        self.redis = {}
        self.floors = [self.versions.copy() for _ in self.processes]
        self.wrong = []
        self.reads = self.invalidations = 0

    def rage(self, seconds):
        self.ends = time.monotonic() + seconds
        acts = [self.invalidate, self.invalidate, self.read, self.drain, self.drain]
        threads = [threading.Thread(target=act, args=(p,)) for p in range(len(self.processes)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def goes_on(self):
        return not self.wrong and time.monotonic() < self.ends

    def invalidate(self, p):
        mine, floors = self.processes[p], self.floors[p]
        while self.goes_on():
            names = random.sample(READ if random.random() < 0.9 else OTHERS, random.randint(1, 3))
            with self.lock:
                for name in names:
                    self.versions[name] += 1
                made = {name: self.versions[name] for name in names}
            mine.remember(names)
            with self.lock:
                floors.update((name, max(floors[name], version)) for name, version in made.items())
            if random.random() < 0.8:
                mine.write()
            self.invalidations += 1
            nap()

    def read(self, p):
        mine, floors = self.processes[p], self.floors[p]
        while self.goes_on():
            name = random.choice(READ)
            floor = floors[name]
            if mine.bypasses([name]):
                nap()
                continue
            with self.lock:
                found = self.redis.setdefault(name, self.versions[name])
            self.reads += 1
            if found < floor:
                self.wrong.append(f"P{p} reads {name} {found}, and has acknowledged {floor}")

    def drain(self, p):
        mine = self.processes[p]
        while self.goes_on():
            mine.poll()
            self.repeat(mine, is_whole=random.random() < 0.9)
            if random.random() < 0.3:
                mine.write()
            with self.lock:  # others read too
                for name in READ:
                    self.redis.setdefault(name, self.versions[name])

    def repeat(self, mine, *, is_whole):
        pending = mine.known()
        nap()
        with self.lock:
            for name in pending:
                self.redis.pop(name, None)
        nap()
        mine.settle(pending, delete=is_whole)

    def calm_down(self):
        """All that is pending is drained in the end."""
        give_up = time.monotonic() + PATIENCE
        while (Memory.table or any(each.pending for each in self.processes)) and time.monotonic() < give_up:
            for each in self.processes:
                each.write()
                each.poll()
                self.repeat(each, is_whole=True)


@pytest.fixture
def storm(settings, monkeypatch, caplog):
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1", "KEY_PREFIX": "t"}}
    caplog.set_level(logging.CRITICAL + 1, "redis_integration")
    monkeypatch.setattr(journal, "MOST", MOST)
    monkeypatch.setattr(journal, "BATCH", BATCH)
    monkeypatch.setattr(journal.statements, "ask", lambda database, query, *, locks: query())
    monkeypatch.setattr(journal.statements, "sees_all", lambda database: True)
    return Storm()


def test_no_reader_of_a_process_gets_what_it_has_invalidated(storm):
    """Nor is anything pending for ever, or kept in memory."""
    storm.rage(SECONDS)
    storm.calm_down()

    assert storm.wrong == []
    assert storm.reads > 100 < storm.invalidations
    assert Memory.table == {}
    for each in storm.processes:
        assert (each.pending, each._unwritten, each._written, each._told) == ({}, {}, {}, set())
    assert storm.redis.items() <= storm.versions.items()


@pytest.mark.parametrize(
    "rule",
    [
        "a poll drops what was written before it",
        "pending is kept per row",
        "a row for each invalidation",
        "the newest mark speaks for those before it",
    ],
)
def test_storm_finds_what_a_rule_is_for(storm, monkeypatch, rule):
    """Without its line somebody is answered what he has invalidated."""
    drop(rule, monkeypatch, JOURNAL_EDITS)

    storm.rage(PATIENCE)

    assert storm.wrong
