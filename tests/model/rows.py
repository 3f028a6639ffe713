"""The protocol of design §5 with Redis gone: the rows of the fallback tier. It knows nothing of redis_integration.

A step is one statement, one script, or one change of what a process remembers. Time is left out, and so is what it bounds: a row
may lack a write that Redis confirmed to another process while this one was cut off, unless rows are durable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.row_scenarios import RowScenario
from tests.model.states import letter, shown

Homes = frozenset[int]
NOBODY: Homes = frozenset()


class Row(NamedTuple):
    lease: int  # whose token it was leased with last
    is_held: bool = True
    leased_for: Homes = NOBODY  # whose breakers were open when it was leased
    value: int | None = None
    admits: Homes = NOBODY  # whose breakers were open when the origin call of the value began
    generation: int = 0


class Redis(NamedTuple):
    value: int | None = None
    stamp: int = 0  # the generation that the entry is of
    lease: int = 0
    generation: int = 0


class Home(NamedTuple):
    known: int = 0  # writes that Redis and the origin must show to this process
    row_known: int = 0  # writes that rows must show to it
    is_cut: bool = False
    is_open: bool = False
    pending: int = 0
    unended: int = 0  # writes whose rows it could not delete
    flights: tuple[int | None, int | None] = (None, None)  # whose computation can be joined: for Redis, for the row


class Actor(NamedTuple):
    op: int = 0
    step: str = ""
    floor: int = 0
    row_floor: int = 0
    tier: int = -1  # where it would store: 0 in Redis, 1 in the row
    saw: int | None = None  # the token it read in the row; None: no row
    is_free: bool = True  # the row, when it was read
    lease: int = 0  # its token in Redis
    stamp: int = 0  # the generation there
    token: int = 0  # its token in the row
    generation: int = 0
    value: int = 0
    ok: bool = False
    host: int | None = None
    again: bool = False


class World(NamedTuple):
    redis: Redis
    row: Row | None
    tag: int  # the generation in the database; 0: none
    homes: tuple[Home, ...]
    actors: tuple[Actor, ...]
    faults: tuple[tuple[str, int], ...]
    committed: int = 0
    computed: int = 0
    bad: str = ""

    def actor(self, i: int, **changes: object) -> World:
        changed = self.actors[i]._replace(**changes)  # type: ignore[arg-type]
        return self._replace(actors=(*self.actors[:i], changed, *self.actors[i + 1 :]))

    def home(self, p: int, **changes: object) -> World:
        changed = self.homes[p]._replace(**changes)  # type: ignore[arg-type]
        return self._replace(homes=(*self.homes[:p], changed, *self.homes[p + 1 :]))

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


class RowProtocol:
    """The moves of a scenario's world, by all the rules but those that are `dropped`."""

    def __init__(self, scenario: RowScenario, dropped: frozenset[str] = frozenset()) -> None:
        self.scenario = scenario
        self.dropped = dropped
        self.agents = scenario.agents
        only_reads = all(agent.does == ("get",) for agent in self.agents)
        # Two that create one generation at once are both told to have won: one of them computes again.
        self.is_calm = only_reads and not (scenario.faults or scenario.warm or scenario.tagged)

    def has(self, rule: str) -> bool:
        return rule not in self.dropped

    def start(self) -> World:
        scenario, stamp = self.scenario, 1 if self.scenario.tagged else 0
        redis, row = Redis(generation=stamp), None
        if scenario.warm:
            row = Row(1, is_held=False, value=0, generation=stamp)
            redis = redis if scenario.raises else redis._replace(value=0, stamp=stamp)
        home = Home(is_cut=scenario.down, is_open=scenario.down)
        homes = (home,) * (1 + max(agent.home for agent in self.agents))
        tag = stamp if scenario.warm else 0
        return World(redis, row, tag, homes, (Actor(),) * len(self.agents), scenario.faults)

    def operation(self, i: int, me: Actor) -> str:
        does = self.agents[i].does
        return does[me.op] if me.op < len(does) else ""

    # What is true of every state

    def wrong(self, w: World) -> str:
        if w.bad:
            return w.bad
        for p, home in enumerate(w.homes):
            entry = w.redis.value if w.redis.stamp == w.redis.generation else None
            if entry is not None and not (home.is_open or home.pending) and (lacks := home.known & ~entry):
                return f"STALE: Redis would answer P{p} {shown(entry)} without {shown(lacks)}, which was acknowledged"
            value = self.believed(w, p)
            is_read = home.is_open or self.scenario.durable
            if value is not None and is_read and (lacks := home.row_known & ~value):
                return f"STALE: the row would answer P{p} {shown(value)} without {shown(lacks)}, which was acknowledged"
        if self.is_calm and w.computed > 1:
            return "STAMPEDE: computed twice, and nobody had disturbed the first"
        return ""

    def unfinished(self, w: World) -> str:
        for i, me in enumerate(w.actors):
            if self.operation(i, me):
                return f"STUCK: {letter(i)} never ends"
        if w.row is not None and w.row.is_held:
            return "LEFT: a row lease that nobody has"
        return ""

    def believed(self, w: World, p: int) -> int | None:
        """What the row answers this process while its breaker is open."""
        row, home = w.row, w.homes[p]
        if row is None or row.value is None or (home.unended and self.has("a failed ending is remembered")):
            return None
        if not self.scenario.durable and p not in row.admits and self.has("rows of this outage"):
            return None
        return row.value if not self.scenario.tagged or row.generation == w.tag else None

    # All moves

    def moves(self, w: World) -> Iterator[Move]:
        is_stuck = True
        for i, me in enumerate(w.actors):
            name = me.step or self.operation(i, me)
            if name and name != "joined":
                for what, after in getattr(self, name.replace(" ", "_"))(w, i, me):
                    is_stuck &= after == w
                    if after != w:
                        yield Move("step", letter(i), what, after)
        for what, after in self.watch(w):
            is_stuck = False
            yield Move("step", "the watch", what, after)
        for i, me in enumerate(w.actors):
            if is_stuck and me.step in ("poll", "joined"):
                yield Move("time", letter(i), "has waited too long", w.actor(i, step="compute", tier=-1, host=None))
        for what, after in self.accidents(w):
            yield Move("fault", "the network", what, after)

    def accidents(self, w: World) -> Steps:
        if w.may("cut"):
            yield "cuts P0 off", w.spend("cut").home(0, is_cut=True)
        if w.may("cut all"):
            yield "cuts all off", w.spend("cut all")._replace(homes=tuple(h._replace(is_cut=True) for h in w.homes))
        if self.scenario.faults and any(home.is_cut for home in w.homes):
            yield "heals", w._replace(homes=tuple(home._replace(is_cut=False) for home in w.homes))

    def watch(self, w: World) -> Steps:
        for p, home in enumerate(w.homes):
            if (home.is_open or home.pending) and not home.is_cut:
                after = self.unlinked(w) if home.pending else w
                known = home.known | home.pending
                after = after.home(p, is_open=False, pending=0, known=known, row_known=home.row_known | home.known)
                if row := after.row:  # what began in this outage is over with it
                    row = row._replace(admits=row.admits - {p}, leased_for=row.leased_for - {p})
                yield f"P{p} repeats its UNLINK, and the breaker closes", after._replace(row=row)
            if home.unended:
                after = self.acknowledge(w._replace(row=None, tag=0), home.unended, by=p, is_confirmed=False)
                yield f"P{p} repeats its DELETE", after.home(p, unended=0)

    def unlinked(self, w: World) -> World:
        return w._replace(redis=Redis())

    # Readers

    def get(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        home = w.homes[p]
        if not me.again and me.tier < 0:
            w = w.actor(i, floor=home.known, row_floor=home.row_known)
        if home.is_open:
            w = self.look(w, i)
            value = self.believed(w, p)
            if value is not None and not self.scenario.raises:
                yield f"SELECT: {shown(value)}", self.answer(w, i, value, by_row=True)
            else:
                yield "SELECT: nothing to believe", w.actor(i, step="enter", tier=1)
        elif home.pending:
            yield "the name is pending", w.actor(i, step="compute", tier=-1)
        elif home.is_cut:
            yield "GET fails, the breaker opens", w.actor(i, tier=1).home(p, is_open=True, flights=(None, None))
        elif w.redis.value is not None and w.redis.stamp == w.redis.generation:
            yield f"GET: {shown(w.redis.value)}", self.answer(w, i, w.redis.value)
        else:
            yield "GET: a miss", w.actor(i, step="enter", tier=0)

    def unused(self, w: World) -> int:
        """The smallest number that is no token and no generation yet."""
        used = {0, w.redis.lease, w.redis.stamp, w.redis.generation, w.tag}
        used |= {w.row.lease, w.row.generation} if w.row else set()
        used.update(*((me.saw or 0, me.lease, me.stamp, me.token, me.generation) for me in w.actors))
        return min(set(range(len(used) + 1)) - used)

    def look(self, w: World, i: int) -> World:
        return w.actor(i, saw=w.row.lease if w.row else None, generation=w.tag, is_free=not (w.row and w.row.is_held))

    def enter(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        flights = w.homes[p].flights
        owner = flights[me.tier]
        if owner is None and not self.has("a flight for each tier"):
            owner = flights[1 - me.tier]
        if owner is not None:
            yield f"joins {letter(owner)}", w.actor(i, step="joined", host=owner)
        else:
            mine = (i, flights[1]) if me.tier == 0 else (flights[0], i)
            w = w.home(p, flights=mine)
            if me.tier == 0:
                yield "begins a flight", w.actor(i, step="lease")
            else:
                yield "begins a flight", w.actor(i, step=self.next_of_row(w.actors[i]))

    def next_of_row(self, me: Actor) -> str:
        if not me.is_free:
            return "poll"
        is_first = self.scenario.tagged and not me.generation and self.has("row generations before the origin")
        return "insert tag" if is_first else "take row"

    def poll(self, w: World, i: int, me: Actor) -> Steps:
        p = self.agents[i].home
        after = self.look(w, i)
        value = self.believed(w, p)
        if value is not None and me.tier == 1:
            yield f"SELECT: {shown(value)}", after.actor(i, step="found", value=value)
        else:
            yield "SELECT: the row is free", after.actor(i, step=self.next_of_row(after.actors[i]))

    def found(self, w: World, i: int, me: Actor) -> Steps:
        yield f"answers {shown(me.value)}", self.answer(self.tell(w, i, ok=False, found=True), i, me.value, by_row=True)

    def insert_tag(self, w: World, i: int, me: Actor) -> Steps:
        # Which of two that insert at once has won, nobody asks: the other one's fill is refused.
        mine = self.unused(w)
        w = w._replace(tag=w.tag or mine)
        yield "INSERT the generation", w.actor(i, generation=mine, step="take row")

    def take_row(self, w: World, i: int, me: Actor) -> Steps:
        row, token, is_mine = w.row, self.unused(w), me.tier == 1
        open_now = frozenset(p for p, home in enumerate(w.homes) if home.is_open)
        is_as_seen = (row is None and me.saw is None) or (row is not None and row.lease == me.saw)
        if not (is_as_seen or not is_mine) and self.has("a row is leased as it was seen"):
            yield "the row is another's", w.actor(i, step="poll")
            return
        row = (row or Row(0))._replace(lease=token, is_held=True, leased_for=open_now)
        if not self.has("the lease leaves the row's time alone"):
            row = row._replace(admits=open_now)
        step = "compute" if is_mine or self.has("row lease before the origin") else "fill"
        yield "leases the row", w._replace(row=row).actor(i, token=token, step=step)

    def lease(self, w: World, i: int, me: Actor) -> Steps:
        p, redis = self.agents[i].home, w.redis
        if w.homes[p].is_cut:
            w = self.tell(w, i, ok=False).home(p, is_open=True, flights=(None, None))
            yield "the lease script fails", w.actor(i, step="compute", tier=-1)
        elif redis.value is not None and redis.stamp == redis.generation:
            yield "lease script: found", self.answer(self.tell(w, i, ok=False, found=True), i, redis.value)
        elif redis.lease:
            yield "lease script: held", self.tell(w, i, ok=False).actor(i, step="compute", tier=-1)
        else:
            if self.scenario.tagged and not redis.generation:
                redis = redis._replace(generation=self.unused(w))
            w = w._replace(redis=redis)
            w = w._replace(redis=Redis(lease=self.unused(w), generation=redis.generation))
            generation = redis.generation
            takes_row = self.scenario.durable and self.has("row lease before the origin")
            step = "select tag" if takes_row else "compute"
            yield "lease script: granted", w.actor(i, step=step, lease=w.redis.lease, stamp=generation)

    def select_tag(self, w: World, i: int, me: Actor) -> Steps:
        w = self.look(w, i).actor(i, is_free=True)  # it replaces another's lease
        yield "SELECT the generation", w.actor(i, step=self.next_of_row(w.actors[i]))

    def compute(self, w: World, i: int, me: Actor) -> Steps:
        w = w._replace(computed=w.computed + self.is_calm)
        what = "the origin raises" if self.scenario.raises else f"origin: {shown(w.committed)}"
        if me.tier == 0:
            is_late = self.scenario.durable and not self.has("row lease before the origin")
            yield what, w.actor(i, value=w.committed, step="take row" if is_late else "fill")
        elif me.tier == 1:
            yield what, w.actor(i, value=w.committed, step="send")
        elif self.scenario.raises:
            yield what, w.actor(i, step="last resort")
        else:
            yield what, self.answer(w, i, w.committed)

    def send(self, w: World, i: int, me: Actor) -> Steps:
        if not self.has("row generations before the origin") and not me.generation and self.scenario.tagged:
            w = w._replace(tag=w.tag or self.unused(w))
            w = w.actor(i, generation=w.tag)
        yield "sends its fill", self.leave(w, i).actor(i, step="fill row")

    def fill(self, w: World, i: int, me: Actor) -> Steps:
        p, redis = self.agents[i].home, w.redis
        ok = not w.homes[p].is_cut and redis.lease == me.lease and redis.generation == me.stamp
        w = self.leave(w, i)
        if w.homes[p].is_cut:
            w = w.home(p, is_open=True, flights=(None, None))
        elif redis.lease == me.lease:
            stored = {} if not ok or self.scenario.raises else {"value": me.value, "stamp": me.stamp}
            w = w._replace(redis=redis._replace(lease=0, **stored))
        step = "fill row" if self.scenario.durable else "publish"
        yield "fill script: " + ("accepted" if ok else "refused"), w.actor(i, ok=ok, step=step)

    def fill_row(self, w: World, i: int, me: Actor) -> Steps:
        row = w.row
        is_mine = row is not None and row.lease == me.token
        checks = self.scenario.tagged and self.has("row fill checks generations")
        ok = (is_mine or not self.has("row fill needs the lease")) and not (checks and w.tag != me.generation)
        if is_mine and row is not None:
            row = row._replace(is_held=False)
        if ok and not self.scenario.raises:
            row = row or Row(0, is_held=False)
            row = row._replace(value=me.value, admits=row.leased_for, generation=me.generation)
        # With Redis up its own fill speaks for those who joined.
        w = w._replace(row=row).actor(i, step="publish", ok=ok if me.tier == 1 else me.ok)
        yield "fills the row" if ok else "the row refuses", w

    def publish(self, w: World, i: int, me: Actor) -> Steps:
        w = self.tell(w, i, ok=me.ok)
        if self.scenario.raises:
            yield "has an error", w.actor(i, step="last resort")
        else:
            yield f"returns {shown(me.value)}", self.answer(w, i, me.value)

    def last_resort(self, w: World, i: int, me: Actor) -> Steps:
        """The origin raised: a row past its ttl is the answer, if it was not invalidated."""
        row, home = w.row, w.homes[self.agents[i].home]
        is_there = row is not None and row.value is not None and not home.unended
        if is_there and self.has("a stale row needs its generation") and self.scenario.tagged:
            is_there = row is not None and row.generation == w.tag
        if is_there and row is not None and row.value is not None:
            yield f"SELECT: {shown(row.value)}", self.answer(w, i, row.value, by_row=True)
        else:
            yield "raises", self.end(w, i)

    def leave(self, w: World, i: int) -> World:
        p = self.agents[i].home
        flights = tuple(None if owner == i else owner for owner in w.homes[p].flights)
        return w.home(p, flights=flights)

    def tell(self, w: World, owner: int, *, ok: bool, found: bool = False) -> World:
        w = self.leave(w, owner)
        host = w.actors[owner]
        for j, me in enumerate(w.actors):
            if me.step == "joined" and me.host == owner:
                if ok and self.scenario.raises:
                    w = w.actor(j, step="last resort", host=None)
                elif ok:
                    w = self.answer(w, j, host.value, by_row=me.tier == 1)
                elif me.again and not found:
                    w = w.actor(j, step="compute", tier=-1, host=None)
                else:
                    w = w.actor(j, step="get", again=True, host=None)
        return w

    def answer(self, w: World, i: int, value: int, *, by_row: bool = False) -> World:
        me = w.actors[i]
        if lacks := (me.row_floor if by_row else me.floor) & ~value:
            w = w._replace(bad=f"STALE: {letter(i)} is answered {shown(value)} without {shown(lacks)}")
        return self.end(w, i)

    def end(self, w: World, i: int) -> World:
        done = Actor(op=w.actors[i].op + 1)
        return w._replace(actors=(*w.actors[:i], done, *w.actors[i + 1 :]))

    # Writers

    def write(self, w: World, i: int, me: Actor) -> Steps:
        yield f"commits {letter(i)}", self.end(w._replace(committed=w.committed | 1 << i), i)

    def invalidate_key(self, w: World, i: int, me: Actor) -> Steps:
        yield from self.invalidate(w, i, {"value": None, "lease": 0})

    def invalidate_tag(self, w: World, i: int, me: Actor) -> Steps:
        yield from self.invalidate(w, i, {"generation": 0})

    def invalidate(self, w: World, i: int, gone: dict[str, object]) -> Steps:
        p = self.agents[i].home
        w = w.home(p, flights=(None, None))
        home, write = w.homes[p], w.committed & 1 << i
        lost = w.home(p, pending=home.pending | write).actor(i, step="end rows")
        if home.is_open or home.is_cut:
            yield "UNLINK fails, the breaker is open", lost.home(p, is_open=True)
            return
        if w.may("lost"):
            yield "UNLINK is lost: the name is pending", lost.spend("lost")
        w = w._replace(redis=w.redis._replace(**gone))  # type: ignore[arg-type]
        if self.scenario.durable and self.has("a confirmed invalidation ends durable rows"):
            yield "UNLINK", w.actor(i, step="end rows", ok=True)
        else:
            yield "UNLINK", self.end(self.acknowledge(w, write, by=p, is_confirmed=True), i)

    def end_rows(self, w: World, i: int, me: Actor) -> Steps:
        p, write = self.agents[i].home, w.committed & 1 << i
        gone: dict[str, object] = {"tag": 0} if self.operation(i, me) == "invalidate tag" else {"row": None}
        if w.may("database fails"):
            after = w.spend("database fails").home(p, unended=w.homes[p].unended | write)
            after = after.home(p, row_known=after.homes[p].row_known | write)
            if me.ok:
                after = self.confirm(after, write)
            yield "DELETE fails, the names are remembered", self.end(after, i)
        if w.homes[p].is_open or me.ok or self.has("unconfirmed invalidations end rows"):
            after = w._replace(**gone)  # type: ignore[arg-type]
        else:
            after = w
        yield "DELETE the rows", self.end(self.acknowledge(after, write, by=p, is_confirmed=me.ok), i)

    def confirm(self, w: World, write: int) -> World:
        return w._replace(homes=tuple(home._replace(known=home.known | write) for home in w.homes))

    def acknowledge(self, w: World, write: int, *, by: int, is_confirmed: bool) -> World:
        """From now on an answer shows the write: by Redis where it was confirmed, by rows where they were ended."""
        homes = []
        for p, home in enumerate(w.homes):
            by_redis = is_confirmed or p == by
            # Behind a breaker that was open already, what Redis confirmed is known within FALLBACK_TTL.
            by_row = self.scenario.durable or not is_confirmed or not home.is_open
            known = home.known | write if by_redis else home.known
            homes.append(home._replace(known=known, row_known=home.row_known | write if by_row else home.row_known))
        return w._replace(homes=tuple(homes))
