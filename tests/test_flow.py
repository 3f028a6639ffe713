from __future__ import annotations

import asyncio
import threading

import pytest

from redis_integration.flow import Call, arun, run


async def later(value):
    await asyncio.sleep(0)
    if isinstance(value, Exception):
        raise value
    return value


def adding():
    first = yield 1
    second = yield Call(lambda: 2)
    return first + second


def failing(seen):
    try:
        yield Call(lambda: 1 / 0)
    except ZeroDivisionError as error:
        seen.append(type(error))
    return (yield "went on")


def unending(seen):
    try:
        while True:
            yield Call(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    except GeneratorExit:
        seen.append("closed")
        raise


def test_run_sends_back_what_a_flow_yields_and_calls_calls():
    """A sync flow's values were answered already; its calls are made."""
    assert run(adding()) == 3


def test_arun_awaits_what_a_flow_yields():
    """The async driver awaits; what is no awaitable is sent back."""

    def flow():
        return (yield later("awaited")), (yield "plain"), (yield Call(lambda: "called"))

    assert asyncio.run(arun(flow())) == ("awaited", "plain", "called")


def test_errors_of_calls_reach_the_flow():
    """An error arrives in the flow at its yield, and the flow may go on, sync and async."""
    seen = []

    assert run(failing(seen)) == "went on"
    assert asyncio.run(arun(failing(seen))) == "went on"
    assert seen == [ZeroDivisionError, ZeroDivisionError]


def test_errors_of_awaitables_reach_the_flow():
    """An awaited error arrives in the flow at its yield."""

    def flow():
        try:
            yield later(ValueError("x"))
        except ValueError:
            return "seen"

    assert asyncio.run(arun(flow())) == "seen"


def test_interrupt_closes_the_flow():
    """A KeyboardInterrupt goes through the driver; the flow sees GeneratorExit and can clean up."""
    seen = []

    with pytest.raises(KeyboardInterrupt):
        run(unending(seen))

    assert seen == ["closed"]


def test_cancellation_closes_the_flow():
    """A cancelled task closes its flow."""
    seen = []

    def flow():
        try:
            yield asyncio.sleep(60)
        except GeneratorExit:
            seen.append("closed")
            raise

    async def main():
        task = asyncio.ensure_future(arun(flow()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())

    assert seen == ["closed"]


def test_calls_leave_the_event_loop():
    """A call, which may use the ORM, does not run on the event loop's thread."""

    def flow():
        return (yield Call(threading.get_ident))

    async def main():
        return await arun(flow()) != threading.get_ident()

    assert asyncio.run(main())
