"""The code without one of the model's rules: edits of a function's or a script's source, which fail where they find nothing."""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from typing import Any, NamedTuple

from redis_integration.tiers.scripts import Script

PACKAGE = "redis_integration"


class Edit(NamedTuple):
    """In the source of `where`, a dotted path below the package, `old` becomes `new`."""

    where: str
    old: str
    new: str


def drop(rule: str, patch: Any, every: dict[str, tuple[Edit, ...]] | None = None) -> None:
    """Make the edits of this rule until `patch`, pytest's monkeypatch, is undone. Raises AssertionError where one finds nothing."""
    edits = (EDITS if every is None else every)[rule]
    for where in dict.fromkeys(edit.where for edit in edits):
        owner, name, scope = _find(where)
        found = getattr(owner, name)
        source = found.source.decode() if isinstance(found, Script) else textwrap.dedent(inspect.getsource(found))
        for edit in edits:
            if edit.where == where:
                assert source.count(edit.old) == 1, f"{where} contains {edit.old!r} {source.count(edit.old)} times"
                source = source.replace(edit.old, edit.new)
        made = {name: Script(source)} if isinstance(found, Script) else _run(source, where, scope)
        for holder in [owner, *(module for title, module in sys.modules.items() if title.startswith(PACKAGE))]:
            if vars(holder).get(name) is found:
                patch.setattr(holder, name, made[name])


def _run(source: str, where: str, scope: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    exec(compile(f"from __future__ import annotations\n{source}", where, "exec"), scope, made)
    return made


def _find(where: str) -> tuple[Any, str, dict[str, Any]]:
    """The object that has the named attribute, the attribute's name, and the names its source may use."""
    *path, name = where.split(".")
    owner: Any = importlib.import_module(PACKAGE)
    scope = vars(owner)
    for step in path:
        title = f"{owner.__name__}.{step}"
        owner = sys.modules[title] if title in sys.modules else getattr(owner, step)
        scope = vars(owner) if title in sys.modules else scope
    return owner, name, scope


_WITH_LEASE = "computation.Computation._answer_with_lease"
_COMPUTE = "computation.Computation.settle"
_NEW_GENERATIONS = """
local reply = {}
for i, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[i], 'NX', 'PX', 60000)
  reply[i] = redis.call('GET', key)
end
return reply
"""

EDITS: dict[str, tuple[Edit, ...]] = {
    # The lease and the fill
    "one lease": (Edit("tiers.redis.LEASE", "local held = redis.call('GET', KEYS[2])", "local held = false"),),
    "read again with the lease": (
        Edit(
            "tiers.redis.LEASE",
            "local found = ARGV[4] ~= 'replace' and redis.call('GET', KEYS[1])",
            "local found = false",
        ),
    ),
    "the entry it has seen is not found": (Edit("tiers.redis.LEASE", "if found and ARGV[5] ~= ''", "if false"),),
    "fill needs the lease": (
        Edit("tiers.redis.FILL", "if redis.call('GET', KEYS[2]) ~= ARGV[1] then", "if false then"),
    ),
    "invalidation revokes the lease": (Edit("tiers.redis.RedisTier.unlink", "*batch, *leases", "*batch"),),
    "refresh replaces the lease": (Edit("claims.Claim.ask", "replace=self.is_refresh", "replace=False"),),
    "refused refresh ends the entry": (Edit("decorators._left_old", "return", "return False and"),),
    "an invalid copy is no copy": (
        # What it knew of the stale copy stays, without the value.
        Edit(
            "caching.Caching.judge",
            "if entry is None or entry.is_revoked or",
            "if entry is None or entry.is_revoked:\n        return reading, None\n    if",
        ),
    ),
    "expire revokes the lease": (Edit("tiers.redis.EXPIRE", "redis.call('UNLINK', KEYS[2])", ""),),
    "a new token each try": (
        # As it would be if a lost exchange were made again.
        Edit("tiers.redis.RedisTier.lease", "(LEASE, names, arguments)", "(LEASE, names, arguments, idempotent=True)"),
        Edit(
            "tiers.redis.LEASE",
            "local held = redis.call('GET', KEYS[2])",
            "local held = redis.call('GET', KEYS[2])\nheld = held ~= ARGV[1] and held",
        ),
    ),
    # Flights
    "joiners need the fill": (Edit(_COMPUTE, "if is_accepted or", "if True or"),),
    "joined until the fill": (
        Edit(
            _COMPUTE,
            "if flight is not None:\n        flights.leave(flight)  # it can",
            "if False:\n        flights.leave(flight)  # it can",
        ),
    ),
    "found is not shared": (
        Edit(
            _WITH_LEASE,
            "return self.claim.found()",
            "self.landing = Landing(Verdict.ACCEPTED, entry=self.claim.seen); return self.claim.found()",
        ),
    ),
    "start over once": (Edit("computation.Computation._join", "if self.looks.get(landing.verdict):", "if False:"),),
    "a dead flight is over": (
        Edit(
            "computation.Computation._answer",
            "flight.land(self.landing)",
            "flight.land(self.landing) if not __import__('sys').exception() else setattr(flight, 'kept', pilot)",
        ),
    ),
    "exceptions need the release": (Edit(_COMPUTE, "if is_accepted or", "if is_accepted or outcome.error or"),),
    "bare until it begins": (Edit("flights.begin", "flight.is_open = False", "pass"),),
    "only what began after the call": (Edit("flights.find_younger", " and there.begun_as > since", ""),),
    "bare flights in a row": (
        Edit("computation.Computation._answer_without_lease", "if flight.after is not None", "if False"),
    ),
    "pending": (Edit("tiers.redis.RedisTier.state", "return Redis.SHY", "pass"),),
    "pending apart": (
        Edit(
            "computation.Computation._answer_without_lease",
            'self.place("origin")',
            'self.place("redis")',
        ),
    ),
    "local invalidation ends the flight": (Edit("invalidation._end", "flights.end(names)", "pass"),),
    # Tags
    "generations with the lease": (
        Edit("tiers.redis.LEASE", "redis.call('SET', KEYS[i], generation, 'PX', 2 * ARGV[3])", ""),
        Edit(
            "tiers.redis.FILL",
            "  if redis.call('GET', KEYS[i]) ~= ARGV[i + 1] then",
            "  redis.call('SET', KEYS[i], ARGV[i + 1], 'NX', 'PX', 60000)\n"
            "  if redis.call('GET', KEYS[i]) ~= ARGV[i + 1] then",
        ),
    ),
    "generations before the origin": (
        Edit(
            "tiers.redis.RedisTier.fill",
            '    stored = b""\n',
            '    stored = b""\n'
            f"    create = ('EVAL', {_NEW_GENERATIONS!r}, len(names.tags), *names.tags, *(make_generation() for _ in names.tags))\n"
            "    (found,), _ = yield from self._speak(create)\n"
            "    lease = lease._replace(generations=tuple(found))\n",
        ),
    ),
    "fill checks generations": (Edit("tiers.redis.FILL", "~= ARGV[i + 1] then", "== 0 then"),),
    "release checks generations": (
        Edit(
            "tiers.redis.FILL",
            "  if redis.call('GET', KEYS[i]) ~=",
            "  if ARGV[2] ~= '' and redis.call('GET', KEYS[i]) ~=",
        ),
    ),
    # Life
    "an entry is of its life": (Edit("tiers.redis.RedisTier.judge", "entry.life != life or", ""),),
    "own life": (Edit("pools.sync.Pool.exchange", "life: bytes = connection.life", "life: bytes = self.life"),),
    "life of the lease": (
        Edit(
            "tiers.redis.RedisTier.fill",
            '    stored = b""\n',
            "    stored = b\"\"\n    _, life = yield from self._speak(('PING',))\n    lease = lease._replace(life=life)\n",
        ),
    ),
    "refused in another life": (Edit("tiers.redis.RedisTier.fill", "and life == lease.life", ""),),
    # Transactions
    "invalidate after the commit": (Edit("transactions.send_on_commit", "blocks = open_connections()", "blocks = []"),),
    "invalidations first": (
        Edit(
            "transactions._put_in_front",
            "connection.run_on_commit.insert(0, connection.run_on_commit.pop())",
            "pass",
        ),
    ),
    "fill after the commit": (
        Edit(
            "computation.Computation._answer_inside",
            "self._fill_on_commit(outcome, entry, standing.commit)",
            "self.claim.fill(entry, took)",
        ),
    ),
    "bypass": (Edit("transactions.has_invalidated", "return any", "return False and any"),),
    "no fill from a snapshot": (
        Edit("statements.reads_committed", "if connection.vendor", "if True or connection.vendor"),
    ),
    "unshared in a transaction": (Edit("computation.Computation._answer", "if standing.is_inside:", "if False:"),),
    "no wait for itself": (
        Edit("transactions.stand", "and not is_waiting", ""),
        Edit("transactions.stand", "may_wait = not _mine.fills and not _mine.callers", "may_wait = True"),
    ),
    "rollback drops the fill": (
        Edit(
            "transactions.fill_on_commit",
            "_put_in_front(connection, late)",
            "connection.run_on_commit.append((set(), late, True))",
        ),
    ),
    "rollback lets the lease go": (Edit("transactions.let_go", "late.let_go()", "pass"),),
}
