"""One process of a run: readers and writers, sync and async, of a Django project of one file. It records all they do.

Usage: python -m tests.history.worker FOLDER, a JSON object in the environment (HISTORY_WORKER), then a word a line on standard input:
`begin SECONDS` (of CLOCK_MONOTONIC), `settle`, `final`, `table`. It answers `ready`, `settled …`, `done`, `table …`. With the argument
`prepare` it makes the tables and ends. At the end of its input it ends at once, so that it never outlives who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from math import inf
from pathlib import Path
from typing import Any

import django
from django.conf import settings

from tests.history.mutations import mutate
from tests.history.plan import KEYS, READERS, WRITERS, Act, Plan
from tests.history.records import Life, Recorder, path_of

FOLDER = Path(sys.argv[1])
SETUP = json.loads(os.environ["HISTORY_WORKER"])
LIFE = Life(SETUP["worker"], SETUP["number"])
PULSE = 0.05  # seconds


def set_up() -> None:
    settings.configure(
        SECRET_KEY="only for tests",
        USE_TZ=True,
        INSTALLED_APPS=["redis_integration"],
        DATABASES={"default": SETUP["database"]},
        LOGGING_CONFIG=None,
        REDIS_INTEGRATION={"default": SETUP["redis"]},
    )
    django.setup()


def prepare() -> None:
    from django.core.management import call_command

    from tests.history.shop import make_table

    call_command("migrate", verbosity=0)
    make_table()


class Confirmations(logging.Handler):
    """What an invalidation of this thread or task has met: the package says so where Redis, or a row, did not take it."""

    words = {"redis_integration.invalidation_pending": "confirmed", "redis_integration.fallback_failed": "ends_rows"}

    def __init__(self) -> None:
        super().__init__()
        self._met: ContextVar[dict[str, bool] | None] = ContextVar("met", default=None)

    def emit(self, record: logging.LogRecord) -> None:
        met, word = self._met.get(), self.words.get(record.msg.partition(" ")[0])
        if met is not None and word:
            met[word] = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[str, bool]]:
        """What is met meanwhile."""
        met = dict.fromkeys(
            self.words.values(), True
        )  # the context of a thread that works for a task is a copy, this the same
        token = self._met.set(met)
        try:
            yield met
        finally:
            self._met.reset(token)


class Worker:
    def __init__(self, plan: Plan) -> None:
        from redis_integration.signals import redis_back, redis_lost
        from tests.history.shop import Shop

        self.plan = plan
        self.shop: Any = Shop(durable=SETUP["redis"].get("FALLBACK") == "durable", work=plan.work)
        self.recorder = Recorder(path_of(FOLDER, LIFE))
        self.begin = 0.0
        self.is_over = False
        self.is_open = False
        self.confirmations = Confirmations()
        logger = logging.getLogger("redis_integration")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self.confirmations)
        shown = logging.StreamHandler()
        shown.setLevel(logging.WARNING)
        logger.addHandler(shown)
        redis_lost.connect(self._note_lost, weak=False)
        redis_back.connect(self._note_back, weak=False)

    def _note_lost(self, *, reason: str, **kwargs: Any) -> None:
        self.is_open = True
        self.recorder.note("lost", at=time.monotonic(), is_open=True, reason=reason)

    def _note_back(self, **kwargs: Any) -> None:
        self.is_open = False
        self.recorder.note("back", at=time.monotonic(), is_open=False)

    def run(self) -> None:
        """All acts that are still to come."""
        acts = self.plan.acts[LIFE.worker]
        threads = [
            threading.Thread(target=self.act, args=(actor, acts[actor]), name=actor)
            for actor, is_async in (READERS | WRITERS).items()
            if not is_async and actor in acts
        ]
        threads.append(threading.Thread(target=lambda: asyncio.run(self.act_async(acts))))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def pulse(self) -> None:
        """Note when the machine does not let this process run."""
        while True:
            before = time.monotonic()
            time.sleep(PULSE)
            if (now := time.monotonic()) - before > 2 * PULSE:
                self.recorder.note("stall", start=before + PULSE, end=now)

    def due(self, acts: list[Act]) -> Iterator[tuple[Act, float]]:
        """Each act, and seconds until it is due. Who was killed has missed some."""
        for act in acts:
            wait = self.begin + act.at - time.monotonic()
            if self.is_over or time.monotonic() > self.begin + self.plan.seconds:
                return
            if wait > -1 or LIFE.number == 0:
                yield act, max(0.0, wait)

    def act(self, actor: str, acts: list[Act]) -> None:
        from django.db import connections

        for number, (act, wait) in enumerate(self.due(acts)):
            time.sleep(wait)
            with self.told(actor, act):
                if actor in READERS:
                    start = time.monotonic()
                    self.note_reads(act.what, start, self.shop.read(act.what, act.keys))
                else:
                    with self.writing(f"{LIFE.worker}.{LIFE.number}.{actor}.{number}", act) as (stamp, note):
                        self.shop.write(act.what, act.keys, stamp, note)
        connections.close_all()

    async def act_async(self, acts: dict[str, list[Act]]) -> None:
        from asgiref.sync import sync_to_async
        from django.db import connections

        actors = [actor for actor, is_async in (READERS | WRITERS).items() if is_async and actor in acts]
        await asyncio.gather(*(self.aact(actor, acts[actor]) for actor in actors))
        await sync_to_async(connections.close_all)()

    async def aact(self, actor: str, acts: list[Act]) -> None:
        for number, (act, wait) in enumerate(self.due(acts)):
            await asyncio.sleep(wait)
            with self.told(actor, act):
                if actor in READERS:
                    start = time.monotonic()
                    self.note_reads(act.what, start, await self.shop.aread(act.what, act.keys))
                else:
                    with self.writing(f"{LIFE.worker}.{LIFE.number}.{actor}.{number}", act) as (stamp, note):
                        await self.shop.awrite(act.what, act.keys, stamp, note)

    @contextlib.contextmanager
    def told(self, actor: str, act: Act) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.recorder.note("error", text=f"{actor}: {act}\n{traceback.format_exc()}")

    def note_reads(self, how: str, start: float, found: list[tuple[int, Any]]) -> None:
        end = time.monotonic()
        for key, value in found:
            other = None if value["key"] == key else value["key"]
            shown = {"version": value["version"], "stamp": value["stamp"]}
            self.recorder.note("read", how=how, start=start, end=end, key=key, answered_key=other, **shown)

    @contextlib.contextmanager
    def writing(self, stamp: str, act: Act) -> Iterator[tuple[str, Callable[[Any], None]]]:
        start = time.monotonic()

        def note(made: Any) -> None:
            self.recorder.note("written", stamp=stamp, start=start, how=act.what, made=made)

        with self.confirmations.watched() as met:
            yield stamp, note
        self.recorder.note("acknowledged", stamp=stamp, end=time.monotonic(), **met)

    def settle(self) -> str:
        """Go on reading until this process believes Redis and the journal is empty; what is not so in time."""
        deadline, settled_at = time.monotonic() + SETUP["settles_within"], inf
        while (now := time.monotonic()) < min(deadline, settled_at + 2 * SETUP["redis"]["WATCH_INTERVAL"]):
            self.read_each("settling", self.shop.read)
            settled_at = inf if self.unsettled() else min(settled_at, now)
        return self.unsettled()

    def unsettled(self) -> str:
        rows = count_journal()
        open_ = "it does not believe Redis" if self.is_open else ""
        return ", ".join(filter(None, [open_, f"{rows} rows in the journal" if rows else ""]))

    def read_each(self, how: str, read: Callable[[str, list[int]], Any], what: str = "get") -> None:
        for key in range(KEYS):
            start = time.monotonic()
            self.note_reads(how, start, read(what, [key]))

    async def aread_each(self, how: str) -> None:
        for key in range(KEYS):
            start = time.monotonic()
            self.note_reads(how, start, await self.shop.aread("get", [key]))

    def warm(self) -> None:
        """Read each key once, so that nothing is done for the first time later."""
        self.recorder.note("began", at=time.monotonic())
        threading.Thread(target=self.pulse, daemon=True).start()
        self.read_each("warming", self.shop.read)
        asyncio.run(self.aread_each("warming"))

    def read_finally(self) -> None:
        """Each key, by sync code, in a batch, and by async code."""
        self.read_each("final", self.shop.read)
        self.read_each("final", self.shop.read, "batch")
        asyncio.run(self.aread_each("final"))


def read_table() -> list[tuple[int, int, str]]:
    from tests.history.shop import read_all

    return read_all()


def count_journal() -> int:
    from redis_integration import models

    model: Any = getattr(models, "PendingInvalidation", None)
    return model.objects.count() if model is not None else 0


def answer(word: str) -> None:
    print(word, flush=True)


def listen(worker: Worker) -> None:
    acting: threading.Thread | None = None
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "begin":
            worker.begin = float(rest[0])
            acting = threading.Thread(target=worker.run)
            acting.start()
        elif word == "settle" and acting:
            worker.is_over = True
            acting.join()
            answer(f"settled {worker.settle()}")
        elif word == "final":
            worker.read_finally()
            answer("done")
        elif word == "table":
            answer(f"table {json.dumps(read_table())}")
    os._exit(0)


def main() -> None:
    set_up()
    if "prepare" in sys.argv:
        prepare()
        return
    mutate(SETUP["mutation"])
    worker = Worker(Plan.load(FOLDER / "plan.json"))
    worker.warm()
    answer("ready")
    listen(worker)


if __name__ == "__main__":
    main()
