"""
What a call costs while Redis is gone: refused, and frozen. And how many origin calls and queries a crowd makes at that moment.

Usage: python -m benchmarks.outage [--seconds N] [--crowd N]. Starts a server and a proxy of its own on free loopback ports. Each subject
runs in an interpreter of its own: warm first, then Redis goes away, then it calls again and again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.setting import cashews_cache, configure, describe, find_peer
from demo_project.proxy import CuttableProxy
from demo_project.server import start_server

KEYS = 20  # of the crowd
ORIGIN = 0.05  # seconds, of the crowd's origin
CALLS = 2_000
LEAST = 3  # calls of a subject that takes seconds for each

SUBJECTS = {
    "ours": "@cache_aside function",
    "ours_tagged": "@cache_aside function with two tags",
    "django": "Django's RedisCache",
    "django_redis": "django-redis",
    "django_redis_ignoring": "django-redis, IGNORE_EXCEPTIONS",
    "cashews": "cashews",
}
OURS: dict[str, list[str]] = {"ours": [], "ours_tagged": ["values", "all"]}  # their tags


def load() -> dict[str, int]:
    return {f"field {number}": number for number in range(20)}


def make_subject(name: str, url: str) -> Callable[[], object]:
    """One call for a value that was warm. Raises what its users would see."""
    if name in OURS:
        from redis_integration import cache_aside

        return cache_aside(ttl=600, key="value", tags=OURS[name])(load)
    if name == "cashews":
        cache, loop = cashews_cache(url), asyncio.new_event_loop()

        @cache(ttl=600, key="value")  # type: ignore[untyped-decorator]
        async def value() -> dict[str, int]:
            return load()

        return lambda: loop.run_until_complete(value())
    from django.core.cache import caches

    cache = caches["default" if name == "django" else name]
    return lambda: cache.get_or_set("value", load, 600)


def call(subject: Callable[[], object], errors: Counter[str]) -> float:
    begun = time.perf_counter()
    try:
        subject()
    except Exception as error:
        errors[type(error).__name__] += 1
    return time.perf_counter() - begun


def child_of_one(name: str, url: str, folder: str, seconds: float) -> dict[str, Any]:
    """Warm, then away: seconds of the first call and of the later ones, errors, and of an indexed query after each if it is ours."""
    configure(url, folder=folder)
    subject, errors = make_subject(name, url), Counter[str]()
    for _ in range(20):
        subject()
    handshake()
    first, give_up = call(subject, errors), time.monotonic() + seconds
    call(subject, errors)
    later: list[float] = []
    queries: list[float] = []
    while len(later) < LEAST or (time.monotonic() < give_up and len(later) < CALLS):
        later.append(call(subject, errors))
        if name in OURS:
            queries.append(call(query, errors))
    return {"first": first, "later": later, "errors": dict(errors), "queries": queries}


def query() -> object:
    """One indexed query for the bytes of a row, by Django's ORM."""
    from redis_integration.models import FallbackEntry

    return FallbackEntry.objects.filter(key="bench:value").values_list("payload", flat=True).first()


def child_of_crowd(url: str, folder: str, crowd: int) -> dict[str, Any]:
    """All ask at once for KEYS values, at the moment Redis goes: origin calls by key, statements by kind, callers by queries."""
    configure(url, folder=folder)
    from django.db import connection, connections

    from redis_integration import cache_aside

    origin_calls: Counter[int] = Counter()
    statements: Counter[str] = Counter()
    queries: list[int] = []
    errors: list[str] = []
    warm = cache_aside(ttl=600, key="warm")(load)
    warm()

    @cache_aside(ttl=600, key="page:{pk}", tags=["pages"])
    def page(pk: int) -> int:
        origin_calls[pk] += 1
        time.sleep(ORIGIN)
        return pk

    gate = threading.Barrier(crowd + 1)

    def visit(pk: int) -> None:
        mine: list[str] = []

        def note(execute: Any, sql: str, *arguments: Any) -> Any:
            mine.append(sql.split(" ", 1)[0])
            return execute(sql, *arguments)

        gate.wait()
        try:
            with connection.execute_wrapper(note):
                assert page(pk) == pk
        except Exception as error:
            errors.append(repr(error))
        statements.update(mine)
        queries.append(len(mine))
        connections.close_all()

    visitors = [threading.Thread(target=visit, args=(number % KEYS,)) for number in range(crowd)]
    for visitor in visitors:
        visitor.start()
    handshake()
    gate.wait()
    for visitor in visitors:
        visitor.join()
    begun = len(connection.queries_log)
    connection.force_debug_cursor = True
    page(0)
    return {
        "origin_calls": [*origin_calls.values()],
        "statements": dict(statements),
        "queries": queries,
        "errors": errors,
        "hit": len(connection.queries_log) - begun,
    }


def handshake() -> None:
    """Tell the parent that Redis may go, and wait until it has."""
    print("warm", flush=True)
    sys.stdin.readline()


def run_child(proxy: CuttableProxy, fault: str, *arguments: str) -> dict[str, Any]:
    """What a child of this program printed, for which Redis went away in its middle."""
    proxy.heal()
    with tempfile.TemporaryDirectory() as folder:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.outage", "--child", *arguments, url, folder]
        # Some peers log a traceback for each call.
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert child.stdin and child.stdout
        with child:
            if child.stdout.readline() == "warm\n":
                (proxy.cut if fault == "refused" else proxy.freeze)()
                child.stdin.write("gone\n")
                child.stdin.flush()
            printed = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"The child for {arguments} failed.")
    found: dict[str, Any] = json.loads(printed)
    return found


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.2f}"


def print_latencies(proxy: CuttableProxy, fault: str, seconds: float) -> None:
    print(f"\nRedis {fault}:\n\n| | first call, ms | later: median ms | p99 ms | against a query | calls | errors |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    one = 0.0
    for name, title in SUBJECTS.items():
        if name == "cashews" and find_peer("cashews") is None:
            continue
        found = run_child(proxy, fault, name, str(seconds))
        later, ratio = sorted(found["later"]), ""
        if found["queries"]:
            one = statistics.median(found["queries"])
            each = zip(found["later"], found["queries"], strict=True)
            ratio = f"{statistics.median(mine / its for mine, its in each):.2f}×"
        numbers = [found["first"], statistics.median(later), later[int(len(later) * 0.99)]]
        errors = ", ".join(f"{count:,} {error}" for error, count in found["errors"].items()) or "0"
        cells = " | ".join([title, *map(milliseconds, numbers), ratio, f"{len(later):,}", errors])
        print(f"| {cells} |", flush=True)
    print(
        f"\nOne indexed query by Django's ORM took {milliseconds(one)} ms; a later call of ours is answered by a row."
    )


def print_crowd(proxy: CuttableProxy, fault: str, crowd: int) -> None:
    found = run_child(proxy, fault, "crowd", str(crowd))
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found["statements"].items()))
    print(
        f"\n{crowd} callers of {KEYS} keys at the moment Redis is {fault}: at most {max(found['origin_calls'])} origin calls for a "
        f"key, {sum(found['origin_calls'])} in all; at most {max(found['queries'])} queries for a caller, {kinds or 'none'} in "
        f"all; {len(found['errors'])} errors; afterwards {found['hit']} query for a hit.",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--crowd", type=int, default=500)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, number, url, folder = options.child
        if name == "crowd":
            print(json.dumps(child_of_crowd(url, folder, int(number))))
        else:
            print(json.dumps(child_of_one(name, url, folder, float(number))))
        return
    with start_server() as server, CuttableProxy(server.port) as proxy:
        print(describe(server.name))
        for fault in ("refused", "frozen"):
            print_latencies(proxy, fault, options.seconds)
            print_crowd(proxy, fault, options.crowd)


if __name__ == "__main__":
    main()
