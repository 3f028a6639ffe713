"""Who does what in which process, and what may go wrong: scenarios as plain values, for the model and for the code.

An operation is a word; what it does step by step is the business of whoever runs the scenario.
"""

from __future__ import annotations

from typing import NamedTuple


class Agent(NamedTuple):
    """Its operations, in order, in the process `home`. Agents are called A, B, C in the order of their scenario."""

    home: int
    does: tuple[str, ...]


class Scenario(NamedTuple):
    name: str
    agents: tuple[Agent, ...]
    faults: tuple[tuple[str, int], ...] = ()  # what may happen, and how often
    tagged: bool = False
    warm: bool = False  # the entry is there, with the old value
    raises: bool = False  # the origin raises an error instead of returning a value
    stalls: bool = False  # in some order an agent waits for a time limit, and nothing else would help

    def may(self, fault: str) -> bool:
        return any(name == fault for name, _ in self.faults)


class Mutation(NamedTuple):
    """The protocol without one of its rules: the scenario that shows what the rule is for, and what breaks."""

    rule: str
    scenario: str
    breaks: str


def reader(home: int) -> Agent:
    return Agent(home, ("get",))


def writer(home: int, *then: str) -> Agent:
    """It commits a write, then tells the cache."""
    return Agent(home, ("write", *then))


def inside(home: int, *does: str, start: str = "begin", end: str = "commit") -> Agent:
    """Everything it does is in one transaction."""
    return Agent(home, (start, *does, end))


BY_KEY, BY_TAG = "invalidate key", "invalidate tag"
LOST = (("lost", 1),)
RESTART = (("snapshot", 1), ("restart", 1))
EVICTIONS = (("evict entry", 1), ("evict lease", 1), ("evict tag", 1))

_SCENARIOS = (
    Scenario("nobody disturbs", (reader(0), reader(0), reader(1), reader(1))),
    Scenario("flight, by key", (reader(0), reader(0), reader(0), writer(1, BY_KEY))),
    Scenario("flight, by tag", (reader(0), reader(0), reader(0), writer(1, BY_TAG)), tagged=True),
    Scenario("flight, writer here", (reader(0), reader(0), reader(1), writer(0, BY_KEY))),
    Scenario("two processes", (reader(0), reader(1), reader(1), writer(0, BY_KEY))),
    Scenario("by key and by tag", (reader(0), reader(1), writer(1, BY_TAG), writer(0, BY_KEY)), tagged=True),
    Scenario("evictions", (reader(0), reader(1), writer(1, BY_TAG)), EVICTIONS, tagged=True),
    Scenario("exception, by key", (reader(0), reader(0), writer(1, BY_KEY)), raises=True),
    Scenario("exception, by tag", (reader(0), reader(0), writer(1, BY_TAG)), tagged=True, raises=True),
    Scenario("refresh", (reader(0), reader(0), writer(0, "refresh"), reader(1))),
    Scenario("refresh, by key", (reader(0), writer(0, "refresh"), writer(1, BY_KEY)), warm=True),
    Scenario("refresh, by tag", (reader(0), writer(0, "refresh"), writer(1, BY_TAG)), warm=True, tagged=True),
    Scenario("two refreshes", (reader(0), writer(0, "refresh"), writer(1, "refresh")), warm=True),
    Scenario("expire", (reader(0), reader(0), reader(1), writer(1, "expire")), warm=True),
    Scenario("expire, cold", (reader(0), reader(0), reader(1), writer(1, "expire"))),
    Scenario("expire, by tag", (reader(0), reader(1), writer(1, "expire"), writer(0, BY_TAG)), tagged=True, warm=True),
    Scenario(
        "expire, then by tag", (reader(0), reader(1), reader(1), writer(0, "expire", BY_TAG)), tagged=True, warm=True
    ),
    Scenario("cancelled", (reader(0), reader(0), writer(1, BY_KEY)), (("cancel", 1),)),
    Scenario("cancelled, two processes", (reader(0), reader(0), reader(1)), (("cancel", 2),)),
    Scenario("lease script late", (reader(0), reader(1), writer(1, BY_KEY)), (("late", 1),)),
    Scenario("scripts forgotten", (reader(0), reader(0), writer(1, BY_KEY)), (("forget scripts", 2),)),
    Scenario("waited in vain", (reader(0), reader(0), reader(1), writer(1, BY_KEY)), (("impatient", 1),)),
    Scenario("pending", (reader(0), reader(0), writer(0, BY_KEY)), LOST, warm=True),
    Scenario("pending, cold", (reader(0), reader(0), writer(0, BY_KEY)), LOST),
    Scenario("pending, two writers", (reader(0), reader(0), writer(0, BY_KEY), writer(1, BY_KEY)), LOST, warm=True),
    Scenario("restart, cold", (reader(0), reader(0), writer(1, BY_KEY)), RESTART),
    Scenario("restart, warm", (reader(0), reader(0), writer(1, BY_KEY)), RESTART, warm=True),
    Scenario("reader in a transaction", (inside(0, "get"), reader(0), writer(1, BY_KEY))),
    Scenario("writer in a transaction", (inside(0, "write", BY_KEY), reader(0), reader(1)), warm=True),
    Scenario("tag in a transaction", (inside(0, "write", BY_TAG), reader(0), reader(1)), tagged=True, warm=True),
    Scenario("its own write", (inside(0, "write", BY_KEY, "get"), reader(0)), warm=True),
    Scenario("write, then read", (inside(0, "write", "get", BY_KEY), reader(0), reader(1))),
    Scenario("read, then write", (inside(0, "get", "write", BY_KEY), reader(0), reader(1))),
    Scenario("rollback", (inside(0, "write", "get", end="rollback"), reader(0), reader(1))),
    Scenario("savepoint", (inside(0, "savepoint", "write", "get", BY_KEY, "undo", "get"), reader(0))),
    Scenario("snapshot reader", (inside(0, "get", start="begin snapshot"), reader(0), writer(1, BY_KEY))),
    Scenario("two reads in a transaction", (inside(0, "get", "get"), reader(1))),
    Scenario("callback raises", (inside(0, "write", "raise on commit", BY_KEY), reader(1)), warm=True),
    Scenario("callback raises before the fill", (inside(0, "raise on commit", "get"), reader(1))),
    Scenario("two transactions", (inside(0, "get"), inside(1, "write", BY_KEY), inside(1, "get"))),
    Scenario(
        "two transactions, one row",
        (inside(0, "write", "get", BY_KEY), inside(1, "get", "write", BY_KEY)),
        stalls=True,
    ),
)
SCENARIOS = {scenario.name: scenario for scenario in _SCENARIOS}

MUTATIONS = (
    # The lease and the fill
    Mutation("one lease", "nobody disturbs", "two processes compute at once"),
    Mutation("read again with the lease", "nobody disturbs", "what was filled since the read is computed again"),
    Mutation("the entry it has seen is not found", "expire", "a stale or invalid entry is found again for ever"),
    Mutation("fill needs the lease", "flight, by key", "who computed before the write stores after it"),
    Mutation("invalidation revokes the lease", "flight, by key", "who computed before the write stores after it"),
    Mutation("refresh replaces the lease", "refresh", "an older computation is stored over the refreshed value"),
    Mutation("refused refresh ends the entry", "two refreshes", "the old value survives both refreshes"),
    Mutation(
        "an invalid copy is no copy", "expire, then by tag", "a stale copy is answered that was found invalidated"
    ),
    Mutation("expire revokes the lease", "expire, cold", "an older computation is stored as fresh"),
    Mutation("a new token each try", "lease script late", "a revoked lease is granted to its owner once more"),
    # Flights
    Mutation("joiners need the fill", "flight, by key", "a joiner takes a value that was invalidated before it called"),
    Mutation(
        "joined until the fill", "flight, by key", "who calls after the fill and an invalidation joins what was filled"
    ),
    Mutation(
        "found is not shared", "two processes", "who joins after the owner has found an entry takes it, invalidated"
    ),
    Mutation("start over once", "nobody disturbs", "whoever had joined a flight that found an entry computes"),
    Mutation("a dead flight is over", "cancelled", "the joiners of a cancelled owner wait in vain"),
    Mutation("exceptions need the release", "exception, by key", "a joiner is given an error of before the write"),
    Mutation("bare until it begins", "pending, two writers", "who joins after the origin has read takes what it read"),
    Mutation(
        "only what began after the call",
        "pending, two writers",
        "who calls after the origin has read, and an acknowledged write, joins what it read",
    ),
    Mutation("bare flights in a row", "pending", "every caller of a pending name computes at once"),
    Mutation("pending", "pending", "the process serves what it has invalidated itself"),
    # Tags
    Mutation(
        "generations with the lease", "flight, by tag", "no generation, so none that the invalidation could change"
    ),
    Mutation("generations before the origin", "flight, by tag", "the entry is of the generation after the write"),
    Mutation("fill checks generations", "flight, by tag", "a joiner takes a value of an older generation"),
    Mutation("release checks generations", "exception, by tag", "a joiner is given an error of an older generation"),
    # Life
    Mutation("an entry is of its life", "restart, warm", "the snapshot's entry is believed"),
    Mutation("own life", "restart, warm", "a late handshake tells the pool an old life"),
    Mutation("life of the lease", "restart, cold", "the snapshot's lease stores what was invalidated"),
    Mutation("refused in another life", "restart, cold", "a joiner takes what only the snapshot's lease has accepted"),
    # Transactions
    Mutation(
        "invalidate after the commit", "writer in a transaction", "a reader stores the old value before the commit"
    ),
    Mutation("invalidations first", "callback raises", "the invalidation is dropped, and the commit is not"),
    Mutation("fill after the commit", "rollback", "others read what is never committed"),
    Mutation("bypass", "its own write", "a transaction does not see its own write"),
    Mutation("no fill from a snapshot", "snapshot reader", "an old snapshot is stored after the invalidation"),
    Mutation("unshared in a transaction", "rollback", "a joiner is answered what is never committed"),
    Mutation("no wait for itself", "two reads in a transaction", "the second read waits for the lease of the first"),
    Mutation("rollback drops the fill", "savepoint", "what a savepoint took back is stored on commit"),
    Mutation("rollback lets the lease go", "rollback", "all others wait until the lease expires"),
)

# Each is there for the case that the other one is forgotten: one alone may go, both may not.
EITHER = ("pending apart", "local invalidation ends the flight")
EITHER_SCENARIO = "pending, cold"
