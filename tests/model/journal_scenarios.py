"""What Redis does not confirm, and what becomes of it: scenarios of the journal, and what each of its rules is for. Plain values."""

from __future__ import annotations

from typing import NamedTuple

from tests.model.scenarios import BY_KEY, BY_TAG, Agent, Mutation, reader, writer

# Inside a transaction that is rolled back later: the write itself was made by another connection, and is committed.
BY_KEY_INSIDE = "invalidate key inside"
OTHER = "invalidate other"  # a name that no reader asks for
OTHERS = Agent(1, ("journal other",))


class JournalScenario(NamedTuple):
    """A watch is an agent that never ends; a home may have several: a thread, and the command or the admin's action."""

    name: str
    agents: tuple[Agent, ...]
    faults: tuple[tuple[str, int], ...] = ()
    always: bool = False
    tagged: bool = False
    durable: bool = False  # there is a durable row too
    cold: bool = False  # the entry is not there yet
    limit: int = 9  # names that are bypassed one by one
    stalls: bool = False
    raises: bool = False

    @property
    def warm(self) -> bool:
        return not self.cold

    def may(self, fault: str) -> bool:
        return any(name == fault for name, _ in self.faults)


def watch(home: int) -> Agent:
    return Agent(home, ("watch",))


LOST, TIMEOUT, CUT, CUT_ALL = (("lost", 1),), (("timeout", 1),), (("cut", 1),), (("cut all", 1),)
RESTART = (("snapshot", 1), ("restart", 1))
HERE, THERE = writer(0, BY_KEY), writer(1, BY_KEY)

_SCENARIOS = (
    JournalScenario("journal: reply lost", (reader(1), HERE, watch(0), watch(1)), LOST),
    JournalScenario("journal: command lost, by tag", (reader(1), writer(0, BY_TAG), watch(1)), TIMEOUT, tagged=True),
    JournalScenario("journal: command lost, cold", (reader(0), reader(1), HERE, watch(0)), TIMEOUT, cold=True),
    JournalScenario("journal: cut off", (reader(1), HERE, watch(0), watch(1)), CUT),
    JournalScenario("journal: all cut off", (reader(0), THERE, watch(0)), CUT_ALL),
    JournalScenario("journal: cut off while it drains", (reader(1), HERE, watch(0)), (*TIMEOUT, *CUT)),
    JournalScenario("journal: two writers", (reader(1), HERE, HERE, watch(0)), (("timeout", 2),)),
    JournalScenario("journal: two drains", (HERE, watch(0), watch(1)), TIMEOUT, durable=True),
    JournalScenario("journal: two drains in a process", (HERE, watch(0), watch(0)), (("timeout", 1), ("lost", 1))),
    JournalScenario("journal: writes refused", (reader(1), HERE, watch(0), watch(1)), (("refuse", 1),)),
    JournalScenario("journal: a slow probe", (HERE, watch(1)), (*TIMEOUT, ("slow", 1))),
    JournalScenario("journal: started later", (HERE, reader(1), watch(1)), (*CUT, ("start", 1))),
    JournalScenario(
        "journal: database fails", (reader(1), HERE, watch(0), watch(1)), (*TIMEOUT, ("database fails", 1))
    ),
    JournalScenario(
        "journal: row written unheard", (reader(1), HERE, HERE, watch(1)), (("timeout", 2), ("insert unheard", 1))
    ),
    JournalScenario(
        "journal: rows not ended", (HERE, watch(1)), (*TIMEOUT, ("rows fail", 1), ("kill", 1)), durable=True
    ),
    JournalScenario("journal: poll not made", (THERE, watch(0)), (*CUT_ALL, ("busy", 1))),
    JournalScenario("journal: polls inside", (reader(0), HERE, watch(0)), (*TIMEOUT, ("inside", 1))),
    JournalScenario("journal: polls inside, cut off", (THERE, reader(0), watch(0)), (*CUT, *TIMEOUT, ("inside", 1))),
    JournalScenario("journal: polls inside, first", (HERE, watch(1)), (*TIMEOUT, ("inside", 1), ("start", 1))),
    JournalScenario("journal: forked", (HERE, watch(0), watch(1)), (*TIMEOUT, ("fork", 1))),
    JournalScenario("journal: invalidated inside", (writer(0, BY_KEY_INSIDE), watch(0)), TIMEOUT),
    JournalScenario("journal: killed", (HERE, watch(0), watch(1)), (*TIMEOUT, ("kill", 1))),
    JournalScenario("journal: killed, cut off", (HERE, watch(0), watch(1)), (*CUT, ("kill", 1)), durable=True),
    JournalScenario("journal: restart", (reader(0), reader(0), HERE, watch(0)), (*TIMEOUT, *RESTART)),
    JournalScenario(
        "journal: restart, by tag", (reader(1), writer(0, BY_TAG), watch(1)), (*LOST, *RESTART), tagged=True
    ),
    JournalScenario("journal: flood", (THERE, OTHERS, watch(0)), TIMEOUT, limit=0),
    JournalScenario("journal: flood here", (HERE, writer(0, OTHER), watch(0)), (("timeout", 2),), limit=1),
    JournalScenario(
        "journal: flood, two drains", (THERE, OTHERS, watch(0), watch(0)), (*TIMEOUT, ("idle beat", 1)), limit=0
    ),
    JournalScenario("always: killed", (reader(1), HERE, watch(1)), (("kill", 1),), always=True, durable=True),
    JournalScenario(
        "always: killed, by tag", (reader(1), writer(0, BY_TAG), watch(1)), (("kill", 1),), always=True, tagged=True
    ),
    JournalScenario(
        "always: killed while it drains", (HERE, watch(0), watch(1)), (*LOST, ("kill", 1)), always=True, durable=True
    ),
    JournalScenario(
        "always: rows not ended",
        (HERE, watch(0), watch(1)),
        (("rows fail", 1), ("kill", 1)),
        always=True,
        durable=True,
    ),
)
JOURNAL_SCENARIOS = {scenario.name: scenario for scenario in _SCENARIOS}

JOURNAL_MUTATIONS = (
    Mutation("what is not confirmed is journalled", "journal: cut off", "nobody else ever hears of it"),
    Mutation("polled before it is believed", "journal: started later", "a new process believes what should be gone"),
    Mutation("a child polls anew", "journal: forked", "it believes what its parent has journalled since"),
    Mutation(
        "what is not written stays pending", "journal: two writers", "a poll drops a name whose row is not there yet"
    ),
    Mutation(
        "a poll drops what was written before it", "journal: two writers", "a poll drops a row written since it looked"
    ),
    Mutation("pending is kept per row", "journal: two writers", "the drain of one row forgets a younger one"),
    Mutation(
        "a row for each invalidation", "journal: two writers", "the younger invalidation goes with the older one's row"
    ),
    Mutation(
        "the newest mark speaks for those before it",
        "journal: row written unheard",
        "the row of an older one is drained elsewhere, and it goes with what came after it",
    ),
    Mutation("rows of the journal are deleted by id", "journal: two writers", "a row goes that came after the UNLINK"),
    Mutation("the breaker closes after the poll", "journal: all cut off", "Redis is believed before anything is known"),
    Mutation(
        "what was not polled closes nothing", "journal: poll not made", "Redis is believed before anything is known"
    ),
    Mutation(
        "a beat polls whatever Redis says", "journal: a slow probe", "a process whose tries are slow hears of nothing"
    ),
    Mutation("an old snapshot drops nothing", "journal: polls inside", "the row that it lacks is there"),
    Mutation(
        "an old snapshot closes nothing",
        "journal: polls inside, cut off",
        "Redis is believed without the row that it lacks",
    ),
    Mutation("an old snapshot is no first look", "journal: polls inside, first", "Redis is believed without that row"),
    Mutation("written outside any transaction", "journal: invalidated inside", "a rollback takes the row"),
    Mutation(
        "UNLINK before DELETE",
        "journal: two drains",
        "another one's poll finds nothing any more, and the entry is there",
    ),
    Mutation(
        "a drain revokes the lease",
        "journal: command lost, cold",
        "who computed before the write stores after the drain",
    ),
    Mutation("a drain ends rows", "always: killed", "the row of who was killed lives on"),
    Mutation(
        "rows end before DELETE", "always: killed while it drains", "who is killed between leaves the row, and no trace"
    ),
    Mutation("a flood ends with a poll", "journal: flood", "Redis is believed when those are drained that were found"),
    Mutation(
        "a flood outlives a poll that began before it", "journal: flood, two drains", "an earlier poll ends the bypass"
    ),
    Mutation(
        "what was shed outlives a poll that began before it", "journal: flood here", "it is pending nowhere any more"
    ),
    Mutation("a call that ended no rows leaves its own", "always: rows not ended", "the row lives on, and no trace"),
    Mutation("a drain that ended no rows leaves theirs", "always: rows not ended", "the row lives on, and no trace"),
    Mutation(
        "a call ends when its row is there",
        "journal: killed, cut off",
        "it was promised that others will hear of it, and who was to tell them is killed",
    ),
    Mutation("the row comes with the commit", "always: killed", 'it is as with "on_failure": nobody knows of it'),
    Mutation("the row is committed with the data", "always: killed", "it is drained, and deleted, before the commit"),
)
