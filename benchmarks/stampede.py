"""
What a cold page costs under load: many callers ask for one new key at once, and its origin takes 200 ms.

Usage: python -m benchmarks.stampede [--rounds N] [--callers N] [--workers N] [--origin-ms N]. Starts a server of its own on a
free loopback port, and worker processes that end with this one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.setting import cashews_cache, configure, describe, dogpile_cached
from demo_project.server import start_server

# Seconds after which workers are killed: far more than their rounds take.
WORKERS_TIMEOUT = 60.0
WORKER = "--worker"
_numbers = itertools.count()


class Origin:
    """Counts its calls; each takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._calls = 0

    def compute(self, key: str) -> dict[str, str]:
        self._count()
        time.sleep(self.seconds)
        return {"key": key}

    async def acompute(self, key: str) -> dict[str, str]:
        self._count()
        await asyncio.sleep(self.seconds)
        return {"key": key}

    def _count(self) -> None:
        with self._lock:
            self._calls += 1

    def take_calls(self) -> int:
        """The calls since this was asked last."""
        with self._lock:
            calls, self._calls = self._calls, 0
            return calls


class Result(NamedTuple):
    """One stampede: how often the origin was called, and seconds until the last caller had the answer."""

    calls: int
    seconds: float


Stampede = Callable[[str], Result]


def functions(url: str, origin: Origin) -> Mapping[str, Callable[[str], object]]:
    from django.core.cache import caches
    from django.http import HttpRequest, HttpResponse
    from django.test import RequestFactory
    from django.views.decorators.cache import cache_page

    from redis_integration import cache_aside, cache_aside_view

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(origin.compute(request.path)))

    requests = RequestFactory()
    own_page = cache_aside_view(ttl=600, namespace="page")(view)
    django_page = cache_page(600)(view)
    django_redis = caches["django_redis"]
    subjects: dict[str, Callable[[str], object]] = {
        "@cache_aside function": cache_aside(ttl=600, key="value:{key}")(origin.compute),
        "@cache_aside_view": lambda key: own_page(requests.get(f"/{key}/")),
        "cache_page, Django's RedisCache": lambda key: django_page(requests.get(f"/{key}/")),
        "get_or_set, django-redis": lambda key: django_redis.get_or_set(key, lambda: origin.compute(key), 600),
    }
    if decorator := dogpile_cached(url):

        @decorator
        def load_by_dogpile(key: str) -> dict[str, str]:
            return origin.compute(key)

        subjects["dogpile.cache, distributed_lock=True"] = load_by_dogpile
    return subjects


def coroutines(origin: Origin, cashews: Any) -> Mapping[str, Callable[[str], Awaitable[object]]]:
    from redis_integration import cache_aside

    async def compute(key: str) -> dict[str, str]:
        return await origin.acompute(key)

    subjects: dict[str, Callable[[str], Awaitable[object]]] = {
        "@cache_aside coroutine function": cache_aside(ttl=600, key="awaited:{key}")(compute)
    }
    if cashews is not None:
        subjects["cashews, lock=True"] = cashews(ttl=600, key="locked:{key}", lock=True)(compute)
    return subjects


def in_threads(subject: Callable[[str], object], origin: Origin, pool: ThreadPoolExecutor, callers: int) -> Stampede:
    """All callers in threads that are there already, as those of a web server are."""

    def stampede(key: str) -> Result:
        barrier = threading.Barrier(callers + 1)

        def call() -> None:
            barrier.wait()
            subject(key)

        calls = [pool.submit(call) for _ in range(callers)]
        barrier.wait()
        begun = time.perf_counter()
        for each in calls:
            each.result()
        return Result(origin.take_calls(), time.perf_counter() - begun)

    return stampede


def in_tasks(
    subject: Callable[[str], Awaitable[object]], origin: Origin, loop: asyncio.AbstractEventLoop, callers: int
) -> Stampede:
    """All callers as tasks of one event loop."""

    async def all_of(key: str) -> None:
        await asyncio.gather(*(subject(key) for _ in range(callers)))

    def stampede(key: str) -> Result:
        begun = time.perf_counter()
        loop.run_until_complete(all_of(key))
        return Result(origin.take_calls(), time.perf_counter() - begun)

    return stampede


@contextlib.contextmanager
def in_workers(url: str, options: argparse.Namespace) -> Iterator[Stampede]:
    """The callers of `options` in each of several processes, which have nothing but Redis in common."""
    command = [sys.executable, "-m", "benchmarks.stampede", WORKER, url]
    command += ["--callers", str(options.callers), "--origin-ms", str(options.origin_ms)]
    workers: list[subprocess.Popen[str]] = []
    # A worker ends with its standard input, so also with this process, however it ends.
    with contextlib.ExitStack() as stack:
        for _ in range(options.workers):
            worker = subprocess.Popen(
                command, cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(_end, worker)
            workers.append(worker)
        watchdog = threading.Timer(WORKERS_TIMEOUT, _kill, [workers])
        watchdog.start()
        stack.callback(watchdog.cancel)
        for worker in workers:
            _read_line(worker)  # it is ready

        def stampede(key: str) -> Result:
            begun = time.perf_counter()
            for worker in workers:
                assert worker.stdin is not None
                print(key, file=worker.stdin, flush=True)
            results = [Result(*json.loads(_read_line(worker))) for worker in workers]
            return Result(sum(result.calls for result in results), time.perf_counter() - begun)

        yield stampede


def _read_line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"A worker ended, or was ended after {WORKERS_TIMEOUT:.0f} s. Its error stands above.")
    return line


def _kill(workers: Iterable[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.kill()


def _end(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None and worker.stdout is not None
    with contextlib.suppress(OSError):  # what it could not read any more
        worker.stdin.close()
    try:
        worker.wait(5)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait(5)
    worker.stdout.close()


def work(options: argparse.Namespace) -> None:
    """One worker: a stampede for each key that comes in, until nothing comes in any more."""
    configure(options.worker)
    origin = Origin(options.origin_ms / 1000)
    subject = functions(options.worker, origin)["@cache_aside function"]
    with ThreadPoolExecutor(options.callers) as pool:
        stampede = in_threads(subject, origin, pool, options.callers)
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(stampede(line.strip())), flush=True)


def repeat(stampedes: Mapping[str, Stampede], rounds: int) -> dict[str, list[Result]]:
    """The results of each, in turn; the first of each also opens the connections."""
    results: dict[str, list[Result]] = {name: [] for name in stampedes}
    for _ in range(rounds):
        for name, stampede in stampedes.items():
            results[name].append(stampede(f"key{next(_numbers)}"))
    return results


def table(title: str, results: Mapping[str, list[Result]]) -> str:
    """A Markdown table of these results."""
    width = max(len(title), *map(len, results))
    rows = []
    for name, each in results.items():
        calls, times = [result.calls for result in each], [result.seconds * 1000 for result in each]
        rows.append(
            f"| {name:<{width}} | {statistics.median(calls):g} | {max(calls)} "
            f"| {statistics.median(times):.0f} ms | {max(times):.0f} ms |"
        )
    head = f"| {title:<{width}} | origin calls, median | max | until all have the answer, median | max |"
    return "\n".join([head, f"|{'-' * (width + 2)}|---:|---:|---:|---:|", *rows])


def run(url: str, options: argparse.Namespace) -> None:
    """Print the tables of all subjects."""
    callers, origin = options.callers, Origin(options.origin_ms / 1000)
    with ThreadPoolExecutor(callers) as pool:
        threads = {name: in_threads(subject, origin, pool, callers) for name, subject in functions(url, origin).items()}
        print(table(f"{callers} threads", repeat(threads, options.rounds)), end="\n\n", flush=True)
    with asyncio.Runner() as runner:
        cashews = cashews_cache(url)
        tasks = {
            name: in_tasks(subject, origin, runner.get_loop(), callers)
            for name, subject in coroutines(origin, cashews).items()
        }
        print(table(f"{callers} tasks of one event loop", repeat(tasks, options.rounds)), end="\n\n", flush=True)
        if cashews is not None:
            runner.run(cashews.close())
    with in_workers(url, options) as stampede:
        results = repeat({"@cache_aside function": stampede}, options.rounds)
        print(table(f"{options.workers} processes of {callers} threads", results), end="\n\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--origin-ms", type=int, default=200)
    parser.add_argument(WORKER, metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    with start_server() as server:
        configure(server.url)
        print(describe(server.name))
        print(f"{options.rounds} stampedes each, on a new key every time; the origin takes {options.origin_ms} ms.\n")
        run(server.url, options)


if __name__ == "__main__":
    main()
