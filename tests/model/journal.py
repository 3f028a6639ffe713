"""The journal of design §5: what becomes of an invalidation that Redis does not confirm. It knows nothing of redis_integration.

A step is one command or script, one statement, or one change of what a process remembers. An invalidation has the bit of
its agent, in what is pending, in what is written and in the table; with `always` that is the row of its commit, and what
Redis did not confirm has another one beside it. Flights are left out, and rows of an outage: see
protocol.py and rows.py. Who writes nothing to Redis computes in one step: what it answers is new.

Time is left out, and so is what it bounds: a process that believes Redis need not know what another one has journalled
since its last beat began. Outside the promise are, with a process that is killed, its invalidations that were not acknowledged
(unless they are journalled always), and those of which only it knew: that is said in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from tests.model.journal_scenarios import JournalScenario
from tests.model.states import letter, shown


class Entry(NamedTuple):
    value: int
    life: int
    generation: int


class Redis(NamedTuple):
    life: int = 1
    entry: Entry | None = None
    lease: int = 0
    generation: int = 0
    made: int = 1  # generations
    saved: tuple[Entry | None, int, int] | None = None
    refuses: bool = False


class Home(NamedTuple):
    known: int = 0  # writes that Redis must show to this process
    seen: int = 0  # invalidations that its last poll could find, if they were there
    pending: int = 0
    written: int = 0
    is_open: bool = False
    is_cut: bool = False
    is_flooded: bool = False
    is_polled: bool = True
    has_beaten: bool = True
    is_there: bool = True
    is_killed: bool = False


class Actor(NamedTuple):
    op: int = 0
    step: str = ""
    value: int = 0
    floor: int = 0
    life: int = 0
    generation: int = 0
    # Of a beat
    noted: int = 0  # what was acknowledged when it began
    found: int = 0
    past: int = 0  # what was written before it looked
    told: int = 0  # what was acknowledged when it looked
    written: int = 0  # what had ever been written when it looked
    is_all: bool = True
    is_old: bool = False  # a flood came since it looked
    batch: int = 0
    snapshot: int | None = None  # of the table, in a transaction


class World(NamedTuple):
    redis: Redis
    homes: tuple[Home, ...]
    actors: tuple[Actor, ...]
    faults: tuple[tuple[str, int], ...]
    row: int | None = None  # a durable one
    committed: int = 0
    acked: int = 0  # acknowledged to everybody
    table: int = 0  # the journal
    written: int = 0  # what has ever been in it
    bad: str = ""

    def actor(self, i: int, **changes: object) -> World:
        changed = self.actors[i]._replace(**changes)  # type: ignore[arg-type]
        return self._replace(actors=(*self.actors[:i], changed, *self.actors[i + 1 :]))

    def home(self, p: int, **changes: object) -> World:
        changed = self.homes[p]._replace(**changes)  # type: ignore[arg-type]
        return self._replace(homes=(*self.homes[:p], changed, *self.homes[p + 1 :]))

    def server(self, **changes: object) -> World:
        return self._replace(redis=self.redis._replace(**changes))  # type: ignore[arg-type]

    def may(self, fault: str) -> bool:
        return any(name == fault and left for name, left in self.faults)

    def spend(self, fault: str) -> World:
        return self._replace(faults=tuple((name, left - (name == fault)) for name, left in self.faults))


class Move(NamedTuple):
    """See tests.model.protocol."""

    kind: str
    who: str
    what: str
    after: World


Steps = Iterator[tuple[str, World]]


class JournalProtocol:
    """The moves of a scenario's world, by all the rules but those that are `dropped`."""

    def __init__(self, scenario: JournalScenario, dropped: frozenset[str] = frozenset()) -> None:
        self.scenario = scenario
        self.dropped = dropped
        self.agents = scenario.agents
        self.by_key = self.by_tag = self.by_other = self.inside = 0
        for i, agent in enumerate(self.agents):
            does = " ".join(agent.does)
            self.by_key |= ("invalidate key" in does) << i
            self.by_tag |= ("invalidate tag" in does) << i
            self.by_other |= (" other" in does) << i
            self.inside |= ("inside" in does) << i
        self.second = len(self.agents) if scenario.always else 0

    def has(self, rule: str) -> bool:
        return rule not in self.dropped

    def start(self) -> World:
        scenario, stamp = self.scenario, 1 if self.scenario.tagged else 0
        redis = Redis(entry=None if scenario.cold else Entry(0, 1, stamp), generation=stamp)
        homes = (Home(),) * (1 + max(agent.home for agent in self.agents))
        w = World(redis, homes, (Actor(),) * len(self.agents), scenario.faults, row=0 if scenario.durable else None)
        if scenario.may("start") or scenario.may("fork"):
            w = w.home(len(homes) - 1, is_there=False, is_polled=False, has_beaten=False)
        return w

    def operation(self, i: int, me: Actor) -> str:
        does = self.agents[i].does
        return does[me.op] if me.op < len(does) else ""

    # What is true of every state

    def wrong(self, w: World) -> str:
        if w.bad:
            return w.bad
        entry = self.valid(w)
        for p, home in enumerate(w.homes):
            if entry is not None and self.believes(home) and (lacks := home.known & ~entry.value):
                return f"STALE: Redis would answer P{p} {shown(entry.value)} without {shown(lacks)}, which was acknowledged"
        return ""

    def unfinished(self, w: World) -> str:
        alive = [home for home in w.homes if home.is_there and not home.is_killed]
        for i, me in enumerate(w.actors):
            home = w.homes[self.agents[i].home]
            if self.operation(i, me) not in ("", "watch") and home.is_there and not home.is_killed:
                return f"STUCK: {letter(i)} never ends"
        watched = {self.agents[i].home for i in range(len(self.agents)) if self.agents[i].does == ("watch",)}
        if any(w.homes[p] in alive for p in watched):
            if w.table:
                return f"STUCK: {shown(w.table)} stays in the journal"
            if any(home.pending and p in watched for p, home in enumerate(w.homes) if home in alive):
                return "STUCK: a name is pending for ever"
        entry, promised = self.valid(w), self.promised(w)
        if entry is not None and (lacks := promised & ~entry.value):
            return f"LOST: all is done, and Redis answers {shown(entry.value)} without {shown(lacks)}"
        if w.row is not None and (lacks := promised & ~w.row):
            return f"LOST: all is done, and the row answers {shown(w.row)} without {shown(lacks)}"
        return ""

    def promised(self, w: World) -> int:
        """The writes that nobody must miss when all is done."""
        promised = w.acked | (w.committed if self.scenario.always else 0)
        for i, agent in enumerate(self.agents):
            if not w.homes[agent.home].is_killed:
                promised |= w.committed & 1 << i
        return promised & (self.by_key | self.by_tag)

    def valid(self, w: World) -> Entry | None:
        entry = w.redis.entry
        if entry is None or entry.life != w.redis.life:
            return None
        return entry if not self.scenario.tagged or 0 < entry.generation == w.redis.generation else None

    def believes(self, home: Home) -> bool:
        if home.is_open or home.is_flooded or home.is_killed or not home.is_there:
            return False
        if home.pending.bit_count() > self.scenario.limit:
            return False
        if not home.is_polled and self.has("polled before it is believed"):
            return False
        return not (home.pending | home.pending >> self.second) & (self.by_key | self.by_tag)

    # All moves

    def moves(self, w: World) -> Iterator[Move]:
        for i, me in enumerate(w.actors):
            name, home = me.step or self.operation(i, me), w.homes[self.agents[i].home]
            if name and home.is_there and not home.is_killed:
                for what, after in getattr(self, name.replace(" ", "_"))(w, i, me):
                    if after != w:
                        yield Move("step", letter(i), what, after)
        if w.redis.refuses or any(home.is_cut for home in w.homes):
            after = w.server(refuses=False)._replace(homes=tuple(h._replace(is_cut=False) for h in w.homes))
            yield Move("step", "the network", "heals", after)
        if w.may("start"):
            after = w.spend("start").home(len(w.homes) - 1, is_there=True, known=w.acked)
            yield Move("step", f"P{len(w.homes) - 1}", "starts", after)
        if w.may("fork") and not w.homes[0].is_killed:
            child = w.homes[0]._replace(is_polled=not self.has("a child polls anew"), has_beaten=False, is_open=False)
            after = w.spend("fork")._replace(homes=(*w.homes[:-1], child._replace(known=w.acked | child.known)))
            yield Move("step", f"P{len(w.homes) - 1}", "is forked from P0", after)
        for what, after in self.accidents(w):
            yield Move("fault", "the world", what, after)

    def accidents(self, w: World) -> Steps:
        if w.may("cut"):
            yield "cuts P0 off", w.spend("cut").home(0, is_cut=True)
        if w.may("cut all"):
            yield "cuts all off", w.spend("cut all")._replace(homes=tuple(h._replace(is_cut=True) for h in w.homes))
        if w.may("refuse"):
            yield "Redis refuses writes", w.spend("refuse").server(refuses=True)
        if w.may("kill"):
            yield "P0 is killed", w.spend("kill").home(0, is_killed=True)
        if w.may("snapshot"):
            saved = w.redis.entry, w.redis.lease, w.redis.generation
            yield "Redis saves a snapshot", w.spend("snapshot").server(saved=saved)
        if w.may("restart"):
            entry, lease, generation = w.redis.saved or (None, 0, 0)
            after = w.server(life=w.redis.life + 1, entry=entry, lease=lease, generation=generation)
            yield "Redis restarts", after.spend("restart")

    def is_willing(self, w: World, p: int) -> bool:
        return not w.homes[p].is_cut and not w.redis.refuses

    def open(self, w: World, p: int) -> World:
        return w.home(p, is_open=True)

    def unlinked(self, w: World, bits: int, *, leases: bool = True) -> World:
        """Redis after the UNLINK of the names of these invalidations."""
        bits |= bits >> self.second
        if bits & self.by_key:
            w = w.server(entry=None, lease=0 if leases else w.redis.lease)
        return w.server(generation=0) if bits & self.by_tag else w

    # Readers

    def get(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        home, entry = w.homes[p], self.valid(w)
        if not self.believes(home):
            yield "computes, and stores nothing", self.end(w, i)
        elif home.is_cut:
            yield "GET fails, the breaker opens", self.end(self.open(w, p), i)
        elif entry is not None:
            yield f"GET: {shown(entry.value)}", self.end(w, i)  # see `wrong`
        else:
            yield "GET: a miss", w.actor(i, step="lease", floor=home.known)

    def lease(self, w: World, i: int, me: Actor) -> Steps:
        p, redis, entry = self.agents[i].home, w.redis, self.valid(w)
        if not self.is_willing(w, p):
            yield "the lease script fails, the breaker opens", self.end(self.open(w, p), i)
        elif entry is not None:
            yield f"lease script: {shown(entry.value)}", self.answer(w, i, entry.value)
        elif redis.lease:
            yield "lease script: held, so it computes", self.end(w, i)
        else:
            w = w.server(lease=i + 1)
            if self.scenario.tagged and not redis.generation:
                w = w.server(generation=redis.made + 1, made=redis.made + 1)
            w = w.actor(i, step="compute", life=redis.life, generation=w.redis.generation)
            yield "lease script: granted", w

    def compute(self, w: World, i: int, me: Actor) -> Steps:
        yield f"origin: {shown(w.committed)}", w.actor(i, value=w.committed, step="fill")

    def fill(self, w: World, i: int, me: Actor) -> Steps:
        p, redis = self.agents[i].home, w.redis
        if not self.is_willing(w, p):
            w = self.open(w, p)
        elif redis.lease == i + 1:
            w = w.server(lease=0)
            if redis.generation == me.generation:
                w = w.server(entry=Entry(me.value, me.life, me.generation))
        yield f"fill script, answers {shown(me.value)}", self.answer(w, i, me.value)

    def answer(self, w: World, i: int, value: int) -> World:
        if lacks := w.actors[i].floor & ~value:
            w = w._replace(bad=f"STALE: {letter(i)} is answered {shown(value)} without {shown(lacks)}")
        return self.end(w, i)

    def end(self, w: World, i: int) -> World:
        done = Actor(op=w.actors[i].op + 1)
        return w._replace(actors=(*w.actors[:i], done, *w.actors[i + 1 :]))

    # Writers

    def write(self, w: World, i: int, me: Actor) -> Steps:
        if not self.scenario.always or not self.has("the row comes with the commit"):
            yield f"commits {letter(i)}", self.end(w._replace(committed=w.committed | 1 << i), i)
        elif self.has("the row is committed with the data"):
            w = self.journalled(w._replace(committed=w.committed | 1 << i), 1 << i)
            yield f"commits {letter(i)} and its row", self.end(w, i)
        else:
            yield "INSERT, by itself", self.journalled(w, 1 << i).actor(i, step="commit")

    def commit(self, w: World, i: int, me: Actor) -> Steps:
        yield f"commits {letter(i)}", self.end(w._replace(committed=w.committed | 1 << i), i)

    def journalled(self, w: World, bits: int) -> World:
        rows = bits if self.has("a row for each invalidation") else self.first_of(bits)
        return w._replace(table=w.table | rows, written=w.written | bits)

    def namesakes(self, bits: int) -> int:
        """All invalidations of the same names."""
        masks = (self.by_key, self.by_tag, self.by_other)
        bits |= bits >> self.second
        return sum(mask | mask << self.second if self.second else mask for mask in masks if mask & bits)

    def first_of(self, bits: int) -> int:
        """One for each name."""
        masks = (self.by_key, self.by_tag, self.by_other)
        return sum(mask & -mask for mask in masks if mask & bits)

    def invalidate_key(self, w: World, i: int, me: Actor) -> Steps:
        p, bit = self.agents[i].home, 1 << i
        lost = self.remember(w, p, bit).actor(i, step="end rows" if self.scenario.durable else "insert")
        if w.homes[p].is_open or not self.is_willing(w, p):
            yield "UNLINK fails, the name is pending", self.open(lost, p)
            return
        if w.may("timeout"):
            yield "UNLINK is lost, the name is pending", lost.spend("timeout")
        w = self.unlinked(w, bit)
        if w.may("lost"):
            lost = self.remember(w, p, bit).actor(i, step="end rows" if self.scenario.durable else "insert")
            yield "UNLINK, its reply is lost: the name is pending", lost.spend("lost")
        w = w.actor(i, value=1)
        if self.scenario.durable:
            yield "UNLINK", w.actor(i, step="end rows")
        elif self.scenario.always:
            yield "UNLINK", self.acknowledge(w, bit, p, is_confirmed=True).actor(i, step="delete row")
        else:
            yield "UNLINK", self.end(self.acknowledge(w, bit, p, is_confirmed=True), i)

    invalidate_tag = invalidate_other = invalidate_key_inside = invalidate_key

    def remember(self, w: World, p: int, bit: int) -> World:
        home, mark = w.homes[p], self.mark(bit << self.second)
        older = self.namesakes(mark) & home.pending & ~mark
        if older and not self.has("the newest mark speaks for those before it"):
            return w
        return w.home(p, pending=home.pending & ~older | mark, written=home.written & ~older)

    def mark(self, bits: int) -> int:
        """The marks of these invalidations."""
        return bits if self.has("a row for each invalidation") else self.first_of(bits)

    def flood(self, w: World, p: int) -> World:
        """Redis is bypassed whole, and what is written need not be remembered by name."""
        home = w.homes[p]
        w = w.home(p, is_flooded=True, pending=home.pending & ~home.written, written=0)
        return self.outlive(w, p, "what was shed outlives a poll that began before it")

    def outlive(self, w: World, p: int, rule: str) -> World:
        """No poll that has looked already ends the flood that comes now."""
        for j, other in enumerate(w.actors):
            if self.agents[j].home == p and other.step == "learn":
                w = w.actor(j, is_old=self.has(rule))
        return w

    def end_rows(self, w: World, i: int, me: Actor) -> Steps:
        p, bit, is_confirmed = self.agents[i].home, 1 << i, bool(me.value)
        after = w._replace(row=None)
        if not is_confirmed:
            yield "DELETE the rows", after.actor(i, step="insert")
            if w.may("rows fail"):
                yield "DELETE of the rows fails", w.spend("rows fail").actor(i, step="insert")
            return
        if w.may("rows fail") and self.scenario.always:
            failed = self.acknowledge(w.spend("rows fail"), bit, p, is_confirmed=True)
            stays = self.has("a call that ended no rows leaves its own")
            yield "DELETE of the rows fails", self.end(failed, i) if stays else failed.actor(i, step="delete row")
        after = self.acknowledge(after, bit, p, is_confirmed=True)
        yield "DELETE the rows", after.actor(i, step="delete row") if self.scenario.always else self.end(after, i)

    def insert(self, w: World, i: int, me: Actor) -> Steps:
        """What Redis did not confirm is written, unless it is there already."""
        p, bit = self.agents[i].home, 1 << i
        own = w.home(p, known=w.homes[p].known | bit)
        if bit & self.inside:
            if self.has("written outside any transaction"):
                yield "leaves the INSERT to the watch", self.end(own, i)
            else:  # it is rolled back
                yield "INSERT, in a transaction", self.end(self.note_written(own, p, bit), i)
            return
        if w.may("database fails"):
            yield "INSERT fails, which is said in the log", self.end(own.spend("database fails"), i)
        if w.may("insert unheard"):
            there = self.journalled(own.spend("insert unheard"), self.mark(bit << self.second))
            yield "INSERT, its reply is lost", self.end(there, i)
        if not self.has("what is not confirmed is journalled"):
            yield "forgets to INSERT", self.end(self.acknowledge(w, bit, p, is_confirmed=False), i)
            return
        # A younger one of its name may have taken its place.
        unwritten = self.namesakes(bit << self.second) & w.homes[p].pending & ~w.homes[p].written
        for j, other in enumerate(w.actors):
            if self.agents[j].home == p and other.step == "insert taken":
                unwritten &= ~other.batch
        if unwritten:  # else the watch was quicker
            w = self.note_written(self.journalled(w, unwritten), p, unwritten)
        w = w._replace(written=w.written | bit << self.second)
        yield "INSERT", self.end(self.acknowledge(w, bit, p, is_confirmed=False), i)

    def note_written(self, w: World, p: int, bits: int) -> World:
        """These rows are there; what was forgotten meanwhile, by a drain, stays forgotten."""
        home = w.homes[p]
        w = w.home(p, written=home.written | (self.mark(bits) & home.pending))
        return self.flood(w, p) if home.pending.bit_count() > self.scenario.limit else w

    def delete_row(self, w: World, i: int, me: Actor) -> Steps:
        yield "DELETE its row", self.end(w._replace(table=w.table & ~self.mark(1 << i)), i)

    def acknowledge(self, w: World, bits: int, p: int, *, is_confirmed: bool) -> World:
        """By Redis: to all. By the journal: to who wrote it, and to who has polled since it was written."""
        homes, bits = [], bits & (self.by_key | self.by_tag)
        for q, home in enumerate(w.homes):
            knows = bits if is_confirmed or q == p or not home.has_beaten else bits & home.seen
            homes.append(home._replace(known=home.known | knows))
        return w._replace(homes=tuple(homes), acked=w.acked | bits)

    def journal_other(self, w: World, i: int, me: Actor) -> Steps:
        yield "INSERT of another name", self.end(self.journalled(w, 1 << i), i)

    # The watch: it writes what is not written; tries Redis; looks, learns; UNLINK, rows, DELETE; forgets, closes.

    def watch(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        home = w.homes[p]
        if w.may("inside") and me.snapshot is None:
            yield "BEGIN, and a snapshot", w.spend("inside").actor(i, snapshot=w.table)
        unwritten = home.pending & ~home.written
        if unwritten and me.snapshot is None and not self.has("a call ends when its row is there"):
            free = unwritten & ~self.mark(self.being_written(w, p, ("insert",)) << self.second)
            yield "takes what is not written", w.actor(i, step="insert taken", batch=free) if free else w
        elif unwritten and me.snapshot is None:
            done = w.committed & unwritten >> self.second & ~self.being_written(w, p)
            after = self.note_written(self.journalled(w, unwritten), p, unwritten)
            yield "INSERT of what is not written", self.acknowledge(after, done, p, is_confirmed=False)
        knows_all = not w.acked & (self.by_key | self.by_tag) & ~home.known
        if knows_all and not (home.is_open or home.pending or home.is_flooded or w.table) and home.is_polled:
            if not w.may("idle beat"):
                return
            w = w.spend("idle beat")
        w = w.actor(i, noted=w.acked).home(p, has_beaten=True)
        if not self.is_willing(w, p):
            yield "tries Redis: in vain", self.rest(self.open(w, p), i)
            return
        if w.may("slow") and not home.is_open:
            # One timeout opens nothing.
            after = w.spend("slow").actor(i, is_all=False)
            polls = self.has("a beat polls whatever Redis says")
            yield "tries Redis: no answer in time", after.actor(i, step="look") if polls else self.rest(after, i)
        if home.is_open and not self.has("the breaker closes after the poll"):
            w = w.home(p, is_open=False, known=home.known | w.acked)
        yield "tries Redis", w.actor(i, step="look")

    def insert_taken(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        after = self.note_written(self.journalled(w, me.batch), p, me.batch)
        done = w.committed & me.batch >> self.second & ~self.being_written(w, p)
        yield "INSERT of what it took", self.acknowledge(after, done, p, is_confirmed=False).actor(i, step="", batch=0)

    def being_written(self, w: World, p: int, steps: tuple[str, ...] = ("end rows", "insert")) -> int:
        """Invalidations whose call has not ended."""
        bits = 0
        for i, me in enumerate(w.actors):
            bits |= (self.agents[i].home == p and me.step in steps) << i
        return bits

    def look(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        home, table = w.homes[p], w.table if me.snapshot is None else me.snapshot
        if w.may("busy"):
            after = w.spend("busy")
            closes = not self.has("what was not polled closes nothing")
            done = after.actor(i, step="close", is_all=False) if closes else self.rest(after, i, is_over=False)
            yield "cannot poll", done
        past = home.written if self.has("what is not written stays pending") else home.pending
        every = [1 << bit for bit in range(table.bit_length()) if table >> bit & 1]
        limit = self.scenario.limit + 1
        for rows in combinations(every, min(limit, len(every))):
            yield (
                f"SELECT: {shown(sum(rows)) if rows else 'nothing'}",
                w.actor(
                    i,
                    step="learn",
                    found=sum(rows),
                    past=past,
                    told=w.acked,
                    written=w.written,
                    batch=len(rows) == limit,
                ),
            )

    def learn(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        home, is_cropped = w.homes[p], bool(me.batch)
        past = me.past if self.has("a poll drops what was written before it") else home.written
        if me.snapshot is not None and self.has("an old snapshot drops nothing"):
            past = 0
        gone = past & ~me.found
        pending = home.pending & ~gone | me.found
        w = w.home(p, pending=pending, written=home.written & ~gone | me.found)
        if me.snapshot is None or not self.has("an old snapshot is no first look"):
            w = w.home(p, is_polled=True)
        if me.snapshot is None:
            w = w.home(p, seen=me.written, known=home.known | me.told)
        if is_cropped:
            w = w.home(p, is_flooded=True)
            w = self.outlive(w, p, "a flood outlives a poll that began before it")
        elif not me.is_old and me.snapshot is None and pending.bit_count() <= self.scenario.limit:
            w = w.home(p, is_flooded=False)
        if not me.is_all:
            yield "learns that", self.rest(w, i)  # Redis had no answer
            return
        steps = ("unlink",) if self.has("UNLINK before DELETE") else ("delete",)
        yield "learns that", w.actor(i, step=steps[0] if pending else "close", batch=pending, found=0)

    def unlink(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        if not self.is_willing(w, p):
            yield "UNLINK fails", self.rest(self.open(w, p), i)
            return
        w = self.unlinked(w, me.batch, leases=self.has("a drain revokes the lease"))
        if w.may("lost"):
            yield "UNLINK, its reply is lost", w.spend("lost").actor(i, step="look", is_all=False)
        ends = self.scenario.durable and self.has("a drain ends rows")
        deletes = "delete" if self.has("UNLINK before DELETE") else "close"
        is_late = ends and not self.has("rows end before DELETE")
        step = "drain rows" if ends and not is_late else deletes
        # In a transaction nothing is deleted: that would lock rows until its end.
        yield f"UNLINK {shown(me.batch)}", w.actor(i, step=step if me.snapshot is None else "close")

    def drain_rows(self, w: World, i: int, me: Actor) -> Steps:
        after = w._replace(row=None) if me.batch & self.by_key else w
        is_late = not self.has("rows end before DELETE") or not self.has("UNLINK before DELETE")
        yield "DELETE the rows", after.actor(i, step="close" if is_late else "delete")
        if w.may("rows fail") and not is_late:
            stays = self.has("a drain that ended no rows leaves theirs")
            yield "DELETE of the rows fails", w.spend("rows fail").actor(i, step="close" if stays else "delete")

    def delete(self, w: World, i: int, me: Actor) -> Steps:
        ids = me.batch if self.has("rows of the journal are deleted by id") else self.namesakes(me.batch)
        step = "close" if self.has("UNLINK before DELETE") else "unlink"
        if not self.has("rows end before DELETE") and self.scenario.durable:
            step = "drain rows"
        yield f"DELETE {shown(me.batch)} from the journal", w._replace(table=w.table & ~ids).actor(i, step=step)

    def close(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        gone = me.batch if self.has("pending is kept per row") else self.namesakes(me.batch)
        home = w.homes[p]
        if home.is_flooded and me.snapshot is None and self.has("a flood ends with a poll"):
            w = w.home(p, pending=home.pending & ~gone, written=home.written & ~gone)
            yield "forgets them, and polls again", w.actor(i, step="look", is_old=False)
            return
        stays = home.is_open and me.snapshot is not None and self.has("an old snapshot closes nothing")
        known = home.known | me.noted if home.is_open and not stays else home.known
        w = w.home(p, pending=home.pending & ~gone, written=home.written & ~gone, is_open=stays, known=known)
        if not self.has("a flood ends with a poll"):
            w = w.home(p, is_flooded=w.homes[p].pending.bit_count() > self.scenario.limit)
        yield (
            "forgets them" + ("" if stays else ", the breaker is closed"),
            self.rest(w, i, is_over=me.is_all and me.snapshot is None),
        )

    def rest(self, w: World, i: int, *, is_over: bool = True) -> World:
        """The beat is over: from now on this process knows what was acknowledged when it began."""
        p = self.agents[i].home
        if is_over:
            w = w.home(p, known=w.homes[p].known | w.actors[i].noted)
        return w._replace(actors=(*w.actors[:i], Actor(), *w.actors[i + 1 :]))
