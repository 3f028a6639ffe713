"""What a deletion or another time to live does, and does not do, on a real server."""

from __future__ import annotations

import asyncio

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import OperationalError

from redis_integration import RedisUnavailable, cache_aside, get_redis, pools, scan, statements
from redis_integration.exceptions import Kind
from redis_integration.models import FallbackEntry, PendingInvalidation
from redis_integration.scan import Search, Tally, changes
from redis_integration.scan.pace import Pace
from redis_integration.tiers import fallback
from redis_integration.tiers.leases import lease_key
from redis_integration.tiers.redis import RedisTier
from tests.scan.answers import answer_scans, calls, delete, fill


def test_delete_removes_exactly_the_matching(client):
    """Keys of other names stay; the number is what Redis says it removed."""
    fill(client, *(f"t:a:{number}" for number in range(1_200)), "t:b:1", "a:1")

    assert delete("t:a:*") == 1_200

    assert set(client.scan_iter()) == {b"t:b:1", b"a:1"}


def test_delete_by_type_spares_the_others(client):
    """Only keys of the type are unlinked."""
    fill(client, "t:string")
    client.sadd("t:set", "x")

    assert delete(types=["set"]) == 1

    assert client.keys() == [b"t:string"]


def test_delete_goes_in_bounded_batches(client, monkeypatch):
    """A page of 1,200 keys becomes three batches of keys and their leases, outside MULTI."""
    names = [f"t:{number}" for number in range(1_200)]
    fill(client, *names)
    answer_scans(monkeypatch, [name.encode() for name in names])

    delete()

    assert client.dbsize() == 0
    # One more for the question whether it may.
    assert (calls(client, "unlink"), calls(client, "del"), calls(client, "multi")) == (4, 0, 0)


def test_batches_are_bounded_by_the_bytes_of_their_names(client):
    """60 names of 10 kB are three batches."""
    fill(client, *(f"t:{number:010000}" for number in range(60)))

    assert delete() == 60

    assert calls(client, "unlink") == 4


def test_delete_stops_at_the_limit(client):
    """Never one key more than asked for."""
    fill(client, *(f"t:{number}" for number in range(1_200)))

    assert delete(limit=700, count=10_000) == 700

    assert client.dbsize() == 500


def test_delete_counts_what_was_there(client, monkeypatch):
    """A key that somebody else deleted meanwhile, or that comes twice, is not counted."""
    fill(client, "t:a")
    answer_scans(monkeypatch, [b"t:a", b"t:gone"], [b"t:a"])

    assert delete() == 1


def test_delete_remembers_no_keys(client, monkeypatch):
    """A key that was written again and comes again is deleted again."""
    fill(client, "t:a")
    answer_scans(monkeypatch, [b"t:a"], [b"t:a"])
    deletion = scan.delete("default", Search(pattern="t:*"), Tally())

    assert next(deletion) == 1
    fill(client, "t:a")
    assert next(deletion) == 1


def test_delete_does_nothing_until_iterated(client):
    """The call alone sends no command."""
    fill(client, "t:a")

    scan.delete("default", Search(pattern="t:*"), Tally())

    assert client.dbsize() == 1


def make_page(monkeypatch, prefix):
    """1,200 keys that come in one page: three batches."""
    names = [f"{prefix}:{number}" for number in range(1_200)]
    get_redis().mset(dict.fromkeys(names, "x"))
    answer_scans(monkeypatch, [name.encode() for name in names])
    return names


def test_an_outage_amid_delete_leaves_a_true_tally(live_own, prefix, monkeypatch):
    """One batch was deleted, of the next nothing was sent; the error has its remedy."""
    make_page(monkeypatch, prefix)
    tally = Tally()
    deletion = scan.delete("default", Search(pattern=f"{prefix}:*"), tally)
    assert next(deletion) == 500

    live_own.kill()
    with pytest.raises(RedisUnavailable, match="Is the server running"):
        next(deletion)

    assert (tally.keys, tally.in_doubt, tally.complete) == (500, 0, False)


@pytest.mark.django_db(transaction=True)
def test_what_redis_does_not_confirm_is_in_the_journal(live_own, prefix, monkeypatch):
    """It ends there, and is told as in doubt; the error has its remedy."""
    names = make_page(monkeypatch, prefix)
    tally = Tally()
    end_entries = changes.end_entries

    def end_without_redis(*names, **options):
        live_own.kill()
        return end_entries(*names, **options)

    monkeypatch.setattr(changes, "end_entries", end_without_redis)

    with pytest.raises(RedisUnavailable, match="Is the server running"):
        next(scan.delete("default", Search(pattern=f"{prefix}:*"), tally))

    assert (tally.keys, tally.in_doubt) == (0, 500)
    assert sorted(PendingInvalidation.objects.values_list("name", flat=True)) == sorted(names[:500])


def test_a_refused_unlink_leaves_nothing_in_doubt(settings, client, scan_server):
    """An ACL without UNLINK: an error with its remedy, and nothing was removed."""
    client.acl_setuser("reader", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-unlink"])
    alias = {"URL": scan_server.url, "KEY_PREFIX": "t", "USERNAME": "reader", "PASSWORD": "x"}
    settings.REDIS_INTEGRATION = {"default": alias}
    fill(client, "t:a")
    tally = Tally()

    with pytest.raises(RedisUnavailable, match="ACL SETUSER"):
        delete(tally=tally)

    assert (tally.keys, tally.in_doubt, client.dbsize()) == (0, 0, 1)


@cache_aside(ttl=60, key="price:{pk}", tags=["prices"])
def price(pk):
    return pk


def test_an_entry_is_invalidated_with_its_lease(client):
    """Who computes it now does not store it after it was deleted."""
    price(7)
    client.set(lease_key("t:price:7"), "12345678host:1")

    assert delete("t:price:*") == 1

    assert [*client.scan_iter()] == [b"t:#prices"]


def test_keys_of_ours_are_invalidated_and_others_unlinked(client, monkeypatch):
    """An invalidation is what ends rows and goes into the journal; a name that is no key of an entry cannot be one's."""
    ended = []

    def end_entries(names, alias, *, is_async):
        ended.append(sorted(names))
        yield from ()

    monkeypatch.setattr(changes, "end_entries", end_entries)
    fill(client, "t:a", "t:#tag", "other:a", b"t:\xff", "{t:a}:lease")

    assert delete("*") == 5

    assert ended == [["t:#tag", "t:a"]]
    assert {*client.scan_iter()} == {b"t:a", b"t:#tag"}


def test_an_alias_that_is_not_enabled_is_deleted_from_all_the_same(settings, client, scan_server):
    """Nobody stores there, so there is nothing to invalidate."""
    settings.REDIS_INTEGRATION = {"default": {"URL": scan_server.url, "KEY_PREFIX": "t", "ENABLED": False}}
    fill(client, "t:a")

    assert delete() == 1

    assert client.dbsize() == 0


def test_delete_refuses_an_event_loop():
    """It would hold up all tasks."""

    async def call():
        scan.delete("default", Search(pattern="t:*"), Tally())

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(call())


def expire(alias, search, tally):
    return scan.expire(alias, search, tally, 100)


def test_expire_gives_a_time_to_live(client):
    """To keys with one and without."""
    fill(client, "t:a", "other")
    client.set("t:b", "x", px=5_000)
    tally = Tally()

    assert sum(scan.expire("default", Search(pattern="t:*"), tally, 100)) == tally.keys == 2

    assert 90_000 < client.pttl("t:a") <= 100_000
    assert 90_000 < client.pttl("t:b") <= 100_000
    assert client.pttl("other") == -1


def test_persist_takes_it_away(client):
    """Keys that never expired are not counted."""
    fill(client, "t:a")
    client.set("t:b", "x", px=50_000)

    assert sum(scan.persist("default", Search(pattern="t:*"), Tally())) == 1

    assert client.pttl("t:b") == -1


@pytest.mark.parametrize("change", [expire, scan.persist])
def test_leases_keep_their_time(client, change):
    """One that lives longer would hold up all who wait for it."""
    client.set(lease_key("t:a"), "12345678host:1", px=5_000)

    assert sum(change("default", Search(pattern="*"), Tally())) == 0

    assert 0 < client.pttl(lease_key("t:a")) <= 5_000


@pytest.mark.parametrize(("command", "change"), [("pexpire", expire), ("persist", scan.persist)])
def test_a_change_that_is_not_allowed_changes_nothing(settings, client, scan_server, command, change):
    """It is asked before anything is done."""
    client.acl_setuser("reader", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", f"-{command}"])
    alias = {"URL": scan_server.url, "KEY_PREFIX": "t", "USERNAME": "reader", "PASSWORD": "x"}
    settings.REDIS_INTEGRATION = {"default": alias}
    fill(client, "t:a")
    tally = Tally()

    with pytest.raises(RedisUnavailable, match="ACL SETUSER"):
        sum(change("default", Search(pattern="t:*"), tally))

    assert (tally.keys, tally.in_doubt) == (0, 0)


def test_a_change_chooses_by_what_it_asks(client):
    """Only what never expires is given an end."""
    fill(client, "t:a")
    client.set("t:b", "x", px=5_000)

    assert sum(scan.expire("default", Search(pattern="t:*", no_ttl=True), Tally(), 100)) == 1

    assert 0 < client.pttl("t:b") <= 5_000


def test_a_deletion_asks_nothing_that_it_need_not_know(client):
    """A pattern alone takes a SCAN, an EXISTS and an UNLINK."""
    fill(client, "t:a")

    delete()

    assert (calls(client, "scan"), calls(client, "exists"), calls(client, "type")) == (1, 1, 0)


# What is not confirmed


@pytest.fixture
def durable(client, settings, scan_server):
    """The full key of a durable entry: in Redis, and a row."""
    options = {"URL": scan_server.url, "KEY_PREFIX": "t", "FALLBACK": "durable"}
    settings.REDIS_INTEGRATION = {"default": options}
    price = cache_aside(ttl=600, key="durable:{pk}", durable=True)(lambda pk: pk)
    price(7)
    assert FallbackEntry.objects.count() == client.dbsize() == 1
    return price.key_for(7)


def fail_queries(monkeypatch, count=10**9):
    """So many queries of ours fail."""
    ask, failed = statements.ask, []

    def locked(*arguments, **options):
        failed.append(None)
        if len(failed) > count:
            return ask(*arguments, **options)
        raise OperationalError("database is locked")

    monkeypatch.setattr(statements, "ask", locked)
    monkeypatch.setattr(fallback, "ask", locked)


@pytest.mark.django_db(transaction=True)
def test_rows_that_could_not_be_ended_are_ended_at_a_later_try(durable, client, monkeypatch):
    """The database was locked for a moment."""
    fail_queries(monkeypatch, 2)

    assert delete("t:durable:*") == 1

    assert (client.dbsize(), FallbackEntry.objects.count(), PendingInvalidation.objects.count()) == (0, 0, 0)


@pytest.mark.django_db(transaction=True)
def test_rows_that_cannot_be_ended_are_no_success(durable, client, monkeypatch, caplog):
    """Redis has forgotten the key, so that no second run would find it: what is left is told, and named."""
    tally = Tally()
    fail_queries(monkeypatch)
    monkeypatch.setattr(changes, "PAUSES", (0.01,))

    with pytest.raises(RedisUnavailable, match="by the database, which may have rows"):
        sum(changes.delete("default", Search(pattern="t:durable:*"), tally))

    assert (tally.keys, tally.in_doubt, tally.is_journalled) == (0, 1, False)
    assert any(durable in record.message and record.levelname == "CRITICAL" for record in caplog.records)


@pytest.mark.django_db(transaction=True)
def test_an_interrupt_leaves_what_is_not_confirmed_in_the_journal(durable, client, monkeypatch):
    """The process ends with it, and Redis has forgotten the key."""
    unlink = RedisTier.unlink

    def interrupted(tier, names):
        yield from unlink(tier, names)
        raise KeyboardInterrupt

    monkeypatch.setattr(RedisTier, "unlink", interrupted)
    tally = Tally()
    with pytest.raises(KeyboardInterrupt):
        sum(changes.delete("default", Search(pattern="t:durable:*"), tally))

    assert client.dbsize() == 0
    assert [*PendingInvalidation.objects.values_list("name", flat=True)] == [durable]
    assert (tally.in_doubt, tally.is_journalled) == (1, True)


@pytest.mark.django_db(transaction=True)
def test_who_may_not_end_leases_deletes_nothing(client, settings, scan_server):
    """And is told so before."""
    fill(client, "t:a", "t:b")
    client.acl_setuser("ops", enabled=True, passwords=["+x"], keys=["t:*"], commands=["+@all"])
    settings.REDIS_INTEGRATION = {
        "default": {"URL": scan_server.url, "KEY_PREFIX": "t", "USERNAME": "ops", "PASSWORD": "x"}
    }
    try:
        with pytest.raises(RedisUnavailable, match="(?i)permission|not allowed|ACL"):
            delete()
    finally:
        client.acl_deluser("ops")

    assert client.dbsize() == 2
    assert not PendingInvalidation.objects.exists()


def test_a_time_that_is_over_before_it_is_sent_again_counts(client, monkeypatch):
    """Its reply was lost: the limit holds."""
    fill(client, *(f"t:{number}" for number in range(600)))
    exchange, heard = pools.exchange_packed, []

    def deaf(alias, packed, count, more=None, **options):
        replies = exchange(alias, packed, count, more, **options)
        if b"PEXPIRE" in packed and count > 1 and not heard:
            heard.append(count)
            raise RedisUnavailable("No answer in time.", kind=Kind.SLOW)
        return replies

    monkeypatch.setattr(pools, "exchange_packed", deaf)

    assert sum(scan.expire("default", Search(pattern="t:*", limit=300), Tally(), 0.001)) == 300

    assert heard
    assert len([*client.scan_iter(count=1000)]) == 300


def test_a_limited_expire_leaves_no_cursor(client):
    """From there the same keys would be given their time again, and never others."""
    fill(client, *(f"t:{number}" for number in range(600)))
    tally = Tally()

    assert sum(scan.expire("default", Search(pattern="t:*", limit=300), tally, 100)) == 300

    assert (tally.cursor, tally.complete) == ("", False)


def once_asked(monkeypatch, act):
    """After the keys of a batch were asked about, and before they are changed."""
    ask, acted = Pace.ask, []

    def late(pace, packed, count, *more):
        replies = ask(pace, packed, count, *more)
        if (b"EXISTS" in packed or b"PTTL" in packed) and not acted:
            acted.append(act())
        return replies

    monkeypatch.setattr(Pace, "ask", late)


@pytest.mark.parametrize("change", [scan.delete, expire])
def test_a_key_that_is_made_amid_a_limited_change_stays(client, monkeypatch, change):
    """It could not be counted any more."""
    fill(client, "t:a", "t:b")
    answer_scans(monkeypatch, [b"t:a", b"t:gone", b"t:b"])
    once_asked(monkeypatch, lambda: client.set("t:gone", "x", px=50_000))

    assert sum(change("default", Search(pattern="t:*", limit=2), Tally())) <= 2

    assert 40_000 < client.pttl("t:gone") <= 50_000


@pytest.fixture
def restrict(client, settings, scan_server, monkeypatch):
    """From when a batch was asked about, only keys of these patterns may be changed."""
    client.acl_setuser("ops", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all"])
    settings.REDIS_INTEGRATION = {
        "default": {"URL": scan_server.url, "KEY_PREFIX": "t", "USERNAME": "ops", "PASSWORD": "x"}
    }
    yield lambda *keys: once_asked(
        monkeypatch, lambda: client.acl_setuser("ops", reset_keys=True, keys=["t:##*", *keys])
    )
    client.acl_deluser("ops")


@pytest.mark.parametrize("change", [expire, scan.persist])
def test_what_is_changed_beside_a_refusal_counts(client, restrict, change):
    """Of the others nothing is in doubt."""
    for name in ("t:a", "t:b", "t:c"):
        client.set(name, "x", px=5_000)
    restrict("t:a", "t:c")
    tally = Tally()

    with pytest.raises(RedisUnavailable, match="(?i)permission|not allowed|ACL"):
        sum(change("default", Search(pattern="t:*"), tally))

    assert (tally.keys, tally.in_doubt) == (2, 0)


def test_a_refused_unlink_of_keys_of_others_is_in_no_doubt(client, restrict):
    """Redis said that it did nothing."""
    fill(client, "u:a")
    restrict()
    tally = Tally()

    with pytest.raises(RedisUnavailable, match="(?i)permission|not allowed|ACL"):
        delete("u:*", tally=tally)

    assert (tally.keys, tally.in_doubt, client.exists("u:a")) == (0, 0, 1)
