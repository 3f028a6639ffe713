"""The names of leases and generations: what a token is, and whose. It knows no tier."""

from __future__ import annotations

import os
import socket

from redis_integration.pools import run_in_child

RANDOM_BYTES = 8
_me = b""


def lease_key(key: str) -> str:
    """Where the lease of this key stands: in the same slot of a Cluster, and outside the prefix that listeners follow."""
    return f"{{{key}}}:lease"


def make_token() -> bytes:
    """The name of one try for a lease: 8 bytes that nobody has had before, and for humans whose it is, as `host:pid`."""
    return os.urandom(RANDOM_BYTES) + _me


def make_generation() -> bytes:
    """8 bytes that no tag has stood for before."""
    return os.urandom(RANDOM_BYTES)


def owner_of(token: bytes) -> str:
    """Whose token this is, as it tells."""
    return token[RANDOM_BYTES:].decode("ascii", "backslashreplace")


def me() -> str:
    """This process as its tokens name it."""
    return _me.decode()


def _introduce() -> None:
    global _me
    # A host's name may have 255 letters.
    _me = b"%b:%d" % (socket.gethostname().encode("ascii", "replace")[:64], os.getpid())


_introduce()
run_in_child(_introduce)
