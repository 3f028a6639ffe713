"""The walk and its questions, on a real server. Does not test the command."""

from __future__ import annotations

import re
from itertools import islice
from time import monotonic, sleep

import pytest
from django.core.exceptions import ImproperlyConfigured

from redis_integration import RedisUnavailable, cache_aside, get_redis, invalidate, scan
from redis_integration.scan import Found, Search, Tally, Walk
from redis_integration.scan import walk as walk_module
from redis_integration.scan.search import FACTS, TYPES
from tests.scan.answers import answer_scans, calls, fill, find


def wait_until_shrunk(client):
    """Redis makes a table smaller in its own time."""
    deadline = monotonic() + 10
    while client.memory_stats()["db.0"]["overhead.hashtable.main"] > 300_000 and monotonic() < deadline:
        sleep(0.01)


def test_every_key_present_throughout_is_found_once(client):
    """While 5,000 keys go and 5,000 others come, each of the 5,000 that stay is found exactly once."""
    staying = {f"t:stays:{number}" for number in range(5_000)}
    fill(client, *staying, *(f"t:goes:{number}" for number in range(5_000)))

    search = scan.find("default", Search(pattern="t:*"), Tally())
    found = [next(search)]
    client.unlink(*(f"t:goes:{number}" for number in range(5_000)))
    fill(client, *(f"t:comes:{number}" for number in range(5_000)))
    found += search

    names = [key.decode() for key, *_ in found]
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

    found = {key: (name, ttl_ms) for key, name, ttl_ms, *_ in find()}

    assert found[b"t:zset"] == ("zset", None)
    assert found[b"t:string"][0] == "string"
    assert 3_500_000 < found[b"t:string"][1] <= 3_600_000


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_protocols_give_the_same(settings, client, scan_server, protocol):
    """RESP2 and RESP3 answer SCAN, TYPE and PTTL alike."""
    settings.REDIS_INTEGRATION = {
        "default": {"URL": scan_server.url, "KEY_PREFIX": "t", "OPTIONS": {"protocol": protocol}}
    }
    fill(client, "t:a")

    assert find() == [Found(b"t:a", "string", None)]


@pytest.mark.parametrize("name", TYPES)
def test_type_leaves_out_the_others(client, name):
    """Of one key of each type, `type` finds the one."""
    client.set("t:string", "x")
    client.rpush("t:list", "x")
    client.sadd("t:set", "x")
    client.zadd("t:zset", {"x": 1})
    client.hset("t:hash", "x", "x")
    client.xadd("t:stream", {"x": "x"})

    assert find(types=[name]) == [Found(f"t:{name}".encode(), name, None)]


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
    """SCAN may return a key in two pages, or in one."""
    fill(client, "t:a", "t:b", "t:c")
    answer_scans(monkeypatch, [b"t:a", b"t:b"], [b"t:b", b"t:a"], [b"t:c", b"t:c"])

    assert [found.key for found in find()] == [b"t:a", b"t:b", b"t:c"]


def test_what_came_last_is_remembered_and_no_more(client, monkeypatch):
    """However many keys there are, a walk takes no more memory."""
    fill(client, *(f"t:{name}" for name in "abcdef"))
    monkeypatch.setattr(walk_module, "REMEMBERED_KEYS", 1)
    answer_scans(monkeypatch, [b"t:a", b"t:b"], [b"t:c", b"t:d"], [b"t:e", b"t:d"], [b"t:f", b"t:a"])

    assert [found.key for found in find()] == [b"t:a", b"t:b", b"t:c", b"t:d", b"t:e", b"t:f", b"t:a"]


def test_a_table_that_shrinks_amid_a_walk_shows_no_key_twice(client):
    """Redis then may return keys again, and leaves none out that stayed."""
    fill(client, *(f"t:stays:{number}" for number in range(1_000)))
    fill(client, *(f"t:goes:{number}" for number in range(100_000)))
    found, walk = [], Walk("default", Search(pattern="t:*", count=100, facts=()), Tally())
    pages = walk.pages()
    found += [key for page in islice(pages, 200) for key in page]

    client.unlink(*(f"t:goes:{number}" for number in range(100_000)))
    wait_until_shrunk(client)
    found += [key for page in pages for key in page]

    assert len(found) == len({*found})
    assert {f"t:stays:{number}".encode() for number in range(1_000)} <= {*found}


def test_a_key_that_expired_since_the_scan_is_left_out(client, monkeypatch):
    """What TYPE no longer finds is not a key, and does not use up the limit."""
    fill(client, "t:here")
    answer_scans(monkeypatch, [b"t:gone", b"t:here"])

    assert [found.key for found in find(limit=1)] == [b"t:here"]


@pytest.mark.parametrize("facts", [["type"], ["ttl"], ["bytes"], ["idle"]])
def test_each_question_notices_that_a_key_is_gone(client, monkeypatch, facts):
    """Whatever is asked."""
    fill(client, "t:here")
    answer_scans(monkeypatch, [b"t:gone", b"t:here"])

    assert [found.key for found in find(facts=facts)] == [b"t:here"]


def test_the_next_page_comes_with_what_is_asked_of_this_one(client):
    """A round trip less for each page, and nothing but the order of the commands is another: each page once."""
    names = {f"t:{number}".encode() for number in range(3_000)}
    fill(client, *names)
    tally = Tally()
    walk = Walk("default", Search(pattern="t:*", facts=["type", "ttl", "bytes"]), tally)
    cursors, found = [], []

    for page in walk.found():
        cursors.append(tally.cursor)
        found += page

    assert sorted(each.key for each in found) == sorted(names)
    with client.pipeline(transaction=False) as pipeline:
        [pipeline.memory_usage(each.key) for each in found]
        assert [each[1:4] for each in found] == [("string", None, used) for used in pipeline.execute()]
    assert calls(client, "scan") == len(cursors) == len(set(cursors))
    assert calls(client, "type") == 3_000
    # To go on from there shows this page again, not only what came ahead of it.
    again = {each.key for each in find(cursor=cursors[1])}
    assert {each.key for each in found} - again <= {each.key for each in found[:700]}


@pytest.mark.parametrize("at", [0, 350, 999])
def test_a_key_that_is_gone_is_missed_in_each_part_of_a_page(client, monkeypatch, at):
    """Each part of a page is read by itself."""
    names = [b"t:%d" % number for number in range(1_000)]
    fill(client, *names[:at], *names[at + 1 :])
    answer_scans(monkeypatch, names)

    assert [each.key for each in find()] == names[:at] + names[at + 1 :]


def test_no_connection_is_held_between_pages(settings, client, scan_server):
    """A pool of one connection serves others while a walk is under way."""
    settings.REDIS_INTEGRATION = {"default": {"URL": scan_server.url, "KEY_PREFIX": "t", "MAX_CONNECTIONS": 1}}
    fill(client, *(f"t:{number}" for number in range(100)))
    search = scan.find("default", Search(pattern="t:*", count=10), Tally())

    begun = len(list(islice(search, 1)))

    assert get_redis("default").ping()
    assert begun + len(list(search)) == 100


def test_a_refused_question_names_no_key(settings, client, scan_server):
    """redis-py puts the command with its key into the error of a pipeline; the key may be hostile, or secret."""
    client.acl_setuser("typeless", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-type"])
    alias = {"URL": scan_server.url, "KEY_PREFIX": "t", "USERNAME": "typeless", "PASSWORD": "x"}
    settings.REDIS_INTEGRATION = {"default": alias}
    fill(client, "t:secret")

    with pytest.raises(RedisUnavailable, match="ACL SETUSER") as caught:
        find()

    assert "secret" not in str(caught.value)


def test_an_unknown_alias_is_a_matter_of_settings():
    """The message names the alias."""
    with pytest.raises(ImproperlyConfigured, match="nope"):
        list(scan.find("nope", Search(pattern="t:*"), Tally()))


def restore(client, name, idle):
    """A string that was last used so many seconds ago."""
    client.set("x", "value")
    client.restore(name, 0, client.dump("x"), idletime=idle, replace=True)
    client.unlink("x")


CHOSEN = {
    "t:soon": {"no_ttl": False, "ttl_under": 100},
    "t:later": {"ttl_over": 100},
    "t:large": {"bytes_over": 5_000},
    "t:old": {"idle_over": 1_000},
    "t:hash": {"types": ["hash", "list"]},
}


@pytest.mark.parametrize(("name", "options"), CHOSEN.items())
def test_each_filter_finds_its_key(client, name, options):
    """Of keys that differ in one way each, one is found; what is asked to choose by is not told unless it is to be told."""
    client.set("t:soon", "x", px=50_000)
    client.set("t:later", "x", px=500_000)
    client.set("t:large", "x" * 10_000)
    restore(client, "t:old", 2_000)
    client.hset("t:hash", "a", 1)

    assert [found.key.decode() for found in find(**options)] == [name]


def test_keys_that_never_expire_are_found(client):
    """All but one."""
    client.set("t:soon", "x", px=50_000)
    fill(client, "t:a", "t:b")

    assert sorted(found.key for found in find(no_ttl=True)) == [b"t:a", b"t:b"]


def test_filters_are_all_to_be_met(client):
    """Of three large keys one never expires, and is a string."""
    client.set("t:large", "x" * 10_000)
    client.set("t:fleeting", "x" * 10_000, px=50_000)
    client.hset("t:hash", "a", "x" * 10_000)

    assert [found.key for found in find(bytes_over=5_000, no_ttl=True, types=["string"])] == [b"t:large"]


def test_facts_are_told(client):
    """Bytes as Redis estimates them, seconds since it was used, and elements."""
    restore(client, "t:old", 2_000)
    client.rpush("t:list", *range(7))
    lengths = {"t:old": 5, "t:list": 7}

    page = {each.key.decode(): each for each in find(facts=FACTS)}

    assert {name: each.length for name, each in page.items()} == lengths
    assert page["t:old"].idle >= 2_000 > page["t:list"].idle
    assert page["t:list"].bytes == client.memory_usage("t:list")


def test_nothing_but_a_length_resets_an_idle_time(client):
    """So the order in which Redis evicts stays as it was, also where an entry is looked for by its tag."""
    restore(client, "t:old", 2_000)

    find(facts=["type", "ttl", "bytes", "idle"], bytes_over=1, idle_over=1, types=["string", "hash"])

    assert client.object("idletime", "t:old") >= 2_000


def test_a_server_that_keeps_no_idle_times_says_so(live_own, prefix):
    """Under LFU there are none."""
    get_redis().set(f"{prefix}:a", "x")
    get_redis().config_set("maxmemory-policy", "allkeys-lfu")

    with pytest.raises(RedisUnavailable, match="evicts by LFU, and keeps no idle times"):
        find(f"{prefix}:*", facts=["idle"])


@cache_aside(ttl=60, key="tagged:{pk}", tags=["all", "one:{pk}"])
def tagged(pk):
    return pk


@cache_aside(ttl=60, key="much-tagged", tags=[*(f"tag{number}" for number in range(100)), "hundredth"])
def much_tagged():
    return 1


def test_entries_of_a_tag_are_found(client):
    """Those made under its present generation, and only entries."""
    [tagged(pk) for pk in range(3)]
    client.hset("t:hash", "a", 1)
    fill(client, "t:string")

    assert sorted(found.key for found in find(tag="all")) == [b"t:tagged:0", b"t:tagged:1", b"t:tagged:2"]
    assert [found.key for found in find(tag="one:1")] == [b"t:tagged:1"]


def test_an_entry_of_an_ended_generation_is_not_of_the_tag(client):
    """It is still there, and nobody gets it."""
    tagged(1)
    invalidate(tags=["one:1"])
    tagged(2)
    client.set("t:#one:1", "12345678")

    assert find(tag="one:1") == []
    assert find("t:tagged:1") != []


def test_a_tag_without_a_generation_takes_no_walk(client):
    """No entry can have it."""
    tagged(1)
    tally = Tally()

    assert list(scan.find("default", Search(pattern="t:*", tag="none"), tally)) == []

    assert (tally.complete, calls(client, "scan")) == (True, 0)


def test_an_entry_of_many_tags_is_found_by_its_last(client):
    """Where the first bytes of an entry do not hold all of its tags, it is asked again."""
    much_tagged()

    assert [found.key for found in find(tag="hundredth")] == [b"t:much-tagged"]


def test_a_walk_goes_on_from_its_cursor(client):
    """Walks that each stop after a page find all keys together, and the last says that it is the last."""
    names = {f"t:{number}".encode() for number in range(2_000)}
    fill(client, *names)
    first, second = Tally(), Tally()

    found = [*scan.find("default", Search(pattern="t:*", max_seconds=0), first)]
    stopped = first.cursor, first.complete
    found += scan.find("default", Search(pattern="t:*", cursor=first.cursor), second)

    assert re.fullmatch(r"[0-9]+-[0-9a-f]{8}", stopped[0])
    assert not stopped[1]
    assert {each.key for each in found} == names
    assert (second.cursor, second.complete, second.resumed) == ("", True, True)
    assert first.keys < 2_000
    assert first.walked + second.walked == pytest.approx(2_000, abs=1)


def test_a_limit_leaves_no_cursor(client):
    """From there the same keys would come again."""
    fill(client, *(f"t:{number}" for number in range(2_000)))
    tally = Tally()

    list(scan.find("default", Search(pattern="t:*", limit=5), tally))

    assert tally.cursor == ""


def test_a_cursor_of_another_life_is_refused(client):
    """A server that restarted orders its keys anew: some would never come."""
    with pytest.raises(RedisUnavailable, match="or its server has restarted or failed over since. Begin again"):
        find(cursor="40960-deadbeef")


def test_a_cursor_of_another_database_is_refused(client, settings, scan_server):
    """Its keys lie elsewhere in its table."""
    fill(client, *(f"t:{number}" for number in range(2_000)))
    tally = Tally()
    [*scan.find("default", Search(pattern="t:*", max_seconds=0), tally)]
    settings.REDIS_INTEGRATION = {"default": {"URL": scan_server.url.replace("/0", "/1"), "KEY_PREFIX": "t"}}

    with pytest.raises(RedisUnavailable, match="This cursor is of another database"):
        find(cursor=tally.cursor)


def test_a_restart_amid_a_walk_ends_it(client):
    """What answers then knows nothing of the cursor."""
    fill(client, *(f"t:{number}" for number in range(2_000)))
    walk = Walk("default", Search(pattern="t:*"), Tally())
    pages = walk.pages()
    next(pages)

    walk.pace.life = b"no life!"

    with pytest.raises(RedisUnavailable, match="failed over during the walk"):
        next(pages)


def test_the_share_of_a_walk_is_that_of_its_cursor(client):
    """Redis does not tell how many keys it has compared, but the order of its cursors does."""
    fill(client, *(f"t:{number}" for number in range(4_096)))
    tally = Tally()
    pages = Walk("default", Search(pattern="t:none", count=512), tally).pages()

    next(pages)

    assert 0.1 < tally.share < 0.2
    assert 400 < tally.walked < 800


def test_a_page_of_long_names_is_asked_about_in_bounded_batches(client):
    """60 names of 10 kB are three questions."""
    fill(client, *(f"t:{number:010000}" for number in range(60)))

    assert [len(page) for page in Walk("default", Search(pattern="t:*"), Tally()).found()] == [26, 26, 8]


def test_sums_are_of_what_was_asked(client):
    """Keys by type, bytes, those that never expire, the longest time to live."""
    client.set("t:a", "x", px=50_000)
    client.set("t:b", "x")
    client.hset("t:c", "a", 1)
    tally = Tally()

    found = list(scan.find("default", Search(pattern="t:*", facts=["type", "ttl", "bytes"]), tally))

    assert tally.types == {"string": 2, "hash": 1}
    assert tally.bytes == sum(each.bytes for each in found) > 0
    assert tally.never == 2
    assert 40_000 < tally.longest_ms <= 50_000
