"""One order of one scenario of the journal, played by threads: real rows, a real Redis, and faults on the connections to it.

A process is an alias with a journal, a breaker and a watch of its own. Its thread of the watch is an agent, whose beats are
those of watch.py; it stops at each exchange and at each statement on the journal.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import reduce
from operator import or_
from typing import Any

from django.db import DatabaseError, connections, transaction

from redis_integration import cache_aside, invalidate, journal, pools, recovery
from redis_integration.conf import get_settings
from redis_integration.flow import run
from redis_integration.keys import Names
from redis_integration.models import FallbackEntry, PendingInvalidation
from redis_integration.policy import Redis
from redis_integration.tiers import redis as redis_tier
from redis_integration.tiers.fallback import FallbackTier
from redis_integration.watch import Watch
from tests.model.journal_scenarios import JournalScenario
from tests.model.play import LOOK, Play, Rolled, command_name, send, tier_of
from tests.model.players import DATABASE, HOMES, Cancelled, Player, current
from tests.model.states import letter, shown

OTHER_DATABASE = "model_other"
MAX_STEPS = 600
# What may go wrong at a stop: of whom, how its label begins, and the fault of the scenario that it is.
MISHAPS = (
    ("writer", "sends UNLINK", "timeout", "timeout"),
    ("writer", "sends UNLINK", "lost", "lost"),
    ("writer", "INSERTs", "unwritten", "database fails"),
    ("writer", "INSERTs", "unheard", "insert unheard"),
    ("writer", "deletes rows", "unended", "rows fail"),
    ("watch", "sends UNLINK", "lost", "lost"),
    ("watch", "deletes rows", "unended", "rows fail"),
    ("watch", "sends probe", "slow", "slow"),
    ("watch", "polls", "busy", "busy"),
    ("watch", "beats", "inside", "inside"),
    ("watch", "beats", "idle", "idle beat"),
)


class Beats(Watch):
    """The watch of one process, without its thread."""

    def __init__(self, alias: str) -> None:
        super().__init__()
        self.alias = alias

    def _tiers(self, *, is_async: bool) -> Iterator[Any]:
        yield tier_of(self.alias)


class JournalPlay(Play):
    """See Play."""

    scenario: JournalScenario  # type: ignore[assignment]

    def __init__(self, scenario: JournalScenario, prefix: str, path: str) -> None:
        super().__init__(scenario, prefix)  # type: ignore[arg-type]
        self.path = path
        tags = [self.tag] if scenario.tagged else []
        caches = [
            cache_aside(ttl=60, key="model:{pk}", tags=tags, alias=home, durable=scenario.durable) for home in HOMES
        ]
        self.cached = [cached(self._origin) for cached in caches]
        self.full = Names(self.key, tuple(self.names[2:]) if scenario.tagged else ())
        told = [" ".join(agent.does) for agent in scenario.agents]
        self.told = sum(("invalidate key" in does or "invalidate tag" in does) << i for i, does in enumerate(told))
        self.acked = self.written = self.late = 0
        self.seen = [0] * len(HOMES)
        self.bits: dict[str, int] = {}  # the invalidation of each row
        self.rows: list[str] = []
        self.has_beaten = [True] * len(HOMES)
        self.is_there = [True] * len(HOMES)
        self.is_killed = [False] * len(HOMES)
        self.is_cut = [False] * len(HOMES)
        self.refuses = self.is_starting = False
        last = max(agent.home for agent in scenario.agents)
        if scenario.may("start") or scenario.may("fork"):
            self.is_there[last] = self.has_beaten[last] = False
        for home in range(len(HOMES)):
            self._listen(home)

    def _listen(self, home: int) -> None:
        """Hear of what this process's journal and breaker do."""
        tier = tier_of(HOMES[home])
        book, breaker = tier.journal, tier.breaker
        book.alias = HOMES[0]  # one table for all
        book.poll, book.remember = lambda: self._poll(home, book), lambda names: self._remember(book, names)
        settle, close = book.settle, breaker.close
        book.settle = lambda *arguments, **options: self._stop_before("settles", settle, *arguments, **options)
        breaker.close = lambda: self._close(home, close)
        breaker.is_watched = True

    # The conductor

    def _options(self) -> list[str]:
        if self.steps > MAX_STEPS:
            self.wrong = "STUCK: somebody goes round in circles"
            return []
        alive = [player for player in self.players if self._is_alive(player) and not player.is_done]
        if locking := [player for player in alive if player.label == "commits" and self._is_locked()]:
            return [letter(player.i) for player in locking] + self._faults()
        options = [letter(player.i) for player in alive if player.is_ready()]
        options += ["heal"] * (self.refuses or any(self.is_cut))
        options += [fault for fault in ("start", "fork") if self._may(fault) and not self.is_killed[0]]
        if not options:
            if busy := [letter(player.i) for player in alive if not is_watch(player)]:
                self.wrong = f"STUCK: {'+'.join(busy)} never ends"
            return []
        return options + [option for player in alive for option in self._mishaps(player)] + self._faults()

    def _is_alive(self, player: Player) -> bool:
        return self.is_there[player.agent.home] and not self.is_killed[player.agent.home]

    def _is_locked(self) -> bool:
        """Whether a transaction has written: SQLite has one lock for all."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=0, isolation_level=None)) as raw:
            try:
                raw.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            raw.execute("ROLLBACK")
            return False

    def _mishaps(self, player: Player) -> Iterator[str]:
        kind = "watch" if is_watch(player) else "writer"
        for of, begins, wish, fault in MISHAPS:
            if of == kind and player.label.startswith(begins) and self._may(fault) and self._makes_sense(player, wish):
                yield f"{wish} {letter(player.i)}"

    def _makes_sense(self, player: Player, wish: str) -> bool:
        if wish == "slow":
            return bool(tier_of(HOMES[player.agent.home]).breaker.is_closed)
        return not (wish == "idle" and player.is_ready()) and not (wish == "inside" and vars(player).get("inside"))

    def _faults(self) -> list[str]:
        return [name for name in ("cut", "cut all", "refuse", "kill", "snapshot", "restart") if self._may(name)]

    def _take(self, option: str) -> None:
        self.steps += 1
        word, _, rest = option.partition(" ")
        if len(option) == 1:
            self._go(self.players[ord(option) - ord("A")])
        elif fault := next((fault for _, _, wish, fault in MISHAPS if wish == word), ""):
            self.faults[fault] -= 1
            self._go(self.players[ord(rest) - ord("A")], word)
        else:
            self.faults[option] = self.faults.get(option, 0) - 1
            self.trace.append(f"the world: {option}")
            getattr(self, "_" + option.replace(" ", "_"))()

    def _finish(self) -> None:
        self._heal()
        super()._finish()

    # What is true all the time

    def _look(self) -> str:
        self.in_redis = self._read()
        self.rows = [*PendingInvalidation.objects.using(DATABASE).values_list("pk", flat=True)]
        for mark in self.rows:
            self.written |= self.bits.get(mark, 0)
        for i in range(len(self.players)):
            if self.late & self.written & 1 << i:
                self.late &= ~(1 << i)
                self._journalled(1 << i, self.players[i].agent.home)
        value, _ = self._valid_entry()
        if value is None:
            return ""
        if value & ~self.committed:
            return f"UNCOMMITTED: others would be answered {shown(value)}"
        for p, known in enumerate(self.known):
            if self._believes(p) and (lacks := known & ~value):
                return f"STALE: Redis would answer P{p} {shown(value)} without {shown(lacks)}, which was acknowledged"
        return ""

    def _believes(self, p: int) -> bool:
        is_alive = self.is_there[p] and not self.is_killed[p]
        return is_alive and tier_of(HOMES[p]).state(self.full) is Redis.UP

    def _at_the_end(self) -> str:
        alive = [p for p, there in enumerate(self.is_there) if there and not self.is_killed[p]]
        watched = {player.agent.home for player in self.players if is_watch(player)}.intersection(alive)
        if watched and self.rows:
            return "STUCK: rows stay in the journal"
        if any(tier_of(HOMES[p]).journal.pending for p in watched):
            return "STUCK: a name is pending for ever"
        promised = self.acked | (self.committed if self.scenario.always else 0)
        for i, player in enumerate(self.players):
            promised |= 0 if self.is_killed[player.agent.home] else self.committed & 1 << i
        for where, value in (("Redis", self._valid_entry()[0]), ("the row", self._row())):
            if value is not None and (lacks := promised & self.told & ~value):
                return f"LOST: all is done, and {where} answers {shown(value)} without {shown(lacks)}"
        return ""

    def _row(self) -> int | None:
        tier = FallbackTier(get_settings(LOOK), seconds_open=lambda: 0.0, durable=True)
        entry = run(tier.read(self.full)) if self.scenario.durable else None
        return None if entry is None else json.loads(entry.payload)

    # Faults

    def _cut(self) -> None:
        self._cut_off(0)

    def _cut_all(self) -> None:
        self._cut_off(0)
        self._cut_off(1)

    def _cut_off(self, p: int) -> None:
        self.is_cut[p] = True
        pools.get_pool(HOMES[p]).drop_idle()

    def _refuse(self) -> None:
        self.refuses = True
        send(("CONFIG", "SET", "min-replicas-to-write", 1))

    def _heal(self) -> None:
        self.is_cut = [False] * len(HOMES)
        if self.refuses:
            send(("CONFIG", "SET", "min-replicas-to-write", 0))
        self.refuses = False

    def _kill(self) -> None:
        self.is_killed[0] = True
        for player in self.players:
            if player.agent.home == 0 and player.label == "commits" and not player.is_done:
                self._go(player, "cancel")  # the database rolls back

    def _start(self) -> None:
        home = len(HOMES) - 1
        redis_tier._tiers.pop((HOMES[home], False))
        for registry in (redis_tier._breakers, journal._journals):
            registry.pop(get_settings(HOMES[home]))
        self.is_starting = True
        self._listen(home)
        self._arrive(home)

    def _fork(self) -> None:
        home = len(HOMES) - 1
        parent, child = (tier_of(alias).journal for alias in (HOMES[0], HOMES[home]))
        child.pending = {name: {*marks} for name, marks in parent.pending.items()}
        for field in ("_unwritten", "_written", "_told"):
            setattr(child, field, getattr(parent, field).copy())
        everyone = journal._journals.copy()
        journal._journals.clear()
        journal._journals[get_settings(HOMES[home])] = child
        self.is_starting = True
        journal._start_afresh()  # as os.fork() calls it
        journal._journals.update(everyone)
        self._arrive(home)

    def _arrive(self, home: int) -> None:
        self.is_starting = False
        self.is_there[home] = True
        self.known[home] |= self.acked

    # What an agent meets on its way

    def exchange(self, player: Player, original: Callable[..., Any], *arguments: Any, idempotent: bool) -> Any:
        name = "probe" if str(arguments[1][0][1]).endswith("#probe") else command_name(arguments[1][0])
        wish = player.stop(f"sends {name}")
        if wish:
            tier_of(HOMES[player.agent.home]).breaker.timeouts = 0  # others were answered meanwhile
        player.saw = self.in_redis
        vars(player)["fault"] = wish
        try:
            replies, life = original(*arguments, idempotent=idempotent)
        finally:
            vars(player)["fault"] = ""
        if name == "LEASE" and isinstance(replies[0], list) and replies[0][0] == 1:
            script = arguments[1][0]
            player.token = script[3 + int(script[2])]
        if name in ("GET", "MGET", "LEASE", "FILL"):
            player.stop(f"has sent {name}")
        return replies, life

    def statement(self, execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        """One statement of an agent's."""
        player, verb = current(), sql.split()[0]
        assert player
        if self.is_over:
            raise Cancelled
        is_journal = PendingInvalidation._meta.db_table in sql
        label = {"INSERT": "INSERTs", "DELETE": "DELETEs"}.get(verb, "") if is_journal else ""
        if verb == "DELETE" and FallbackEntry._meta.db_table in sql:
            label = "deletes rows"
        is_inside = self.scenario.always and connections[DATABASE].in_atomic_block
        wish = player.stop(label) if label and not is_inside else ""
        if wish:
            if wish == "unheard":
                execute(sql, *arguments)
            vars(player)["unwritten"] = label == "INSERTs"
            raise DatabaseError("The disk is full.")
        result = execute(sql, *arguments)
        if is_journal and is_watch(player) and verb == "SELECT":
            vars(player).update(told=self.acked, saw_written=self.written)
            player.stop("has SELECTed")
        if is_journal and is_watch(player) and verb == "DELETE":
            player.stop("has DELETEd")
        return result

    def _poll(self, home: int, book: Any) -> bool:
        player = current()
        if player is None or self.is_over:
            return bool(journal.Journal.poll(book))
        if player.stop("polls"):
            vars(player)["has_missed"] = True
            raise TimeoutError("The thread that may touch the database is busy.")
        is_learnt = journal.Journal.poll(book)
        if not vars(player)["inside"]:
            self.known[home] |= vars(player)["told"]
            self.seen[home] = vars(player)["saw_written"]
        return is_learnt

    def _remember(self, book: Any, names: Any) -> None:
        if player := current():
            vars(player)["unconfirmed"] = True
        older = {name: [self.bits.get(mark, 0) for mark in book.pending.get(name, ())] for name in names}
        journal.Journal.remember(book, names)
        for name, bits in older.items():  # the newest mark speaks for them
            for mark in book.pending[name]:
                self.bits[mark] = reduce(or_, bits, self.bits.get(mark, 0))

    def make_id(self, mark: str) -> str:
        """Note whose row this is."""
        if player := current():
            self.bits[mark] = 1 << player.i
        return mark

    def _stop_before(self, label: str, function: Callable[..., None], *arguments: Any, **options: Any) -> None:
        if player := current():
            player.stop(label)
        function(*arguments, **options)

    def _close(self, home: int, close: Callable[[], None]) -> None:
        player, breaker = current(), tier_of(HOMES[home]).breaker
        if player is not None and not self.is_over:
            player.stop("closes")
            if not breaker.is_closed:
                self.known[home] |= vars(player)["noted"]
        close()

    # What the agents do

    def watch(self, player: Player) -> None:
        connections[DATABASE].execute_wrappers.append(self.statement)
        home, mine = player.agent.home, vars(player)
        mine.update(inside=False, told=0, saw_written=0)
        beats = Beats(HOMES[home])
        while not self.is_over:
            if player.stop("beats", lambda: self._has_to_beat(home)) == "inside":
                mine["inside"] = True
                with contextlib.suppress(Rolled), transaction.atomic(using=DATABASE):
                    FallbackEntry.objects.using(DATABASE).exists()  # its snapshot
                    player.stop("beats", lambda: self._has_to_beat(home))
                    self._beat(player, lambda: run(recovery.recover(tier_of(HOMES[home]))))
                    raise Rolled
                mine["inside"] = False
            elif not self.is_over:
                self._beat(player, lambda: run(beats._beat(is_async=False)))

    def _beat(self, player: Player, beat: Callable[[], None]) -> None:
        home, mine = player.agent.home, vars(player)
        mine.update(noted=self.acked, has_missed=False)
        self.has_beaten[home] = True
        tier_of(HOMES[home]).breaker._due = 0.0
        beat()
        if not (self.is_over or mine["has_missed"] or mine["inside"]):
            # Within WATCH_INTERVAL it knows what was acknowledged before.
            self.known[home] |= mine["noted"]

    def _has_to_beat(self, home: int) -> bool:
        tier = tier_of(HOMES[home])
        if tier.journal._unwritten:
            return True
        if not tier.breaker.is_closed:
            return not (self.refuses or self.is_cut[home])
        return bool(tier.journal.pending or self.rows or self.acked & ~self.known[home])

    def write(self, player: Player) -> None:
        connections[DATABASE].execute_wrappers.append(self.statement)
        if not self.scenario.always:
            player.stop("commits")
            self.committed |= 1 << player.i
            return
        player.stop("begins its transaction")
        with transaction.atomic(using=DATABASE):
            self._end_entries(player, player.agent.does[1])
            player.stop("commits")
            self.committed |= 1 << player.i
        self._settle(player, 1 << player.i)

    def invalidate_key(self, player: Player) -> None:
        if self.scenario.always:
            return  # it was sent behind the commit
        if not tier_of(HOMES[player.agent.home]).breaker.is_closed:
            player.stop("invalidates")
        self._end_entries(player, player.operation)
        self._settle(player, 1 << player.i)

    invalidate_tag = invalidate_other = invalidate_key

    def invalidate_key_inside(self, player: Player) -> None:
        with contextlib.suppress(Rolled), transaction.atomic(using=DATABASE):
            with transaction.atomic(using=OTHER_DATABASE):
                self._end_entries(player, "invalidate key")
            raise Rolled
        vars(player)["unwritten"] = True
        self._settle(player, 1 << player.i)

    def _end_entries(self, player: Player, what: str) -> None:
        alias = HOMES[player.agent.home]
        if what == "invalidate tag":
            invalidate(tags=[self.tag], alias=alias)
        elif what == "invalidate other":
            invalidate(keys=[f"{self.key}0"], alias=alias)
        else:
            self.cached[player.agent.home].invalidate(self.number)

    def journal_other(self, player: Player) -> None:
        """A row of a third process, which a query without an order finds first."""
        player.stop("writes other")
        with connections[DATABASE].cursor() as cursor:
            fields = "rowid, id, alias, name, created, tries"
            values: tuple[int | str, ...] = (-1, "f" * 32, HOMES[0], f"{self.key}0")
            table = PendingInvalidation._meta.db_table
            cursor.execute(f"INSERT INTO {table} ({fields}) VALUES (%s, %s, %s, %s, '2020-01-01', 0)", values)

    def _settle(self, player: Player, mine: int) -> None:
        p = player.agent.home
        if self.is_over:
            return
        if not vars(player).get("unconfirmed"):
            self.acked |= mine & self.told
            self.known = [known | mine & self.told for known in self.known]
            return
        self.known[p] |= mine & self.told
        if vars(player).get("unwritten"):
            self.late |= mine
        else:
            self._journalled(mine, p)

    def _journalled(self, mine: int, home: int) -> None:
        """Acknowledged by the journal: to who wrote it, and to who has polled since."""
        mine &= self.told
        self.acked |= mine
        for p in range(len(HOMES)):
            is_told = p == home or not self.has_beaten[p]
            self.known[p] |= mine if is_told else mine & self.seen[p]


def is_watch(player: Player) -> bool:
    return player.agent.does == ("watch",)
