"""Runs a flow sync or async, so that policy and tiers are written once.

A flow is a generator: in a flow, read `yield` as `await`. It knows nothing of Redis and nothing of Django's models.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from asgiref.sync import sync_to_async

T = TypeVar("T")
# Seconds. The thread that may touch the database can be the very one that waits for this event loop: `asyncio.run` in a sync
# view under ASGI. Without a limit that would be for ever.
CALL_TIMEOUT = 1.0
Flow = Generator[Any, Any, T]


class Call:
    """Yielded for code that uses the ORM: it is written sync, and runs in the thread that may touch the database.

    One that `must_run` is run even if nobody waits for it any more.
    """

    __slots__ = ("function", "must_run")

    def __init__(self, function: Callable[[], Any], *, must_run: bool = False) -> None:
        self.function = function
        self.must_run = must_run


class Pause(NamedTuple):
    """Where a flow yields it, or what it awaits gives it, the driver returns it. Run the flow again, with what is to be sent."""

    value: Any


def run(flow: Flow[T], sent: Any = None) -> T:
    """The flow's result, sync. What a flow yields was answered already and is sent back, a `Call` is called.

    The flow is closed whatever happens, save where a `Pause` is the result; it sees an interrupt as GeneratorExit.
    """
    wanted = None
    try:
        wanted = flow.send(sent)
        while True:
            if isinstance(wanted, Pause):
                return wanted  # type: ignore[return-value]  # whoever pauses it knows
            if not isinstance(wanted, Call):
                wanted = flow.send(wanted)
                continue
            try:
                answer = wanted.function()
            except Exception as error:
                wanted = flow.throw(error)
            else:
                wanted = flow.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        if not isinstance(wanted, Pause):
            flow.close()


async def arun(flow: Flow[T], sent: Any = None) -> T:
    """The flow's result, async. An awaitable is awaited, a `Call` runs in Django's thread; see `run`."""
    answer = None
    try:
        wanted = flow.send(sent)
        while True:
            try:
                if isinstance(wanted, Call):
                    running = _surely(wanted.function) if wanted.must_run else sync_to_async(wanted.function)()
                    async with asyncio.timeout(CALL_TIMEOUT):
                        answer = await (asyncio.shield(running) if wanted.must_run else running)
                else:
                    answer = await wanted if inspect.isawaitable(wanted) else wanted
            except Exception as error:
                wanted = flow.throw(error)
            else:
                if isinstance(answer, Pause):
                    return answer  # type: ignore[return-value]
                wanted = flow.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        if not isinstance(answer, Pause):
            flow.close()


async def _surely(function: Callable[[], T]) -> T:
    has_begun = False

    def begin() -> T:
        nonlocal has_begun
        has_begun = True
        return function()

    try:
        return await sync_to_async(begin)()
    except asyncio.CancelledError:
        # The loop ends, and the thread was still busy; the loop waits for its tasks.
        if not has_begun:
            async with asyncio.timeout(CALL_TIMEOUT):
                await sync_to_async(begin)()
        raise
