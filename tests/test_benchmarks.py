from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_benchmark_of_hits_runs_and_prints_every_subject():
    """The command of docs/benchmarks.md still works; what it measures is nobody's assertion."""
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.hits", "--rounds", "1", "--calls", "2"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert finished.returncode == 0, finished.stderr
    assert "| @cache_aside function, value " in finished.stdout
    assert "| cache_page, django-redis " in finished.stdout
