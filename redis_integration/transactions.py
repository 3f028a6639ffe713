"""What the transactions of this thread mean for the cache: what may be stored, what waits for a commit.

It asks only connections that exist, and sends nothing itself.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from django.core.signals import request_finished
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from redis_integration import statements
from redis_integration.pools import run_in_child


class Standing(NamedTuple):
    """Where a call stands: inside a transaction or not; at which commit its result may be stored, if at one at all."""

    is_inside: bool = False
    commit: BaseDatabaseWrapper | None = None
    # Not while this thread keeps a lease until its commit: two such threads would wait for each other.
    may_wait: bool = True


class _Callback:
    def __init__(self) -> None:
        # Django 5.2 names a callback that raises by this.
        self.__qualname__ = type(self).__qualname__


class Unsent(_Callback):
    """An invalidation that waits for a commit. Django forgets it where there is none, savepoints included."""

    def __init__(self, names: Iterable[str], connection: BaseDatabaseWrapper, send: Callable[[], None]) -> None:
        super().__init__()
        self.names = frozenset(names)
        self.connection = connection
        self.is_sent = False
        self._send = send

    def __call__(self) -> None:
        # Also where Django's TestCase calls it and keeps it.
        self.is_sent = True
        self._send()


class LateFill(_Callback):
    """A fill that waits for a commit; `let_go` is for its lease, where the commit does not come."""

    def __init__(self, key: str, *, fill: Callable[[], None], let_go: Callable[[], None]) -> None:
        super().__init__()
        self.key = key
        self.fill = fill
        self.let_go = let_go
        self.connection: BaseDatabaseWrapper | None = None

    def __call__(self) -> None:
        if self in _mine.fills:
            _mine.fills.remove(self)
            self.fill()


class Commit(_Callback):
    """Whether a transaction has committed; see `note_commit`."""

    is_done = False

    def __call__(self) -> None:
        self.is_done = True


class _Mine(threading.local):
    def __init__(self) -> None:
        self.fills: list[LateFill] = []
        # The calls that compute inside a transaction: each may have a lease that it keeps until the commit.
        self.callers: weakref.WeakSet[object] = weakref.WeakSet()


_mine = _Mine()
_unsent: set[weakref.ref[Unsent]] = set()


def open_connections() -> list[BaseDatabaseWrapper]:
    """The connections of this thread that are inside `atomic()`."""
    return [connection for connection in connections.all(initialized_only=True) if connection.in_atomic_block]


def stand(key: str, caller: object) -> Standing:
    """Where a call for this key stands that has to be computed. `caller` lives as long as the call."""
    let_go()
    blocks = open_connections()
    if not blocks:
        return Standing()
    # A second computation of what already waits for this commit has no lease to wait for but its own.
    is_waiting = any(late.key == key for late in _mine.fills)
    may_store = len(blocks) == 1 and statements.reads_committed(blocks[0]) and not is_waiting
    may_wait = not _mine.fills and not _mine.callers
    _mine.callers.add(caller)
    return Standing(True, blocks[0] if may_store else None, may_wait=may_wait)


def is_any_unsent() -> bool:
    """Whether a transaction of any thread has an invalidation to send when it commits."""
    return bool(_unsent)


def may_have_invalidated(names: Iterable[str]) -> bool:
    """Whether a transaction of any thread will invalidate one of these names. Quick where there is none."""
    return bool(_unsent) and bool(_find_unsent(names))


def has_invalidated(names: Iterable[str]) -> bool:
    """Whether an open transaction of this thread will invalidate one of these names when it commits."""
    blocks = open_connections()
    return any(each.connection in blocks and _is_waiting(each, each.connection) for each in _find_unsent(names))


def _find_unsent(names: Iterable[str]) -> list[Unsent]:
    # A copy by C: the garbage collector, which may take some out, does not run in the middle of it.
    living = [each for ref in _unsent.copy() if (each := ref()) is not None]
    return [each for each in living if not each.is_sent and not each.names.isdisjoint(names)]


def _is_waiting(callback: Callable[[], None], connection: BaseDatabaseWrapper) -> bool:
    return any(waiting[1] is callback for waiting in connection.run_on_commit)


def send_on_commit(names: Iterable[str], send: Callable[[], None]) -> bool:
    """Whether to send at once. Each open connection's commit sends too: too often is safe.

    At once where a connection has no transaction open: what it changed is committed, whatever becomes of the others.
    """
    blocks = open_connections()
    for connection in blocks:
        unsent = Unsent(names, connection, send)
        _unsent.add(weakref.ref(unsent, _unsent.discard))
        _put_in_front(connection, unsent)
    connected = [connection for connection in connections.all(initialized_only=True) if connection.connection]
    return not blocks or any(connection not in blocks for connection in connected)


def note_commit() -> Commit | None:
    """For a fill that comes after the transaction, perhaps: what will tell whether it committed. None outside of one."""
    blocks = open_connections()
    if len(blocks) != 1:
        return None
    commit = Commit()
    blocks[0].on_commit(commit, robust=True)
    return commit


def fill_on_commit(late: LateFill, connection: BaseDatabaseWrapper, commit: Commit | None = None) -> None:
    """Fill when this connection commits, or now if `commit` says that it has; let the lease go where it does not."""
    is_lost = commit is not None and not commit.is_done and not _is_waiting(commit, connection)
    if is_lost or not connection.in_atomic_block:
        (late.fill if commit is not None and commit.is_done else late.let_go)()
        return
    late.connection = connection
    _mine.fills.append(late)
    _put_in_front(connection, late)


def _put_in_front(connection: BaseDatabaseWrapper, callback: Callable[[], None]) -> None:
    # A callback of others that raises ends those behind it, and one that calls a cached function would find a fill that
    # is neither sent nor waiting.
    connection.on_commit(callback, robust=True)
    # Django's TestCase counts callbacks from the end of the list.
    if not any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks[:1]):
        connection.run_on_commit.insert(0, connection.run_on_commit.pop())


def let_go(**kwargs: Any) -> None:
    """Let the leases of this thread's rolled back transactions go."""
    for late in [late for late in _mine.fills if late.connection and not _is_waiting(late, late.connection)]:
        _mine.fills.remove(late)
        late.let_go()


request_finished.connect(let_go, dispatch_uid="redis_integration.transactions")


def _start_afresh() -> None:
    # The transactions stay with the parent.
    _unsent.clear()
    _mine.fills.clear()


run_in_child(_start_afresh)
