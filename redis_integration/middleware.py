"""Middleware, to be named first in MIDDLEWARE: all that one request waits for Redis is counted together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from redis_integration import budget
from redis_integration.conf import get_aliases, get_settings


class CacheAsideMiddleware:
    """Gives each request one REQUEST_BUDGET, the largest of all aliases. Without it, each call has its own."""

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
        with budget.granted(_seconds()):
            return self.get_response(request)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        with budget.granted(_seconds()):
            response: HttpResponseBase = await self.get_response(request)
            return response


def _seconds() -> float:
    return max(get_settings(alias).request_budget for alias in get_aliases())
