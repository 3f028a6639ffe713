"""Answers that wait for the last word on whether they are stored: their flows are paused, lease in hand and flight in the air."""

from __future__ import annotations

from typing import Protocol

from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from redis_integration.caching import Answer, Outcome
from redis_integration.flow import Flow, arun, run
from redis_integration.headers import say

_NAME = "_redis_integration_slot"


class Waiting(Protocol):
    """What waits: it judges the answer as all layers have left it, and says on it what became of it."""

    is_async: bool

    def judge(self, response: HttpResponseBase) -> Outcome: ...
    def conclude(self, response: HttpResponseBase, answer: Answer) -> None: ...


class Hold:
    """A paused flow, settled once or let go; when the last reference to it dies, it is let go."""

    def __init__(self, flow: Flow[Answer], visit: Waiting) -> None:
        self._flows, self.visit = [flow], visit

    def settle(self, response: HttpResponseBase) -> None:
        """Store what waits, or let its lease go, and say which. One round trip."""
        if self.visit.is_async:
            # Below a sync handler its event loop has ended: this is another, with a connection of its own.
            async_to_sync(self.asettle)(response)
        elif self._flows:
            flow, outcome = self._flows.pop(), self.visit.judge(response)
            self.visit.conclude(response, run(flow, outcome))

    async def asettle(self, response: HttpResponseBase) -> None:
        """See `settle`."""
        if not self.visit.is_async:
            await sync_to_async(self.settle)(response)
        elif self._flows:
            flow, outcome = self._flows.pop(), self.visit.judge(response)
            self.visit.conclude(response, await arun(flow, outcome))

    def let_go(self) -> None:
        """Let its lease go, and have those who have joined start over."""
        while self._flows:
            self._flows.pop().close()


class Slot:
    """The place of a request, whose outermost middleware is ours, for the one answer that waits; the first view takes it.

    `status` is what Cache-Status says of an answer that was no response yet, `vary` what it varies on.
    """

    def __init__(self, request: HttpRequest) -> None:
        self.status = ""
        self.vary: tuple[str, ...] = ()
        self._holds: list[Hold] = []
        self._is_taken = self._is_over = False
        setattr(request, _NAME, self)

    @staticmethod
    def of(request: HttpRequest) -> Slot | None:
        """The slot of this request, if it has one."""
        return getattr(request, _NAME, None)

    @staticmethod
    def take(request: HttpRequest) -> Slot | None:
        """The slot of this request, if it has one and nobody has taken it."""
        slot = Slot.of(request)
        if slot is None or slot._is_taken:
            return None
        slot._is_taken = True
        return slot

    def keep(self, hold: Hold) -> None:
        """Have this answer wait. A visitor who has gone waits for nothing."""
        self._holds.append(hold)
        if self._is_over:
            self.let_go()

    def settle(self, response: HttpResponseBase) -> None:
        """See `Hold.settle`: all layers have spoken."""
        if self._holds:
            self._holds.pop().settle(response)
        elif self.status:
            self._tell(response)
        _drop_length(response)

    async def asettle(self, response: HttpResponseBase) -> None:
        """See `settle`."""
        if self._holds:
            await self._holds.pop().asettle(response)
        elif self.status:
            self._tell(response)
        _drop_length(response)

    def _tell(self, response: HttpResponseBase) -> None:
        say(response, self.status)
        if self.vary:
            patch_vary_headers(response, self.vary)

    def let_go(self) -> None:
        """Nothing that waits here is stored, nor what comes to wait here."""
        self._is_over = True
        while self._holds:
            self._holds.pop().let_go()

    async def alet_go(self) -> None:
        """See `let_go`. What a sync view has left may speak to Redis: not on the event loop."""
        self._is_over = True
        if any(not hold.visit.is_async for hold in self._holds):
            await sync_to_async(self.let_go)()
        self.let_go()


def _drop_length(response: HttpResponseBase) -> None:
    # CommonMiddleware counts the body that a 304 does not send.
    if response.status_code == 304 and "Content-Length" in response.headers:
        del response.headers["Content-Length"]
