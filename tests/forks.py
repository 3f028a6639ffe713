"""Forks a test. Whatever the child does, it ends, and never goes on as a second test run."""

from __future__ import annotations

import os
import select
import signal
import traceback
from collections.abc import Callable

PATIENCE = 60.0  # seconds; a busy machine must not look like a deadlock


def in_forked_child(act: Callable[[], bytes]) -> tuple[int, bytes]:
    """The child's pid, and what `act` gave there. An exception of the child fails the test, and so does its silence."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, b"+" + act())
        except BaseException:
            os.write(writing, b"-" + traceback.format_exc()[-4000:].encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        is_there = bool(select.select([reading], [], [], PATIENCE)[0])
        said = os.read(reading, 10_000) if is_there else b"-it is silent"
    finally:
        os.kill(child, signal.SIGKILL)  # it has said what it had to
        os.waitpid(child, 0)
        os.close(reading)
    assert said[:1] == b"+", f"The child failed: {said[1:].decode()}"
    return child, said[1:]
