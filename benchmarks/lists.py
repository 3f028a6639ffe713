"""
What a list of 100 costs: many() and cache_aside_many against single calls and against get_many of Django's caches.

Usage: python -m benchmarks.lists [--rounds N] [--calls N]. Starts a server of its own on a free loopback port.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping

from benchmarks.rounds import Subject, measure, repeat, table
from benchmarks.setting import configure, describe
from demo_project.server import start_server

VALUE = {f"field{number}": number for number in range(20)}
SIZE = 100
KEYS = [f"value:{number}" for number in range(SIZE)]


def hits(url: str) -> Mapping[str, Subject]:
    import redis
    from django.core.cache import caches

    from redis_integration import cache_aside, cache_aside_many

    @cache_aside(ttl=600, key="single:{pk}")
    def load(pk: int) -> dict[str, int]:
        return VALUE

    @cache_aside_many(ttl=600, key="listed:{pks}")
    def load_all(pks: list[int]) -> list[dict[str, int]]:
        return [VALUE] * len(pks)

    numbers = range(SIZE)
    client = redis.Redis.from_url(url)
    load.many(numbers)
    load_all(numbers)
    full = [load.key_for(number) for number in numbers]
    for alias in ("default", "django_redis"):
        caches[alias].set_many(dict.fromkeys(KEYS, VALUE), 600)
    return {
        "cache.get_many, django-redis": lambda: caches["django_redis"].get_many(KEYS),
        "cache.get_many, Django's RedisCache": lambda: caches["default"].get_many(KEYS),
        "redis-py MGET, bytes": lambda: client.mget(full),
        "many() of a @cache_aside function": lambda: load.many(numbers),
        "@cache_aside_many": lambda: load_all(numbers),
        "100 single calls": lambda: [load(number) for number in numbers],
    }


def misses() -> Mapping[str, Subject]:
    from django.core.cache import caches

    from redis_integration import cache_aside, cache_aside_many

    @cache_aside(ttl=600, key="new:{pk}")
    def load(pk: int) -> dict[str, int]:
        return VALUE

    @cache_aside_many(ttl=600, key="newly-listed:{pks}")
    def load_all(pks: list[int]) -> list[dict[str, int]]:
        return [VALUE] * len(pks)

    def get_and_set(numbers: range) -> None:
        keys = [f"new:{number}" for number in numbers]
        found = caches["django_redis"].get_many(keys)
        caches["django_redis"].set_many({key: VALUE for key in keys if key not in found}, 600)

    return {
        "get_many, then set_many, django-redis": _always_new(get_and_set),
        "@cache_aside_many": _always_new(load_all),
        "100 single calls": _always_new(load.many),
    }


def _always_new(subject: Callable[[range], object]) -> Subject:
    starts = itertools.count(step=SIZE)

    def call() -> object:
        start = next(starts)
        return subject(range(start, start + SIZE))

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=3)
    options = vars(parser.parse_args())
    with start_server() as server:
        configure(server.url)
        print(describe(server.name))
        print("What a list of 100 costs: {rounds} rounds of {calls} calls, interleaved.\n".format(**options))
        print(table("100 hits", measure(repeat(hits(server.url)), **options)), end="\n\n", flush=True)
        print(table("100 misses", measure(repeat(misses()), **options)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
