"""HttpResponse ↔ payload, and why a response may not be stored.
It looks at what a view has touched without touching it: no session is loaded, no user fetched, no nonce made.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, ResponseHeaders
from django.utils.functional import LazyObject, empty

from redis_integration.exceptions import UnreadableEntry, UnstorableValue

# A quoted value is consumed whole, so that nothing inside it is taken for a directive.
_directive = re.compile(r'([^\s,;="]+)(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s,;"]*))?')
_forbidding = ("private", "no-store", "no-cache")

# Set by Django's decorators for its middleware. A response made from bytes has lost them and would be treated otherwise.
_marks = ("xframe_options_exempt", "_csp_config", "_csp_ro_config")


@dataclass(frozen=True)
class ResponseCodec:
    """A line of JSON (status, custom reason, charset, headers in their order), then the body as it is."""

    number: ClassVar[int] = 2
    name: ClassVar[str] = "response"
    verified: ClassVar[Literal["never"]] = "never"  # a response is equal to nothing but itself

    def encode(self, value: Any, key: str = "", /) -> bytes:
        """The bytes of a rendered HttpResponse. Raises UnstorableValue for anything else, and for cookies."""
        if not isinstance(value, HttpResponse) or not getattr(value, "is_rendered", True) or value.cookies:
            name = type(value).__qualname__
            raise UnstorableValue(f"{name} is not a rendered HttpResponse without cookies.", name)
        fields = vars(value)
        head = (value.status_code, fields["_reason_phrase"], fields["_charset"], [*value.headers.items()])
        return json.dumps(head, separators=(",", ":"), default=str).encode() + b"\n" + value.content

    def decode(self, payload: bytes, key: str = "", /) -> HttpResponse:
        """A new plain HttpResponse with exactly the stored headers.

        Raises UnreadableEntry, and nothing else, whatever the bytes.
        """
        try:
            head, separator, body = payload.partition(b"\n")
            status, reason, charset, headers = json.loads(head)
            texts = "".join([*sum(headers, []), *(text for text in (reason, charset) if text is not None)])
            if not separator or "\n" in texts or "\r" in texts:
                raise ValueError("a head without its end, or a text of two lines")
            response = HttpResponse(body, status=status, reason=reason, charset=charset)
            response.headers = ResponseHeaders(headers)
        except Exception as exc:
            raise UnreadableEntry(f"The response codec cannot read this payload ({type(exc).__name__}).") from exc
        return response


response_codec = ResponseCodec()


def why_bypassed(request: HttpRequest) -> str | None:
    """Why this request is not answered from an entry, or None. Known before the view runs."""
    if request.method not in ("GET", "HEAD"):
        return f"method {request.method}"
    if not request.META.get("QUERY_STRING", "").isascii():
        return "query not ASCII"
    for header in ("Authorization", "Range"):
        if header in request.headers:
            return f"request header {header}"
    return None


def why_not_stored(
    request: HttpRequest, response: HttpResponseBase, *, key_headers: frozenset[str] = frozenset()
) -> str | None:
    """Why this answer to this request may not be given to others, in a few words, or None.

    `key_headers`: the request headers whose value is in the key, which `Vary` may therefore name.
    """
    if request.method == "HEAD":
        return "method HEAD"
    return why_bypassed(request) or _why_not_response(response, key_headers) or why_private(request)


def _why_not_response(response: object, key_headers: frozenset[str]) -> str | None:
    if not isinstance(response, HttpResponseBase):
        return "no response"
    if response.status_code != 200:
        return f"status {response.status_code}"
    if getattr(response, "streaming", True):
        return "streaming"
    if not getattr(response, "is_rendered", True):
        return "not rendered"
    if response.cookies or "Set-Cookie" in response.headers:
        return "Set-Cookie"
    if "Content-Range" in response.headers:
        return "Content-Range"
    for mark in _marks:
        if hasattr(response, mark):
            return f"{mark}: put its decorator above cache_aside_view"
    covered = {header.lower() for header in key_headers}
    for header in re.findall(r"[^\s,]+", response.headers.get("Vary", "")):
        if header.lower() not in covered:
            return f"Vary: {header}"
    directives = {name.lower() for name in _directive.findall(response.headers.get("Cache-Control", ""))}
    return next((f"Cache-Control: {name}" for name in _forbidding if name in directives), None)


def why_private(request: HttpRequest) -> str | None:
    """Why what this request gets is its visitor's own, or None."""
    session = getattr(request, "session", None)
    # `is not None`: a session's truth value loads it. What cannot be seen counts as touched, here and below.
    if session is not None and (getattr(session, "accessed", True) or getattr(session, "modified", True)):
        return "session used"
    # Whether a view read the key (a cart's, say) cannot be seen.
    if getattr(session, "session_key", None):
        return "session present"
    if any(hasattr(request, name) for name in ("_cached_user", "_acached_user")) or _is_touched(request, "user"):
        return "user used"
    if request.META.get("CSRF_COOKIE_NEEDS_UPDATE"):
        return "CSRF token issued"
    messages = getattr(request, "_messages", None)
    # `_loaded_data`: a template asked whether there are messages, and there were.
    if messages is not None and any(getattr(messages, name, False) for name in ("used", "added_new", "_loaded_data")):
        return "messages used"
    return "CSP nonce made" if _is_touched(request, "_csp_nonce") else None


def _is_touched(request: HttpRequest, name: str) -> bool:
    # A plain user set by other middleware counts, anonymous or not: whether the view looked at it cannot be seen, and a
    # page made for nobody is as wrong for a user as the reverse. django-csp keeps its nonce as plain text.
    value = getattr(request, name, None)
    if isinstance(value, LazyObject):
        return value._wrapped is not empty
    return value is not None
