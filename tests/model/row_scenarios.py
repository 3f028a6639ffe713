"""Who reads and writes while Redis is gone for some, and which rule of the rows each scenario needs: plain values."""

from __future__ import annotations

from typing import NamedTuple

from tests.model.scenarios import BY_KEY, BY_TAG, Agent, Mutation, reader, writer


class RowScenario(NamedTuple):
    name: str
    agents: tuple[Agent, ...]
    faults: tuple[tuple[str, int], ...] = ()
    durable: bool = False
    tagged: bool = False
    down: bool = False  # Redis is gone for all, and all know it
    warm: bool = False  # entry and row are there, with the old value
    raises: bool = False  # the origin raises, and the row is past its ttl
    stalls: bool = False


CUT, CUTS, CUT_ALL = (("cut", 1),), (("cut", 2),), (("cut all", 1),)
LOST, DATABASE_FAILS = (("lost", 1),), (("database fails", 1),)

_SCENARIOS = (
    RowScenario("rows: nobody disturbs", (reader(0), reader(0), reader(1)), down=True),
    RowScenario("rows: by key", (reader(0), reader(0), writer(1, BY_KEY)), down=True),
    RowScenario("rows: by key, two processes", (reader(0), reader(1), writer(1, BY_KEY)), down=True),
    RowScenario("rows: by tag", (reader(0), reader(0), writer(1, BY_TAG)), down=True, tagged=True),
    RowScenario("rows: by tag, two processes", (reader(0), reader(1), writer(1, BY_TAG)), down=True, tagged=True),
    RowScenario("rows: all cut off", (reader(0), reader(1), writer(1, BY_KEY)), CUT_ALL, warm=True),
    RowScenario("rows: one cut off", (reader(0), reader(0), writer(1, BY_KEY)), CUT),
    RowScenario("rows: an earlier outage", (Agent(0, ("get", "get")), writer(1, BY_KEY)), CUTS),
    RowScenario("rows: two outages", (reader(0), reader(0), writer(1, BY_KEY)), CUTS),
    RowScenario("rows: lost", (reader(0), writer(1, BY_KEY)), (*CUT, *LOST)),
    RowScenario("rows: lost, by tag", (reader(0), writer(1, BY_TAG)), (*CUT, *LOST), tagged=True),
    RowScenario("rows: database fails", (reader(0), writer(0, BY_KEY)), DATABASE_FAILS, down=True),
    RowScenario("durable: all well", (reader(0), reader(1), writer(1, BY_KEY)), durable=True),
    RowScenario("durable: by key", (reader(0), reader(1), writer(1, BY_KEY)), CUT, durable=True),
    RowScenario("durable: by tag", (reader(0), reader(1), writer(1, BY_TAG)), durable=True, tagged=True),
    RowScenario("durable: by tag, cut off", (reader(0), writer(1, BY_TAG)), CUT, durable=True, tagged=True),
    RowScenario("durable: warm", (reader(0), writer(1, BY_KEY)), (*CUT, *LOST), durable=True, warm=True),
    RowScenario("durable: raises", (reader(0), writer(1, BY_KEY)), CUT, durable=True, warm=True, raises=True),
    RowScenario(
        "durable: raises, by tag",
        (reader(0), reader(0), writer(1, BY_TAG)),
        durable=True,
        tagged=True,
        warm=True,
        raises=True,
    ),
)
ROW_SCENARIOS = {scenario.name: scenario for scenario in _SCENARIOS}

ROW_MUTATIONS = (
    Mutation("a row is leased as it was seen", "rows: nobody disturbs", "what was filled since is computed again"),
    Mutation("row fill needs the lease", "rows: by key", "who computed before the write stores after it"),
    Mutation("row generations before the origin", "rows: by tag", "the row is of the generation after the write"),
    Mutation("row fill checks generations", "rows: by tag", "a joiner takes a value of an older generation"),
    Mutation("a flight for each tier", "rows: one cut off", "a joiner whom Redis would answer takes what a row gives"),
    Mutation(
        "rows of this outage", "rows: an earlier outage", "a row survives what only Redis was told between two outages"
    ),
    Mutation("the lease leaves the row's time alone", "rows: two outages", "an old row passes for one of this outage"),
    Mutation("unconfirmed invalidations end rows", "rows: lost", "the row stays where the writer's breaker is closed"),
    Mutation("a failed ending is remembered", "rows: database fails", "the process serves what it has invalidated"),
    Mutation("a confirmed invalidation ends durable rows", "durable: by key", "the row lives on for its whole ttl"),
    Mutation(
        "row lease before the origin", "durable: all well", "the row is leased after the write, and older than it"
    ),
    Mutation("a stale row needs its generation", "durable: raises, by tag", "an invalidated row is served as stale"),
)
