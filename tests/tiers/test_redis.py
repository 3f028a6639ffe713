from __future__ import annotations

import logging
import os
import socket
import time

import pytest

from redis_integration import get_redis
from redis_integration.exceptions import RedisUnavailable, UnreadableEntry
from redis_integration.flow import run
from redis_integration.keys import Names
from redis_integration.policy import Redis
from redis_integration.recovery import recover, state
from redis_integration.tiers.leases import make_token, owner_of
from redis_integration.tiers.redis import get_redis_tier, start_afresh
from tests.forks import in_forked_child
from tests.tiers.contract import TierContract, entry


class TestRedisTier(TierContract):
    @pytest.fixture
    def tier(self, live, is_async):
        return get_redis_tier("default", is_async=is_async)

    def write(self, tier, names, entry):
        return store(tier, names, entry)


def store(tier, names, entry):
    """A flow that stores this entry as a computing caller does."""
    lease = yield from tier.lease(names, None, make_token(), seconds=10.0, kept=60.0, replace=True)
    kept = max(0.001, entry.fresh_until - time.time())
    return (yield from tier.fill(names, lease, entry, kept=kept))


@pytest.fixture
def tier(live):
    return get_redis_tier("default", is_async=False)


@pytest.fixture
def tier_of_own(live_own):
    return get_redis_tier("default", is_async=False)


def test_every_key_has_a_time_to_live(tier, prefix):
    """What is written expires when it is no longer kept."""
    run(store(tier, Names(f"{prefix}:a"), entry(ttl=60.0)))

    assert 0 < get_redis().pttl(f"{prefix}:a") <= 60_000


@pytest.mark.parametrize(("left", "then"), [(80_000, 80_000), (60_000, 140_000)])
def test_tag_outlives_its_entries_and_is_rarely_touched(tier, prefix, left, then):
    """It lives twice as long as lease and entry together, and longer again only where less than once is left."""
    names = Names(f"{prefix}:a", (f"{prefix}:#all",))
    run(tier.lease(names, None, make_token(), seconds=10.0, kept=60.0))
    new = get_redis().pttl(names.tags[0])
    get_redis().pexpire(names.tags[0], left)

    run(tier.lease(names, None, make_token(), seconds=10.0, kept=60.0, replace=True))

    assert 135_000 < new <= 140_000
    assert then - 5_000 < get_redis().pttl(names.tags[0]) <= then


def test_tag_outlives_an_entry_that_is_kept_longer_than_its_lease_knew(tier, prefix):
    """As where the ttl is a function of the result."""
    names = Names(f"{prefix}:a", (f"{prefix}:#all",))
    lease = run(tier.lease(names, None, make_token(), seconds=10.0, kept=60.0))

    run(tier.fill(names, lease, entry(), kept=1_000.0))

    assert 1_995_000 < get_redis().pttl(names.tags[0]) <= 2_000_000


def test_key_of_another_type_is_foreign_and_left_alone(tier, prefix):
    """A list at our key is not read as an entry and does not open the breaker."""
    get_redis().lpush(f"{prefix}:a", "x")

    with pytest.raises(RedisUnavailable) as caught:
        run(tier.read(Names(f"{prefix}:a")))

    assert caught.value.kind == "foreign key"
    assert tier.breaker.is_closed
    assert get_redis().lrange(f"{prefix}:a", 0, -1) == [b"x"]


def test_a_lease_says_whose_it_is(tier, prefix):
    """Eight random bytes, then host and process; a generation is the eight alone."""
    lease = run(tier.lease(Names(f"{prefix}:a", (f"{prefix}:#t",)), None, make_token(), seconds=10.0, kept=60.0))

    assert get_redis().get(f"{{{prefix}:a}}:lease") == lease.token
    assert owner_of(lease.token) == f"{socket.gethostname()}:{os.getpid()}"
    assert make_token()[:8] != make_token()[:8]
    assert [len(generation) for generation in lease.generations] == [8]


def test_a_forked_child_has_leases_of_its_own():
    """Their tokens name the child, and not its parent."""
    child, token = in_forked_child(make_token)

    assert owner_of(token).endswith(f":{child}")
    assert owner_of(make_token()).endswith(f":{os.getpid()}")


def test_bytes_that_are_not_ours_are_unreadable(tier, prefix):
    """A string of another program is no entry."""
    get_redis().set(f"{prefix}:a", "not ours", ex=60)

    with pytest.raises(UnreadableEntry):
        run(tier.read(Names(f"{prefix}:a")))


def test_entry_under_another_key_is_unreadable(tier, prefix):
    """An entry names its key: a copy of it elsewhere is not believed."""
    run(store(tier, Names(f"{prefix}:a"), entry()))
    get_redis().copy(f"{prefix}:a", f"{prefix}:b")

    with pytest.raises(UnreadableEntry, match="another key"):
        run(tier.read(Names(f"{prefix}:b")))


def test_sync_and_async_share_the_breaker(live):
    """What sync code learnt about Redis, async code need not find out."""
    sync, asynchronous = (get_redis_tier("default", is_async=is_async) for is_async in (False, True))

    assert sync.breaker is asynchronous.breaker
    assert sync.journal is asynchronous.journal


def test_forgetting_keeps_what_is_pending(tier):
    """A forked child makes its breaker anew and keeps its parent's unconfirmed invalidations."""
    tier.breaker.open("gone")
    tier.journal.remember(["x"])

    start_afresh()

    renewed = get_redis_tier("default", is_async=False)
    assert renewed.breaker.is_closed
    assert [*renewed.journal.pending] == ["x"]


def test_open_breaker_is_not_waited_for(tier, prefix):
    """While Redis is down, it is not asked."""
    tier.breaker.open("gone")

    assert run(state(tier, Names(f"{prefix}:a"))) is Redis.DOWN
    with pytest.raises(RedisUnavailable):
        run(tier.delete([f"{prefix}:a"]))


def test_unconfirmed_invalidation_is_repeated_before_redis_is_believed(tier_of_own, prefix):
    """An entry whose invalidation was lost in an outage is gone when the breaker closes."""
    key = f"{prefix}:a"
    run(store(tier_of_own, Names(key), entry()))
    tier_of_own.breaker.open("gone")
    with pytest.raises(RedisUnavailable):
        run(tier_of_own.delete([key]))
    tier_of_own.breaker._due = 0

    assert run(state(tier_of_own, Names(key))) is Redis.UP
    assert run(tier_of_own.read(Names(key))) is None
    assert not tier_of_own.journal.pending


def test_server_that_refuses_writes_is_not_believed(tier_of_own, prefix, caplog):
    """A replica answers reads, but the breaker that is tried with a write stays open."""
    run(store(tier_of_own, Names(f"{prefix}:a"), entry()))
    tier_of_own.breaker.open("gone")
    tier_of_own.breaker._due = 0
    get_redis().replicaof("127.0.0.1", "1")

    assert run(state(tier_of_own, Names(f"{prefix}:a"))) is Redis.DOWN


@pytest.mark.parametrize("rule", ["-@read", "-@scripting", "-@write"])
def test_server_that_refuses_what_calls_need_is_not_believed(tier_of_own, prefix, rule):
    """Where the try needed less than a call does, the breaker closed and opened again every second."""
    tier_of_own.breaker.open("gone")
    tier_of_own.breaker._due = 0
    get_redis().execute_command("ACL", "SETUSER", "default", rule)

    assert run(state(tier_of_own, Names(f"{prefix}:a"))) is Redis.DOWN


@pytest.mark.parametrize("options", [{"DISTRUST_RESTARTS": False}])
def test_server_that_is_trusted_after_a_restart_is_found_again(tier, prefix):
    """Its life is not asked for."""
    tier.breaker.open("gone")
    tier.breaker._due = 0

    assert run(state(tier, Names(f"{prefix}:a"))) is Redis.UP


def test_full_server_refuses_stores_and_keeps_the_breaker_closed(tier_of_own, prefix):
    """OOM skips the store; reads and invalidations go on."""
    run(store(tier_of_own, Names(f"{prefix}:a"), entry()))
    get_redis().config_set("maxmemory", 1)

    with pytest.raises(RedisUnavailable, match="maxmemory") as caught:
        run(store(tier_of_own, Names(f"{prefix}:b"), entry()))

    assert caught.value.kind == "full"
    assert run(tier_of_own.read(Names(f"{prefix}:a"))) is not None
    run(tier_of_own.delete([f"{prefix}:a"]))
    assert run(tier_of_own.read(Names(f"{prefix}:a"))) is None


def test_pending_name_is_bypassed_while_redis_is_up(tier, prefix):
    """A name whose invalidation failed although the breaker is closed is not read from Redis."""
    tier.journal.remember([f"{prefix}:a"])
    tier.breaker._due = float("inf")

    assert run(state(tier, Names(f"{prefix}:a"))) is Redis.SHY
    assert run(state(tier, Names(f"{prefix}:b"))) is Redis.UP


def test_what_becomes_pending_during_a_try_does_not_keep_it_open(tier, prefix, monkeypatch):
    """A site that invalidates all the time never believed Redis again."""
    tier.breaker.open("gone")
    tier.journal.remember([f"{prefix}:a"])
    exchange = tier._exchange

    def meanwhile(*args, **options):
        tier.journal.remember([f"{prefix}:b"])
        return exchange(*args, **options)

    monkeypatch.setattr(tier, "_exchange", meanwhile)
    run(recover(tier))

    assert tier.breaker.is_closed
    assert {*tier.journal.pending} == {f"{prefix}:b"}


def test_many_keys_are_unlinked_in_bounded_batches(tier, prefix):
    """1,200 keys are three commands."""
    before = get_redis().info("commandstats").get("cmdstat_unlink", {"calls": 0})["calls"]

    run(tier.delete([f"{prefix}:{number}" for number in range(1200)]))

    assert get_redis().info("commandstats")["cmdstat_unlink"]["calls"] == before + 3


def test_lost_redis_is_logged_once(tier_of_own, live_own, prefix, caplog):
    """An outage is one line with a remedy, not one for each call."""
    caplog.set_level(logging.WARNING, "redis_integration")
    live_own.kill()

    for_each = [pytest.raises(RedisUnavailable) for _ in range(3)]
    with for_each[0]:
        run(tier_of_own.read(Names(f"{prefix}:a")))
    with for_each[1]:
        run(tier_of_own.read(Names(f"{prefix}:a")))

    assert len(caplog.messages) == 1
    assert "Is the server running" in caplog.messages[0]
