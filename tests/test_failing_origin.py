from __future__ import annotations

import asyncio
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from redis_integration import ainvalidate, background, cache_aside, invalidate
from tests.stampede.watch import until

SECONDS = float(os.environ.get("STORM_SECONDS", "3"))
ERROR_TTL = 0.5  # seconds; longer than a key is left alone in any case
# Never invalidated, so that a copy is kept from the first call on.
KEPT = (0, 2, 4)
# Written and invalidated over and over, each by one writer.
WRITTEN = {"thread": (1, 3), "task": (5, 7)}


class Down(Exception):
    pass


class World:
    """Versions of products, of which `floors` are acknowledged; the origin, which fails most of the time; and its callers."""

    def __init__(self, **options):
        self.versions, self.floors = [1] * 8, [1] * 8
        self.is_down = False
        self.calls = self.failures = self.answers = self.errors = self.writes = 0
        self.wrong = []
        options = {"ttl": 0.05, "stale_for": 600, "error_ttl": ERROR_TTL, "lease_timeout": 5, **options}
        named = cache_aside(key="product:{pk}", tags=["group:{pk}"], **options)

        @named
        def price(pk):
            self.calls += 1
            version = self.versions[pk]
            time.sleep(random.choice((0, 0.002, 0.01)))
            if self.is_down:
                self.failures += 1
                raise Down(pk)
            return [pk, version]

        @named
        async def aprice(pk):
            return await asyncio.to_thread(price.__wrapped__, pk)

        self.price, self.aprice = price, aprice
        # In the clock of `monotonic`.
        self.until = time.monotonic() + SECONDS

    def is_over(self):
        return time.monotonic() > self.until

    def note(self, pk, floor, answer):
        self.answers += 1
        if answer[0] != pk or answer[1] < floor:
            self.wrong.append((pk, floor, answer))

    def note_error(self, pk, error):
        self.errors += 1
        if pk in KEPT or type(error) is not Down or error.args != (pk,):
            self.wrong.append((pk, repr(error)))

    def call(self):
        while not self.is_over():
            pk = random.randrange(8)
            floor = self.floors[pk]
            try:
                self.note(pk, floor, self.price(pk))
            except Exception as error:
                self.note_error(pk, error)

    async def acall(self):
        while not self.is_over():
            pk = random.randrange(8)
            floor = self.floors[pk]
            try:
                self.note(pk, floor, await self.aprice(pk))
            except Exception as error:
                self.note_error(pk, error)

    def write(self):
        """Change and invalidate, by key or by tag; and expire what is kept, which leaves it usable."""
        while not self.is_over():
            pk = random.choice(WRITTEN["thread"])
            self.versions[pk] += 1
            self.price.invalidate(pk) if random.random() < 0.5 else invalidate(tags=[f"group:{pk}"])
            self.floors[pk] = self.versions[pk]
            self.writes += 1
            self.price.expire(random.choice(KEPT))
            time.sleep(random.uniform(0, 0.02))

    async def awrite(self):
        while not self.is_over():
            pk = random.choice(WRITTEN["task"])
            self.versions[pk] += 1
            await (self.aprice.ainvalidate(pk) if random.random() < 0.5 else ainvalidate(tags=[f"group:{pk}"]))
            self.floors[pk] = self.versions[pk]
            self.writes += 1
            await self.aprice.aexpire(random.choice(KEPT))
            await asyncio.sleep(random.uniform(0, 0.02))

    def fail(self):
        """Most of the time; in between what was invalidated is stored again."""
        while not self.is_over():
            self.is_down = not self.is_down
            time.sleep(0.3 if self.is_down else 0.1)

    async def run_tasks(self):
        await asyncio.gather(self.awrite(), *(self.acall() for _ in range(8)))

    def run(self, works):
        """All of these at a time; their errors."""
        with ThreadPoolExecutor(len(works)) as threads:
            ended = [threads.submit(work) for work in works]
        return [each.exception() for each in ended]


@pytest.fixture
def options():
    """No row of the database: this is about Redis."""
    return {"DATABASE": None}


@pytest.fixture(autouse=True)
def nothing_is_left(caplog):
    caplog.set_level("CRITICAL", "redis_integration")
    background._taken.clear()
    yield
    until(lambda: not background._threads and not background._waiting)
    background._failing.clear()


@pytest.mark.parametrize("refresh", ["background", "caller"])
def test_invalidated_copy_is_never_an_answer_while_the_origin_fails(live, refresh):
    """Writers and a failing origin under load: no error where a copy is kept, no answer older than what was acknowledged."""
    world = World(refresh=refresh)
    first = [world.price(pk) for pk in range(8)]
    calls = [world.call] * 4

    errors = world.run([*calls, lambda: asyncio.run(world.run_tasks()), world.write, world.fail])

    assert first == [[pk, 1] for pk in range(8)]
    assert errors == [None] * 7
    assert world.wrong == []
    assert min(world.answers, world.errors, world.failures, world.writes) > 0
    print(f"{world.answers} answers, {world.errors} errors, {world.calls} calls of the origin, {world.writes} writes")


@pytest.mark.parametrize("refresh", ["background", "caller"])
def test_failing_origin_is_asked_once_in_each_window(live, refresh):
    """Whoever calls has the copy, and each `error_ttl` one call tries again."""
    world = World(refresh=refresh)
    world.price(0)
    world.price.expire(0)
    world.is_down, world.calls, started = True, 0, time.monotonic()

    def call():
        while not world.is_over():
            world.note(0, 1, world.price(0))

    async def acall():
        while not world.is_over():
            world.note(0, 1, await world.aprice(0))

    errors = world.run([call] * 4 + [lambda: asyncio.run(acall())] * 2)
    windows = (time.monotonic() - started) / ERROR_TTL

    assert errors == [None] * 6
    assert world.wrong == []
    assert 1 < world.calls <= windows + 1
    assert world.answers > world.calls
    print(f"{world.answers} answers, {world.calls} calls of the origin in {windows:.1f} windows")
