"""What a piece of a template reads of its visitor while it is rendered. To look touches nothing: what is lazy stays lazy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.http import HttpRequest
from django.template.context import BaseContext
from django.utils.functional import SimpleLazyObject, empty

from redis_integration.noting import ALL, HARMLESS, Noting, NotingHeaders, headers_of, telling

USER, SESSION, MESSAGES, TOKEN, NONCE = "user", "session", "messages", "CSRF token", "CSP nonce"
# Where they are found: on the request (django-csp's nonce, and what REST framework has of its own, too), and in the context.
_attributes = {
    "user": USER,
    "_user": USER,
    "session": SESSION,
    "_messages": MESSAGES,
    "_csp_nonce": NONCE,
    "csp_nonce": NONCE,
}
_variables = {
    "user": USER,
    "perms": USER,
    "messages": MESSAGES,
    "csrf_token": TOKEN,
    "csp_nonce": NONCE,
    "CSP_NONCE": NONCE,
}
_issued = "CSRF_COOKIE_NEEDS_UPDATE"


def kind_of(variable: str) -> str | None:
    """Whether a template's variable, such as `user.pk` or `request.COOKIES.theme`, is of the visitor: of what, or None."""
    first, found, name, *_ = (*variable.split("."), "", "")
    if first != "request":
        return _variables.get(first)
    name = name or ALL
    if found == "COOKIES":
        return f"cookie {name}"
    if found == "headers":
        return f"header {name.replace('_', '-').lower()}"
    if found == "META":
        return next(iter(_kinds_of_meta({name})), None)
    return _attributes.get(found)


def _kinds_of_meta(read: set[object]) -> set[str]:
    headers = {f"header {name}" for name in headers_of(read) - HARMLESS}
    return headers | {TOKEN if name == "CSRF_COOKIE" else f"{name}" for name in telling(read)}


@contextmanager
def observed(context: BaseContext) -> Iterator[Callable[[], set[str]]]:
    """While this lasts, stand-ins in the context and on its request note what is read; gives what tells the kinds of it.

    State would not do: a user that was loaded before, or a token that another form has shown, leaves no new trace.
    What the block sets in the context ends with it, as it does where the block is not rendered.
    """
    request = getattr(context, "request", None)
    if request is None:
        request = context.get("request")
    inner = getattr(request, "__dict__", {}).get("_request", request)  # REST framework has a request of its own
    every = [getattr(each, "__dict__", {}) for each in ([request] if inner is request else [request, inner])]
    noted: list[tuple[str, SimpleLazyObject[Any]]] = []
    cookies, headers, read = set[object](), set[object](), set[object]()

    def stand_in(kind: str, real: Any) -> SimpleLazyObject[Any]:
        noted.append((kind, SimpleLazyObject(lambda: real)))
        return noted[-1][1]

    def kinds() -> set[str]:
        seen = {kind for kind, each in noted if each._wrapped is not empty} | _kinds_of_meta(read)
        seen |= {f"cookie {name}" for name in cookies} | {f"header {name}" for name in headers - HARMLESS}
        return seen | {TOKEN} if meta.get(_issued) else seen

    meta = Noting(getattr(inner, "META", {}), read.add)
    was_issued = meta.pop(_issued, None)
    shown = {name: stand_in(kind, context[name]) for name, kind in _variables.items() if name in context}
    puts: list[dict[str, Any]] = [
        {name: stand_in(kind, found[name]) for name, kind in _attributes.items() if name in found} for found in every
    ]
    if isinstance(inner, HttpRequest):
        of_headers = NotingHeaders(every[-1].get("headers"), inner.META, headers.add)
        puts[-1] |= {"META": meta, "COOKIES": Noting(inner.COOKIES, cookies.add), "headers": of_headers}
    before = [{name: found.get(name, empty) for name in put} for found, put in zip(every, puts, strict=True)]
    with context.push(**shown):
        try:
            for found, put in zip(every, puts, strict=True):
                found.update(put)
            yield kinds
        finally:
            for found, real in zip(every, before, strict=True):
                found.update(real)
                for name in [name for name, value in real.items() if value is empty]:
                    found.pop(name, None)
            if was_issued is not None:
                dict.setdefault(meta, _issued, was_issued)
            meta.give_back()
