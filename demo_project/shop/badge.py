"""Which tier answered, and in how many milliseconds: written into each page after the cache, so it is never cached."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html

PLACEHOLDER = b"<!-- answered -->"


class Answered(NamedTuple):
    """`tier` is redis, fallback, computed or uncached; `words` say it to a person."""

    tier: str
    words: str


def answered_by(cache_status: str | None) -> Answered:
    """Reads the header `Cache-Status` (RFC 9211) that a cached view sets."""
    if cache_status is None:
        return Answered("uncached", "not cached")
    _, *parameters = (part.strip() for part in cache_status.split(";"))
    tier = next((part.removeprefix("detail=") for part in parameters if part.startswith("detail=")), "")
    if "hit" in parameters:
        return Answered(tier, f"from {'the fallback table' if tier == 'fallback' else tier.title()}")
    if "stored" in parameters:
        return Answered("computed", f"computed, kept in {'the fallback table' if tier == 'fallback' else tier.title()}")
    return Answered("computed", "computed, not kept")


def badge(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware. It belongs first in MIDDLEWARE, where the whole answer passes and all its time is seen."""

    def middleware(request: HttpRequest) -> HttpResponse:
        began = time.perf_counter()
        response = get_response(request)
        if not response.streaming and PLACEHOLDER in response.content:
            tier, words = answered_by(response.headers.get("Cache-Status"))
            ms = (time.perf_counter() - began) * 1000
            html = format_html('<span class="badge {}">{} · <b>{} ms</b></span>', tier, words, f"{ms:.1f}")
            response.content = response.content.replace(PLACEHOLDER, html.encode(), 1)
            response.headers.pop("ETag")  # it was that of the page without its badge
            if "Content-Length" in response.headers:
                response.headers["Content-Length"] = str(len(response.content))
        return response

    return middleware
