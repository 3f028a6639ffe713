"""The life of a server: the identity of its memory, as it tells by INFO. Nothing here sends, or judges an entry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from redis.exceptions import ResponseError

# The life of a server is not learnt yet; an unset life equals nothing.
UNSET_LIFE: Final = bytes(8)
# The life of every server where DISTRUST_RESTARTS is False.
TRUSTED_LIFE: Final = b"believed"
# Two commands, since Redis 6.2 knows no INFO of two sections, and how many replies they have.
QUESTION: Final = b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n"
ANSWERS: Final = 2
_IDENTITY = re.compile(rb"^(?:run_id|master_replid):(\w+)", re.MULTILINE)


class LifeUnknown(ResponseError):
    """INFO was refused, or does not tell what identifies the server: it may be a proxy."""


def life_of(replies: Sequence[object]) -> bytes:
    """The life of the server that gave these replies to QUESTION; TRUSTED_LIFE where nothing was asked. Raises LifeUnknown."""
    if not replies:
        return TRUSTED_LIFE
    found = _IDENTITY.findall(b"\n".join(reply for reply in replies if isinstance(reply, bytes)))
    if len(found) != ANSWERS:
        raise LifeUnknown("INFO tells no run_id and master_replid")
    return blake2b(b"".join(found), digest_size=len(UNSET_LIFE)).digest()


def refusal_of(error: ResponseError) -> ResponseError:
    """What it means that INFO met this error: LifeUnknown, but for a server that is BUSY with a script."""
    return error if str(error).startswith("BUSY") else LifeUnknown(f"INFO was refused: {error}")
