"""What is shown of a key, on a real server. Nothing is unpickled."""

from __future__ import annotations

import pickle

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from redis_integration import RedisUnavailable, cache_aside, cache_aside_view, invalidate, scan
from redis_integration.entries import unpack
from redis_integration.scan import Search, Tally, read_values
from redis_integration.scan import values as values_module
from redis_integration.tiers.leases import lease_key, make_token, me
from tests.scan.answers import calls, fill


class Trap:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


@cache_aside(ttl=60, key="price:{pk}", tags=["all", "one:{pk}"])
def price(pk):
    return {"pk": pk, "text": "x" * pk}


@cache_aside(ttl=60, key="pickled:{pk}", codec="pickle")
def pickled(pk):
    return frozenset({pk})


@cache_aside(ttl=60, key="missing:{pk}", negative_ttl={LookupError: 60})
def missing(pk):
    raise LookupError(pk)


@cache_aside_view(ttl=60, namespace="page")
def page(request):
    return HttpResponse("<h1>\N{SNOWMAN}</h1>")


def look(pattern):
    facts = ["type", "ttl", "bytes"]
    return read_values("default", [*scan.find("default", Search(pattern=pattern, facts=facts), Tally())])


def test_an_entry_tells_its_header_and_its_payload(client):
    """Codec, size, age, freshness, current tags; JSON is readable as it is."""
    price(7)

    [value] = look("t:price:7")

    assert (value.codec, value.compressed, value.text) == ("json", False, b'{"pk":7,"text":"xxxxxxx"}')
    assert value.payload_bytes == len(value.text)
    assert 0 <= value.age < 30 < value.fresh_for <= 60
    assert (value.tags, value.revoked, value.lease, value.why_not) == (("all", "one:7"), "", "", "")


def test_a_compressed_entry_is_shown_decompressed_and_cut(client):
    """At most 4 kB of it."""
    price(9_000)

    [value] = look("t:price:9000")

    assert value.compressed
    assert value.payload_bytes > 9_000
    assert len(value.text) == 4_096
    assert value.why_not == "the first 4,096 bytes"


def test_a_large_entry_is_read_whole(client, settings):
    """Its checksum is over all of it."""
    settings.REDIS_INTEGRATION = {"default": {**settings.REDIS_INTEGRATION["default"], "COMPRESS_OVER_BYTES": None}}
    price(9_000)

    [value] = look("t:price:9000")

    assert (value.codec, value.compressed, len(value.text)) == ("json", False, 4_096)


def test_an_ended_tag_makes_an_entry_doubtful(client):
    """Its generation stands for nothing any more; that of a version never stood for a tag."""
    price(7)
    invalidate(tags=["all"])

    [value] = look("t:price:7")

    assert value.tags == ("one:7",)
    assert value.revoked == "perhaps: 1 of its 2 generations stands for a version or is over"


def test_an_entry_of_an_earlier_life_is_revoked(client, monkeypatch):
    """As every reader finds it."""
    price(7)
    monkeypatch.setattr(values_module, "unpack", lambda *stored: unpack(*stored)._replace(life=b"another!"))

    assert look("t:price:7")[0].revoked == "it was made in an earlier life of this server"


def test_who_holds_the_lease_is_told(client):
    """Host and process that compute it now."""
    price(7)
    client.set(lease_key("t:price:7"), make_token())

    assert look("t:price:7")[0].lease == me()


def test_a_pickle_is_not_opened(client):
    """Whether it was signed here is all that is told."""
    pickled(7)
    client.set("t:trap", pickle.dumps(Trap()))

    ours, trap = sorted(look("t:*"), key=lambda value: value.found.key)

    assert (ours.codec, ours.text) == ("pickle", b"")
    assert ours.why_not == "a pickle signed by this SECRET_KEY, and never unpickled here"
    assert trap.text == client.get("t:trap")


def test_a_pickle_of_another_secret_says_so(client, settings):
    """Nobody here would unpickle it."""
    pickled(7)
    settings.SECRET_KEY = "another"

    assert look("t:pickled:7")[0].why_not.startswith("a pickle not signed by this SECRET_KEY")


def test_a_page_is_its_head_and_its_body(client):
    """As it is stored."""
    page(RequestFactory().get("/"))

    [value] = look("t:page:*")

    assert value.codec == "response"
    assert value.text.startswith(b"[200,")
    assert value.text.endswith("\n<h1>\N{SNOWMAN}</h1>".encode())


def test_a_remembered_error_is_named(client):
    """Class path and arguments, and no class is looked up."""
    with pytest.raises(LookupError):
        missing(7)

    [value] = look("t:missing:7")

    assert (value.codec, value.text) == ("error", b'["builtins.LookupError",7]')


def test_foreign_values_are_shown_by_type(client):
    """The first elements, raw, also those with a line end within."""
    client.rpush("t:list", *range(20))
    client.zadd("t:zset", {"a": 1, b"\x1b[31m": 2.5})
    client.hset("t:hash", mapping={"field": "value"})
    client.sadd("t:set", "two\nlines")
    client.xadd("t:stream", {"name": "x"}, id="1-1")
    client.set("t:string", b"\xff\n")

    shown = {value.found.key.decode(): value.elements or value.text for value in look("t:*")}

    assert shown == {
        "t:list": tuple(b"%d" % number for number in range(10)),
        "t:zset": (b"a 1", b"\x1b[31m 2.5"),
        "t:hash": (b"field value",),
        "t:set": (b"two\nlines",),
        "t:stream": (b"1-1 name x",),
        "t:string": b"\xff\n",
    }


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_protocols_show_the_same(client, settings, protocol):
    """RESP3 answers with nested lists and numbers."""
    settings.REDIS_INTEGRATION = {
        "default": {**settings.REDIS_INTEGRATION["default"], "OPTIONS": {"protocol": protocol}}
    }
    client.zadd("t:zset", {"a": 1, "b": 2.5})

    assert look("t:zset")[0].elements == (b"a 1", b"b 2.5")


def test_a_large_collection_is_left_alone(client, monkeypatch):
    """Redis could not cut its elements."""
    monkeypatch.setattr(values_module, "MOST_BYTES", 50)
    client.rpush("t:list", "x" * 100)

    assert look("t:list")[0].why_not == "more than 50 bytes: too much to look into"
    assert calls(client, "lrange") == 0


def test_a_large_string_is_cut(client):
    """By Redis."""
    client.set("t:a", "x" * 1_000_000)

    [value] = look("t:a")

    assert (len(value.text), value.why_not) == (4_096, "the first 4,096 bytes")


def test_a_cut_leaves_no_part_of_a_character(client):
    """What is text stays text, in JSON too; what is none is cut where it is."""
    client.mset(
        {"t:text": "x" + "ä" * 4_096, "t:bytes": b"\xff" + "ä".encode() * 4_096, "t:whole": "ä" * 2_047 + "x\n"}
    )
    client.rpush("t:list", "x" + "ä" * 4_096)

    text, binary, whole = (look(f"t:{name}")[0] for name in ("text", "bytes", "whole"))
    [element] = look("t:list")[0].elements

    assert (text.text, text.why_not) == (b"x" + "ä".encode() * 2_047, "the first 4,096 bytes")
    assert len(binary.text) == 4_096
    assert (whole.text, whole.why_not) == ("ä".encode() * 2_047 + b"x\n", "")
    assert element == b"x" + "ä".encode() * 204


def test_what_is_gone_or_of_another_type_by_now_is_empty(client):
    """No error."""
    fill(client, "t:a")
    client.rpush("t:b", 1)
    found = [*scan.find("default", Search(pattern="t:*", facts=["type", "ttl", "bytes"]), Tally())]
    client.flushall()
    client.hset("t:b", "a", 1)

    assert [value.text for value in read_values("default", found)] == [b"", b""]


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "hash", "stream"])
def test_a_key_whose_type_has_changed_meanwhile_is_told(client, kind):
    """It was a traceback, or looked empty."""
    client.rpush("t:a", "x") if kind != "list" else client.set("t:a", "x")

    (value,) = scan.read_values("default", [scan.Found(b"t:a", kind, None, 64)])

    assert (value.text, value.why_not) == (b"", "its type has changed meanwhile")


def test_a_refusal_to_read_is_no_empty_value(client, settings, scan_server):
    """Who may not read it is told so."""
    client.sadd("t:a", "x")
    client.acl_setuser("ops", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-sscan"])
    settings.REDIS_INTEGRATION = {
        "default": {"URL": scan_server.url, "KEY_PREFIX": "t", "USERNAME": "ops", "PASSWORD": "x"}
    }
    try:
        with pytest.raises(RedisUnavailable):
            scan.read_values("default", [scan.Found(b"t:a", "set", None, 64)])
    finally:
        client.acl_deluser("ops")
