"""HttpResponse ↔ payload, and why a response may not be stored.
It looks at what a view has touched without touching it: no session is loaded, no user fetched, no nonce made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from http.cookies import SimpleCookie
from typing import Any, ClassVar, Literal, NamedTuple

from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, ResponseHeaders
from django.utils.functional import LazyObject, empty

from redis_integration.exceptions import UnreadableEntry, UnstorableValue

# A quoted value is consumed whole, so that nothing inside it is taken for a directive.
_directive = re.compile(r'([^\s,;="]+)(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s,;"]*))?')
_forbidding = ("private", "no-store", "no-cache")
STATUSES = frozenset({200, 203, 301, 308})
GONE = frozenset({404, 410})  # stored only for who asked for it: see `negative_ttl`

# Set by Django's decorators for its middleware. A response made from bytes has lost them and would be treated otherwise.
_marks = ("xframe_options_exempt", "_csp_config", "_csp_ro_config")
_marks_of_django_csp = tuple(f"_csp_{kind}{only}" for kind in ("exempt", "update", "replace") for only in ("", "_ro"))
# Of Django REST framework, by name: what they look at is the header Authorization alone.
_header_authentication = {f"rest_framework.authentication.{kind}Authentication" for kind in ("Basic", "Token")}
_session_authentication = {"rest_framework.authentication.SessionAuthentication"}
_UNSAVED = "?"  # who is logged in and has no primary key: cannot be told from others


class Covered(NamedTuple):
    """What of a request is in the key of its page, beside its address. `headers` are of lower case, `user` is his text."""

    headers: frozenset[str] = frozenset()
    cookies: frozenset[str] = frozenset()
    user: str | None = None
    session: bool = False  # by its cookie


ADDRESS = Covered()


class Prepared(NamedTuple):
    """A response as it is stored."""

    status: int
    payload: bytes


@dataclass(frozen=True)
class ResponseCodec:
    """A line of JSON (status, custom reason, charset, headers in their order), then the body as it is.

    For a Http404 that was raised, the headers are null, and the body is JSON of its arguments as texts.
    """

    number: ClassVar[int] = 2
    name: ClassVar[str] = "response"
    verified: ClassVar[Literal["never"]] = "never"  # a response is equal to nothing but itself

    def encode(self, value: Any, key: str = "", /) -> bytes:
        """The bytes of a rendered HttpResponse, or of a Http404. Raises UnstorableValue for anything else, and for cookies."""
        if isinstance(value, Prepared):
            return value.payload
        if type(value) is Http404:
            return b"[404,null,null,null]\n" + json.dumps([*map(str, value.args)]).encode()
        if not isinstance(value, HttpResponse) or not getattr(value, "is_rendered", True) or value.cookies:
            name = type(value).__qualname__
            raise UnstorableValue(f"{name} is not a rendered HttpResponse without cookies.", name)
        fields = vars(value)
        head = (value.status_code, fields["_reason_phrase"], fields["_charset"], [*value.headers.items()])
        return json.dumps(head, separators=(",", ":"), default=str).encode() + b"\n" + value.content

    def decode(self, payload: bytes, key: str = "", /) -> HttpResponse | Http404:
        """A new plain HttpResponse with exactly the stored headers; or the Http404, not raised.

        Raises UnreadableEntry, and nothing else, whatever the bytes.
        """
        try:
            head, separator, body = payload.partition(b"\n")
            if not separator:
                raise ValueError("a head without its end")
            model = _model_of(head)
            return _respond_as(model, body) if model is not None else Http404(*json.loads(body))
        except Exception as exc:
            raise UnreadableEntry(f"The response codec cannot read this payload ({type(exc).__name__}).") from exc


@lru_cache(1024)
def _model_of(head: bytes) -> HttpResponse | None:
    """A response with this head and no body, to be copied; None for a Http404. Most hits are of a few pages."""
    status, reason, charset, headers = json.loads(head)
    if (status, headers) == (404, None):
        return None
    texts = "".join([*sum(headers, []), *(text for text in (reason, charset) if text is not None)])
    if "\n" in texts or "\r" in texts:
        raise ValueError("a text of two lines")
    model = HttpResponse(status=status, reason=reason, charset=charset)
    model.headers = ResponseHeaders(headers)
    return model


def _respond_as(model: HttpResponse, body: bytes) -> HttpResponse:
    # A third of what HttpResponse() takes; a test finds what else Django may come to keep in a response.
    response = HttpResponse.__new__(HttpResponse)
    fields = vars(response)
    fields.update(vars(model))
    headers = fields["headers"] = ResponseHeaders.__new__(ResponseHeaders)
    headers._store = model.headers._store.copy()
    fields["cookies"], fields["_resource_closers"], fields["_container"] = SimpleCookie(), [], [body]
    return response


response_codec = ResponseCodec()


def why_bypassed(request: HttpRequest, headers: frozenset[str] = frozenset()) -> str | None:
    """Why this request is not answered from an entry, or None. Known before the view runs; `headers` are in the key."""
    meta = request.META
    if request.method not in ("GET", "HEAD"):
        return f"method {request.method}"
    if not meta.get("QUERY_STRING", "").isascii():
        return "query not ASCII"
    if "HTTP_RANGE" in meta:
        return "request header Range"
    if "HTTP_AUTHORIZATION" in meta and "authorization" not in headers:
        return "request header Authorization"
    if meta.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in meta:
        return "request body"
    # Django decodes the query by it, and views choose a format; text/plain is what wsgiref says where there is none.
    if meta.get("CONTENT_TYPE") not in (None, "", "text/plain") and "content-type" not in headers:
        return "request header Content-Type"
    return None


def why_not_response(response: object, covered: Covered = ADDRESS) -> str | None:
    """Why what a view has answered may not be given to others, as the answer itself says, or None."""
    if not isinstance(response, HttpResponseBase):
        return "no response"
    if response.status_code not in STATUSES and response.status_code not in GONE:
        return f"status {response.status_code}"
    if getattr(response, "streaming", True):
        return "streaming"
    if not getattr(response, "is_rendered", True):
        return "not rendered"
    for header in ("Content-Range", "Content-Encoding"):
        if header in response.headers and not (header == "Content-Encoding" and "accept-encoding" in covered.headers):
            return header
    for mark in (*_marks, *_marks_of_django_csp):
        if hasattr(response, mark):
            return f"{mark}: put its decorator above cache_aside_view"
    return _why_not_headers(response, covered)


def why_not_final(response: HttpResponseBase, covered: Covered = ADDRESS, *, by_language: bool = False) -> str | None:
    """The same, as all layers around the view have left its answer, which is not what is stored.

    Encoding is theirs, and done anew for each hit; so is what LocaleMiddleware adds, where the language is in the key.
    """
    if response.status_code >= 500:
        return f"status {response.status_code} of an outer layer"
    theirs = {"accept-encoding", "accept-language"} if by_language else {"accept-encoding"}
    return _why_not_headers(response, covered._replace(headers=covered.headers | theirs))


def _why_not_headers(response: HttpResponseBase, covered: Covered) -> str | None:
    headers = response.headers
    if response.cookies or "Set-Cookie" in headers:
        return "Set-Cookie"
    if "Vary" in headers:
        for header in re.findall(r"[^\s,]+", headers["Vary"]):
            # Sessions add it. One cookie of several in the key does not speak for what a layer has made of another.
            by_cookie = header.lower() == "cookie" and (covered.session or covered.user is not None)
            if header.lower() not in covered.headers and not by_cookie:
                return f"Vary: {header}"
    if "Cache-Control" in headers:
        directives = {name.lower() for name in _directive.findall(headers["Cache-Control"])}
        return next((f"Cache-Control: {name}" for name in _forbidding if name in directives), None)
    return None


def why_private(
    request: HttpRequest, covered: Covered = ADDRESS, response: object = None, *, has_looked: bool = False
) -> str | None:
    """Why what this request gets is its visitor's own, or None. `response` is the view's, if there is one.

    `has_looked` says that the session was accessed for the key, whoever else has done so.
    """
    session = getattr(request, "session", None)
    # `is not None`: a session's truth value loads it. What cannot be seen counts as touched, here and below.
    if session is not None and not covered.session:
        if (getattr(session, "accessed", True) and not has_looked) or getattr(session, "modified", True):
            return "session used"
        # Whether a layer read the key (a cart's, say) cannot be seen; and who is not logged in is like all others.
        if not covered.user and _session_key_of(session):
            return "session present"
    elif session is not None and getattr(session, "modified", True):
        return "session changed"
    if _is_user_used(request, covered, response):
        return "user used"
    if request.META.get("CSRF_COOKIE_NEEDS_UPDATE"):
        return "CSRF token issued"
    messages = getattr(request, "_messages", None)
    # `_loaded_data`: a template asked whether there are messages, and there were.
    if messages is not None and any(getattr(messages, name, False) for name in ("used", "added_new", "_loaded_data")):
        return "messages used"
    return "CSP nonce made" if _is_touched(request, "_csp_nonce") else None


def _session_key_of(session: Any) -> Any:
    # For a view to ask is to use it, see sight.py; not so for us.
    accessed, key = getattr(session, "accessed", None), getattr(session, "session_key", None)
    if accessed is False:
        session.accessed = False
    return key


def user_text(request: HttpRequest) -> str:
    """The primary key of this visitor; "" for who is not logged in. It looks at the user, and so at the session."""
    user, awaited = getattr(request, "user", None), getattr(request, "_acached_user", None)
    if isinstance(user, LazyObject) and user._wrapped is empty and awaited is not None:
        return _text_of(awaited)
    # A layer may have put another in place of the session's, of whom auser() still tells.
    own, other = _text_of(user), _text_of(awaited)
    return own if awaited is None or own == other else f"{own}\n{other}"


def _text_of(user: Any) -> str:
    key = getattr(user, "pk", None)
    if key is None:
        return _UNSAVED if getattr(user, "is_authenticated", False) else ""
    return f"{key}"


def _is_user_used(request: HttpRequest, covered: Covered, response: object) -> bool:
    if covered.user is not None:
        return (text := user_text(request)) != covered.user or _UNSAVED in text.split("\n")
    if not covered.session and any(hasattr(request, name) for name in ("_cached_user", "_acached_user")):
        return True
    if not _is_touched(request, "user"):
        return False
    user: Any = getattr(request, "user", None)
    if covered.session and getattr(user, "_wrapped", user) is getattr(request, "_cached_user", empty):
        return False  # the session's own; another layer's may come with a token, and all of them without a session
    return not _is_authenticated(
        response, _header_authentication | (_session_authentication if covered.session else set())
    )


def _is_authenticated(response: object, by: set[str]) -> bool:
    """Whether Django REST framework has set the user, of each request, in no other ways than these."""
    made_for = (getattr(response, "renderer_context", None) or {}).get("request")
    kinds: Iterable[Any] | None = getattr(made_for, "authenticators", None)
    if kinds is None:
        return False
    return {f"{type(kind).__module__}.{type(kind).__qualname__}" for kind in kinds} <= by


def _is_touched(request: HttpRequest, name: str) -> bool:
    # A plain user set by other middleware counts, anonymous or not: whether the view looked at it cannot be seen, and a
    # page made for nobody is as wrong for a user as the reverse. django-csp keeps its nonce as plain text.
    value = getattr(request, name, None)
    if isinstance(value, LazyObject):
        return value._wrapped is not empty
    return value is not None
