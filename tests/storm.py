"""
A storm of interrupts over one way of speaking to Redis; run by tests/test_interrupts.py in an interpreter of its own.

Usage: storm.py URL SUBJECT INTERRUPTS [SECONDS]. Prints one JSON object. Exceptions are raised from a signal handler at random
instants, as a soft time limit of a task queue does. Of decorated functions, which are called and invalidated by three threads
or many tasks, the end is SECONDS. STORM_SEED repeats a storm, as far as threads can be repeated.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import signal
import sys
import threading
import time

KEYS = 50
TIME_LIMIT = 60.0  # seconds; a storm of 2,000 takes about 3


class Interrupted(BaseException):
    pass


class TimeLimit(Exception):
    """As Celery's SoftTimeLimitExceeded."""


class Storm:
    """Raises some microseconds after `rise`, while it is armed."""

    def __init__(self, error: type[BaseException] = Interrupted, *, longest: float = 1.2e-3) -> None:
        self.armed = False
        self.strikes = 0
        self.error = error
        self.longest = longest
        signal.signal(signal.SIGALRM, self.strike)

    def strike(self, *args: object) -> None:
        if self.armed:
            self.armed = False
            self.strikes += 1
            raise self.error

    def rise(self) -> None:
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, self.longest))


def configure(url: str) -> None:
    import django
    from django.conf import settings

    # A busy machine must not look like a slow Redis. And until Python 3.13 an interrupted log call leaves the handler locked.
    patient = {"COMMAND_TIMEOUT": 10, "CONNECT_TIMEOUT": 10, "POOL_TIMEOUT": 10}
    settings.configure(
        REDIS_INTEGRATION={"default": {"URL": url, "KEY_PREFIX": "storm", "MAX_CONNECTIONS": 5, **patient}}
    )
    django.setup()


def stock_get(url: str):
    """redis-py as it comes, but for a pool large enough to lose connections from."""
    import redis

    client = redis.Redis(connection_pool=redis.ConnectionPool.from_url(url, max_connections=100_000))
    return lambda numbers: [client.get(f"storm:{number}") for number in numbers[:1]]


def plain_get(url: str):
    from redis_integration import get_redis

    return lambda numbers: [get_redis().get(f"storm:{number}") for number in numbers[:1]]


def plain_pipeline(url: str):
    from redis_integration import get_redis

    def read(numbers):
        with get_redis().pipeline(transaction=random.random() < 0.5) as pipeline:
            for number in numbers:
                pipeline.get(f"storm:{number}")
            return pipeline.execute()

    return read


def exchange(url: str):
    from redis_integration.pools import exchange

    return lambda numbers: exchange("default", [("GET", f"storm:{number}") for number in numbers])[0]


SYNC = {"stock_get": stock_get, "plain_get": plain_get, "plain_pipeline": plain_pipeline, "exchange": exchange}


def value(number: int) -> bytes:
    return b"value-%d-" % number + b"x" * (number * 40)


def run_sync(read, interrupts: int) -> dict[str, int]:
    storm, count = Storm(), {"answers": 0, "wrong": 0, "interrupts": 0, "errors": 0}
    give_up = time.monotonic() + TIME_LIMIT
    while count["interrupts"] < interrupts and time.monotonic() < give_up:
        numbers = random.sample(range(KEYS), 3)
        answers = []
        try:
            try:
                storm.rise()
                answers = read(numbers)
            finally:
                storm.armed = False
        except Interrupted:
            count["interrupts"] += 1
        except Exception as error:
            storm.armed = False
            count["errors"] += 1
            count[f"error: {type(error).__name__}: {error}"[:120]] = 1
        count["answers"] += len(answers)
        count["wrong"] += sum(answer != value(number) for answer, number in zip(answers, numbers, strict=False))
    storm.armed = False
    return count


async def run_async(read, interrupts: int) -> dict[str, int]:
    count = {"answers": 0, "wrong": 0, "interrupts": 0, "errors": 0}
    give_up = time.monotonic() + TIME_LIMIT
    while count["interrupts"] < interrupts and time.monotonic() < give_up:
        samples = [random.sample(range(KEYS), 3) for _ in range(4)]
        tasks = [asyncio.ensure_future(read(numbers)) for numbers in samples]
        await asyncio.sleep(random.uniform(0, 1e-3))
        for task in random.sample(tasks, 2):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for numbers, result in zip(samples, results, strict=True):
            if isinstance(result, asyncio.CancelledError):
                count["interrupts"] += 1
            elif isinstance(result, BaseException):
                count["errors"] += 1
                count[f"error: {type(result).__name__}: {result}"[:120]] = 1
            else:
                count["answers"] += len(result)
                count["wrong"] += sum(a != value(n) for a, n in zip(result, numbers, strict=False))
    return count


async def aexchange_read(numbers):
    from redis_integration.pools import aexchange

    return (await aexchange("default", [("GET", f"storm:{number}") for number in numbers]))[0]


async def aplain_get(numbers):
    from redis_integration import aget_redis

    return [await aget_redis().get(f"storm:{number}") for number in numbers[:1]]


async def aplain_pipeline(numbers):
    from redis_integration import aget_redis

    async with aget_redis().pipeline(transaction=random.random() < 0.5) as pipeline:
        for number in numbers:
            pipeline.get(f"storm:{number}")
        return await pipeline.execute()


ASYNC = {"aexchange": aexchange_read, "aplain_get": aplain_get, "aplain_pipeline": aplain_pipeline}


class World:
    """Versions of some products, in two groups; `floors` are the versions whose invalidation was acknowledged."""

    PRODUCTS = 4
    LEASE = 0.3  # seconds

    def __init__(self) -> None:
        self.versions = [0] * self.PRODUCTS
        self.floors = [0] * self.PRODUCTS
        self.number = itertools.count(1)
        self.count = dict.fromkeys(("answers", "wrong", "computed", "interrupts", "invalidations", "errors"), 0)

    def load(self, product: int) -> list[int]:
        self.count["computed"] += 1
        return [product, self.versions[product]]

    def write(self, product: int) -> None:
        # One operation: a version that another thread overtakes is not younger.
        self.versions[product] = next(self.number)

    def acknowledge(self, versions: dict[int, int]) -> None:
        for product, version in versions.items():
            self.floors[product] = max(self.floors[product], version)
        self.count["invalidations"] += 1

    def group_of(self, product: int) -> list[int]:
        return [each for each in range(self.PRODUCTS) if each % 2 == product % 2]

    def check(self, product: int, floor: int, answer: list[int]) -> None:
        self.count["answers"] += 1
        if answer[0] != product or answer[1] < floor:
            self.count["wrong"] += 1
            self.count[f"wrong: {answer} for {product}, at least {floor}"] = 1

    def note(self, error: BaseException) -> None:
        self.count["errors"] += 1
        text = f"error: {type(error).__name__}: {error}"[:160]
        self.count[text] = self.count.get(text, 0) + 1


CALLS = ["call"] * 9 + ["refresh"]
CHANGES = ["by key", "by tag", "expire"]


def choose() -> tuple[str, bool]:
    """A deed, and whether it may be interrupted: an interrupted change is pending, and its names bypass Redis for a second."""
    if random.random() < 0.85:
        return random.choice(CALLS), True
    return random.choice(CHANGES), random.random() < 0.02


def make_deed(world: World, price, invalidate):
    """One call or invalidation, of a random product, and the judgement of what it gave."""

    def do(deed: str) -> None:
        product = random.randrange(world.PRODUCTS)
        if deed in ("call", "refresh"):
            floor = world.floors[product]
            world.check(product, floor, (price if deed == "call" else price.refresh)(product))
        elif deed == "expire":
            price.expire(product)
        else:
            world.write(product)
            group = world.group_of(product) if deed == "by tag" else [product]
            versions = {each: world.versions[each] for each in group}
            price.invalidate(product) if deed == "by key" else invalidate(tags=[f"group:{product % 2}"])
            world.acknowledge(versions)

    return do


def storm_decorated(error: type[BaseException], seconds: float) -> dict[str, int]:
    from redis_integration import cache_aside, invalidate

    world = World()

    @cache_aside(
        ttl=60, key="product:{product}", tags=lambda product: [f"group:{product % 2}"], lease_timeout=World.LEASE
    )
    def price(product):
        answer = world.load(product)
        time.sleep(random.choice((0, 0, 1e-4, 2e-3)))
        return answer

    do, is_over = make_deed(world, price, invalidate), threading.Event()

    def trouble() -> None:
        while not is_over.is_set():
            try:
                do(choose()[0])
            except TimeLimit:
                # That of the thread whose computation it had joined: an error of the origin, as far as anybody can tell.
                world.count["limits of others"] = world.count.get("limits of others", 0) + 1
            except Exception as failure:
                world.note(failure)

    others = [threading.Thread(target=trouble, daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    storm, give_up = Storm(error, longest=4e-3), time.monotonic() + seconds
    while time.monotonic() < give_up:
        deed, may_be_interrupted = choose()
        try:
            try:
                if may_be_interrupted:
                    storm.rise()
                do(deed)
            finally:
                storm.armed = False
        except (Interrupted, TimeLimit):
            world.count["interrupts"] += 1
        except Exception as failure:
            storm.armed = False
            world.note(failure)
    storm.armed = False
    is_over.set()
    for other in others:
        other.join(20)
    world.count["threads"] = sum(other.is_alive() for other in others)
    world.count["strikes"] = storm.strikes
    look_after(world)
    started = time.monotonic()
    for product in range(world.PRODUCTS):
        world.check(product, world.floors[product], price(product))
        price.invalidate(product)
        price(product)
    # A dead flight would be joined until it was waited for in vain.
    world.count["slow"] = int(time.monotonic() - started > 4 * World.LEASE + 5)
    return world.count


def look_after(world: World) -> None:
    """Count what should be gone: flights, callers that count as aboard, leases beyond their time."""
    from redis_integration import flights, get_redis

    gc.collect()
    world.count["flights"] = len([flight for flight in flights._flights.values() if not flight.is_over])
    world.count["aboard"] = len([flight for flight in flights._aboard.get() if not flight.is_over])
    leases = [f"{{storm:product:{product}}}:lease" for product in range(world.PRODUCTS)]
    world.count["leases"] = get_redis().exists(*leases)
    time.sleep(World.LEASE + 0.05)
    world.count["late leases"] = get_redis().exists(*leases)


def make_async_deed(world: World, price, ainvalidate):
    """See `make_deed`."""

    async def do(deed: str) -> None:
        product = random.randrange(world.PRODUCTS)
        if deed in ("call", "refresh"):
            floor = world.floors[product]
            world.check(product, floor, await (price if deed == "call" else price.arefresh)(product))
        elif deed == "expire":
            await price.aexpire(product)
        else:
            world.write(product)
            group = world.group_of(product) if deed == "by tag" else [product]
            versions = {each: world.versions[each] for each in group}
            await (price.ainvalidate(product) if deed == "by key" else ainvalidate(tags=[f"group:{product % 2}"]))
            world.acknowledge(versions)

    return do


async def storm_decorated_tasks(seconds: float) -> dict[str, int]:
    from redis_integration import ainvalidate, cache_aside

    world = World()

    @cache_aside(
        ttl=60, key="product:{product}", tags=lambda product: [f"group:{product % 2}"], lease_timeout=World.LEASE
    )
    async def price(product):
        answer = world.load(product)
        await asyncio.sleep(random.choice((0, 0, 1e-4, 2e-3)))
        return answer

    do, give_up = make_async_deed(world, price, ainvalidate), time.monotonic() + seconds
    while time.monotonic() < give_up:
        deeds = [choose() for _ in range(8)]
        tasks = [asyncio.ensure_future(do(deed)) for deed, _ in deeds]
        victims = [task for task, (_, may_be_interrupted) in zip(tasks, deeds, strict=True) if may_be_interrupted]
        for victim in random.sample(victims, min(3, len(victims))):
            await asyncio.sleep(random.uniform(0, 3e-3))
            victim.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, asyncio.CancelledError):
                world.count["interrupts"] += 1
            elif isinstance(result, BaseException):
                world.note(result)
    world.count["tasks"] = len(asyncio.all_tasks()) - 1  # of leases let go, before they have run
    await asyncio.to_thread(look_after, world)
    started = time.monotonic()
    for product in range(world.PRODUCTS):
        world.check(product, world.floors[product], await price(product))
        await price.ainvalidate(product)
        await price(product)
    world.count["slow"] = int(time.monotonic() - started > 4 * World.LEASE + 5)
    return world.count


def slots_after(count: dict[str, int], pool, read_all) -> None:
    """How many connections can be had at once afterwards, of 5."""
    gc.collect()
    count["slots"] = read_all(pool)


def take_all(pool) -> int:
    return len([pool.take() for _ in range(5)])


async def atake_all(pool) -> int:
    taken = [await pool.take() for _ in range(5)]
    for connection in taken:
        pool.give(connection)
    return len(taken)


DECORATED = {"decorated": Interrupted, "decorated_limit": TimeLimit}


def main_decorated(url: str, subject: str, seconds: float) -> None:
    seed = int(os.environ.get("STORM_SEED") or time.time_ns() % 1_000_000)
    random.seed(seed)
    configure(url)
    if subject in DECORATED:
        from redis_integration.pools import get_pool

        count = storm_decorated(DECORATED[subject], seconds)
        slots_after(count, get_pool(), take_all)
    else:

        async def storm() -> dict[str, int]:
            from redis_integration.pools import aget_pool

            count = await storm_decorated_tasks(seconds)
            gc.collect()
            count["slots"] = await atake_all(aget_pool())
            return count

        count = asyncio.run(storm())
    print(json.dumps({**count, "seed": seed}))


def main(url: str, subject: str, interrupts: int) -> None:
    import redis

    configure(url)
    with redis.Redis.from_url(url) as writer:
        writer.mset({f"storm:{number}": value(number) for number in range(KEYS)})
    if subject in SYNC:
        count = run_sync(SYNC[subject](url), interrupts)
        if subject != "stock_get":
            from redis_integration.pools import get_pool

            slots_after(count, get_pool(), take_all)
    else:

        async def storm():
            from redis_integration.pools import aget_pool

            count = await run_async(ASYNC[subject], interrupts)
            gc.collect()
            count["slots"] = await atake_all(aget_pool())
            return count

        count = asyncio.run(storm())
    print(json.dumps(count))


if __name__ == "__main__":
    if sys.argv[4:]:
        main_decorated(sys.argv[1], sys.argv[2], float(sys.argv[4]))
        sys.exit()
    if sys.argv[2] == "stock_get":
        # Its packer crashes the interpreter before redis-py can return a wrong value.
        sys.modules["hiredis"] = None  # type: ignore[assignment]
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
