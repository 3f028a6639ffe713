"""One order of one scenario, played by threads: what may happen next, what happens then, and whether all is well."""

from __future__ import annotations

import functools
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from django.db import connections, transaction

from redis_integration import cache_aside, invalidate, pools, transactions
from redis_integration.entries import unpack
from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.flow import run
from redis_integration.recovery import recover
from redis_integration.tags import tag_key
from redis_integration.tiers import redis as redis_tier
from redis_integration.tiers.leases import lease_key
from tests.model.players import DATABASE, HOMES, Player, current
from tests.model.scenarios import Scenario
from tests.model.states import letter, shown

LOOK = "look"  # the alias by which the conductor sees the server
SCRIPTS = ("LEASE", "FILL", "EXPIRE")
MAX_STEPS = 300  # more than any scenario takes: some agent goes round in circles
PATIENCE = 30.0  # seconds until a thread that does not stop is given up
_plays = itertools.count()


class Rolled(Exception):
    """Leaves an atomic block so that it is rolled back."""


class Oops(Exception):
    """What a callback of somebody else raises on commit."""


class Failed(Exception):
    """The origin's own error; it tells what the origin saw."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


class Played(NamedTuple):
    """How one order ended; `wrong` is "" where all is well."""

    wrong: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((*self.trace, self.wrong))


# What happens next, of what may happen.
Choice = Callable[["Play", list[str]], str]


class Play:
    """One order of one scenario, on a key of its own."""

    def __init__(self, scenario: Scenario, prefix: str) -> None:
        self.scenario = scenario
        self.number = next(_plays)
        self.tag = f"model{self.number}"
        self.faults = dict(scenario.faults)
        self.life = 1
        self.committed = self.soft = 0
        self.known = [0] * len(HOMES)
        self.unconfirmed = [0] * len(HOMES)
        self.computed = 0
        self.saved: list[tuple[Any, int]] | None = None
        self.wire: list[tuple[str, Any]] = []
        self.trace: list[str] = []
        self.steps = 0
        self.wrong = ""
        self.in_redis: list[Any] = []
        self.is_over = False
        self.stopped = threading.Semaphore(0)
        tags = [self.tag] if scenario.tagged else []
        self.cached = [cache_aside(ttl=60, key="model:{pk}", tags=tags, alias=home)(self._origin) for home in HOMES]
        self.key = self.cached[0].key_for(self.number)
        self.names = [self.key, lease_key(self.key), tag_key(prefix, self.tag)]
        self.players = [Player(self, i, agent) for i, agent in enumerate(scenario.agents)]

    # The conductor

    def conduct(self, choose: Choice) -> Played:
        """Play it; `choose` says what happens next."""
        if self.scenario.warm:
            self.cached[0](self.number)
            self.computed = 0
            pools.get_pool(HOMES[0]).drop_idle()
        for player in self.players:
            player.start()
        try:
            while not self.wrong and (options := self._options()):
                self._take(choose(self, options))
                self.wrong = self.wrong or self._look()
            self.wrong = self.wrong or self._at_the_end()
        finally:
            self._finish()
        for player in self.players:
            if player.error is not None and not self.wrong:
                raise player.error
        return Played(self.wrong, tuple(self.trace))

    def _options(self) -> list[str]:
        alive = [player for player in self.players if not player.is_done]
        options = [letter(player.i) for player in alive if player.is_ready()]
        options += ["script arrives"] * bool(self.wire)
        options += [f"drain {p}" for p, bits in enumerate(self.unconfirmed) if bits]
        if not options and alive and self._is_orphaned():
            options = ["lease expires"]
        if not options and alive:
            waiting = [player for player in alive if player.waits]
            if not (waiting and self.scenario.stalls):
                self.wrong = "STALL: only a time limit helps" if waiting else "STUCK"
                return []
            options = [f"time {letter(player.i)}" for player in waiting]
        if self.steps > MAX_STEPS:
            self.wrong = "STUCK: somebody goes round in circles"
            return []
        return options + [option for player in alive for option in self._mishaps(player)] + self._faults()

    def _mishaps(self, player: Player) -> Iterator[str]:
        name = letter(player.i)
        sends = self._sent(player)
        if player.waits and self._may("impatient"):
            yield f"impatient {name}"
        if sends == "LEASE" and self._may("late"):
            yield f"late {name}"
        if sends == "UNLINK" and player.operation.startswith(("invalidate", "commit")) and self._may("lost"):
            yield f"lost {name}"
        if player.operation == "get" and not player.blocks and player.label != "begins" and self._may("cancel"):
            yield f"cancel {name}"
            if sends in ("LEASE", "FILL"):
                yield f"cancel-late {name}"

    def _faults(self) -> list[str]:
        evictions = [f"evict {name}" for name in ("entry", "lease", "tag") if self._may(f"evict {name}")]
        return evictions + [name for name in ("snapshot", "restart", "forget scripts") if self._may(name)]

    def _may(self, fault: str) -> bool:
        return self.faults.get(fault, 0) > 0

    def _sent(self, player: Player) -> str:
        """The command that this player is about to send."""
        if not player.label.startswith("sends ") or player.commands is None:
            return ""
        return player.label.removeprefix("sends ")

    def _take(self, option: str) -> None:
        self.steps += 1
        word, _, rest = option.partition(" ")
        if len(option) == 1:
            self._go(self.players[ord(option) - ord("A")])
        elif word in ("time", "impatient", "late", "lost", "cancel", "cancel-late"):
            fault = word.partition("-")[0]
            self.faults[fault] = self.faults.get(fault, 0) - 1
            player = self.players[ord(rest) - ord("A")]
            if word == "cancel-late":
                self._stash(player)
            self._go(player, word)
        elif word == "drain":
            self._drain(int(rest))
        else:
            self.faults[option] = self.faults.get(option, 0) - 1
            self.trace.append(f"Redis: {option}")
            getattr(self, "_" + option.replace(" ", "_"))()

    def _go(self, player: Player, wish: str = "") -> None:
        at = f"{letter(player.i)}: {player.operation} {player.label} {wish}"
        self.trace.append(at.rstrip())
        player.wish = wish
        player.gate.release()
        if not self.stopped.acquire(timeout=PATIENCE):
            raise AssertionError(f"{at} does not stop:\n" + "\n".join(self.trace))

    def _finish(self) -> None:
        """Let everybody run to the end, whatever the order."""
        self.is_over = True
        for player in self.players:
            if player.ident is not None and not player.is_done:
                player.offset += 1e6
                player.gate.release()
        for player in self.players:
            if player.ident is not None:
                player.join(PATIENCE)
        for home in HOMES:
            journal = tier_of(home).journal
            journal.settle(journal.known())
            tier_of(home).breaker.close()
        send(("UNLINK", *self.names))

    # What is true all the time

    def _look(self) -> str:
        self.in_redis = self._read()
        only_reads = all(agent.does == ("get",) for agent in self.scenario.agents)
        is_calm = only_reads and not (self.scenario.faults or self.scenario.warm or self.scenario.raises)
        if wrong := self._wrong_entry():
            return wrong
        if not self.scenario.faults and self._is_orphaned():
            return "LEFT: a lease that nobody has"
        if is_calm and self.computed > 1:
            return "STAMPEDE: computed twice, and nobody had disturbed the first"
        bare = [player.agent.home for player in self.players if player.runs_bare]
        if self.scenario.may("lost") and len(bare) > len(set(bare)):
            return "STAMPEDE: two computations without a lease at once in one process"
        return ""

    def _wrong_entry(self) -> str:
        """What is wrong with what Redis would answer a caller now."""
        value, is_fresh = self._valid_entry()
        if value is None:
            return ""
        if value & ~self.committed:
            return f"UNCOMMITTED: others would be answered {shown(value)}"
        believed = [known for known, bits in zip(self.known, self.unconfirmed, strict=True) if not bits]
        lacks = functools.reduce(int.__or__, believed, self.soft if is_fresh else 0) & ~value
        return (
            f"STALE: Redis would answer {shown(value)} without {shown(lacks)}, which was acknowledged" if lacks else ""
        )

    def _at_the_end(self) -> str:
        value, _ = self._valid_entry()
        told = [
            i for i, agent in enumerate(self.scenario.agents) if any(op.startswith("invalidate") for op in agent.does)
        ]
        lacks = 0 if value is None else sum(1 << i for i in told) & self.committed & ~value
        return f"LOST: all is done, and Redis answers without {shown(lacks)}" if lacks else ""

    def _valid_entry(self) -> tuple[int | None, bool]:
        """The value that Redis holds, None if none that is valid; whether it is fresh."""
        found, _, generation = self._read()
        entry = unpack(found, self.key) if found is not None else None
        tags = (generation,) if self.scenario.tagged else ()
        if entry is None or entry.life != life_bytes(self) or entry.tags != tags:
            return None, False
        return json.loads(entry.payload), entry.is_fresh(time.time())

    def _read(self) -> list[Any]:
        return list(send(("MGET", *self.names)))

    def _is_orphaned(self) -> bool:
        lease = self._read()[1]
        return lease is not None and lease not in [player.token for player in self.players]

    # Faults

    def _evict_entry(self) -> None:
        send(("UNLINK", self.names[0]))

    def _evict_lease(self) -> None:
        send(("UNLINK", self.names[1]))

    _lease_expires = _evict_lease

    def _evict_tag(self) -> None:
        send(("UNLINK", self.names[2]))

    def _forget_scripts(self) -> None:
        send(("SCRIPT", "FLUSH"))

    def _snapshot(self) -> None:
        self.saved = [(send(("DUMP", name)), send(("PTTL", name))) for name in self.names]

    def _restart(self) -> None:
        self.life += 1
        self.wire.clear()
        send(("UNLINK", *self.names))
        send(("SCRIPT", "FLUSH"))
        for name, (dump, left) in zip(self.names, self.saved or (), strict=False):
            if dump is not None:
                send(("RESTORE", name, left, dump))
        for home in HOMES:
            pools.get_pool(home).drop_idle()
        send(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))

    def _stash(self, player: Player) -> None:
        self.wire.append((player.label, player.commands))

    def _script_arrives(self) -> None:
        _, commands = self.wire.pop(0)
        send(*commands)

    def _drain(self, p: int) -> None:
        self.trace.append(f"P{p}: repeats its UNLINK")
        bits, self.unconfirmed[p] = self.unconfirmed[p], 0
        run(recover(tier_of(HOMES[p])))
        self._acknowledge(bits)

    # What the agents do

    def exchange(self, player: Player, original: Callable[..., Any], *arguments: Any, idempotent: bool) -> Any:
        """An exchange of this player's, with a stop before and behind it."""
        commands = arguments[1]
        name = command_name(commands[0])
        player.commands, player.idempotent = commands, idempotent
        while (wish := player.stop(f"sends {name}")) == "late":
            self._stash(player)
            if not idempotent:
                raise RedisUnavailable("No answer in time.", kind=Kind.BUSY)
        if wish == "lost":
            p = player.agent.home
            self.unconfirmed[p] |= self._mine(player)
            raise RedisUnavailable("It was lost.", kind=Kind.BUSY)
        player.saw = self.in_redis
        replies, life = original(*arguments, idempotent=idempotent)
        if name == "LEASE" and isinstance(replies[0], list) and replies[0][0] == 1:
            script = commands[0]
            player.token = script[3 + int(script[2])]
        player.commands = None
        value, is_fresh = self._valid_entry()
        if value is not None and not is_fresh:
            player.stale_copies.append(value)  # it may be answered this one
        if name in ("GET", "MGET", "LEASE", "FILL"):
            player.stop(f"has sent {name}")
        return replies, life

    def _mine(self, player: Player) -> int:
        return self.committed & 1 << player.i

    def _acknowledge(self, bits: int) -> None:
        self.known = [known | bits for known in self.known]

    def _origin(self, pk: int) -> int:
        player = current()
        if player is None:
            return self.committed
        player.runs_bare = False
        player.stop("calls the origin")
        self.computed += 1
        player.runs_bare = player.token is None
        value = (self.committed if player.saved_snapshot is None else player.saved_snapshot) | player.own
        player.stop(f"the origin returns {shown(value)}")
        player.runs_bare = False
        if self.scenario.raises:
            raise Failed(value)
        return value

    def get(self, player: Player) -> None:
        self._call(player, self.cached[player.agent.home])

    def refresh(self, player: Player) -> None:
        mine = self._mine(player)
        self._call(player, self.cached[player.agent.home].refresh)
        self._acknowledge(mine)

    def _call(self, player: Player, function: Callable[[int], int | None]) -> None:
        floor, soft = self.known[player.agent.home], self.soft
        if player.known_at_begin is not None:
            floor, soft = player.known_at_begin, 0
        elif player.has_invalidated:
            floor |= player.own
        elif player.operation == "refresh":
            floor |= self._mine(player)
        player.stale_copies = []
        try:
            value: int | None = function(self.number)
        except Failed as error:
            value = error.value
        if self.is_over:
            return
        who = letter(player.i)
        self.trace.append(f"{who}: is answered {value if value is None else shown(value)}")
        if value is None:
            self.wrong = f"NO COPY: {who} is answered None"
        elif value & ~self.committed & ~player.own:
            self.wrong = f"UNCOMMITTED: {who} is answered {shown(value)}"
        elif lacks := (floor | (0 if value in player.stale_copies else soft)) & ~value:
            self.wrong = f"STALE: {who} is answered {shown(value)} without {shown(lacks)}"

    def write(self, player: Player) -> None:
        others = [other for other in self.players if other is not player]
        player.stop("writes", lambda: not any(other.own for other in others))
        if player.blocks:
            player.own = 1 << player.i
        else:
            self.committed |= 1 << player.i

    def invalidate_key(self, player: Player) -> None:
        self._invalidate(player, self.cached[player.agent.home].invalidate, self.number)

    def invalidate_tag(self, player: Player) -> None:
        self._invalidate(player, functools.partial(invalidate, tags=[self.tag], alias=HOMES[player.agent.home]))

    def _invalidate(self, player: Player, end: Callable[..., None], *arguments: Any) -> None:
        mine = self._mine(player)
        end(*arguments)
        player.has_invalidated = bool(player.blocks)
        if not player.blocks:
            self._settle(player, mine)

    def _settle(self, player: Player, mine: int) -> None:
        if self.unconfirmed[player.agent.home] & mine:
            self.known[player.agent.home] |= mine
        else:
            self._acknowledge(mine)

    def expire(self, player: Player) -> None:
        mine = self._mine(player)
        self.cached[player.agent.home].expire(self.number)
        self.soft |= mine

    # Transactions

    def begin(self, player: Player) -> None:
        vars(connections[DATABASE])["isolation_level"] = "read committed"
        self._enter_block(player)

    def begin_snapshot(self, player: Player) -> None:
        vars(connections[DATABASE])["isolation_level"] = "repeatable read"
        player.stop("takes its snapshot")
        player.saved_snapshot, player.known_at_begin = self.committed, self.known[player.agent.home]
        self._enter_block(player)

    def _enter_block(self, player: Player) -> None:
        block = transaction.atomic(using=DATABASE)
        block.__enter__()
        player.blocks.append(block)

    def savepoint(self, player: Player) -> None:
        player.saved = player.own
        self._enter_block(player)

    def undo(self, player: Player) -> None:
        player.own, player.has_invalidated = player.saved, False
        player.blocks.pop().__exit__(Rolled, Rolled(), None)

    def raise_on_commit(self, player: Player) -> None:
        def oops() -> None:
            raise Oops

        transaction.on_commit(oops, using=DATABASE)

    def commit(self, player: Player) -> None:
        player.stop("commits")
        self.committed |= player.own
        player.own, player.saved_snapshot, player.known_at_begin = 0, None, None
        try:
            player.blocks.pop().__exit__(None, None, None)
        except Oops:
            return
        if player.has_invalidated:
            self._settle(player, self._mine(player))

    def rollback(self, player: Player) -> None:
        player.stop("rolls back")
        player.own = 0
        player.blocks.pop().__exit__(Rolled, Rolled(), None)
        transactions.let_go()


def tier_of(home: str) -> Any:
    return redis_tier.get_redis_tier(home, is_async=False)


def send(*commands: Any) -> Any:
    """The reply to the last of these commands of the conductor's."""
    replies, _ = real_exchange(LOOK, commands)
    return replies[-1]


real_exchange = pools.exchange  # of the conductor, whatever stands in its place for the players


def life_bytes(play: Play) -> bytes:
    return b"life%04d" % play.life


def script_of(name: str) -> Any:
    """The script as the tier has it, which may be an edited one."""
    return getattr(redis_tier, name)


def command_name(command: Any) -> str:
    for name in SCRIPTS:
        script = script_of(name)
        if script.sha in command or script.source in command:
            return name
    return str(command[0])
