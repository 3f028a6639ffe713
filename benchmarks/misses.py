"""
What a miss costs: every call asks for a new key, and the origin is a constant. Ours against dogpile.cache, Django and cashews.

Usage: python -m benchmarks.misses [--rounds N] [--calls N]. Starts a server of its own on a free loopback port.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from benchmarks.rounds import Subject, measure, repeat, repeat_async, table
from benchmarks.setting import cashews_cache, configure, describe, dogpile_cached
from demo_project.server import start_server

VALUE = {f"field{number}": number for number in range(20)}
PAYLOAD = b"x" * 200
TAGS = ["values", "value:{pk}"]


def functions(url: str) -> Mapping[str, Subject]:
    import redis
    from django.core.cache import caches

    from redis_integration import cache_aside

    client = redis.Redis.from_url(url)

    def bare(pk: int) -> None:
        if client.get(f"bare:{pk}") is None:
            client.set(f"bare:{pk}", PAYLOAD, ex=600)

    @cache_aside(ttl=600, key="value:{pk}")
    def load(pk: int) -> dict[str, int]:
        return VALUE

    @cache_aside(ttl=600, key="tagged:{pk}", tags=TAGS)
    def load_tagged(pk: int) -> dict[str, int]:
        return VALUE

    subjects: dict[str, Callable[[int], object]] = {
        "redis-py GET, then SET, bytes": bare,
        "@cache_aside function": load,
        "@cache_aside function with two tags": load_tagged,
        "get_or_set, Django's RedisCache": lambda pk: caches["default"].get_or_set(f"value:{pk}", VALUE, 600),
        "get_or_set, django-redis": lambda pk: caches["django_redis"].get_or_set(f"other:{pk}", VALUE, 600),
    }
    if decorator := dogpile_cached(url):

        @decorator
        def load_by_dogpile(pk: int) -> dict[str, int]:
            return VALUE

        subjects["dogpile.cache, distributed_lock=True"] = load_by_dogpile
    return {name: _always_new(subject) for name, subject in subjects.items()}


def coroutines(client: Any, cashews: Any) -> Mapping[str, Callable[[], Awaitable[object]]]:
    from redis_integration import cache_aside

    async def bare(pk: int) -> None:
        if await client.get(f"abare:{pk}") is None:
            await client.set(f"abare:{pk}", PAYLOAD, ex=600)

    async def origin(pk: int) -> dict[str, int]:
        return VALUE

    subjects: dict[str, Callable[[int], Awaitable[object]]] = {
        "redis.asyncio GET, then SET, bytes": bare,
        "@cache_aside coroutine function": cache_aside(ttl=600, key="awaited:{pk}")(origin),
        "@cache_aside coroutine function with two tags": cache_aside(ttl=600, key="atagged:{pk}", tags=TAGS)(origin),
    }
    if cashews is not None:
        subjects["cashews, lock=True"] = cashews(ttl=600, key="locked:{pk}", lock=True)(origin)
        subjects["cashews, no lock"] = cashews(ttl=600, key="free:{pk}")(origin)
    return {name: _always_new(subject) for name, subject in subjects.items()}


def _always_new(subject: Callable[[int], Any]) -> Callable[[], Any]:
    numbers = itertools.count()
    return lambda: subject(next(numbers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=50)
    options = vars(parser.parse_args())
    with start_server() as server, asyncio.Runner() as runner:
        import redis.asyncio

        configure(server.url)
        print(describe(server.name))
        print(
            "What a miss costs: {rounds} rounds of {calls} calls, each of a new key, interleaved.\n".format(**options)
        )
        print(table("miss", measure(repeat(functions(server.url)), **options)), end="\n\n", flush=True)
        client, cashews = redis.asyncio.Redis.from_url(server.url), cashews_cache(server.url)
        batches = repeat_async(coroutines(client, cashews), runner.get_loop())
        print(table("miss, async", measure(batches, **options)), end="\n\n", flush=True)
        runner.run(client.aclose())
        if cashews is not None:
            runner.run(cashews.close())


if __name__ == "__main__":
    main()
