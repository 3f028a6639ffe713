"""A process of its own that calls a cached function; see crew.py, which starts it and ends it.

Reads one JSON object a line, the job, and answers each with one line. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Job = dict[str, Any]


def configure() -> None:
    import django
    from django.conf import settings

    settings.configure(REDIS_INTEGRATION={"default": {"URL": "redis://127.0.0.1:1/0", "DATABASE": None}})
    django.setup()


def options_of(job: Job) -> dict[str, Any]:
    return {
        "URL": job["url"],
        "KEY_PREFIX": job["prefix"],
        "DATABASE": None,
        "COMMAND_TIMEOUT": 10,
        "CONNECT_TIMEOUT": 10,
        "POOL_TIMEOUT": 10,
        "REQUEST_BUDGET": 60,
        **job.get("options", {}),
    }


def count_call(job: Job, key: str) -> str:
    """What an origin gives: the state of the world when it began, and which call it was."""
    from redis_integration import get_redis

    # Another prefix than the cache's: what it reads is the world, not an entry.
    world: Any = get_redis().get("world:" + job["prefix"]) or b"-"
    number = get_redis().incr(f"calls:{job['prefix']}:{key}")
    return f"{key} {world.decode()} {number}"


def may_go_on(job: Job) -> bool:
    from redis_integration import get_redis

    return "waits_for" not in job or bool(get_redis().exists(job["waits_for"]))


def decorate(job: Job, origin: Callable[..., Any]) -> Any:
    from redis_integration import cache_aside

    return cache_aside(ttl=60, key="page:{key}", tags=job.get("tags", ()), lease_timeout=job.get("lease_timeout", 20))(
        origin
    )


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def call_from_threads(job: Job) -> list[str]:
    def page(key):
        answer = count_call(job, key)
        time.sleep(job["seconds"])
        while not may_go_on(job):
            time.sleep(0.01)
        return answer

    cached, barrier = decorate(job, page), threading.Barrier(job["callers"])

    def call(number: int) -> str:
        barrier.wait(30)
        try:
            return str(cached(job["keys"][number % len(job["keys"])]))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(job["callers"]) as pool:
        return list(pool.map(call, range(job["callers"])))


def call_from_tasks(job: Job) -> list[str]:
    async def page(key):
        # Plain redis-py in a thread: what it counts with is no part of what is tested.
        answer = await asyncio.to_thread(count_call, job, key)
        await asyncio.sleep(job["seconds"])
        while not await asyncio.to_thread(may_go_on, job):
            await asyncio.sleep(0.01)
        return answer

    async def call(cached: Any, number: int) -> str:
        try:
            return str(await cached(job["keys"][number % len(job["keys"])]))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    async def main() -> list[str]:
        cached = decorate(job, page)
        return await asyncio.gather(*(call(cached, number) for number in range(job["callers"])))

    return asyncio.run(main())


def hold(job: Job) -> str:
    """Compute until killed, or until a line comes on standard input."""

    def page(key):
        answer = count_call(job, key)
        say("computing")
        sys.stdin.readline()
        return answer

    return str(decorate(job, page)(job["keys"][0]))


def end(job: Job) -> str:
    from redis_integration import invalidate

    invalidate(keys=job.get("end_keys", ()), tags=job.get("end_tags", ()))
    return "acknowledged"


def fork_beside_threads(job: Job) -> list[str]:
    """Fork while a thread computes; the child finds no flight, and its call computes at once."""
    from redis_integration import flights, get_redis

    computing, go = threading.Event(), threading.Event()

    def page(key):
        answer = count_call(job, key)
        if threading.current_thread() is not threading.main_thread():
            computing.set()
            go.wait(30)
        return answer

    cached, key = decorate(job, page), job["keys"][0]
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(cached, key)
        computing.wait(30)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                found = len(flights._flights)
                # The parent's thread has the lease, and it would be waited for.
                get_redis().unlink(f"{{{cached.key_for(key)}}}:lease")
                os.write(writing, json.dumps([found, cached(key)]).encode())
            finally:
                os._exit(0)
        answer = json.loads(os.read(reading, 1000))
        os.waitpid(child, 0)
        go.set()
        return [*answer, theirs.result(30)]


JOBS: dict[str, Callable[[Job], object]] = {
    "threads": call_from_threads,
    "tasks": call_from_tasks,
    "hold": hold,
    "end": end,
    "fork": fork_beside_threads,
}


def main() -> None:
    configure()
    from django.test import override_settings

    say("ready")
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        with override_settings(REDIS_INTEGRATION={"default": options_of(job)}):
            say(JOBS[job["do"]](job))


if __name__ == "__main__":
    main()
