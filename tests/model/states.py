"""All there is in a state of the model, as immutable values.

A value of the cached function is the set of the writes it shows, as bits: bit i is the write of agent i.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    value: int
    life: int
    generation: int
    mark: int  # no two fills have the same: it tells an entry from another one at its key
    fresh: bool = True


class Server(NamedTuple):
    life: int = 1
    entry: Entry | None = None
    lease: int = 0  # whose token it holds; 0: nobody's
    generation: int = 0  # 0: the key of the tag does not exist
    saved: tuple[Entry | None, int, int] | None = None  # the snapshot that a restart brings back
    knows_scripts: bool = True


class Home(NamedTuple):
    """What the agents of one process share."""

    known: int = 0  # writes acknowledged to this process
    flight: int | None = None  # whose computation with a lease can be joined
    forming: int | None = None  # whose computation without a lease can be joined
    running: int | None = None  # whose origin call without a lease has begun
    pending: int = 0  # writes whose invalidation Redis did not confirm
    repeated: bool = False  # it has now, and the process has yet to learn it
    life: int = 1  # what the last handshake learnt; only a protocol without "own life" reads it


class Transaction(NamedTuple):
    known: int
    snapshot: int | None = None  # what a REPEATABLE READ transaction sees; None: READ COMMITTED
    own: int = 0
    on_commit: tuple[str, ...] = ()
    lease: tuple[int, int, int] | None = None  # token, life, generation of the fill that waits for the commit
    value: int = 0
    savepoint: tuple[int, tuple[str, ...]] | None = None

    @property
    def has_invalidated(self) -> bool:
        return any(callback.startswith("invalidate") for callback in self.on_commit)


class Actor(NamedTuple):
    """How far an agent is. What belongs to one operation is forgotten at its end."""

    op: int = 0
    connection: int = 1  # the life its handshake learnt; 0: not connected yet
    transaction: Transaction | None = None
    step: str = ""  # within the operation; "": not begun
    floor: int = 0  # writes that the answer must show
    soft: int = 0  # writes that it must show if it is no stale copy
    mark: int = 0
    stale: int | None = None  # a stale copy that it has read
    revoked: bool = False  # it has read since that this copy was invalidated
    token: int = 0
    life: int = 0
    generation: int = 0
    value: int = 0
    ok: bool = False
    host: int | None = None
    later: int = 0  # whose origin calls in this process began after this call
    landed: int | None = None  # what one of them has brought, without a lease
    again: bool = False  # it had joined a flight in vain
    alone: bool = False
    whole: bool = False  # the server did not know the script: its source is sent
    unlearnt: bool = False


class World(NamedTuple):
    server: Server
    homes: tuple[Home, ...]
    actors: tuple[Actor, ...]
    faults: tuple[tuple[str, int], ...]
    committed: int = 0
    soft: int = 0  # writes that `.expire()` was told of
    wire: tuple[tuple[int, ...], ...] = ()  # scripts whose sender has given up
    computed: int = 0
    bad: str = ""

    def actor(self, i: int, **changes: object) -> World:
        actors = self.actors
        return self._replace(actors=(*actors[:i], actors[i]._replace(**changes), *actors[i + 1 :]))  # type: ignore[arg-type]

    def home(self, p: int, **changes: object) -> World:
        homes = self.homes
        return self._replace(homes=(*homes[:p], homes[p]._replace(**changes), *homes[p + 1 :]))  # type: ignore[arg-type]

    def redis(self, **changes: object) -> World:
        return self._replace(server=self.server._replace(**changes))  # type: ignore[arg-type]

    def may(self, fault: str) -> bool:
        return any(name == fault and left for name, left in self.faults)

    def spend(self, fault: str) -> World:
        return self._replace(faults=tuple((name, left - (name == fault)) for name, left in self.faults))


def letter(i: int) -> str:
    return chr(ord("A") + i)


def shown(value: int) -> str:
    """A value in words."""
    return "+".join(letter(i) for i in range(value.bit_length()) if value >> i & 1) or "the old value"
