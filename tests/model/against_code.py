"""Runs the agents of a scenario against redis_integration and a real server, one step at a time, in any order.

Each agent is a thread that stops around every exchange with Redis, every origin call, every write and every commit; the
conductor says who goes on. A process is an alias of its own and a table of flights of its own. A restart is played: the
keys of the snapshot come back, connections break, and the server tells another life. The database is a number; its
transactions are Django's, on SQLite that passes for READ COMMITTED.
"""

from __future__ import annotations

import time
import types
from collections.abc import Iterator, MutableMapping
from typing import Any

from redis_integration import caching, claims, flights, pools
from redis_integration.pools.sync import Pool
from redis_integration.tiers import redis as redis_tier
from tests.model.orders import at_random
from tests.model.play import LOOK, SCRIPTS, Choice, Play, Played, life_bytes, real_exchange, script_of, send, tier_of
from tests.model.players import HOMES, Cancelled, current
from tests.model.scenarios import Scenario


class Tables(MutableMapping[Any, Any]):
    """The flights of each process: whoever asks sees those of its own."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[Any, Any]] = {}

    def _mine(self) -> dict[Any, Any]:
        player = current()
        return self._tables.setdefault(player.agent.home if player else -1, {})

    def __getitem__(self, key: Any) -> Any:
        return self._mine()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._mine()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._mine()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())


class Stage:
    """The package under a conductor; `patch` is pytest's monkeypatch."""

    def __init__(self, patch: Any, prefix: str) -> None:
        self.prefix = prefix
        self.play: Play | None = None
        patch.setattr(pools, "exchange", self._exchange)
        patch.setattr(flights, "_flights", Tables())
        patch.setattr(flights.Flight, "wait", _wait)
        patch.setattr(caching, "time", types.SimpleNamespace(time=time.time, sleep=_pause))
        patch.setattr(claims, "monotonic", _monotonic)
        patch.setattr("redis_integration.pools.connections.life_of", self._life_of)
        patch.setattr(Pool, "life", property(_life_told, _tell_life), raising=False)
        redis_tier.start_afresh()
        for home in HOMES:
            tier_of(home).breaker._due = float("inf")  # the conductor says when what is pending is repeated

    def run(self, scenario: Scenario, choose: Choice) -> Played:
        """Play one order."""
        for home in (*HOMES, LOOK):
            pools.get_pool(home).drop_idle()
        for script in map(script_of, SCRIPTS):
            send(("SCRIPT", "LOAD", script.source))
        self.play = Play(scenario, self.prefix)
        return self.play.conduct(choose)

    def sample(self, scenario: Scenario, orders: int) -> Played:
        """Play so many orders, up to the first that ends wrong."""
        played = Played("", ())
        for seed in range(orders):
            played = self.run(scenario, at_random(seed))
            if played.wrong:
                break
        return played

    def _exchange(self, alias: str, commands: Any, *, idempotent: bool = True) -> Any:
        player = current()
        if player is None or player.play.is_over:
            if player is not None:
                player.may_send -= 1
                if player.may_send < 0:
                    raise Cancelled
            return real_exchange(alias, commands, idempotent=idempotent)
        return player.play.exchange(player, real_exchange, alias, commands, idempotent=idempotent)

    def _life_of(self, replies: Any) -> bytes:
        list(replies)
        return life_bytes(self.play) if self.play else b"life0001"


def _wait(flight: flights.Flight, seconds: float) -> bool:
    player = current()
    assert player
    if player.stop("waits for a flight", lambda: flight.is_over, waits=True):
        return flight.is_over
    give_up = time.monotonic() + 0.2
    while not flight.is_over and time.monotonic() < give_up:  # all run to their end now, unless a flight never ends
        time.sleep(0.001)
    return flight.is_over


def _pause(seconds: float) -> None:
    player = current()
    assert player
    if player.stop("waits for the lease", lambda: player.play.in_redis != player.saw, waits=True):
        player.offset += 1e6


def _monotonic() -> float:
    player = current()
    return time.monotonic() + (player.offset if player else 0.0)


def _life_told(pool: Pool) -> bytes:
    life: bytes = vars(pool).get("life", pools.UNSET_LIFE)
    return life


def _tell_life(pool: Pool, life: bytes) -> None:
    """What the newest handshake learnt reaches the pool a little later."""
    player = current()
    player = player if player and player.play.scenario.may("restart") else None
    if player:
        player.stop("has connected")
    vars(pool)["life"] = life
    if player:
        player.stop("has told the pool")
