"""The protocol of design §5 with Redis up, as steps over immutable states. It knows nothing of redis_integration.

A step is one script or command on the server, one read of the database, one commit, or one change of what a process
remembers. An answer is stale if it lacks a write that was acknowledged when its call began, and dirty if it shows one
that was never committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.scenarios import Scenario
from tests.model.states import Actor, Entry, Home, Server, Transaction, World, letter, shown


class Move(NamedTuple):
    """A step of an agent, of time (a limit that ends a wait; only when nothing else can happen), or a fault."""

    kind: str
    who: str
    what: str
    after: World


Steps = Iterator[tuple[str, World]]

EXCHANGES = {"get", "lease", "poll", "fill", "refresh", "expire", "unlink", "end entry", "let go", "fill late"}
SCRIPTS = {"lease", "poll", "fill", "refresh", "expire", "let go", "fill late"}


class Protocol:
    """The moves of a scenario's world, by all the rules but those that are `dropped`."""

    def __init__(self, scenario: Scenario, dropped: frozenset[str] = frozenset()) -> None:
        self.scenario = scenario
        self.dropped = dropped
        self.agents = scenario.agents
        only_reads = all(op == "get" for agent in self.agents for op in agent.does)
        self.is_calm = only_reads and not (scenario.faults or scenario.warm or scenario.raises)

    def has(self, rule: str) -> bool:
        return rule not in self.dropped

    def start(self) -> World:
        entry = Entry(0, 1, 1 if self.scenario.tagged else 0, 1) if self.scenario.warm else None
        server = Server(entry=entry, generation=1 if entry and self.scenario.tagged else 0)
        homes = (Home(),) * (1 + max(agent.home for agent in self.agents))
        actors = (Actor(connection=0 if self.scenario.may("restart") else 1),) * len(self.agents)
        return World(server, homes, actors, self.scenario.faults)

    def operation(self, i: int, me: Actor) -> str:
        does = self.agents[i].does
        return does[me.op] if me.op < len(does) else ""

    # What is true of every state

    def wrong(self, w: World) -> str:
        """What must never be, in words; "" if all is well."""
        if w.bad:
            return w.bad
        entry = w.server.entry
        if entry is not None and self.is_valid(w, entry, w.server.life):
            if entry.value & ~w.committed:
                return f"UNCOMMITTED: others would be answered {shown(entry.value)}"
            known = 0
            for home in w.homes:
                known |= 0 if home.pending else home.known
            lacks = (known | (w.soft if entry.fresh else 0)) & ~entry.value
            if lacks:
                return f"STALE: Redis would answer {shown(entry.value)} without {shown(lacks)}, which was acknowledged"
        for p in range(len(w.homes)):
            if (
                sum(me.step == "publish" and not me.token for i, me in enumerate(w.actors) if self.agents[i].home == p)
                > 1
            ):
                return "STAMPEDE: two computations without a lease at once in one process"
        if self.is_calm and w.computed > 1:
            return "STAMPEDE: computed twice, and nobody had disturbed the first"
        return "LEFT: a lease that nobody has" if not self.scenario.faults and self.is_orphaned(w) else ""

    def unfinished(self, w: World) -> str:
        """What is wrong with a state that nothing follows."""
        for i, me in enumerate(w.actors):
            if me.step != "gone" and self.operation(i, me):
                return f"STUCK: {letter(i)} never ends"
        entry, lost = w.server.entry, 0
        for i, agent in enumerate(self.agents):
            lost |= (w.committed & 1 << i) * any(op.startswith("invalidate") for op in agent.does)
        if entry is not None and self.is_valid(w, entry, w.server.life) and (lost := lost & ~entry.value):
            return f"LOST: all is done, and Redis answers {shown(entry.value)} without {shown(lost)}"
        return ""

    def is_valid(self, w: World, entry: Entry, life: int) -> bool:
        if entry.life != life and self.has("an entry is of its life"):
            return False
        return not self.scenario.tagged or 0 < entry.generation == w.server.generation

    def is_orphaned(self, w: World) -> bool:
        holders = {me.token for me in w.actors if me.step != "gone"}
        holders |= {me.transaction.lease[0] for me in w.actors if me.transaction and me.transaction.lease}
        return w.server.lease not in {0, *holders}

    # All moves

    def moves(self, w: World) -> Iterator[Move]:
        is_stuck = True
        for i, me in enumerate(w.actors):
            for what, after in self.steps(w, i, me):
                if after != w:
                    is_stuck = False
                    yield Move("step", letter(i), what, after)
        for what, after in self.environment(w):
            is_stuck = False
            yield Move("step", "Redis", what, after)
        for i, me in enumerate(w.actors):
            if is_stuck and me.step in ("poll", "joined"):
                yield Move("time", letter(i), "has waited too long", self.give_up(w, i, me))
            if self.scenario.faults:
                for what, after in self.mishaps(w, i, me):
                    yield Move("fault", letter(i), what, after)
        if self.scenario.faults:
            for what, after in self.faults(w):
                yield Move("fault", "Redis", what, after)

    def steps(self, w: World, i: int, me: Actor) -> Steps:
        name = me.step or self.operation(i, me)
        if name in ("", "gone", "joined"):
            return
        if me.unlearnt:
            yield (
                "the pool is told of this life",
                w.home(self.agents[i].home, life=me.connection).actor(i, unlearnt=False),
            )
        elif name in EXCHANGES and me.connection != w.server.life:
            unlearnt = not self.has("own life")
            yield f"connects, life {w.server.life}", w.actor(i, connection=w.server.life, unlearnt=unlearnt)
        elif name in SCRIPTS and not (w.server.knows_scripts or me.whole):
            yield "NOSCRIPT", w.actor(i, whole=True)
        else:
            if me.whole:
                w = w.redis(knows_scripts=True).actor(i, whole=False)
                me = w.actors[i]
            yield from getattr(self, name.replace(" ", "_"))(w, i, me)

    def environment(self, w: World) -> Steps:
        for at, message in enumerate(w.wire):
            arrived = w._replace(wire=w.wire[:at] + w.wire[at + 1 :])
            yield "a script arrives that nobody waits for", self.arrive(arrived, message)
        if self.is_orphaned(w):
            yield "the lease of nobody expires", w.redis(lease=0)
        for p, home in enumerate(w.homes):
            if home.pending and not home.repeated:
                yield f"P{p} repeats its UNLINK", w.redis(entry=None, lease=0).home(p, repeated=True)
            elif home.pending:
                after = self.acknowledge(w, home.pending)
                yield f"P{p} has nothing pending any more", after.home(p, pending=0, repeated=False)

    def arrive(self, w: World, message: tuple[int, ...]) -> World:
        if len(message) > 1:
            return self.store(w, message[0], message[1], life=message[2], generation=message[3])[1]
        return w if w.server.lease or w.server.entry else self.grant(w, message[0])

    # Readers: get, enter, lease or poll, compute, send, fill, publish

    def sees(self, w: World, me: Actor) -> int:
        """What the origin would read now."""
        transaction = me.transaction
        if transaction is None:
            return w.committed
        committed = w.committed if transaction.snapshot is None else transaction.snapshot
        return committed | transaction.own

    def begin_call(self, w: World, i: int, me: Actor) -> Actor:
        if me.again:
            return me
        transaction = me.transaction
        if transaction and transaction.snapshot is not None:
            return me._replace(floor=transaction.known)
        own = transaction.own if transaction and transaction.has_invalidated else 0
        return me._replace(floor=w.homes[self.agents[i].home].known | own, soft=w.soft)

    def get(self, w: World, i: int, me: Actor) -> Steps:
        me, transaction, p = self.begin_call(w, i, me), me.transaction, self.agents[i].home
        home, entry = w.homes[p], w.server.entry
        w = w.actor(i, floor=me.floor, soft=me.soft)
        if transaction and transaction.has_invalidated and self.has("bypass"):
            yield "bypasses the cache", self.answer(w, i, self.sees(w, me))
            return
        if home.pending and self.has("pending"):
            yield (
                "the name is pending",
                w.actor(i, step="compute" if transaction else "enter bare", alone=bool(transaction)),
            )
            return
        stale = None
        if entry is not None and self.is_valid(w, entry, w.server.life if self.has("own life") else home.life):
            if entry.fresh:
                yield f"GET: {shown(entry.value)}", self.answer(w, i, entry.value)
                return
            stale = entry.value
        w = w.actor(i, mark=entry.mark if entry else 0, stale=stale)
        what = "GET: stale" if stale is not None else "GET: a miss"
        if not transaction:
            yield what, w.actor(i, step="enter")
        elif self.may_fill(transaction):
            shares = not self.has("unshared in a transaction")
            yield what, w.actor(i, step="enter" if shares else "lease")
        else:
            yield what, w.actor(i, step="compute", alone=True)

    def may_fill(self, transaction: Transaction) -> bool:
        if transaction.lease and self.has("no wait for itself"):
            return False
        return transaction.snapshot is None or not self.has("no fill from a snapshot")

    def enter(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        if me.landed is not None and me.stale is None:
            yield from self.take_landed(w, i, me.landed)
        owner = w.homes[p].flight
        if owner is None and me.stale is None:
            owner = self.begun_later(w, i, me)
        if owner is None:
            yield "begins a flight", w.home(p, flight=i).actor(i, step="lease")
        elif me.stale is not None:
            yield "a flight is under way", self.answer(w, i, me.stale, is_stale=True)
        else:
            yield f"joins {letter(owner)}", w.actor(i, step="joined", host=owner)

    def enter_bare(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        if me.landed is not None:
            yield from self.take_landed(w, i, me.landed)
        owner = w.homes[p].forming
        if w.homes[p].flight is not None and not self.has("pending apart"):
            owner = w.homes[p].flight
        if owner is None:
            owner = self.begun_later(w, i, me)
        if owner is not None:
            yield f"joins {letter(owner)}", w.actor(i, step="joined", host=owner)
        else:
            yield "begins a bare flight", w.home(p, forming=i).actor(i, step="compute")

    def begun_later(self, w: World, i: int, me: Actor) -> int | None:
        """Whose computation may be joined though its origin call has begun: what it reads is no older than this call."""
        home = w.homes[self.agents[i].home]
        for owner in (home.flight, home.running):
            if owner is not None and (me.later >> owner & 1 or not self.has("only what began after the call")):
                return owner
        return None

    def take_landed(self, w: World, i: int, value: int) -> Steps:
        """Or not: a process keeps only the last ones, and those that somebody had joined."""
        yield f"takes {shown(value)}, which has landed", self.answer(w, i, value)

    def keep(self, w: World, i: int, value: int) -> World:
        """Keep what was computed without a lease for those who called before it was begun."""
        for j, other in enumerate(w.actors):
            if j != i and other.later >> i & 1 and other.step not in ("", "gone"):
                w = w.actor(j, landed=value)
        return w

    def note_begun(self, w: World, i: int) -> World:
        for j, other in enumerate(w.actors):
            if j != i and other.step not in ("", "gone") and self.agents[j].home == self.agents[i].home:
                w = w.actor(j, later=other.later | 1 << i)
        return w

    def lease(self, w: World, i: int, me: Actor) -> Steps:
        entry = w.server.entry
        is_seen = entry is not None and entry.mark == me.mark and self.has("the entry it has seen is not found")
        if entry is not None and not is_seen and self.has("read again with the lease"):
            if not self.is_valid(w, entry, w.server.life):
                stale = None if self.has("an invalid copy is no copy") else me.stale
                yield (
                    "lease script: an invalid entry",
                    w.actor(i, step="lease", mark=entry.mark, stale=stale, revoked=stale is not None),
                )
            elif entry.fresh:
                yield f"lease script: {shown(entry.value)}", w.actor(i, step="found", value=entry.value)
            else:
                yield "lease script: a stale entry", w.actor(i, step="lease", mark=entry.mark, stale=entry.value)
        elif w.server.lease not in {0, me.token} and self.has("one lease"):
            if me.stale is not None:
                after = self.tell(self.leave(w, i), i, 0, ok=False, found=True)
                yield "lease script: held", self.answer(after, i, me.stale, is_stale=True)
            else:
                yield "lease script: held", w.actor(i, step="poll")
        else:
            token = me.token or self.unused(w)
            after = self.grant(w, token)
            generation = after.server.generation
            yield (
                "lease script: granted",
                after.actor(i, step="compute", token=token, life=w.server.life, generation=generation),
            )

    poll = lease  # with a new token

    def unused(self, w: World) -> int:
        """The smallest token that nobody remembers."""
        entries = [w.server.entry, w.server.saved[0] if w.server.saved else None]
        used = {w.server.lease, w.server.saved[1] if w.server.saved else 0, *(e.mark for e in entries if e)}
        used.update(*((me.token, me.mark) for me in w.actors), (message[0] for message in w.wire))
        used.update(me.transaction.lease[0] for me in w.actors if me.transaction and me.transaction.lease)
        return min(set(range(1, len(used) + 2)) - used)

    def grant(self, w: World, token: int) -> World:
        w = w.redis(lease=token)
        return self.create_generation(w) if self.has("generations with the lease") else w

    def create_generation(self, w: World) -> World:
        if not self.scenario.tagged or w.server.generation:
            return w
        entries = [w.server.entry, w.server.saved[0] if w.server.saved else None]
        used = {w.server.saved[2] if w.server.saved else 0, *(e.generation for e in entries if e)}
        used.update(me.generation for me in w.actors)
        used.update(me.transaction.lease[2] for me in w.actors if me.transaction and me.transaction.lease)
        return w.redis(generation=min(set(range(1, len(used) + 2)) - used))

    def found(self, w: World, i: int, me: Actor) -> Steps:
        w = self.tell(self.leave(w, i), i, me.value, ok=not self.has("found is not shared"), found=True)
        yield f"answers {shown(me.value)}", self.answer(w, i, me.value)

    def compute(self, w: World, i: int, me: Actor) -> Steps:
        """The origin. It reads when it begins, which is the worst it can do."""
        value, p, transaction = self.sees(w, me), self.agents[i].home, me.transaction
        what = f"origin: {shown(value)}"
        w = w._replace(computed=w.computed + self.is_calm)
        if me.token and transaction and self.has("fill after the commit"):
            waiting = transaction._replace(
                on_commit=("fill", *transaction.on_commit), lease=(me.token, me.life, me.generation), value=value
            )
            w = self.tell(self.leave(w, i), i, value, ok=True).actor(i, transaction=waiting)
            yield what, self.answer(w, i, value)
        elif me.token or self.operation(i, me) == "refresh":
            yield what, self.note_begun(w, i).actor(i, value=value, step="send")
        elif me.alone:
            yield what, self.answer(w, i, value)
        elif w.homes[p].running is None or not self.has("bare flights in a row"):
            w = self.leave(w, i) if self.has("bare until it begins") else w
            yield what, self.note_begun(w, i).home(p, running=i).actor(i, value=value, ok=True, step="publish")

    def send(self, w: World, i: int, me: Actor) -> Steps:
        if not self.has("generations before the origin"):
            w = self.create_generation(w)
            w = w.actor(i, generation=w.server.generation)
        w = self.leave(w, i) if self.has("joined until the fill") else w
        yield "sends its fill", w.actor(i, step="fill")

    def fill(self, w: World, i: int, me: Actor) -> Steps:
        if not me.token:  # only a refresh without "refresh replaces the lease"
            entry = Entry(me.value, w.server.life, w.server.generation, self.unused(w))
            yield "SET", w.redis(entry=entry).actor(i, step="publish", ok=True)
            return
        ok, w = self.store(w, me.token, me.value, life=me.life, generation=me.generation)
        ok = ok and (me.life == w.server.life or not self.has("refused in another life"))
        yield "fill script: " + ("accepted" if ok else "refused"), w.actor(i, step="publish", ok=ok)

    def store(self, w: World, token: int, value: int, *, life: int, generation: int) -> tuple[bool, World]:
        """What the fill script does: whether it accepts, and what the server holds then."""
        if not generation:  # only without "generations with the lease"
            w = self.create_generation(w)
            generation = w.server.generation
        if w.server.lease != token and self.has("fill needs the lease"):
            return False, w
        w = w.redis(lease=0) if w.server.lease == token else w
        checks = "release checks generations" if self.scenario.raises else "fill checks generations"
        if generation != w.server.generation and self.has(checks):
            return False, w
        if self.scenario.raises:
            return True, w
        life = life if self.has("life of the lease") else w.server.life
        return True, w.redis(entry=Entry(value, life, generation, token))

    def publish(self, w: World, i: int, me: Actor) -> Steps:
        takes_any = not self.has("joiners need the fill") or (
            self.scenario.raises and not self.has("exceptions need the release")
        )
        w = self.keep(w, i, me.value) if w.homes[self.agents[i].home].running == i else w
        w = self.tell(self.leave(w, i), i, me.value, ok=me.ok or takes_any)
        what = f"returns {shown(me.value)}"
        if self.operation(i, me) != "refresh":
            yield what, self.answer(w, i, me.value)
        elif me.ok or not self.has("refused refresh ends the entry"):
            yield what, self.answer(self.acknowledge(w, w.committed & 1 << i), i, me.value)
        else:
            yield what, w.actor(i, step="end entry")

    def leave(self, w: World, i: int) -> World:
        """Take the flights of i out of the table: nobody joins them any more."""
        p = self.agents[i].home
        gone = {slot: None for slot in ("flight", "forming", "running") if getattr(w.homes[p], slot) == i}
        return w.home(p, **gone) if gone else w

    def tell(self, w: World, owner: int, value: int, *, ok: bool, found: bool = False) -> World:
        """Those who joined take the value, else start over once, then compute alone. What the owner found they look for."""
        for j, me in enumerate(w.actors):
            if me.step == "joined" and me.host == owner:
                w = self.tell(w, j, value, ok=ok, found=found)  # who had waited for a lease in vain may have company
                if ok:
                    w = self.answer(w, j, value)
                elif (me.again and not found) or not self.has("start over once"):
                    w = w.actor(j, step="compute", alone=True, host=None)
                else:
                    w = w.actor(j, step="get", again=me.again or not found, host=None)
        return w

    def answer(self, w: World, i: int, value: int, *, is_stale: bool = False) -> World:
        me = w.actors[i]
        own = me.transaction.own if me.transaction else 0
        if is_stale and me.revoked:
            w = w._replace(bad=f"NO COPY: {letter(i)} is answered what it has seen invalidated")
        elif value & ~w.committed & ~own:
            w = w._replace(bad=f"UNCOMMITTED: {letter(i)} is answered {shown(value)}")
        elif lacks := (me.floor | (0 if is_stale else me.soft)) & ~value:
            w = w._replace(bad=f"STALE: {letter(i)} is answered {shown(value)} without {shown(lacks)}")
        return self.end(w, i)

    def end(self, w: World, i: int) -> World:
        me = w.actors[i]
        done = Actor(op=me.op + 1, connection=me.connection, transaction=me.transaction)
        return w._replace(actors=(*w.actors[:i], done, *w.actors[i + 1 :]))

    def give_up(self, w: World, i: int, me: Actor) -> World:
        if me.transaction or me.step == "joined":
            return w.actor(i, step="compute", alone=True, host=None)
        # Its flight takes no more callers; who has joined it goes along.
        return self.leave(w, i).actor(i, step="enter bare")

    # Writers

    def acknowledge(self, w: World, writes: int) -> World:
        return w._replace(homes=tuple(home._replace(known=home.known | writes) for home in w.homes))

    def write(self, w: World, i: int, me: Actor) -> Steps:
        if any(other.transaction and other.transaction.own for j, other in enumerate(w.actors) if j != i):
            return  # it waits for the lock of the row
        if me.transaction:
            yield "UPDATE", self.end(w.actor(i, transaction=me.transaction._replace(own=1 << i)), i)
        else:
            yield f"commits {letter(i)}", self.end(w._replace(committed=w.committed | 1 << i), i)

    def invalidate_key(self, w: World, i: int, me: Actor) -> Steps:
        yield from self.invalidate(w, i, "invalidate key")

    def invalidate_tag(self, w: World, i: int, me: Actor) -> Steps:
        yield from self.invalidate(w, i, "invalidate tag")

    def invalidate(self, w: World, i: int, what: str) -> Steps:
        transaction = w.actors[i].transaction
        if transaction is None or not self.has("invalidate after the commit"):
            for said, after in self.unlinked(w, i, what):
                yield said, self.end(after, i)
        else:
            # In front: a callback that raises ends those behind it.
            ours, others = (what,), transaction.on_commit
            on_commit = (*ours, *others) if self.has("invalidations first") else (*others, *ours)
            yield (
                "invalidates on commit",
                self.end(w.actor(i, transaction=transaction._replace(on_commit=on_commit)), i),
            )

    def unlinked(self, w: World, i: int, what: str) -> Steps:
        p, write = self.agents[i].home, w.committed & 1 << i
        if self.has("local invalidation ends the flight"):
            w = w.home(p, flight=None, forming=None)
        keeps_lease = what == "invalidate key" and not self.has("invalidation revokes the lease")
        gone: dict[str, object] = {"entry": None} if keeps_lease else {"entry": None, "lease": 0}
        after = w.redis(**(gone if what == "invalidate key" else {"generation": 0}))
        yield f"UNLINK {what.split()[1]}", self.acknowledge(after, write)
        if w.may("lost"):
            home = w.homes[p]
            w = w.spend("lost").home(p, pending=home.pending | write, known=home.known | write)
            yield "UNLINK is lost: the name is pending", w

    def refresh(self, w: World, i: int, me: Actor) -> Steps:
        me = self.begin_call(w, i, me)
        w = w.actor(i, floor=me.floor, soft=me.soft, step="compute").home(self.agents[i].home, flight=i)
        if self.has("refresh replaces the lease"):
            token = self.unused(w)
            w = self.grant(w, token)
            w = w.actor(i, token=token, life=w.server.life, generation=w.server.generation)
        yield "refresh: replaces the lease", w

    def end_entry(self, w: World, i: int, me: Actor) -> Steps:
        w = self.acknowledge(w.redis(entry=None, lease=0), w.committed & 1 << i)
        yield "UNLINK key", self.answer(w, i, me.value)

    def expire(self, w: World, i: int, me: Actor) -> Steps:
        if w.server.entry:
            w = w.redis(entry=w.server.entry._replace(fresh=False, mark=self.unused(w)))
        if self.has("expire revokes the lease"):
            w = w.redis(lease=0)
        if self.has("local invalidation ends the flight"):
            w = w.home(self.agents[i].home, flight=None, forming=None)
        yield "expire script", self.end(w._replace(soft=w.soft | w.committed & 1 << i), i)

    # Transactions

    def begin(self, w: World, i: int, me: Actor) -> Steps:
        yield "BEGIN", self.end(w.actor(i, transaction=Transaction(w.homes[self.agents[i].home].known)), i)

    def begin_snapshot(self, w: World, i: int, me: Actor) -> Steps:
        transaction = Transaction(w.homes[self.agents[i].home].known, snapshot=w.committed)
        yield "BEGIN, REPEATABLE READ", self.end(w.actor(i, transaction=transaction), i)

    def savepoint(self, w: World, i: int, me: Actor) -> Steps:
        assert me.transaction
        saved = me.transaction.own, me.transaction.on_commit
        yield "SAVEPOINT", self.end(w.actor(i, transaction=me.transaction._replace(savepoint=saved)), i)

    def undo(self, w: World, i: int, me: Actor) -> Steps:
        assert me.transaction and me.transaction.savepoint
        own, on_commit = me.transaction.savepoint
        if not self.has("rollback drops the fill"):
            on_commit = (*on_commit, *(callback for callback in me.transaction.on_commit if callback == "fill"))
        transaction = me.transaction._replace(own=own, on_commit=on_commit)
        yield "ROLLBACK TO SAVEPOINT", self.end(w.actor(i, transaction=transaction), i)

    def raise_on_commit(self, w: World, i: int, me: Actor) -> Steps:
        assert me.transaction
        on_commit = (*me.transaction.on_commit, "raise")
        yield (
            "a callback that will raise",
            self.end(w.actor(i, transaction=me.transaction._replace(on_commit=on_commit)), i),
        )

    def commit(self, w: World, i: int, me: Actor) -> Steps:
        assert me.transaction
        w = w._replace(committed=w.committed | me.transaction.own)
        if not self.has("invalidate after the commit"):
            w = self.acknowledge(w, me.transaction.own)
        yield (
            f"COMMIT: {shown(w.committed)}",
            self.next_callback(w.actor(i, transaction=me.transaction._replace(own=0)), i),
        )

    def next_callback(self, w: World, i: int) -> World:
        transaction = w.actors[i].transaction
        assert transaction
        steps = {"invalidate key": "unlink", "invalidate tag": "unlink", "fill": "fill late"}
        on_commit = transaction.on_commit
        if on_commit[:1] == ("raise",):
            on_commit = ()
        w = w.actor(i, transaction=transaction._replace(on_commit=on_commit))
        if on_commit:
            return w.actor(i, step=steps[on_commit[0]])
        if transaction.lease and self.has("rollback lets the lease go"):
            return w.actor(i, step="let go")
        return self.end(w.actor(i, transaction=None), i)

    def unlink(self, w: World, i: int, me: Actor) -> Steps:
        assert me.transaction
        what, *rest = me.transaction.on_commit
        for said, after in self.unlinked(
            w.actor(i, transaction=me.transaction._replace(on_commit=tuple(rest))), i, what
        ):
            yield said, self.next_callback(after, i)

    def fill_late(self, w: World, i: int, me: Actor) -> Steps:
        assert me.transaction and me.transaction.lease
        token, life, generation = me.transaction.lease
        ok, w = self.store(w, token, me.transaction.value, life=life, generation=generation)
        transaction = me.transaction._replace(on_commit=me.transaction.on_commit[1:], lease=None, value=0)
        w = self.next_callback(w.actor(i, transaction=transaction), i)
        yield "fill script: " + ("accepted" if ok else "refused"), w

    def rollback(self, w: World, i: int, me: Actor) -> Steps:
        assert me.transaction
        yield "ROLLBACK", self.next_callback(w.actor(i, transaction=me.transaction._replace(own=0, on_commit=())), i)

    def let_go(self, w: World, i: int, me: Actor) -> Steps:
        assert me.transaction and me.transaction.lease
        mine = w.server.lease == me.transaction.lease[0]
        yield "lets its lease go", self.end((w.redis(lease=0) if mine else w).actor(i, transaction=None), i)

    # Faults

    def mishaps(self, w: World, i: int, me: Actor) -> Steps:
        """What can happen to one agent."""
        if me.step in ("poll", "joined") and w.may("impatient"):
            yield "has waited too long", self.give_up(w.spend("impatient"), i, me)
        if me.step == "lease" and w.may("late"):
            first = self.unused(w)
            token = 0 if self.has("a new token each try") else first
            yield (
                "sends its lease script again",
                w.spend("late").actor(i, token=token)._replace(wire=(*w.wire, (first,))),
            )
        if w.may("cancel") and me.step and not me.transaction and self.operation(i, me) == "get":
            w = w.spend("cancel")
            if self.has("a dead flight is over"):
                w = self.tell(self.leave(w, i), i, 0, ok=False)
            gone = w.actor(i, step="gone", token=0, host=None, value=0, stale=None, mark=0)
            yield "is cancelled", gone
            if me.step in ("lease", "poll"):
                yield "is cancelled, its lease script on the way", gone._replace(wire=(*w.wire, (self.unused(w),)))
            if me.step == "fill":
                sent = (me.token, me.value, me.life, me.generation)
                yield "is cancelled, its fill on the way", gone._replace(wire=(*w.wire, sent))

    def faults(self, w: World) -> Steps:
        evictions: tuple[tuple[str, dict[str, object]], ...] = (
            ("entry", {"entry": None}),
            ("lease", {"lease": 0}),
            ("tag", {"generation": 0}),
        )
        for name, gone in evictions:
            if w.may(f"evict {name}") and (after := w.redis(**gone)) != w:
                yield f"evicts the {name}", after.spend(f"evict {name}")
        if w.may("snapshot"):
            saved = w.server.entry, w.server.lease, w.server.generation
            yield "saves a snapshot", w.redis(saved=saved).spend("snapshot")
        if w.may("restart"):
            entry, lease, generation = w.server.saved or (None, 0, 0)
            server = Server(w.server.life + 1, entry, lease, generation)
            yield "restarts", w._replace(server=server, wire=()).spend("restart")
        if w.may("forget scripts"):
            yield "forgets its scripts", w.redis(knows_scripts=False).spend("forget scripts")
