"""Refreshes that nobody waits for: in a few daemon threads, or in tasks of the running loop. It decides no policy."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from time import monotonic

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

from redis_integration import budget
from redis_integration.flights import disembark
from redis_integration.flow import Flow, arun, run
from redis_integration.pools import run_in_child

logger = logging.getLogger("redis_integration")

THREADS = 4
MOST_WAITING = 1_000  # refreshes, beyond which a copy is only answered
# Seconds that a key is left alone after it was tried: else each hit of a stale entry would try again.
PAUSE = 0.25
LOST_AFTER = 60.0  # seconds, after which a key is tried again whose work has not ended

Work = Callable[[], Flow[None]]

_lock = threading.RLock()
_waiting: deque[tuple[str, str, Context, Work]] = deque()
# Keys, and from which time they may be tried again.
_taken: dict[str, float] = {}
_threads = 0
# An event loop keeps its tasks only weakly.
_tasks: set[asyncio.Task[None]] = set()
_failing: set[str] = set()


def spawn(key: str, name: str, work: Work) -> bool:
    """Have a thread do this work, unless the same key is being worked on already, or too much waits. False: it cannot."""
    global _threads
    with _lock:
        if len(_waiting) >= MOST_WAITING or not _take(key):
            return True
        _waiting.append((key, name, copy_context(), work))
        if _threads >= THREADS:
            return True
        _threads += 1
    try:
        threading.Thread(target=_work_all, name="redis_integration.refresh", daemon=True).start()
    except BaseException as error:  # no thread is to be had, the interpreter is about to end, or an interrupt
        with _lock:
            _threads -= 1
            if not _threads:
                _waiting.clear()
                _taken.clear()
        if not isinstance(error, RuntimeError):
            raise
        return False
    return True


def aspawn(key: str, name: str, work: Work) -> bool:
    """See `spawn`: a task of the running loop. False below `async_to_sync`, where loop or thread ends with the caller."""
    loop = asyncio.get_running_loop()
    if loop in AsyncToSync.loop_thread_executors or getattr(AsyncToSync.executors, "current", None):
        return False
    with _lock:
        for task in [task for task in _tasks if task.get_loop().is_closed()]:
            _tasks.discard(task)
        if len(_tasks) >= MOST_WAITING or not _take(key):
            return True
    task = loop.create_task(_awork(name, work), context=_own_context())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # a loop that ends now need not wait for it
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    task.add_done_callback(partial(_give_back, key))
    return True


def _own_context() -> Context:
    # With a thread for the ORM of its own: that of the request ends with it.
    context = Context()
    for variable, value in copy_context().items():
        if variable is not SyncToAsync.thread_sensitive_context:
            context.run(variable.set, value)
    return context


def note_failure(name: str, error: BaseException) -> None:
    """Say in the log that this origin raised, once until it succeeds."""
    if name not in _failing:
        _failing.add(name)
        logger.warning(
            "redis_integration.refresh_failed %s: %s: %s. The copy that is kept is served meanwhile.",
            name,
            type(error).__name__,
            error,
            exc_info=error,
        )


def note_success(name: str) -> None:
    """The next failure of this origin is news."""
    _failing.discard(name)


def _take(key: str) -> bool:
    now = monotonic()
    if _taken.get(key, 0.0) > now:
        return False
    if len(_taken) > 10 * MOST_WAITING:
        for old in [old for old, until in _taken.items() if until <= now]:
            del _taken[old]
    # Not for ever: who works on it may be interrupted, or its loop closed.
    _taken[key] = now + LOST_AFTER
    return True


def _give_back(key: str, *_: object) -> None:
    _taken[key] = monotonic() + PAUSE


def _work_all() -> None:
    global _threads
    try:
        while True:
            with _lock:
                if not _waiting:
                    _threads -= 1
                    return
                key, name, context, work = _waiting.popleft()
            try:
                context.run(_work, work)
            except BaseException as error:
                note_failure(name, error)
            finally:
                _give_back(key)
                for connection in connections.all(initialized_only=True):
                    connection.close_if_unusable_or_obsolete()
    finally:
        connections.close_all()


def _work(work: Work) -> None:
    disembark()
    budget.forget()
    run(work())


async def _awork(name: str, work: Work) -> None:
    disembark()
    budget.forget()
    async with ThreadSensitiveContext():
        try:
            await arun(work())
        except Exception as error:
            note_failure(name, error)
        with suppress(Exception):
            await sync_to_async(connections.close_all)()


def _start_afresh() -> None:
    global _lock, _threads
    _lock, _threads = threading.RLock(), 0
    _waiting.clear()
    _taken.clear()
    _tasks.clear()


run_in_child(_start_afresh)
