"""
A storm of interrupts over one way of speaking to Redis; run by tests/test_interrupts.py in an interpreter of its own.

Usage: storm.py URL SUBJECT INTERRUPTS. Prints one JSON object. Exceptions are raised from a signal handler at random instants,
as a soft time limit of a task queue does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import sys
import time

KEYS = 50
TIME_LIMIT = 60.0  # seconds; a storm of 2,000 takes about 3


class Interrupted(BaseException):
    pass


class Storm:
    """Raises Interrupted some microseconds after `rise`, while it is armed."""

    def __init__(self) -> None:
        self.armed = False
        signal.signal(signal.SIGALRM, self.strike)

    def strike(self, *args: object) -> None:
        if self.armed:
            self.armed = False
            raise Interrupted

    def rise(self) -> None:
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1.2e-3))


def configure(url: str) -> None:
    import django
    from django.conf import settings

    settings.configure(REDIS_INTEGRATION={"default": {"URL": url, "KEY_PREFIX": "storm", "MAX_CONNECTIONS": 5}})
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
    if sys.argv[2] == "stock_get":
        # Its packer crashes the interpreter before redis-py can return a wrong value.
        sys.modules["hiredis"] = None  # type: ignore[assignment]
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
