"""
A whole site while Redis is gone: gunicorn with 4 workers of 4 threads, a bounded crowd of clients, a database, Redis behind a proxy.

Usage: python -m benchmarks.site [--up N --frozen N --refused N --back N] [--pages N] [--minute N]. First second by second while Redis freezes,
refuses and comes back; then a site whose pages are too dear to compute twice, in the minute after Redis went. All ports are free loopback ports.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.setting import SQLITE, describe
from demo_project.proxy import CuttableProxy
from demo_project.server import start_server

WORKERS = THREADS = 4
PATIENCE = 30.0  # seconds that a client waits for a page
RATE = 80  # requests a second, of all clients of the first story together; two processors serve that with ease
CLIENTS = 16  # as many as there are threads to serve them
WRITES = 2  # a second
ORIGIN = 0.02  # seconds, of a page of the first story
DEAR = 0.3  # seconds, of a page that is too dear to compute twice

GUNICORN = ["gunicorn", "benchmarks.site_project:wsgi", "--log-level=warning", "--no-control-socket"]
GUNICORN += ["--worker-class=gthread", f"--workers={WORKERS}", f"--threads={THREADS}"]


class Visit(NamedTuple):
    """One request: when it was sent, seconds until its answer, and what the worker had counted by then."""

    at: float
    took: float
    status: int  # 0: there was no answer
    pk: int
    version: int = 0
    pid: str = ""
    queries: int = 0
    origins: int = 0


class Site:
    """A running gunicorn. Clients visit it; each acknowledged write is noted."""

    def __init__(self, port: int, pages: int) -> None:
        self.port = port
        self.pages = pages
        self.visits: list[Visit] = []
        self.written: dict[tuple[int, int], float] = {}
        self._is_over = threading.Event()

    def ask(self, path: str, headers: Mapping[str, str]) -> tuple[int, str, list[str]]:
        """Status, what the page says first, and what the worker has counted."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode().split(" ", 1)[0], response.headers["Counts"].split()
        finally:
            connection.close()

    def visit(self, pk: int, **headers: str) -> Visit:
        begun = time.monotonic()
        try:
            status, said, (pid, queries, origins) = self.ask(f"/page/{pk}", headers)
            version = int(said) if status == 200 else 0
            return Visit(begun, time.monotonic() - begun, status, pk, version, pid, int(queries), int(origins))
        except (OSError, http.client.HTTPException, AttributeError):
            return Visit(begun, time.monotonic() - begun, 0, pk)

    def warm(self) -> None:
        """Each page once, computed without its cost."""
        numbers = iter(range(self.pages))

        def work() -> None:
            for pk in numbers:  # each page for one of the threads
                self.visit(pk, Warming="yes")

        run_all([work] * CLIENTS)

    def write(self) -> None:
        while not self._is_over.wait(1 / WRITES):
            pk = random.randrange(self.pages)
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, version, _ = self.ask(f"/write/{pk}", {})
                if status == 200:
                    self.written[pk, int(version)] = time.monotonic()

    def wander(self, *, pause: float) -> None:
        """Visit pages of chance; at most one each `pause` seconds."""
        while not self._is_over.is_set():
            visit = self.visit(random.randrange(self.pages))
            self.visits.append(visit)
            self._is_over.wait(max(0.0, pause - visit.took))

    def crowd(self, act: Callable[[], object], *, pause: float = 0.0, is_written: bool = False) -> None:
        """Have clients wander, and one write, until `act` returns."""

        def end() -> None:
            try:
                act()
            finally:
                self._is_over.set()

        clients = [lambda: self.wander(pause=pause)] * CLIENTS
        run_all([end, *clients, *([self.write] if is_written else [])])

    def age(self, visit: Visit) -> float:
        """For how many seconds, when it was sent, a write that its answer does not know had been acknowledged."""
        return max(0.0, visit.at - self.written.get((visit.pk, visit.version + 1), visit.at))


def run_all(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def start_database() -> Iterator[tuple[str, dict[str, Any]]]:
    """A database of its own: what it is, and an entry of DATABASES. PostgreSQL where it is installed, else SQLite."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError):
            import psycopg

            from tests.databases import DatabaseMissing, start_postgres

            with contextlib.suppress(DatabaseMissing):
                entry = stack.enter_context(start_postgres()).as_database()
                with psycopg.connect(host=entry["HOST"], user="app", dbname="postgres") as connection:
                    name = f"PostgreSQL {connection.info.server_version // 10_000} without fsync"
                yield name, entry
                return
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        yield "SQLite", {**SQLITE, "NAME": f"{folder}/db.sqlite3"}


@contextlib.contextmanager
def serve(proxy: CuttableProxy, entry: dict[str, Any], **project: Any) -> Iterator[Site]:
    """The warm site: `cache`, `origin` and `pages` are those of site_project.py."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        project |= {"redis": f"redis://127.0.0.1:{proxy.port}/0", "database": entry}
        environment = {**os.environ, "BENCH_SITE": json.dumps(project)}
        environment.pop("DJANGO_SETTINGS_MODULE", None)
        where: dict[str, Any] = {"env": environment, "cwd": Path(__file__).parent.parent}
        subprocess.run([sys.executable, "-m", "benchmarks.site_project"], check=True, **where)
        fd = listening.fileno()
        # What the peers log for each call is not shown.
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *GUNICORN, f"--bind=fd://{fd}"],
            pass_fds=[fd],
            stderr=subprocess.DEVNULL,
            **where,
        )
        try:
            site = Site(listening.getsockname()[1], project["pages"])
            site.warm()
            yield site
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(PATIENCE)


def counted(visits: list[Visit], begun: float) -> dict[int, Counter[str]]:
    """By second: by how much the counts of the workers grew."""
    seconds: dict[int, Counter[str]] = defaultdict(Counter)
    last: dict[str, tuple[int, int]] = {}
    for visit in sorted(visits, key=lambda visit: visit.at + visit.took):
        if visit.status:
            queries, origins = last.get(visit.pid, (visit.queries, visit.origins))
            grown = {"queries": visit.queries - queries, "origins": visit.origins - origins}
            seconds[int(visit.at + visit.took - begun)].update({what: max(0, more) for what, more in grown.items()})
            last[visit.pid] = max(queries, visit.queries), max(origins, visit.origins)
    return seconds


def percentile(tooks: list[float], share: float) -> float:
    return sorted(tooks)[int(len(tooks) * share)] * 1000 if tooks else 0.0


def show_outage(proxy: CuttableProxy, entry: dict[str, Any], options: argparse.Namespace) -> None:
    """Print what clients saw, second by second."""
    phases = [
        ("up", proxy.heal, options.up),
        ("frozen", proxy.freeze, options.frozen),
        ("refused", proxy.cut, options.refused),
        ("back", proxy.heal, options.back),
    ]
    started: dict[str, float] = {}

    def act() -> None:
        for name, begin, seconds in phases:
            begin()
            started[name] = time.monotonic()
            time.sleep(seconds)

    with serve(proxy, entry, cache="outage", origin=ORIGIN, pages=max(1, options.pages // 10)) as site:
        print(
            f"\n{site.pages} pages of {ORIGIN * 1000:.0f} ms, all warm; {CLIENTS} clients, {RATE} requests a second; {WRITES} writes a "
            "second:\n"
        )
        site.crowd(act, pause=CLIENTS / RATE, is_written=True)
    print_seconds(site, started)


def print_seconds(site: Site, started: dict[str, float]) -> None:
    begun = started["up"]
    seconds: dict[int, list[Visit]] = defaultdict(list)
    for visit in site.visits:
        seconds[int(visit.at - begun)].append(visit)
    counts = counted(site.visits, begun)
    print("| second | Redis | requests | not 200 | median ms | p99 ms | queries | origin calls | old answers |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for second, visits in sorted(seconds.items()):
        name = [name for name, at in started.items() if at - begun <= second + 0.5][-1]
        tooks, bad = [visit.took for visit in visits], sum(visit.status != 200 for visit in visits)
        print(
            f"| {second} | {name} | {len(visits)} | {bad} | {statistics.median(tooks) * 1000:,.1f} | {percentile(tooks, 0.99):,.0f} "
            f"| {counts[second]['queries']} | {counts[second]['origins']} | {sum(site.age(visit) > 0 for visit in visits)} |"
        )
    statuses = Counter(visit.status for visit in site.visits)
    slowest = max(site.visits, key=lambda visit: visit.took)
    busiest = max(counts, key=lambda second: counts[second]["queries"])
    ages = [age for age in map(site.age, site.visits) if age]
    print(
        f"\n{len(site.visits):,} requests: {', '.join(f'{n:,} × {status}' for status, n in statuses.items())}; the slowest took "
        f"{slowest.took * 1000:,.0f} ms, in second {int(slowest.at - begun)}; most queries in second {busiest}: "
        f"{counts[busiest]['queries']}; {len(site.written)} writes, {len(ages)} answers older than one that was acknowledged, by {max(ages, default=0.0):.1f} s at most.",
        flush=True,
    )


TITLES = {
    "durable": '@cache_aside_view, durable=True, FALLBACK = "durable"',
    "outage": '@cache_aside_view, FALLBACK = "outage"',
    "cache_page": "cache_page, django-redis, IGNORE_EXCEPTIONS",
}


def show_dear_pages(proxy: CuttableProxy, entry: dict[str, Any], options: argparse.Namespace) -> None:
    """Print what becomes of a site of dear pages, each as likely as the next, once Redis refuses."""
    print(
        f"\n{options.pages:,} pages of {DEAR * 1000:.0f} ms, all warm; {CLIENTS} clients that wait for nothing else; ",
        end="",
    )
    print(f"the {options.minute:g} s after Redis went:\n")
    print("| | requests a second | median ms | p99 ms | not 200 | origin calls | queries a second |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for cache, title in TITLES.items():
        proxy.heal()
        with serve(proxy, entry, cache=cache, origin=DEAR, pages=options.pages) as site:
            proxy.cut()
            begun = time.monotonic()
            site.crowd(lambda: time.sleep(options.minute))
        tooks, bad = [visit.took for visit in site.visits], sum(visit.status != 200 for visit in site.visits)
        total = sum(counted(site.visits, begun).values(), Counter[str]())
        print(
            f"| {title} | {len(tooks) / options.minute:,.0f} | {percentile(tooks, 0.5):,.1f} | {percentile(tooks, 0.99):,.0f} | {bad} "
            f"| {total['origins']:,} | {total['queries'] / options.minute:,.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, seconds in {"up": 5.0, "frozen": 10.0, "refused": 10.0, "back": 10.0, "minute": 60.0}.items():
        parser.add_argument(f"--{name}", type=float, default=seconds)
    parser.add_argument("--pages", type=int, default=2_000)
    options = parser.parse_args()
    with start_server() as server, CuttableProxy(server.port) as proxy, start_database() as (database, entry):
        print(f"{describe(server.name)}\n{database}; gunicorn, {WORKERS} workers of {THREADS} threads.")
        show_outage(proxy, entry, options)
        show_dear_pages(proxy, entry, options)


if __name__ == "__main__":
    main()
