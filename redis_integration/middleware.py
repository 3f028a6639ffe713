"""Middleware, to be named first in MIDDLEWARE: all that one request waits for Redis is counted together, and what a view
has computed is stored when every layer around it has spoken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from redis_integration import budget
from redis_integration.conf import get_aliases, get_settings
from redis_integration.holds import Slot


class CacheAsideMiddleware:
    """Gives each request one REQUEST_BUDGET, the largest of all aliases. Without it, each call has its own.

    And it has the last word on the answer of a cached view: a cookie or a `Vary` of any other layer keeps it from being stored.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if self.is_async:
            return self._acall(request)
        slot = Slot(request)
        with budget.granted(_seconds()):
            try:
                response = self.get_response(request)
                slot.settle(response)
                return response
            finally:
                slot.let_go()

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        slot = Slot(request)
        with budget.granted(_seconds()):
            try:
                response: HttpResponseBase = await self.get_response(request)
                await slot.asettle(response)
                return response
            finally:
                await slot.alet_go()


def _seconds() -> float:
    return max(get_settings(alias).request_budget for alias in get_aliases())
