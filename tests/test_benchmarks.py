from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PEERS = ("dogpile.cache", "cashews")


@pytest.fixture
def run_benchmark(tmp_path):
    """Runs one benchmark where its peers are not installed, and returns what it prints."""
    for peer in PEERS:
        (tmp_path / f"{peer.partition('.')[0]}.py").write_text("raise ImportError")

    def run(name, *arguments):
        finished = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *arguments],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        (
            "hits",
            ("--rounds", "1", "--calls", "2"),
            {
                "@cache_aside function, value",
                "@cache_aside function with two tags, value",
                "@cache_aside coroutine function, value",
                "get_or_compute, value",
                "{% cache_aside %}",
                "{% cache %}, django-redis",
            },
        ),
        (
            "views",
            ("--rounds", "1", "--calls", "2"),
            {
                "@cache_aside_view",
                "cache_page, Django's RedisCache",
                "cache_page, django-redis",
                "cache_page, LocMemCache",
                "@cache_aside_view, refused each time",
            },
        ),
        (
            "misses",
            ("--rounds", "1", "--calls", "2"),
            {
                "@cache_aside function",
                "@cache_aside function with two tags",
                "@cache_aside coroutine function",
                "get_or_set, Django's RedisCache",
                "get_or_set, django-redis",
            },
        ),
        (
            "stampede",
            ("--rounds", "1", "--callers", "3", "--workers", "2", "--origin-ms", "50"),
            {
                "@cache_aside function",
                "@cache_aside_view",
                "@cache_aside coroutine function",
                "cache_page, Django's RedisCache",
                "2 processes of 3 threads",
            },
        ),
        (
            "codecs",
            ("--rounds", "1", "--calls", "1"),
            {
                "json, DjangoJSONEncoder, types lost",
                "django-redis, pickle",
                "ours, json",
                "ours, pickle, signed and verified",
                "the json codec's walk over the types",
                "5 kB of text: entry with 5 tags",
            },
        ),
        (
            "stale",
            ("--seconds", "0.2", "--callers", "3", "--origin-ms", "10"),
            {"@cache_aside, stale_for=60", "@cache_aside", "get_or_set, django-redis"},
        ),
        (
            "scan",
            ("--rounds", "1", "--keys", "3000", "--many", "3000", "--seconds", "0.3"),
            {
                "redis-py scan_iter(count=1000)",
                "ours, pages of names",
                "ours",
                "ours, describing",
                "KEYS",
                "django-redis delete_pattern",
            },
        ),
        (
            "site",
            ("--up", "1", "--frozen", "1", "--refused", "1", "--back", "1", "--minute", "0.5", "--pages", "20"),
            {
                "0",
                "3",
                '@cache_aside_view, durable=True, FALLBACK = "durable"',
                '@cache_aside_view, FALLBACK = "outage"',
                "cache_page, django-redis, IGNORE_EXCEPTIONS",
            },
        ),
    ],
)
def test_benchmark_runs_without_its_peers(run_benchmark, name, arguments, rows):
    """Each still works, and names each peer that is missing; what it measures is nobody's assertion."""
    printed = run_benchmark(name, *arguments)

    assert rows <= set(re.findall(r"^\| (.+?) +\|", printed, re.MULTILINE))
    assert re.findall(r"^(\S+) is not installed", printed, re.MULTILINE) == [*PEERS]
