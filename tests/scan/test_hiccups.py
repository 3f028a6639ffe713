"""A connection that is lost, and replies that are, amid a walk or a change, on a real server behind a proxy."""

from __future__ import annotations

import threading

import pytest
import redis

from demo_project.proxy import CuttableProxy
from redis_integration import RedisUnavailable, pools, scan
from redis_integration.exceptions import Kind
from redis_integration.invalidation import end_entries
from redis_integration.scan import Search, Tally, changes
from redis_integration.tiers.redis import get_redis_tier
from tests.scan.answers import delete, fill

NAMES = [f"t:{number}" for number in range(1_200)]


@pytest.fixture
def client(settings, scan_server):
    """A client on the emptied server, of whose ways only that of the alias "default" is ever cut."""
    with CuttableProxy(scan_server.port) as proxy, redis.Redis(port=scan_server.port) as client:
        url = f"redis://127.0.0.1:{proxy.port}"
        settings.REDIS_INTEGRATION = {"default": {"URL": url, "KEY_PREFIX": "t", "DATABASE": None, "RETRIES": 0}}
        client.flushall()
        fill(client, *NAMES)
        client.proxy = proxy
        yield client


def hiccup(proxy):
    """Every connection is reset, and none is to be had for a moment."""
    proxy.cut()
    threading.Timer(0.1, proxy.heal).start()


@pytest.mark.parametrize("facts", [(), ("type", "ttl", "bytes")])
def test_a_walk_goes_on_where_it_was(client, facts):
    """Each key comes once, although two pages were lost on their way."""
    tally, found = Tally(), []

    for page in scan.Walk("default", Search(pattern="t:*", facts=facts, count=300), tally).found():
        found += page
        if len(found) < 900:
            hiccup(client.proxy)

    assert sorted(each.key.decode() for each in found) == sorted(NAMES)
    assert (tally.complete, tally.keys) == (True, 1_200)


def test_a_redis_that_was_never_there_is_not_waited_for(client, monkeypatch):
    """Whoever has mistyped an address is told at once."""
    client.proxy.cut()
    monkeypatch.setattr(scan.pace.time, "sleep", pytest.fail)

    with pytest.raises(RedisUnavailable, match="Is the server running"):
        delete()


def test_a_deletion_goes_on(client, monkeypatch):
    """What Redis did not confirm is repeated before the next batch: nothing is in doubt, nothing pending, nothing left."""
    batches = []

    def end(names, alias, *, is_async):
        batches.append(len(names))
        if len(batches) == 2:
            hiccup(client.proxy)
        return end_entries(names, alias, is_async=is_async)

    monkeypatch.setattr(changes, "end_entries", end)
    tally, tier = Tally(), get_redis_tier("default", is_async=False)

    assert delete(tally=tally) == 1_200

    assert (tally.keys, tally.in_doubt, client.dbsize(), tally.complete) == (1_200, 0, 0, True)
    assert (tier.breaker.is_closed, dict(tier.journal.pending)) == (True, {})


@pytest.mark.parametrize("change", ["delete", "expire", "persist"])
def test_no_key_more_than_asked_for_where_a_reply_was_lost(client, settings, monkeypatch, change):
    """What was done unheard is done once more, and counted: a reply to the second time says that there is nothing to do."""
    settings.REDIS_INTEGRATION = {"default": {**settings.REDIS_INTEGRATION["default"], "KEY_PREFIX": "other"}}
    [client.pexpire(name, 90_000_000) for name in NAMES]
    command = {"delete": b"UNLINK", "expire": b"PEXPIRE", "persist": b"PERSIST"}[change]
    exchange, heard = pools.exchange_packed, []

    def deaf(alias, packed, count, more=None, **options):
        replies = exchange(alias, packed, count, more, **options)
        if command in packed and b"t:" in packed and not heard:
            heard.append(count)
            raise RedisUnavailable("No answer in time.", kind=Kind.SLOW)
        return replies

    monkeypatch.setattr(pools, "exchange_packed", deaf)
    tally, options = Tally(), {"expire": (5000.0,)}
    change = getattr(scan, change)("default", Search(pattern="t:*", limit=300), tally, *options.get(change, ()))

    assert sum(change) == tally.keys == 300

    there = [client.pttl(name) for name in NAMES]
    assert sum(ttl > 80_000_000 for ttl in there) == 900
    assert heard


def test_what_no_journal_can_hold_is_only_unlinked(client, monkeypatch):
    """A key that is too long, or not printable, is no entry: the journal's rows of the others are written all the same."""
    names = [b"t:" + b"x" * 300, b"t:a\nb", b"t:\xff", b"t:plain"]
    fill(client, *names)
    ended = []
    monkeypatch.setattr(
        changes, "end_entries", lambda names, alias, **_: ended.extend(names) or end_entries([], alias, **_)
    )

    assert delete("t:*") == 1_204

    assert [name for name in ended if name not in NAMES] == ["t:plain"]
    assert not client.exists(*names[:3])
