"""Dicts and headers that tell which of their items were looked at; and what of `request.META` tells of a visitor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from django.http.request import HttpHeaders

from redis_integration.conf import get_django_setting

ALL = "*"
# They change no page, or their requests pass by.
HARMLESS = frozenset(
    (
        "host",
        "authorization",
        "content-length",
        "content-type",
        "transfer-encoding",
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
    )
)
# Of META, beside headers: what stands in the key, is the same for all, or is Django's own. Servers add who asks, and from where.
_plain = frozenset(
    (
        "CONTENT_LENGTH",
        "CONTENT_TYPE",
        "CSRF_COOKIE_NEEDS_UPDATE",
        "GATEWAY_INTERFACE",
        "HTTPS",
        "PATH_INFO",
        "QUERY_STRING",
        "REQUEST_METHOD",
        "SCRIPT_NAME",
    )
)


class Noting(dict[Any, Any]):
    """A copy of a dict, as code expects one, that notes the names looked at, or ALL. What is written is written to the copy."""

    def __init__(self, real: dict[Any, Any], note: Callable[[object], None]) -> None:
        super().__init__(dict.items(real))
        self._real, self._note, self._is_changed = real, note, False

    def note(self, name: object) -> None:
        """Note this name; and where it was such a copy that was copied, there too."""
        self._note(name)
        if isinstance(self._real, Noting):
            self._real.note(name)

    def __reduce_ex__(self, protocol: object) -> Any:
        self.note(ALL)  # a copy of a copy is plain
        return dict, (dict(dict.items(self)),)

    def give_back(self) -> dict[Any, Any]:
        """The dict that was copied, with all that was written since."""
        real = self._real
        if self._is_changed:
            for name in dict.keys(real) - dict.keys(self):
                del real[name]
            dict.update(real, dict.items(self))
        return real


def _writing(method: str) -> Callable[..., Any]:
    write = getattr(Noting, method)

    def written(this: Noting, *args: Any, **kwargs: Any) -> Any:
        this._is_changed = True
        return write(this, *args, **kwargs)

    return written


def _noting(method: str, *, one: bool) -> Callable[..., Any]:
    look = getattr(dict, method)

    def noted(this: Noting, *args: Any) -> Any:
        this.note(args[0] if one else ALL)
        return look(this, *args)

    return noted


for _name in ("__getitem__", "get", "__contains__", "pop", "setdefault"):
    setattr(Noting, _name, _noting(_name, one=True))
for _name in ("__iter__", "__reversed__", "__len__", "keys", "items", "values", "copy", "popitem", "__repr__"):
    setattr(Noting, _name, _noting(_name, one=False))
for _name in ("__eq__", "__ne__", "__or__", "__ror__"):
    setattr(Noting, _name, _noting(_name, one=False))
for _name in ("__setitem__", "__delitem__", "__ior__", "update", "setdefault", "pop", "popitem", "clear"):
    setattr(Noting, _name, _writing(_name))


class NotingHeaders(HttpHeaders):
    """The headers of a request: those of `before`, or else of this META; what is looked at is noted, in lower case."""

    def __init__(self, before: Mapping[str, str] | None, meta: dict[str, Any], note: Callable[[object], None]) -> None:
        self._before, self._meta, self._note = before, meta, note

    @cached_property
    def _all(self) -> Mapping[str, str]:
        return HttpHeaders(dict(dict.items(self._meta))) if self._before is None else self._before

    def __getitem__(self, name: str) -> str:
        self._note(name.replace("_", "-").lower())
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        self._note(ALL)
        return iter(self._all)

    def __len__(self) -> int:
        self._note(ALL)
        return len(self._all)


def headers_of(read: set[object]) -> set[object]:
    """The headers, in lower case, among what was read of META, without those that Django itself reads for its key."""
    names = {f"{name}" for name in read} - _believed() if read else ()
    return {name[5:].replace("_", "-").lower() for name in names if name.startswith("HTTP_")}


def telling(read: set[object]) -> set[object]:
    """What else of this may tell of a visitor: his address, his certificate, what he has sent besides headers."""
    return {name for name in read if name not in _plain and (name == "wsgi.input" or not _is_servers(f"{name}"))}


def _is_servers(name: str) -> bool:
    return name.startswith(("HTTP_", "SERVER_", "wsgi"))


def _believed() -> set[str]:
    """What of META Django itself looks at where it tells scheme, host and port, which are in the key."""
    names = {("HTTP_X_FORWARDED_" + each) for each in ("HOST", "PORT") if get_django_setting(f"USE_X_FORWARDED_{each}")}
    proxy = get_django_setting("SECURE_PROXY_SSL_HEADER")
    return names | {proxy[0]} if proxy else names
