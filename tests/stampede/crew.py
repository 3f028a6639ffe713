"""Starts child.py in processes of its own and ends them by their pid. It knows nothing of what they do."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE = 60.0  # seconds; a busy machine must not look like a deadlock


class Child:
    """One child. Leaving the context kills it."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.stampede.child"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._child.stdin is not None and self._child.stdout is not None
        self._stdin, self._stdout = self._child.stdin, self._child.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._stdin.close()
        self._stdout.close()

    def send(self, job: Any) -> Self:
        self._stdin.write(json.dumps(job).encode() + b"\n")
        self._stdin.flush()
        return self

    def answer(self) -> Any:
        """The next line it says."""
        readable, _, _ = select.select([self._stdout], [], [], PATIENCE)
        assert readable, "the child is silent"
        line = self._stdout.readline()
        assert line, f"the child ended with {self._child.wait(PATIENCE)}"
        return json.loads(line)

    def kill(self) -> None:
        """SIGKILL, by its own pid."""
        self._child.kill()
        self._child.wait(PATIENCE)
