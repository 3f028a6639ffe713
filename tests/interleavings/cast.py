"""Who plays, and where they begin: readers and writers of a price that is cached by the package, or by plain GET and SET."""

from __future__ import annotations

from typing import NamedTuple

from redis_integration import ainvalidate, cache_aside, pools
from redis_integration.conf import get_settings
from redis_integration.keys import full_key
from redis_integration.tags import tag_key
from redis_integration.tiers import redis as redis_tier
from redis_integration.tiers.leases import lease_key
from tests.interleavings.orders import SOMEBODY, tally
from tests.interleavings.scheduler import ALIAS, Cell, Role, Scene, Send, Step, World

TTL = 600  # seconds
NOBODY = 90  # the number of who made what is there at the start


@cache_aside(ttl=TTL, key="price")
async def price():
    return await Step("origin")


@cache_aside(ttl=TTL, key="tagged", tags=["prices"])
async def tagged():
    return await Step("origin")


async def end_tag():
    await ainvalidate(tags=["prices"])


# What is cached, and how a writer ends it.
WAYS = {
    "key": (price, price.ainvalidate),
    "tag": (tagged, end_tag),
    "expiry": (price, price.aexpire),
    "refresh": (price, price.arefresh),
}


class Family(NamedTuple):
    """Some actors, by what the writers invalidate, and what is in Redis when they begin.

    `start`: "empty"; "tag", its generation; "filled", a current entry; "stale", an expired one; "held", a lease of somebody
    who died. Actors with the same number in `homes` are threads or tasks of one process; without it, each is a process of
    its own.
    """

    actors: str
    by: str = "key"
    start: str = "empty"
    homes: str = ""
    impatient: bool = False

    def __str__(self):
        where = f" in {self.homes}" if self.homes else ""
        return f"{self.actors}{where}, by {self.by}, {self.start}{', impatient' * self.impatient}"


def count(family, *, counting=tally):
    """The tally of this family's orders."""
    keys, play, read = _plain() if family.by == "plain" else _cached(family.by)
    roles = [
        Role(word, play[word], int(family.homes[number]) if family.homes else number, "write" in word)
        for number, word in enumerate(family.actors.split())
    ]
    scene = Scene(keys, fine=bool(family.homes), impatient=family.impatient)
    reader = Role("read", read, NOBODY)
    return counting(scene, roles, _image(scene, family, reader), reader=reader)


def _image(scene, family, reader):
    """What is in Redis at the start, made by the code itself."""
    before = {
        "empty": [],
        "held": [],
        "tag": [reader],
        "filled": [reader],
        "stale": [reader, Role("expire", price.aexpire, NOBODY)],
    }
    world = World(scene._replace(fine=False), before[family.start], tuple(Cell() for _ in scene.keys), first=NOBODY)
    for script in (redis_tier.LEASE, redis_tier.FILL, redis_tier.EXPIRE):
        pools.exchange(ALIAS, [("SCRIPT", "LOAD", script.source)])
    while choices := world.choices():
        world.take(choices[0])
    entry, *others = world.image
    changed = {"tag": (Cell(), *others), "held": (entry, Cell(SOMEBODY, 10_000), *others[1:])}
    return changed.get(family.start, world.image)


def _cached(by):
    cached, invalidate = WAYS[by]
    key, tag = cached.key_for(), tag_key(get_settings(ALIAS).key_prefix, "prices")

    async def write():
        await Step("commit")
        return await invalidate()

    async def write_early():
        await invalidate()
        await Step("commit")

    def lose(name):
        async def lost():
            await Send(ALIAS, [("UNLINK", name)])

        return lost

    evictions = {"evict-lease": lose(lease_key(key)), "evict-tag": lose(tag)}
    play = {"read": cached, "refresh": cached.arefresh, "write": write, "write-early": write_early, **evictions}
    return (key, lease_key(key), tag), play, cached


def _plain():
    """What is usual: GET, on a miss SET; commit, then DEL. Each takes all its steps, so that orders are counted as elsewhere."""
    key = full_key(get_settings(ALIAS).key_prefix, ("plain",))

    async def read():
        (found,), _ = await Send(ALIAS, [("GET", key)])
        if found is not None:
            await Step("nothing")
            await Step("nothing")
            return int(found)
        version = await Step("origin")
        await Send(ALIAS, [("SET", key, version, "PX", TTL * 1000)])
        return version

    async def write():
        await Step("commit")
        await Send(ALIAS, [("DEL", key)])

    return (key,), {"read": read, "write": write}, read
