"""An injected scheduler: runs the real code of several processes step by step, in any order, on a real server, with no thread.

What it steps are the async decorators, whose waits it answers itself. It does not choose the order; see orders.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import itertools
import os
import time
import types
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from redis_integration import flights, flow, journal, pools
from redis_integration.flow import Call
from redis_integration.tiers import redis as redis_tier

ALIAS = "default"
NOW = 1_700_000_000.0
FOREVER = 1e9  # seconds
# The modules of the package that run under the scheduler; the connections beneath them are the real ones.
STEPPED = [
    "cache_aside",
    "caching",
    "claims",
    "computation",
    "decorators",
    "flights",
    "invalidation",
    "tiers.leases",
    "tiers.redis",
]


class Wanted:
    """What an agent waits for."""

    def __await__(self):
        return (yield self)


class Send(Wanted):
    """An exchange with Redis, which is made when the scheduler says so; called as `pools.aexchange` is."""

    def __init__(self, alias, commands, *, idempotent=True):
        self.commands = commands


class Step(Wanted):
    """A step outside Redis: "commit" and "origin" in the database, "return", or "nothing"."""

    def __init__(self, name):
        self.name = name


class Join(Wanted):
    """The end of a flight."""

    def __init__(self, flight):
        self.flight = flight


class Pause(Wanted):
    """Some time, before the lease is asked for again."""

    def __init__(self, seconds):
        pass


class Reply(Wanted):
    """What Redis has answered and the agent has not looked at yet."""

    def __init__(self, reply):
        self.reply = reply


class Role(NamedTuple):
    """What an agent does, and the process it does it in; roles of one process share flights."""

    name: str
    play: Callable[[], Coroutine[Any, Any, Any]]
    home: int
    is_writer: bool = False


class Cell(NamedTuple):
    """One key of the server: its bytes, and how many ms are left of it."""

    content: bytes | None = None
    left: int = 0


# The cells of the keys that matter, in the order of `Scene.keys`.
Image = tuple[Cell, ...]


def contents(image):
    return tuple(cell.content for cell in image)


class Scene(NamedTuple):
    """What an order is played on: the keys, and how finely it is cut.

    With `fine`, an agent may also be stopped between a reply and what it makes of it, and around what it does with flights;
    with `impatient`, waiting may end in vain at any moment.
    """

    keys: tuple[str, ...]
    fine: bool = False
    impatient: bool = False


class Agent:
    """One running role."""

    def __init__(self, index, role):
        self.index = index
        self.role = role
        self.coroutine = role.play()
        self.context = contextvars.copy_context()
        self.wanted = None  # nothing yet: it has not begun
        self.is_done = False
        self.floor = 0
        self.answer = None
        self.version = 0
        self.clock = 0.0
        self.seen = None  # the contents its last exchange met
        self.refused = None  # the contents at which the lease was refused: as long as they stand it will be again
        self.history = []
        self.count = itertools.count()

    @property
    def got_old(self):
        """Whether it was given something older than what was acknowledged when it began."""
        return self.answer is not None and self.answer < self.floor

    def state(self):
        """Its memory follows from what it was given, since all that it draws at random repeats."""
        if self.is_done:
            return self.got_old
        seen = self.seen if isinstance(self.wanted, Reply) else None
        return type(self.wanted), self.floor, self.clock, self.refused, seen, tuple(self.history)


_on_stage: list[Any] = [None, None]  # the world and the agent that runs


class World:
    """Agents, a database that counts commits, and what the server holds. Who takes the next step is up to the caller."""

    def __init__(self, scene, roles, image, *, first=0):
        self.scene = scene
        self.image = image
        self.version = 0
        self.acknowledged = 0
        self.origin_calls = self.waits_in_vain = 0
        self.flights = []
        self.tables = {}
        self.agents = []
        for index, role in enumerate(roles, first):
            self.add(index, role)

    def add(self, index, role):
        """One more agent; what it draws at random is its own, by its index."""
        self.tables.setdefault(role.home, {})
        self.agents.append(Agent(index, role))

    def choices(self):
        """Every step that can be taken now: which agent, and whether it goes on or gives up waiting.

        Where nobody can go on, all that wait give up.
        """
        living = [(number, agent) for number, agent in enumerate(self.agents) if not agent.is_done]
        moves = [(number, False) for number, agent in living if not self._is_blocked(agent)]
        late = [(number, True) for number, agent in living if self._is_waiting(agent) and agent.clock < FOREVER]
        return moves + late if self.scene.impatient or not moves else moves

    def _is_blocked(self, agent):
        if isinstance(agent.wanted, Join):
            return not agent.wanted.flight.is_over
        return agent.refused == contents(self.image)

    def _is_waiting(self, agent):
        return agent.refused is not None or isinstance(agent.wanted, Join)

    def take(self, choice, known=None):
        """Take this step; `known` is what it gave when it was taken before. What it gave."""
        agent = self.agents[choice[0]]
        if choice[1]:
            agent.clock, agent.refused = FOREVER, None
            agent.history.append("late")
            self.waits_in_vain += 1
            if isinstance(agent.wanted, Join):
                self._go_on(agent, False)
            return None
        if agent.wanted is None:
            agent.floor = self.acknowledged
            self._go_on(agent, None)
        wanted = agent.wanted
        if not isinstance(wanted, Send):
            answer = self._answer(agent, wanted)
            if self.scene.fine and isinstance(wanted, Step) and wanted.name == "origin":
                agent.wanted = Reply(answer)
            else:
                self._go_on(agent, answer)
            return None
        agent.refused = None
        agent.seen = contents(self.image)
        reply, self.image = known or self._exchange(wanted.commands)
        agent.history.append(repr(reply))
        if self.scene.fine:
            agent.wanted = Reply(reply)
        else:
            self._go_on(agent, reply)
        return reply, self.image

    def _exchange(self, commands):
        """The replies and what the server holds then, in one round trip that first makes it hold what it should."""
        keys, restore = self.scene.keys, self._restore()
        look = [("MGET", *keys), *(("PTTL", key) for key in keys)]
        replies, life = pools.exchange(ALIAS, [*restore, *commands, *look])
        found, left = replies[-len(look)], replies[1 - len(look) :]
        assert -1 not in left, f"one of {keys} has no time to live"
        return (replies[len(restore) : -len(look)], life), tuple(map(Cell, found, left))

    def _restore(self):
        cells = zip(self.scene.keys, self.image, strict=True)
        kept = [("SET", key, cell.content, "PX", cell.left) for key, cell in cells if cell.content is not None]
        return [("UNLINK", *self.scene.keys), *kept]

    def _answer(self, agent, wanted):
        if isinstance(wanted, Reply):
            return wanted.reply
        if isinstance(wanted, Call):
            agent.history.append("call")
            return wanted.function()
        if isinstance(wanted, Join):
            agent.history.append(repr(wanted.flight.landing))
            return True
        agent.history.append(f"{wanted.name} {self.version}")
        if wanted.name == "commit":
            self.version += 1
            # What it reads from now on is not older than what it wrote.
            agent.version = agent.floor = self.version
        self.origin_calls += wanted.name == "origin"
        return self.version

    def _go_on(self, agent, reply):
        """Run the agent until it wants a step of its own."""
        flights._flights = self.tables[agent.role.home]
        _on_stage[:] = self, agent
        try:
            while True:
                agent.wanted = wanted = agent.context.run(agent.coroutine.send, reply)
                if isinstance(wanted, Pause):
                    agent.refused, reply = agent.seen, None
                elif isinstance(wanted, Call) and not self.scene.fine:
                    reply = wanted.function()
                else:
                    return
        except StopIteration as stop:
            agent.is_done, agent.answer = True, stop.value
        if agent.role.is_writer:
            self.acknowledged = max(self.acknowledged, agent.version)

    def state(self):
        """All that the rest depends on: two orders that lead to the same are one from there on."""
        joined = [agent.wanted.flight if isinstance(agent.wanted, Join) else None for agent in self.agents]
        found = {id(flight) for table in self.tables.values() for flight in table.values()}
        flown = frozenset(
            (name, flight.is_open, flight.is_ended, flight.has_company, repr(flight.landing), self._name(flight.after))
            for name, flight in self.flights
            if flight in joined or id(flight) in found or not self.agents[name[0]].is_done
        )
        tables = [(place, self._name(flight)) for table in self.tables.values() for place, flight in table.items()]
        agents = tuple((agent.state(), self._name(flight)) for agent, flight in zip(self.agents, joined, strict=True))
        numbers = self.version, self.acknowledged, self.origin_calls, self.waits_in_vain
        return numbers, contents(self.image), agents, flown, frozenset(tables)

    def _name(self, flight):
        return next((name for name, other in self.flights if other is flight), None)

    def close(self):
        """End what was left in the middle; it sends nothing, since no event loop runs."""
        for agent in self.agents:
            flights._flights = self.tables[agent.role.home]
            _on_stage[:] = self, agent
            agent.context.run(agent.coroutine.close)
        for each in journal._journals.values():
            each.settle(each.known())  # a writer that was ended in the middle of its UNLINK


class SteppedFlight(flights.Flight):
    def __init__(self, *args):
        super().__init__(*args)
        world, agent = _on_stage
        world.flights.append(((agent.index, next(agent.count)), self))

    def await_(self, seconds):
        return Join(self)


@types.coroutine
def _walk(flow):
    """What `arun` does, except that whoever runs the coroutine answers what the flow wants."""
    answer = None
    try:
        while True:
            wanted = flow.send(answer)
            answer = (yield from wanted) if isinstance(wanted, types.CoroutineType) else (yield wanted)
    except StopIteration as stop:
        return stop.value
    finally:
        flow.close()


def _next_bytes(size):
    agent = _on_stage[1]
    return (b"%d.%d" % (agent.index, next(agent.count))).ljust(size, b"_")


def _next_time():
    agent = _on_stage[1]
    return NOW + agent.index / 100 + next(agent.count) / 10_000


def _stand_ins():
    """What a module may have imported, and what it gets instead."""
    clock = types.SimpleNamespace(time=_next_time, monotonic=lambda: _on_stage[1].clock, sleep=Pause)
    return {
        id(flow.arun): _walk,
        id(time): clock,
        id(time.time): clock.time,
        id(time.monotonic): clock.monotonic,
        id(os): types.SimpleNamespace(urandom=_next_bytes),
        id(asyncio): types.SimpleNamespace(
            sleep=Pause, get_running_loop=asyncio.get_running_loop, _get_running_loop=asyncio._get_running_loop
        ),
    }


@contextmanager
def injected() -> Iterator[pytest.MonkeyPatch]:
    """While this lasts the async decorators are stepped, and what they draw or read from a clock repeats."""
    stand_ins = _stand_ins()
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPPED:
            module = importlib.import_module(f"redis_integration.{name}")
            for attribute, found in list(vars(module).items()):
                if id(found) in stand_ins:
                    patch.setattr(module, attribute, stand_ins[id(found)])
        patch.setattr(pools, "aexchange", Send)
        patch.setattr(redis_tier, "_tiers", {})
        patch.setattr(flights, "Flight", SteppedFlight)
        patch.setattr(flights, "_flights", {})
        yield patch
