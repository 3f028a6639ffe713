"""Every order of the steps of some agents, counted exactly. It does not know what the agents do."""

from __future__ import annotations

from typing import Any, NamedTuple

from redis_integration import pools
from tests.interleavings.scheduler import ALIAS, Cell, World

# The lease of somebody who died before the first step.
SOMEBODY = b"somebody"


class Tally(NamedTuple):
    """How many orders there are, how many of them ended how, and the steps of one that was wrong."""

    orders: int = 0
    stale: int = 0  # a read after all of it gets an old version
    old_answers: int = 0  # a caller got what was older than acknowledged when its call began
    leases: int = 0  # a lease was left behind
    hits: int = 0  # a read after all of it is a hit
    repeated: int = 0  # the origin was called more often than there were versions
    late: int = 0  # somebody waited in vain
    taken: int = 0  # steps that were taken, each of them once from each state that it can be taken from
    example: str = ""

    @property
    def share(self):
        return self.stale / self.orders

    @property
    def wrong(self):
        """What must be nothing, and how it came about."""
        return self.stale, self.old_answers, self.leases, self.example

    def plus(self, ways, end, tell):
        found = {field: getattr(self, field) + ways * count for field, count in end.items()}
        is_wrong = end["stale"] or end["old_answers"] or end["leases"]
        return self._replace(**found, example=self.example or (tell() if is_wrong else ""))


class Node(NamedTuple):
    """A state as one of the paths that lead to it, how many paths do, and a world in that state."""

    path: list[Any]
    ways: list[int]
    world: World


def tally(scene, roles, image, *, reader):
    """Count every order. Orders that meet in the same state go on as one, and each of its steps is taken once."""
    layer: dict[Any, Node] = {(): Node([], [1], World(scene, roles, image))}
    found = Tally()
    while layer:
        following: dict[Any, Node] = {}
        for path, (ways,), world in layer.values():
            choices = world.choices()
            worlds = [world, *(_replay(scene, roles, image, path) for _ in choices[1:])]
            for choice, each in zip(choices, worlds, strict=False):
                step = choice, each.take(choice)
                node = following.setdefault(each.state(), Node([*path, step], [0], each))
                node.ways[0] += ways
                if node.world is not each:
                    each.close()
            if not choices:
                found = found.plus(ways, judge(world, reader), lambda path=path: _tell(scene, roles, image, path))
            found = found._replace(taken=found.taken + len(choices))
        layer = following
    return found


def walk(scene, roles, image, *, reader):
    """Count every order as `tally` does, each played by itself from its beginning to its end."""
    found, path = Tally(), []
    while path is not None:
        world, left = LiveWorld(scene, roles, image), []
        while choices := world.choices():
            choice = path[len(left)] if len(left) < len(path) else choices[0]
            left.append(choices[choices.index(choice) :])
            world.take(choice)
        found = found.plus(1, judge(world, reader), str)._replace(taken=found.taken + len(left))
        while left and len(left[-1]) == 1:
            left.pop()
        path = [options[0] for options in left[:-1]] + [left[-1][1]] if left else None
    return found


class LiveWorld(World):
    """A world whose server is left alone between two steps."""

    def __init__(self, scene, roles, image):
        super().__init__(scene, roles, image)
        pools.exchange(ALIAS, super()._restore())

    def _restore(self):
        return []


def judge(world, reader):
    """How an order ended, as the fields of Tally call it; a last read by somebody else tells."""
    assert all(agent.is_done for agent in world.agents), "somebody waits for ever"
    leases = [cell.content for cell in world.image[1:2] if cell.content is not None]
    calls, versions = world.origin_calls, world.version
    end = {
        "orders": 1,
        "old_answers": any(agent.got_old for agent in world.agents),
        "leases": bool(leases) and leases != [SOMEBODY],
        "repeated": calls > 1 + versions,
        "late": world.waits_in_vain > 0,
    }
    if leases:  # they run out
        world.image = (world.image[0], Cell(), *world.image[2:])
    world.add(len(world.agents), reader)
    while not world.agents[-1].is_done:
        world.take((len(world.agents) - 1, False))
    return {**end, "stale": world.agents[-1].answer < versions, "hits": world.origin_calls == calls}


def _replay(scene, roles, image, path):
    world = World(scene, roles, image)
    for choice, known in path:
        world.take(choice, known)
    return world


def _tell(scene, roles, image, path):
    """The steps of this path, one a line."""
    world, lines = World(scene, roles, image), []
    for choice, known in path:
        agent = world.agents[choice[0]]
        world.take(choice, known)
        lines.append(f"{agent.index} {agent.role.name}: {'late' if choice[1] else agent.history[-1]}")
    world.close()
    return "\n".join(["", *lines])
