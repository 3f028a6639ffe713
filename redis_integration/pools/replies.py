"""The replies of a long pipeline, read without redis-py's layers around each, which take four times as long as the parser of hiredis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError

try:
    from redis._parsers.hiredis import NOT_ENOUGH_DATA
except ImportError:
    NOT_ENOUGH_DATA = None

# So few are read as redis-py reads them.
FEW = 32
_PLAIN = frozenset((bytes, int))

# Gives further commands, as they are sent, and how many they are. It is given the list that the replies go into.
More = Callable[[list[Any]], Iterable[tuple[bytes, int]]]


def go_on(connection: Any, count: int, more: More) -> list[Any]:
    """So many replies, and those to `more`: each part is sent before the replies to what came before it are read."""
    replies: list[Any] = []
    for packed, following in more(replies):
        # Each part has as much time as an exchange by itself.
        connection._sock.deadline = monotonic() + connection._socket_timeout
        connection._sock.sendall(packed)
        replies += read_replies(connection._parser, count)
        count = following
    return replies + read_replies(connection._parser, count)


def read_replies(parser: Any, count: int) -> list[Any]:
    """So many replies; server errors among them are values. It waits, and raises, as the parser's own `read_response` does."""
    gets = getattr(getattr(parser, "_reader", None), "gets", None)
    if count <= FEW or gets is None or NOT_ENOUGH_DATA is None:
        return [parser.read_response() for _ in range(count)]
    replies: list[Any] = []
    while missing := count - len(replies):
        # No line of Python for each of them.
        come = [*islice(iter(gets, NOT_ENOUGH_DATA), missing)]
        if not come:
            parser.read_from_socket()
        replies += come if _PLAIN.issuperset(map(type, come)) else _answers(parser, come)
    return replies


def _answers(parser: Any, come: list[Any]) -> Iterator[Any]:
    pushed = getattr(parser, "_hiredis_PushNotificationType", None)
    for reply in come:
        if pushed is not None and isinstance(reply, pushed):
            parser.handle_push_response(reply)
            continue
        # What redis-py raises: the server is about to close the connection.
        first = reply[0] if isinstance(reply, list) and reply else reply
        if isinstance(first, ConnectionError):
            raise first
        yield reply
