"""A call or a request → the key of its entry. Calls that may differ never share a key, save where `key=` says they do.
It never hashes what a person could read, unless the key would be longer than 200 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from hashlib import blake2b
from operator import itemgetter
from types import NoneType
from typing import Any, NamedTuple
from urllib.parse import unquote_plus
from uuid import UUID

from redis_integration.arguments import Arguments, Field, NoText, Template, split
from redis_integration.exceptions import UncacheableCall

# A key as it is written by hand.
Key = str | tuple[object, ...]
MAX_KEY_BYTES = 200
# Of a longer one at least so much is readable: a digest of 33 follows, and of an escaped character at most 11 are cut too.
LEAST_HEAD = MAX_KEY_BYTES - 33 - 11
# Safe is what means nothing to keys, globs, shells or queries. `~` announces a digest, `:` and `=` separate.
_unsafe = re.compile(r"[^A-Za-z0-9_./@+-]+")
UNSAFE_LITERAL = re.compile(r"[^A-Za-z0-9_./@+:=-]+")
# The end of a head that was cut inside an escape, or between the escapes of one character.
_cut_escape = re.compile(r"(?:%[C-F].(?:%[89AB].){0,2})?(?:%.?)?$")
_plain_remedy = 'Give text such as f"report:{year}", or a tuple of a name and values: ("search", words).'
_remedy = 'Pass key= and name what tells its calls apart, such as key="price:{pk}" or key="cart:{self.pk}".'


class Names(NamedTuple):
    """The full key of an entry and the full keys of its tags; `stamp` is 8 bytes that stand for a version, if there is one.

    Another version has the same key: a rolling deploy runs both, and an invalidation by one must end the other's entry.
    """

    key: str
    tags: tuple[str, ...] = ()
    stamp: tuple[bytes, ...] = ()


def escape(part: str, unsafe: re.Pattern[str] = _unsafe) -> str:
    """`part` with everything percent-escaped that could forge a separator, a glob or a digest."""
    if unsafe.search(part) is None:
        return part
    return unsafe.sub(lambda run: f"%{run[0].encode('utf-8', 'surrogatepass').hex('%').upper()}", part)


def full_key(prefix: str, rest: str) -> str:
    """`prefix:rest`; above 200 bytes its readable head, `~` and a digest of the whole."""
    key = f"{prefix}:{rest}"
    if len(key) <= MAX_KEY_BYTES and (key.isascii() or len(key.encode()) <= MAX_KEY_BYTES):
        return key
    whole = key.encode()
    ending = f"~{blake2b(whole, digest_size=16).hexdigest()}"
    return _cut_escape.sub("", whole[: MAX_KEY_BYTES - len(ending)].decode(errors="ignore"), count=1) + ending


def probe_key(prefix: str) -> str:
    """A key of ours that nothing is stored at, to try what is allowed. No tag's: in those a # is escaped."""
    return f"{prefix}:##probe"


def is_plain(key: str) -> bool:
    """Whether a key or a tag's could be so: printable ASCII of at most 200 letters, which every tier and the journal can hold."""
    return len(key) <= MAX_KEY_BYTES and key.isascii() and key.isprintable()


def namespace_of(function: Callable[..., Any]) -> str:
    """Module and qualified name of a function, or of the class behind `as_view()`.
    Raises TypeError for what has no name of its own: a lambda, a partial, a closure (of which a factory makes many).
    """
    named = getattr(function, "view_class", function)
    name = getattr(named, "__qualname__", "<lambda>")
    is_closure = "<locals>" in name and getattr(named, "__closure__", None)
    if is_closure or name.endswith("<lambda>") or isinstance(named, partial):
        raise TypeError(f"{function!r} (lambda, partial or closure) has no name of its own. Pass key= or namespace=.")
    return escape(f"{named.__module__}.{name}")


def view_key(
    *,
    namespace: str,
    scheme: str,
    host: str,
    path: str,
    query: str,
    language: str | None,
    time_zone: str | None,
    varied: Sequence[str] = (),
) -> str:
    """The part after the prefix for one page. `query` is the raw query string, whose order of names does not matter.

    `varied` is what else the page varies on, escaped.
    """
    # Split and not parsed, so that nothing is dropped: `?a` and `?a=` may show different links.
    # surrogateescape: two texts that are not UTF-8 must not both become U+FFFD.
    parsed = [
        [unquote_plus(text, errors="surrogateescape") for text in pair.split("=", 1)] for pair in query.split("&")
    ]
    canonical = "&".join("=".join(map(escape, pair)) for pair in sorted(parsed, key=itemgetter(0)))
    site, variant = (scheme, host, path), (language or "", time_zone or "")
    return ":".join((namespace, *map(escape, site), canonical, *map(escape, variant), *varied))


def plain_key(key: Key) -> str:
    """The part after the prefix for a key that is written by hand, equal to what `key=` of a decorator makes of such parts.

    Text is a name of parts with ":" between them, and all that could forge a glob or a digest is escaped. Of a tuple each
    part is escaped by itself, the ":" in it too. Raises UncacheableCall.
    """
    try:
        if isinstance(key, str):
            # The content: the str() of a member of an enum of strings would be the member's name.
            rest = escape(str.__str__(key), UNSAFE_LITERAL)
        elif isinstance(key, tuple):
            rest = ":".join(map(plain_text, key))
        else:
            raise NoText.of(key, "is neither text nor a tuple")
    except NoText as error:
        raise UncacheableCall(f"This makes no key: {error}. {_plain_remedy}") from None
    if not rest or rest[0] == ":":
        raise UncacheableCall(f"The key {key!r} does not begin with a name. {_plain_remedy}")
    return rest


def fragment_key(name: str, values: Sequence[object], variant: Sequence[str]) -> str:
    """The part after the prefix for one fragment of a template. Raises NoText."""
    return ":".join(("fragment", escape(name), *map(_typed_text, values), *map(escape, variant)))


class KeyMaker:
    """The part after the prefix for the calls of one function; built when the function is decorated.

    `key="price:{pk}"` names parameters, their attributes and items, and renders values by str(): 7 and "7" share a
    key. Without `key` the text of each argument shows its type, and f(1), f("1"), f(True), f(1.0) do not.
    The key of price(7) takes 0.9 µs with a template, 0.7 µs without (Python 3.11; Signature.bind alone: 1.4 µs).
    Raises TypeError, when built, for a `key` that could not tell calls apart.
    """

    def __init__(self, function: Callable[..., Any], key: str | None = None, namespace: str | None = None) -> None:
        if "" in (key, namespace) or None not in (key, namespace):
            raise TypeError("Pass key= or namespace=, not both (a key begins with its own), and no empty one.")
        self._arguments = arguments = Arguments(function)
        self._bind = arguments.bind
        if key is None:
            start = namespace_of(function) if namespace is None else _checked(namespace, f"{namespace=}")
            pattern = ":".join((start.replace("%", "%%"), *(f"{name}=%s" for name in arguments.names)))
            fields: list[Field] = [(name, index, ()) for index, name in enumerate(arguments.names)]
        else:
            pattern, fields = self._parse(key)
        self.pattern = pattern  # a %-pattern of what stands behind the prefix
        text = _typed_text if key is None else plain_text
        self._template = Template(arguments, pattern, fields, text=text, remedy=_remedy)

    def parts(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """What stands behind the prefix in the key of this call.

        Raises UncacheableCall, and TypeError for a call that does not fit the function.
        """
        return self._template.fill(self._bind(args, kwargs))

    def _parse(self, key: str) -> tuple[str, list[Field]]:
        pieces, names = split(key)
        literals, arguments = [_checked(piece, f"{key=}") for piece in pieces], self._arguments
        if not literals[0]:
            raise TypeError(
                f"{key=} begins with no name of its own, so that others could share its keys. Write 'price:…'."
            )
        if arguments.names and not names:
            raise TypeError(f"{key=} names no parameter: all calls of {arguments.described} would share one entry.")
        if not all({":", "="} & {*literal} for literal in literals[1:-1]):
            raise TypeError(f"{key=} has no ':' between two fields, so that two calls could share a key.")
        return "%s".join(literals), [arguments.field(name, f"{key=}") for name in names]


def _checked(literal: str, source: str) -> str:
    if odd := UNSAFE_LITERAL.search(literal):
        raise TypeError(f"{source} contains {odd[0]!r}. Use letters, digits and _./@+:=-")
    return literal


def primary_key(value: Any) -> tuple[str, Any] | None:
    """Label and primary key of a saved model instance, None for anything else. Raises NoText for one not saved."""
    label = getattr(getattr(value, "_meta", None), "label_lower", None)
    if not isinstance(label, str) or isinstance(value, type):
        return None
    if value.pk is None or (isinstance(value.pk, tuple) and None in value.pk):
        raise NoText.of(value, "is not saved")
    database = getattr(value, "_state", None) and value._state.db
    return label if database in (None, "default") else f"{label}@{database}", value.pk


def stable_text(value: object) -> str:
    """The str() of a value, not escaped. Raises NoText for one that may be another tomorrow."""
    # `<…>` is what has no text of its own: an object at an address, and the first rows of a QuerySet.
    if (text := str(value)).startswith("<") or " at 0x" in text:
        raise NoText.of(value)
    return text


def plain_text(value: Any) -> str:
    """The text of a value in a key whose parts are named by hand, escaped: of a model instance its primary key. Raises NoText."""
    if type(value) is int:  # most are, and they need no escape
        return f"{value}"
    if isinstance(value, (str, int, float)):
        return escape(str(value))
    if value is None:
        raise NoText.of(value, "would share a key with the text 'None'")
    if row := primary_key(value):
        return plain_text(row[1])
    # The str() of a container holds repr()s, and that of a set differs between processes.
    return (
        _typed_text(value)
        if isinstance(value, (bytes, tuple, list, set, frozenset, dict))
        else escape(stable_text(value))
    )


def _typed_text(value: Any) -> str:
    if (kind := type(value)) in _texts:
        return _texts[kind](value)
    if isinstance(value, Enum):
        return escape(f"{kind.__module__}.{kind.__qualname__}.{value.name or value.value}")
    if row := primary_key(value):
        return f"{escape(row[0])}({_typed_text(row[1])})"
    base = next((base for base in kind.__mro__ if base in _texts), None)
    if base is None:
        raise NoText.of(value)
    # A subclass is told apart: a SafeString is not escaped by its origin, and a unit of measure is no number.
    return f"{escape(kind.__qualname__)}({_texts[base](value)})"


def _clock_text(value: datetime | time) -> str:
    zone = value.tzinfo
    ends = (",fold" if value.fold else "") + (f",{type(zone).__name__}({escape(stable_text(zone))})" if zone else "")
    return f"{'datetime' if isinstance(value, datetime) else 'time'}({escape(value.isoformat())}{ends})"


def _many(name: str, arrange: Callable[[Any], list[str]]) -> Callable[[Any], str]:
    return lambda items: f"{name}({','.join(arrange(map(_typed_text, items)))})"


_texts: dict[type, Callable[[Any], str]] = {
    NoneType: repr,
    bool: repr,
    int: int.__repr__,
    float: float.__repr__,
    str: lambda value: f"'{escape(value)}'",
    bytes: lambda value: f"bytes({value.hex()})",
    Decimal: lambda value: f"Decimal({value})",
    UUID: lambda value: f"UUID({value})",
    date: lambda value: f"date({value.isoformat()})",
    datetime: _clock_text,
    time: _clock_text,
    timedelta: lambda value: f"timedelta({value.days}d{value.seconds}.{value.microseconds:06}s)",
    **{kind: _many(kind.__name__, list) for kind in (tuple, list)},
    **{kind: _many(kind.__name__, sorted) for kind in (set, frozenset)},
    dict: lambda value: f"dict({','.join(sorted(f'{_typed_text(k)}={_typed_text(v)}' for k, v in value.items()))})",
}
