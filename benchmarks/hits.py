"""
What a hit costs: cached functions and fragments against a bare GET of redis-py and against Django's own. Views: benchmarks/views.py.

Usage: python -m benchmarks.hits [--rounds N] [--calls N]. Starts a server of its own on a free loopback port.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from benchmarks.rounds import Subject, measure, repeat, repeat_async, table
from benchmarks.setting import configure, describe
from demo_project.server import start_server

HTML = "<li>A product with a name and a price</li>\n" * 120
VALUE = {f"field{number}": number for number in range(20)}
TAGS = ["values", "value:{pk}"]


def functions(url: str) -> Mapping[str, Subject]:
    import redis

    from redis_integration import cache_aside, get_or_compute, get_redis
    from redis_integration.pools import exchange

    @cache_aside(ttl=600, key="value:{pk}")
    def load(pk: int) -> dict[str, int]:
        return VALUE

    @cache_aside(ttl=600, key="tagged:{pk}", tags=TAGS)
    def load_tagged(pk: int) -> dict[str, int]:
        return VALUE

    load(7)
    load_tagged(7)
    key = load.key_for(7)
    names = [load_tagged.key_for(7), "bench:#values", "bench:#value:7"]
    client = redis.Redis.from_url(url)
    pooled = get_redis()
    return {
        "redis-py GET, bytes": lambda: client.get(key),
        "redis-py MGET of entry and two tags, bytes": lambda: client.mget(names),
        "GET on our pool, bytes": lambda: pooled.get(key),
        "exchange of a GET, bytes": lambda: exchange("default", [("GET", key)]),
        "@cache_aside function, value": lambda: load(7),
        "@cache_aside function with two tags, value": lambda: load_tagged(7),
        "get_or_compute, value": lambda: get_or_compute(f"value:{7}", lambda: VALUE, ttl=600),
    }


def coroutines(client: Any) -> Mapping[str, Callable[[], Awaitable[object]]]:
    from redis_integration import cache_aside

    @cache_aside(ttl=600, key="awaited:{pk}")
    async def load(pk: int) -> dict[str, int]:
        return VALUE

    @cache_aside(ttl=600, key="awaited-tagged:{pk}", tags=TAGS)
    async def load_tagged(pk: int) -> dict[str, int]:
        return VALUE

    key = load.key_for(7)
    return {
        "redis.asyncio GET, bytes": lambda: client.get(key),
        "@cache_aside coroutine function, value": lambda: load(7),
        "@cache_aside coroutine function with two tags, value": lambda: load_tagged(7),
    }


def fragments() -> Mapping[str, Subject]:
    from django.template import Context, Engine

    libraries = {"cache": "django.templatetags.cache", "ours": "redis_integration.templatetags.redis_integration"}
    engine = Engine(libraries=libraries)

    def show(tag: str, end: str) -> Subject:
        template = engine.from_string(f"{{% load cache ours %}}{{% {tag} %}}{HTML}{{% {end} %}}")
        return lambda: template.render(Context({"pk": 7}))

    return {
        "{% cache_aside %}": show('cache_aside 600 "plain" pk', "endcache_aside"),
        "{% cache_aside %} with two tags": show('cache_aside 600 "tagged" pk tags="all pk:{pk}"', "endcache_aside"),
        "{% cache %}, Django's RedisCache": show("cache 600 plain pk", "endcache"),
        "{% cache %}, django-redis": show('cache 600 plain pk using="django_redis"', "endcache"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--calls", type=int, default=100)
    options = vars(parser.parse_args())
    with start_server() as server, asyncio.Runner() as runner:
        import redis.asyncio

        configure(server.url)
        print(describe(server.name))
        print("What a hit costs: {rounds} rounds of {calls} calls, interleaved.\n".format(**options))
        client = redis.asyncio.Redis.from_url(server.url)
        tables = {
            "cached function": repeat(functions(server.url)),
            "cached coroutine function": repeat_async(coroutines(client), runner.get_loop()),
            "cached fragment, 5 kB": repeat(fragments()),
        }
        for title, batches in tables.items():
            print(table(title, measure(batches, **options)), end="\n\n", flush=True)
        runner.run(client.aclose())


if __name__ == "__main__":
    main()
