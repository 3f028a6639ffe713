"""
Redis comes back: how soon it is believed, with how long a journal; what is stale or lost then; and what the journal costs while all is well.

Usage: python -m benchmarks.recovery [--rounds N]. Starts a server and a proxy of its own on free loopback ports. Each subject
runs in an interpreter of its own: warm first, then Redis is refused, half of the values change and are invalidated, Redis is back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.outage import SUBJECTS, handshake
from benchmarks.setting import cashews_cache, configure, describe, find_peer
from demo_project.proxy import CuttableProxy
from demo_project.server import start_server

KEYS = 50  # of which each second one changes while Redis is away
ROWS = (0, 100, 10_000)
ROUNDS = 5
CALLS = 300
PATIENCE = 30.0  # seconds


def child_of_journal(rows: int) -> dict[str, float]:
    """Seconds from Redis's return until the breaker has closed, until the first hit, and of all tries in between."""
    from redis_integration import cache_aside, invalidate, recovery, watch
    from redis_integration.tiers.redis import get_redis_tier

    origin_calls: Counter[str] = Counter()

    @cache_aside(ttl=600, key="value")
    def value() -> str:
        origin_calls["value"] += 1
        return "value"

    tries: list[float] = []
    recover = recovery.recover

    def timed(*arguments: Any) -> Any:
        begun = time.monotonic()
        yield from recover(*arguments)
        tries.append(time.monotonic() - begun)

    setattr(watch, "recover", timed)  # noqa: B010
    value()
    breaker = get_redis_tier("default", is_async=False).breaker
    handshake()
    invalidate(keys=[f"bench:row:{number}" for number in range(rows)])
    while breaker.is_closed:
        value()
    handshake()
    back = time.monotonic()
    tries.clear()
    wait_until(lambda: breaker.is_closed)
    closed, before = time.monotonic() - back, origin_calls["value"]
    value()
    assert origin_calls["value"] == before, "no hit"
    return {"closed": closed, "hit": time.monotonic() - back, "try": sum(tries)}


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise SystemExit("Redis was not believed again.")
        time.sleep(0.001)


class Values:
    """Numbers that change, as one subject caches them. A file holds what is true, for all processes."""

    def __init__(self, name: str, url: str, folder: str) -> None:
        self.truth = Path(folder) / "truth.json"
        self.errors: Counter[str] = Counter()
        self.read, self.forget = getattr(self, f"_{'django_cache' if 'django' in name else name}")(name, url)

    def load(self, key: int) -> int:
        return int(json.loads(self.truth.read_text())[key])

    def _ours(self, name: str, url: str) -> tuple[Callable[[int], int], Callable[[int], object]]:
        from redis_integration import cache_aside

        cached = cache_aside(ttl=600, key="value:{key}")(self.load)
        return cached, cached.invalidate

    def _cashews(self, name: str, url: str) -> tuple[Callable[[int], int], Callable[[int], object]]:
        import asyncio

        cache, loop = cashews_cache(url), asyncio.new_event_loop()

        @cache(ttl=600, key="value:{key}")  # type: ignore[untyped-decorator]
        async def value(key: int) -> int:
            return self.load(key)

        return (
            lambda key: loop.run_until_complete(value(key)),
            lambda key: loop.run_until_complete(cache.delete(f"value:{key}")),
        )

    def _django_cache(self, name: str, url: str) -> tuple[Callable[[int], int], Callable[[int], object]]:
        from django.core.cache import caches

        cache: Any = caches["default" if name == "django" else name]
        return lambda key: cache.get_or_set(f"value-{key}", lambda: self.load(key), 600), (
            lambda key: cache.delete(f"value-{key}")
        )

    def call(self, function: Callable[[int], Any], key: int) -> Any:
        try:
            return function(key)
        except Exception as error:
            self.errors[type(error).__name__] += 1
            return None

    def count_stale(self) -> int:
        return sum(self.call(self.read, key) not in (None, self.load(key)) for key in range(KEYS))


def child_of_values(name: str, url: str, folder: str) -> dict[str, Any]:
    """Errors while Redis is away, and stale answers when it is back: of the first round, and of one 3 s later."""
    values = Values(name, url, folder)
    values.truth.write_text(json.dumps([0] * KEYS))
    values.count_stale()
    handshake()
    changed = range(0, KEYS, 2)
    values.truth.write_text(json.dumps([int(key in changed) for key in range(KEYS)]))
    # A changed value is forgotten once, as an application does, whatever comes of it.
    for key in changed:
        values.call(values.forget, key)
    handshake()
    first = values.count_stale()
    time.sleep(3)
    return {"errors": dict(values.errors), "first": first, "later": values.count_stale()}


def child_of_newcomer(name: str, url: str, folder: str) -> dict[str, Any]:
    """Stale answers of a process that begins when Redis is back."""
    values = Values(name, url, folder)
    return {"first": values.count_stale()}


def child_of_costs() -> dict[str, Any]:
    """Seconds of an invalidation with each JOURNAL, and its statements, call by call in turn."""
    from django.conf import settings
    from django.db import connection
    from django.test.utils import CaptureQueriesContext, override_settings

    from redis_integration import invalidate

    base = settings.REDIS_INTEGRATION["default"]
    aliases = {str(kind): {**base, "JOURNAL": kind} for kind in (None, "on_failure", "always")}
    found: dict[str, Any] = {alias: [] for alias in aliases}
    with override_settings(REDIS_INTEGRATION={"default": base, **aliases}):
        for alias in aliases:
            with CaptureQueriesContext(connection) as queries:
                invalidate(keys=["bench:value"], alias=alias)
            found[f"{alias} statements"] = len(queries)
        for _ in range(CALLS):
            for alias in aliases:
                begun = time.perf_counter()
                invalidate(keys=["bench:value"], alias=alias)
                found[alias].append(time.perf_counter() - begun)
    return found


def run_child(proxy: CuttableProxy, kind: str, name: str, folder: str) -> dict[str, Any]:
    """What a child of this program printed; Redis goes away at its first word and is back at its second."""
    proxy.heal()
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.recovery", "--child", kind, name]
    child = subprocess.Popen(
        [*command, f"redis://127.0.0.1:{proxy.port}/0", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert child.stdin and child.stdout
    with child:
        for act in (proxy.cut, proxy.heal):
            line = child.stdout.readline()
            if line != "warm\n":
                break
            if act == proxy.heal:
                time.sleep(1)
            act()
            child.stdin.write("go\n")
            child.stdin.flush()
        else:
            line = child.stdout.readline()
    if child.returncode:
        raise SystemExit(f"The child for {kind} {name} failed.")
    found: dict[str, Any] = json.loads(line)
    return found


def print_returns(proxy: CuttableProxy, rounds: int) -> None:
    print("\n| rows in the journal | breaker closed, s | first hit, s | all its tries, ms |\n|---:|---:|---:|---:|")
    for rows in ROWS:
        each = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                each.append(run_child(proxy, "journal", str(rows), folder))
        closed, hit, took = (statistics.median(found[part] for found in each) for part in ("closed", "hit", "try"))
        print(f"| {rows:,} | {closed:.2f} | {hit:.2f} | {took * 1000:.0f} |", flush=True)


def print_lost(proxy: CuttableProxy) -> None:
    print(
        f"\n{KEYS} values, {KEYS // 2} changed and invalidated while Redis was refused; stale of {KEYS} answers:\n\n"
        "| | errors raised | when it is back | 3 s later | in a new process | invalidations lost |\n|---|---:|---:|---:|---:|---:|"
    )
    for name, title in SUBJECTS.items():
        if name == "ours_tagged" or (name == "cashews" and find_peer("cashews") is None):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = run_child(proxy, "values", name, folder)
            new = run_child(proxy, "newcomer", name, folder)
        errors = ", ".join(f"{count} {kind}" for kind, count in found["errors"].items()) or "0"
        print(
            f"| {title} | {errors} | {found['first']} | {found['later']} | {new['first']} | {found['later']} |",
            flush=True,
        )


def print_costs(proxy: CuttableProxy) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = run_child(proxy, "costs", "-", folder)
    print("\n| JOURNAL | statements | an invalidation, µs | ratio |\n|---|---:|---:|---:|")
    for alias in ("None", "on_failure", "always"):
        median = statistics.median(found[alias])
        ratio = statistics.median(mine / none for mine, none in zip(found[alias], found["None"], strict=True))
        print(f"| {alias} | {found[f'{alias} statements']} | {median * 1e6:.0f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, name, url, folder = options.child
        configure(url, folder=folder)
        children: dict[str, Callable[[], dict[str, Any]]] = {
            "journal": lambda: child_of_journal(int(name)),
            "values": lambda: child_of_values(name, url, folder),
            "newcomer": lambda: child_of_newcomer(name, url, folder),
            "costs": child_of_costs,
        }
        print(json.dumps(children[kind]()))
        return
    with start_server() as server, CuttableProxy(server.port) as proxy:
        print(describe(server.name))
        print_returns(proxy, options.rounds)
        print_lost(proxy)
        print_costs(proxy)


if __name__ == "__main__":
    main()
