"""
What it costs to walk, describe and delete the keys of a Redis that others use: ours, redis-py, redis-cli, django-redis.

Usage: python -m benchmarks.scan [--rounds N] [--keys N] [--many N]. Starts a server of its own on a free loopback port. It takes some
three minutes, and 1 GB of memory for the server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from benchmarks.setting import configure, describe
from demo_project.server import start_server

# Six strings, a hash, a set, a list and a sorted set in ten keys; every second one expires.
FILL = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    local key, kind = 'bench:item:' .. n, n % 10
    if kind < 6 then redis.call('SET', key, string.rep('x', 20 + n % 200))
    elseif kind == 6 then redis.call('HSET', key, 'a', n, 'b', 'x')
    elseif kind == 7 then redis.call('SADD', key, n, n + 1)
    elseif kind == 8 then redis.call('RPUSH', key, n, n + 1)
    else redis.call('ZADD', key, n, 'a') end
    if n % 2 == 0 then redis.call('PEXPIRE', key, 36000000) end
end
"""
STEP = 2_000  # keys of one script, so that no client times out
SECONDS = 4.0  # for which another client is watched
FACTS = ("type", "ttl", "bytes")


def fill(client: Any, keys: int) -> None:
    client.flushall(asynchronous=True)
    script = client.register_script(FILL)
    for first in range(0, keys, STEP):
        script(args=[first, min(first + STEP, keys) - 1])


def walk(pattern: str, facts: Iterable[str] = ()) -> int:
    """How many keys ours has found."""
    from redis_integration import scan

    tally = scan.Tally()
    for _ in scan.Walk("default", scan.Search(pattern=pattern, facts=(*facts,)), tally).found():
        pass
    return tally.keys


def walk_names(pattern: str) -> int:
    """The same, of names alone: as scan_iter gives them."""
    from redis_integration import scan

    return sum(len(page) for page in scan.Walk("default", scan.Search(pattern=pattern), scan.Tally()).pages())


def delete(pattern: str) -> int:
    from redis_integration import scan

    return sum(scan.delete("default", scan.Search(pattern=pattern), scan.Tally()))


def cli(url: str, *words: str) -> Callable[[], object]:
    """A run of redis-cli to its end, whose output nobody reads."""
    command = ["redis-cli", "-p", str(urlsplit(url).port), *words]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def timed(subjects: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, by subject; in turn, round after round."""
    took: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            begun = time.perf_counter()
            subject()
            took[name].append(time.perf_counter() - begun)
    return took


def table(title: str, took: Mapping[str, list[float]]) -> str:
    """Medians in seconds, and the median of the ratios to the first, round by round."""
    width = max(len(title), *map(len, took))
    first = next(iter(took.values()))
    lines = [f"| {title:<{width}} | wall | against the first |", f"|{'-' * (width + 2)}|---:|---:|"]
    for name, seconds in took.items():
        ratio = statistics.median(mine / other for mine, other in zip(seconds, first, strict=True))
        lines.append(f"| {name:<{width}} | {statistics.median(seconds):>7.2f} s | {ratio:>6.2f}× |")
    return "\n".join(lines)


def get_all_the_time(url: str, seconds: float) -> None:
    """Another client: what its GETs take, in milliseconds, printed as JSON."""
    import redis

    client, took, give_up = redis.Redis.from_url(url), [], time.perf_counter() + seconds
    while (begun := time.perf_counter()) < give_up:
        client.get("bench:item:1")
        took.append((time.perf_counter() - begun) * 1000)
        time.sleep(0.0005)
    p50, *_, p99 = statistics.quantiles(took, n=100)[49:]
    print(json.dumps({"p50": p50, "p99": p99, "most": max(took)}))


def watched(url: str, act: Callable[[], object], seconds: float) -> dict[str, float]:
    """What another client's GETs take while this is done again and again."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scan", "--gets", url, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    while child.poll() is None:
        act()
    told: dict[str, float] = json.loads(child.communicate()[0])
    return told


def high_water() -> int:
    """The most memory that this process has had, in kB. getrusage() would tell the parent's, where that was larger."""
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def peak(url: str) -> None:
    """Walk everything, with all facts, and print the most memory that this process has had before and in the end."""
    configure(url)
    before = high_water()
    keys = walk("bench:*", FACTS)
    print(json.dumps({"keys": keys, "before": before, "most": high_water()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--many", type=int, default=5_000_000, help="keys for the measurement of memory")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for which another client is watched")
    parser.add_argument("--gets", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.gets:
        return get_all_the_time(told.gets[0], float(told.gets[1]))
    if told.peak:
        return peak(told.peak)
    with start_server() as server:
        configure(server.url)
        print(describe(server.name), "\n")
        compare(server.url, told)
    return None


def compare(url: str, told: argparse.Namespace) -> None:
    import redis
    from django.core.cache import caches

    client = redis.Redis.from_url(url, socket_timeout=600)
    has_cli = shutil.which("redis-cli") is not None
    if not has_cli:
        print("redis-cli is not on PATH: its rows are left out.\n")
    fill(client, told.keys)

    walks: dict[str, Callable[[], object]] = {
        "redis-py scan_iter(count=1000)": lambda: sum(1 for _ in client.scan_iter("bench:*", count=1000)),
        "ours, pages of names": lambda: walk_names("bench:*"),
        "ours, counted by the tally": lambda: walk("bench:*"),
    }
    descriptions: dict[str, Callable[[], object]] = {"ours": lambda: walk("bench:*", FACTS)}
    if has_cli:
        walks["redis-cli --scan"] = cli(url, "--scan", "--pattern", "bench:*")
        descriptions["redis-cli --memkeys"] = cli(url, "--memkeys")
    print(table(f"walking {told.keys:,} keys", timed(walks, told.rounds)), "\n")
    print(table(f"type, ttl and bytes of {told.keys:,} keys", timed(descriptions, told.rounds)), "\n")

    acts: dict[str, Callable[[], object]] = {
        "idle": lambda: time.sleep(0.05),
        "ours, walking": lambda: walk_names("bench:*"),
        "ours, describing": lambda: walk("bench:*", FACTS),
        "KEYS": lambda: client.keys("bench:none:*"),
    }
    print("| another client's GET, meanwhile | p50 | p99 | longest |\n|---|---:|---:|---:|")
    for name, act in acts.items():
        seen = watched(url, act, told.seconds)
        print(f"| {name} | {seen['p50']:.2f} ms | {seen['p99']:.2f} ms | {seen['most']:.1f} ms |")
    print()

    # Of django-redis keys have its own prefix.
    deletions: dict[str, Callable[[], object]] = {
        "ours": lambda: delete("bench:*"),
        "django-redis delete_pattern": lambda: caches["raw"].delete_pattern("item:*"),  # type: ignore[attr-defined]
    }
    took: dict[str, list[float]] = {name: [] for name in deletions}
    for _ in range(max(1, told.rounds // 2)):
        for name, act in deletions.items():
            fill(client, told.keys)
            took[name] += timed({name: act}, 1)[name]
            assert client.dbsize() < told.keys / 100, "they are still there"
    print(table(f"deleting {told.keys:,} keys", took), "\n")

    fill(client, told.many)
    # A process of its own, without what this one has used.
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.scan", "--peak", url],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    seen = json.loads(child.stdout)
    print(
        f"Memory of the process that describes {seen['keys']:,} keys: {seen['most'] / 1024:.0f} MB at its peak,",
        end=" ",
    )
    print(f"{seen['before'] / 1024:.0f} MB before it began.")


if __name__ == "__main__":
    main()
