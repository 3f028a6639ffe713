"""The walk, the deletion and the printable form of keys, on a real server. Does not test the command."""

from __future__ import annotations

import re
from itertools import islice

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from demo_project.server import start_server
from redis_integration import RedisUnavailable, get_redis, scan
from redis_integration.scan import Found, Search, Tally


@pytest.fixture(scope="module")
def server():
    """A server of this module's own: it is emptied before each test."""
    with start_server() as server:
        yield server


@pytest.fixture
def client(settings, server):
    """A client of the test's own on the emptied server, to which the alias "default" leads."""
    settings.REDIS_INTEGRATION = {"default": {"URL": server.url, "KEY_PREFIX": "t"}}
    with redis.Redis(port=server.port) as client:
        client.flushall()
        client.config_resetstat()
        yield client


def fill(client, *names):
    client.mset(dict.fromkeys(names, "x"))


def find(pattern="t:*", **options):
    return list(scan.find("default", Search(pattern=pattern, **options), Tally()))


def delete(pattern="t:*", *, tally=None, **options):
    return sum(scan.delete("default", Search(pattern=pattern, **options), tally or Tally()))


def calls(client, command):
    return client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def test_every_key_present_throughout_is_found_once(client):
    """While 5,000 keys go and 5,000 others come, each of the 5,000 that stay is found exactly once."""
    staying = {f"t:stays:{number}" for number in range(5_000)}
    fill(client, *staying, *(f"t:goes:{number}" for number in range(5_000)))

    search = scan.find("default", Search(pattern="t:*"), Tally())
    found = [next(search)]
    client.unlink(*(f"t:goes:{number}" for number in range(5_000)))
    fill(client, *(f"t:comes:{number}" for number in range(5_000)))
    found += search

    names = [key.decode() for key, _, _ in found]
    assert staying <= set(names)
    assert len(names) == len(set(names))


def test_a_walk_asks_only_harmless_questions(client):
    """SCAN, TYPE, PTTL and DBSIZE: no KEYS, nothing that reads a value or resets its idle time, no transaction."""
    fill(client, *(f"t:{number}" for number in range(1_200)))

    find()

    named = {"keys", "get", "mget", "strlen", "hlen", "llen", "scard", "zcard", "object", "multi", "exec"}
    assert {name for name in named if calls(client, name)} == set()
    assert calls(client, "dbsize") == 1
    assert (calls(client, "type"), calls(client, "pttl")) == (1_200, 1_200)


def test_a_found_key_has_type_and_time_to_live(client):
    """Types are Redis's names; a key that never expires has no time to live."""
    client.zadd("t:zset", {"a": 1})
    client.set("t:string", "x", px=3_600_000)

    found = {key: (name, ttl_ms) for key, name, ttl_ms in find()}

    assert found[b"t:zset"] == ("zset", None)
    assert found[b"t:string"][0] == "string"
    assert 3_500_000 < found[b"t:string"][1] <= 3_600_000


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_protocols_give_the_same(settings, client, server, protocol):
    """RESP2 and RESP3 answer SCAN, TYPE and PTTL alike."""
    settings.REDIS_INTEGRATION = {"default": {"URL": server.url, "KEY_PREFIX": "t", "OPTIONS": {"protocol": protocol}}}
    fill(client, "t:a")

    assert find() == [Found(b"t:a", "string", None)]


@pytest.mark.parametrize("name", scan.TYPES)
def test_type_leaves_out_the_others(client, name):
    """Of one key of each type, `type` finds the one."""
    client.set("t:string", "x")
    client.rpush("t:list", "x")
    client.sadd("t:set", "x")
    client.zadd("t:zset", {"x": 1})
    client.hset("t:hash", "x", "x")
    client.xadd("t:stream", {"x": "x"})

    assert find(type=name) == [Found(f"t:{name}".encode(), name, None)]


def test_a_limit_ends_the_walk(client):
    """After the seventh key no page is asked for, and the estimate of what was walked stays below the total."""
    fill(client, *(f"t:{number}" for number in range(2_000)))
    tally = Tally()

    found = list(scan.find("default", Search(pattern="t:*", limit=7, count=10), tally))

    assert len(found) == tally.keys == 7
    assert not tally.complete
    assert tally.walked < tally.total == 2_000
    assert calls(client, "scan") == 1


def test_a_limit_that_is_just_met_is_complete(client):
    """Two keys, a limit of two: everything was walked."""
    fill(client, "t:a", "t:b")
    tally = Tally()

    list(scan.find("default", Search(pattern="t:*", limit=2), tally))

    assert tally.complete


def test_the_estimate_never_exceeds_the_total(client):
    """COUNT times calls may be more than there is; what is told is not."""
    fill(client, "t:a", "t:b", "other")
    tally = Tally()

    list(scan.find("default", Search(pattern="t:*", count=1_000), tally))

    assert (tally.keys, tally.walked, tally.total) == (2, 3, 3)


def test_a_key_that_comes_twice_is_found_once(client, monkeypatch):
    """SCAN may return a key in two pages."""
    fill(client, "t:a", "t:b")
    pages = [([b"t:a", b"t:a"], False), ([b"t:b", b"t:a"], True)]
    monkeypatch.setattr(scan, "walk", lambda alias, search: iter(pages))

    assert [found.key for found in find()] == [b"t:a", b"t:b"]


def test_memory_of_found_keys_is_bounded(client, monkeypatch):
    """Beyond the bound a repetition is found again, and the tally says that it may be."""
    fill(client, "t:a", "t:b")
    pages = [([b"t:a", b"t:b"], False), ([b"t:a", b"t:b"], True)]
    monkeypatch.setattr(scan, "walk", lambda alias, search: iter(pages))
    monkeypatch.setattr(scan, "REMEMBERED_KEYS", 1)
    tally = Tally()

    found = list(scan.find("default", Search(pattern="t:*"), tally))

    assert [key for key, _, _ in found] == [b"t:a", b"t:b", b"t:b"]
    assert tally.forgot


def test_a_key_that_expired_since_the_scan_is_left_out(client, monkeypatch):
    """What TYPE no longer finds is not a key, and does not use up the limit."""
    fill(client, "t:here")
    monkeypatch.setattr(scan, "walk", lambda alias, search: iter([([b"t:gone", b"t:here"], True)]))

    assert [found.key for found in find(limit=1)] == [b"t:here"]


def test_no_connection_is_held_between_pages(settings, client, server):
    """A pool of one connection serves others while a walk is under way."""
    settings.REDIS_INTEGRATION = {"default": {"URL": server.url, "KEY_PREFIX": "t", "MAX_CONNECTIONS": 1}}
    fill(client, *(f"t:{number}" for number in range(100)))
    search = scan.find("default", Search(pattern="t:*", count=10), Tally())

    begun = len(list(islice(search, 1)))

    assert get_redis("default").ping()
    assert begun + len(list(search)) == 100


def test_delete_removes_exactly_the_matching(client):
    """Keys of other names stay; the number is what Redis says it removed."""
    fill(client, *(f"t:a:{number}" for number in range(1_200)), "t:b:1", "a:1")

    assert delete("t:a:*") == 1_200

    assert set(client.scan_iter()) == {b"t:b:1", b"a:1"}


def test_delete_by_type_spares_the_others(client):
    """Only keys of the type are unlinked."""
    fill(client, "t:string")
    client.sadd("t:set", "x")

    assert delete(type="set") == 1

    assert client.keys() == [b"t:string"]


def test_delete_goes_in_bounded_batches(client):
    """A page of 1,200 keys becomes three batches of keys and their leases, outside MULTI, whatever COUNT is."""
    fill(client, *(f"t:{number}" for number in range(1_200)))

    delete(count=10_000)

    assert (calls(client, "unlink"), calls(client, "del"), calls(client, "multi")) == (6, 0, 0)


def test_delete_stops_at_the_limit(client):
    """Never one key more than asked for."""
    fill(client, *(f"t:{number}" for number in range(1_200)))

    assert delete(limit=700, count=10_000) == 700

    assert client.dbsize() == 500


def test_delete_counts_what_redis_removed(client, monkeypatch):
    """A key that somebody else deleted meanwhile, or that comes twice, is not counted."""
    fill(client, "t:a")
    monkeypatch.setattr(scan, "walk", lambda alias, search: iter([([b"t:a", b"t:gone"], False), ([b"t:a"], True)]))

    assert delete() == 1


def test_delete_remembers_no_keys(client, monkeypatch):
    """However many there are; so a key that was written again and comes again is removed again."""

    def walk(alias, search):
        yield [b"t:a"], False
        client.set("t:a", "again")
        yield [b"t:a"], True

    fill(client, "t:a")
    monkeypatch.setattr(scan, "walk", walk)

    assert delete() == 2


def test_delete_does_nothing_until_iterated(client):
    """The call alone sends no command."""
    fill(client, "t:a")

    scan.delete("default", Search(pattern="t:*"), Tally())

    assert client.dbsize() == 1


def test_an_outage_amid_delete_leaves_a_true_tally(live_own, prefix):
    """One batch was removed, one was sent and not answered; the error has its remedy."""
    get_redis().mset({f"{prefix}:{number}": "x" for number in range(1_200)})
    tally = Tally()
    deletion = scan.delete("default", Search(pattern=f"{prefix}:*", count=10_000), tally)
    assert next(deletion) == 500

    live_own.kill()
    with pytest.raises(RedisUnavailable, match="Is the server running"):
        next(deletion)

    assert (tally.keys, tally.in_doubt, tally.complete) == (500, 500, False)


def test_a_refused_unlink_leaves_nothing_in_doubt(settings, client, server):
    """An ACL without UNLINK: an error with its remedy, and nothing was removed."""
    client.acl_setuser("reader", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-unlink"])
    alias = {"URL": server.url, "KEY_PREFIX": "t", "USERNAME": "reader", "PASSWORD": "x"}
    settings.REDIS_INTEGRATION = {"default": alias}
    fill(client, "t:a")
    tally = Tally()

    with pytest.raises(RedisUnavailable, match="ACL SETUSER"):
        delete(tally=tally)

    assert (tally.keys, tally.in_doubt, client.dbsize()) == (0, 0, 1)


def test_a_refused_question_names_no_key(settings, client, server):
    """redis-py puts the command with its key into the error of a pipeline; the key may be hostile, or secret."""
    client.acl_setuser("typeless", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-type"])
    alias = {"URL": server.url, "KEY_PREFIX": "t", "USERNAME": "typeless", "PASSWORD": "x"}
    settings.REDIS_INTEGRATION = {"default": alias}
    fill(client, "t:secret")

    with pytest.raises(RedisUnavailable, match="ACL SETUSER") as caught:
        find()

    assert "secret" not in str(caught.value)


def test_an_unknown_alias_is_a_matter_of_settings():
    """The message names the alias."""
    with pytest.raises(ImproperlyConfigured, match="nope"):
        list(scan.find("nope", Search(pattern="t:*"), Tally()))


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"pattern": ""}, "pattern is empty"),
        ({"pattern": "t:\0"}, "contains a NUL"),
        ({"pattern": "t:[ab"}, r"has a '\[' without its '\]'"),
        # Redis reads a range from 'a' to ']' here, and then no end of the class.
        ({"pattern": "t:[a-]"}, r"has a '\[' without its '\]'"),
        ({"pattern": "t:[^--]"}, r"has a '\[' without its '\]'"),
        ({"pattern": "t:\\"}, "ends in a backslash"),
        ({"pattern": "t:\x1b[31m["}, r"pattern t:\\x1b"),
        ({"pattern": "t:*", "type": "json"}, "Choose from string, list"),
        ({"pattern": "t:*", "limit": 0}, "limit is 0. Give 1 or more"),
        ({"pattern": "t:*", "limit": -5}, "limit is -5"),
        ({"pattern": "t:*", "count": 0}, "count is 0. Give 1 to 10000"),
        ({"pattern": "t:*", "count": 10_001}, "count is 10001"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(wrong, remedy):
    """The message says what is wrong and what to write."""
    with pytest.raises(ValueError, match=remedy):
        Search(**wrong)


@pytest.mark.parametrize("pattern", ["t:[^-]]", "t:[]", "t:[a-c]", r"t:\[", r"t:[\]]", "t:]", "t:é*", "t:\\\\"])
def test_a_pattern_that_redis_reads_as_written_is_accepted(pattern):
    """Closed classes and escaped brackets are no mistakes."""
    assert Search(pattern=pattern).pattern == pattern


def test_a_pattern_of_the_shell_need_not_be_utf8(client):
    """A byte that the shell handed over undecoded finds its key."""
    client.set(b"t:\xff", "x")

    assert [found.key for found in find("t:\udcff")] == [b"t:\xff"]


@pytest.mark.parametrize(
    ("pattern", "inside"),
    [
        ("shop:*", True),
        ("shop:product:1", True),
        ("shop:", True),
        ("shop*", False),
        ("shop?*", False),
        ("[s]hop:*", False),
        (r"\shop:*", False),
        ("shopping:*", False),
        ("*", False),
        ("{shop:*", False),
    ],
)
def test_inside_is_only_what_begins_with_the_prefix_as_text(pattern, inside):
    """A glob before the colon may match keys of others."""
    assert scan.is_inside(pattern, "shop") is inside


@pytest.mark.parametrize(
    ("pattern", "everything"),
    [
        ("shop:*", True),
        ("shop:", True),
        ("shop:?*", True),
        ("shop:[a-z]*", True),
        ("shop:[^a-z]**", True),
        ("*", True),
        ("[st]*", True),
        ("shop:page:*", False),
        ("shop:*:lease", False),
        (r"shop:\**", False),
        ("session:*", False),
    ],
)
def test_everything_is_a_pattern_of_globs_alone(pattern, everything):
    """One literal character, past the prefix where it is there, names a part."""
    assert scan.is_everything(pattern, "shop") is everything


@pytest.mark.parametrize(
    ("key", "printed"),
    [
        (b"shop:product:1", "shop:product:1"),
        ("shop:é日本".encode(), "shop:é日本"),
        (b"a b", "a b"),
        (b"a\nb\r\t", r"a\x0ab\x0d\x09"),
        (b"\x1b[31mred", r"\x1b[31mred"),
        (b"\xff\x00", r"\xff\x00"),
        (rb"a\x0a", r"a\\x0a"),
        ("\u202eevil\u200b".encode(), r"\xe2\x80\xaeevil\xe2\x80\x8b"),
        ("\x9b31m".encode(), r"\xc2\x9b31m"),
        (b"[bold]x[/bold]", "[bold]x[/bold]"),
    ],
)
def test_a_hostile_key_becomes_printable(key, printed):
    """Control characters, line ends, bytes that are no UTF-8 and directional marks appear as the bytes they are."""
    assert scan.escape_for_print(key) == printed


def test_a_character_the_terminal_cannot_show_becomes_its_bytes():
    """Printing never raises UnicodeEncodeError."""
    assert scan.escape_for_print("é".encode(), "ascii") == r"\xc3\xa9"


@given(st.binary())
def test_the_printed_form_is_one_line_and_unambiguous(key):
    """The bytes of the key can be read back from it."""
    printed = scan.escape_for_print(key)

    assert printed.isprintable()
    assert (
        re.sub(
            rb"\\(\\|x(..))",
            lambda escape: bytes.fromhex(escape[2].decode()) if escape[2] else b"\\",
            printed.encode(),
        )
        == key
    )
