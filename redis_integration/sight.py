"""What a view gets to see of its request while it makes a page for others: no more of the query than is in the key. And
what it looks at: its cookies, its headers and its META tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.http import HttpRequest, QueryDict

from redis_integration.conf import get_django_setting
from redis_integration.noting import ALL, HARMLESS, Noting, NotingHeaders, headers_of, telling
from redis_integration.responses import Covered

_known_cookies = frozenset({"messages"})  # Django's messages tell themselves whether there were any
_plain_in_scope = frozenset(("asgi", "http_version", "method", "path", "root_path", "scheme", "server", "type"))
# What a layer has asked of the request is remembered, and would be asked by the view unseen.
_remembered = ("accepted_types", "accepted_types_by_precedence")
_ABSENT = object()
# Of a session: it was looked at for a key alone, and does not say so.
_LOOKED = "_redis_integration_looked"


@contextmanager
def looking(request: HttpRequest) -> Iterator[None]:
    """Who is there is looked at for the key: the session says as before whether it was accessed, so that it tells of the view."""
    session = getattr(request, "session", None)
    before = getattr(session, "accessed", None)
    yield
    if before is False and session is not None and session.accessed:
        session.accessed = False
        setattr(session, _LOOKED, True)


def own_up(request: HttpRequest) -> bool:
    """Have the session say what is true, for SessionMiddleware's Vary; whether it had not."""
    session = getattr(request, "session", None)
    if not getattr(session, _LOOKED, False):
        return False
    delattr(session, _LOOKED)
    session.accessed = True  # type: ignore[union-attr]
    return True


_tell: set[type] = set()


@cache
def _telling(kind: Any) -> type:
    """A session of this class that is accessed where its key is asked for, which Django's is not: a cart may hang on it."""

    def told(name: str) -> property:
        real = getattr(kind, name)

        def read(session: Any) -> Any:
            session.accessed = True
            return real.__get__(session)

        return property(read, real.fset)

    # The second is what is_empty() and cache_key ask.
    names = [name for name in ("session_key", "_session_key") if isinstance(getattr(kind, name, None), property)]
    made = type(kind.__name__, (kind,), {name: told(name) for name in names})
    _tell.add(made)
    return made


class Sight:
    """A request as its view sees it, from now until `widen`. `query` is the part of its query that is in the key."""

    def __init__(self, request: HttpRequest, covered: Covered, query: str) -> None:
        self._covered, self._query = covered, query
        self._cookies: set[object] = set()
        self._headers: set[object] = set()
        self._read: set[object] = set()  # of META
        self._of_scope: set[object] = set()
        self._request, self.has_looked, self._is_session_used = request, False, False
        cookies, meta, fields = request.COOKIES, request.META, vars(request)
        self._fields, self._real_query = fields, meta.get("QUERY_STRING", "")
        names = ("COOKIES", "headers", "META", "environ", "scope", *_remembered)
        self._before = {name: fields.get(name, _ABSENT) for name in names if name in fields or name == "headers"}
        for name in _remembered:
            fields.pop(name, None)
        self._meta = fields["META"] = Noting(meta, self._read.add)
        fields["COOKIES"] = Noting(cookies, self._cookies.add)
        fields["headers"] = NotingHeaders(fields.get("headers"), meta, self._headers.add)
        if "environ" in fields:
            fields["environ"] = self._meta
        if "scope" in fields:
            fields["scope"] = Noting(fields["scope"], self._of_scope.add)
        self._session: Any = fields.get("session")
        kind: Any = type(self._session)
        self._kind = kind if isinstance(getattr(kind, "session_key", None), property) and kind not in _tell else None
        try:
            if self._kind is not None:
                self._session.__class__ = _telling(kind)
        except TypeError:  # a class of another layout, as one with slots
            self._kind = None
        self._is_get_changed = False
        if query == self._real_query:
            # A layer may have put in what QUERY_STRING does not say.
            asked: Any = fields.get("GET")
            if asked is not None and asked != QueryDict(query, encoding=request.encoding):
                self._is_get_changed = True
        else:
            self._before["GET"] = fields.pop("GET", _ABSENT)
            dict.__setitem__(self._meta, "QUERY_STRING", query)

    @property
    def why(self) -> str | None:
        """Why what the view made of this may not be given to others, or None: what it looked at and what is not in the key."""
        if self._is_session_used:
            return "session used"
        if self._is_get_changed:
            return "request.GET changed by a layer"
        covered = self._covered
        cookies = set() if "cookie" in covered.headers else self._cookies - covered.cookies - _known_cookies
        if cookies:
            name = _first(cookies)
            return "cookies read" if name == ALL else f"cookie {name} read: vary_on=['cookie:{name}']"
        if ALL in self._read:
            return "META read"
        headers = (self._headers | headers_of(self._read)) - covered.headers
        if headers := headers - (HARMLESS - {"host"} if "host" in headers and self._is_host_unkeyed() else HARMLESS):
            title = _first(headers).title()
            return "headers read" if title == ALL else f"header {title} read: vary_on=['{title}']"
        read = telling(self._read)
        if "REMOTE_ADDR" in read and get_django_setting("DEBUG"):
            read.discard("REMOTE_ADDR")  # Django's context processor "debug" reads it for every template
        if read := read | (self._of_scope - _plain_in_scope):
            return f"{_first(read)} read".replace(ALL, "scope")
        # Over HTTP/2 a body needs no header that announces it.
        body = self._fields.get("_body", b"" if not self._fields.get("_read_started") else b"?")
        return "request body" if body else None

    def _is_host_unkeyed(self) -> bool:
        is_other_believed = get_django_setting("USE_X_FORWARDED_HOST")
        return is_other_believed and dict.__contains__(self._meta, "HTTP_X_FORWARDED_HOST")

    def widen(self) -> None:
        """Give the request back as it was; once."""
        if not self._before:
            return
        if self._kind is not None:
            self._session.__class__ = self._kind
        is_used = getattr(getattr(self._request, "session", None), "accessed", False)
        self.has_looked = own_up(self._request)
        self._is_session_used = self.has_looked and is_used and not self._covered.session
        if dict.get(self._meta, "QUERY_STRING") == self._query:
            dict.__setitem__(self._meta, "QUERY_STRING", self._real_query)
        self._meta.give_back()
        for name, value in self._before.items():
            if value is _ABSENT:
                self._fields.pop(name, None)
            else:
                self._fields[name] = value
        self._before = {}


def _first(names: set[object]) -> str:
    return min(f"{name}" for name in names)  # ALL is before all letters
