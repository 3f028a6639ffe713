"""The protocol with one part of it left out or put elsewhere: what the tests must notice. Each takes pytest's monkeypatch."""

from __future__ import annotations

import types

from redis_integration import computation, decorators, flights
from redis_integration.tiers import leases
from redis_integration.tiers import redis as redis_tier
from redis_integration.tiers.redis import RedisTier
from redis_integration.tiers.scripts import Script

MAKE = """
local made = {}
for i = 1, #KEYS do
  made[i] = redis.call('GET', KEYS[i])
  if not made[i] then
    made[i] = ARGV[i]
    redis.call('SET', KEYS[i], made[i], 'PX', 1000000)
  end
end
return made
"""


def nothing_broken(patch):
    pass


def fill_does_not_check_the_lease(patch):
    _edit(patch, "FILL", "if redis.call('GET', KEYS[2]) ~= ARGV[1] then\n  return 0\nend", "")


def fill_creates_the_generation(patch):
    _edit(patch, "LEASE", "redis.call('SET', KEYS[i], generation, 'PX', 2 * ARGV[3])", "")
    check = "if redis.call('GET', KEYS[i]) ~= ARGV[i + 1] then"
    create = "if not redis.call('GET', KEYS[i]) then redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[3]) end"
    _edit(patch, "FILL", check, f"{create}\n  {check}")


def fill_does_not_check_the_generation(patch):
    _edit(patch, "FILL", "if redis.call('GET', KEYS[i]) ~= ARGV[i + 1] then", "if false then")


def generation_is_read_after_the_origin(patch):
    _edit(patch, "LEASE", "redis.call('SET', KEYS[i], generation, 'PX', 2 * ARGV[3])", "")
    fill = RedisTier.fill

    def late(self, names, lease, entry, *, kept=0.0):
        new = [leases.make_generation() for _ in names.tags]
        (made,), _ = yield from self._speak(("EVAL", MAKE, len(names.tags), *names.tags, *new))
        return (yield from fill(self, names, lease._replace(generations=tuple(made)), entry, kept=kept))

    patch.setattr(RedisTier, "fill", late)


def invalidation_leaves_the_lease(patch):
    patch.setattr(RedisTier, "unlink", lambda self, names: (yield from self._speak(("UNLINK", *names))))


def lease_does_not_look_for_the_entry(patch):
    _edit(patch, "LEASE", "local found = ARGV[4] ~= 'replace' and redis.call('GET', KEYS[1])", "local found = false")


def expiry_leaves_the_lease(patch):
    _edit(patch, "EXPIRE", "redis.call('UNLINK', KEYS[2])", "")


def refresh_waits_for_the_lease(patch):
    lease = RedisTier.lease
    patch.setattr(RedisTier, "lease", lambda *args, replace, **options: lease(*args, **options))


def refresh_joins_what_began_before(patch):
    enter = flights.enter
    patch.setattr(flights, "enter", lambda *args, supersede=False: enter(*args))


def refused_refresh_ends_nothing(patch):
    patch.setattr(decorators, "_left_old", lambda answer: False)


def refused_fill_counts_as_accepted(patch):
    fill = RedisTier.fill

    def accepted(*args, **options):
        yield from fill(*args, **options)
        return True

    patch.setattr(RedisTier, "fill", accepted)


def flight_is_joined_until_it_lands(patch):
    patch.setattr(computation, "flights", types.SimpleNamespace(**{**vars(flights), "leave": lambda flight: None}))


def flight_without_lease_is_joined_at_any_time(patch):
    patch.setattr(flights, "begin", lambda flight: None)


def invalidation_leaves_flights(patch):
    patch.setattr(flights, "end", lambda names: None)


def _edit(patch, name, old, new):
    source = getattr(redis_tier, name).source.decode()
    assert source.count(old) == 1, f"{name} no longer reads {old!r}; the variant must be written anew"
    patch.setattr(redis_tier, name, Script(source.replace(old, new)))
