"""Rules about a sample of the keys: each made to fire on a real server."""

from __future__ import annotations

import pytest

from redis_integration import cache_aside
from redis_integration.doctor import examine
from redis_integration.entries import FORMAT
from tests.doctor.conftest import say

IDS = {"D401", "D402", "D403", "D404", "D405", "D406", "D407"}


@pytest.fixture
def options():
    return {"COMPRESS_OVER_BYTES": None}


def test_entries_give_nothing_to_say(admin, healthy):
    """Entries, leases and generations of this package are as they should be."""
    price = cache_aside(ttl=600, key="price:{pk}", tags=["prices"])(lambda pk: "x" * 1000)
    for pk in range(150):
        price(pk)

    report = examine(tags=["keys"])

    assert report.findings == ()
    assert report.sampled == 151


@pytest.mark.parametrize(
    ("rule_id", "command", "said"),
    [
        ("D401", ("SET", "{}:kept", "\x02"), "1 of 1 keys never expire: {}:kept."),
        ("D402", ("SET", "{}:large", "\x02" + "x" * 120_000, "EX", "60"), "the largest 1"),
        ("D406", ("SET", "{}:theirs", "[]", "EX", "60"), "1 of 1 strings"),
        ("D406", ("HSET", "{}:hash", "a", "b"), "1 keys of other types"),
        ("D407", ("SET", "session:1", "x"), "1 of 1 keys are not under KEY_PREFIX: session."),
    ],
)
def test_a_key_is_told(admin, prefix, rule_id, command, said):
    """One key is spoilt; `{}` stands for the prefix."""
    admin.execute_command(*(word.replace("{}", prefix) for word in command))

    found = say(tags=["keys"])

    assert said.format(prefix) in found[rule_id].msg
    assert found.keys() <= {rule_id, "D401"}


def test_large_collection_is_told(admin, prefix):
    """Above 1 MB, of any type but strings."""
    admin.rpush(f"{prefix}:list", *(str(number) * 100 for number in range(10_000)))
    admin.expire(f"{prefix}:list", 60)

    assert f"{prefix}:list" in say(tags=["keys"])["D403"].msg


@pytest.mark.parametrize(("spread", "ids"), [(0, {"D404"}), (30, set())])
def test_keys_that_end_together_are_told(admin, prefix, spread, ids):
    """A hundred of one namespace, in the same minute an hour from now; not where they end one after the other."""
    with admin.pipeline(transaction=False) as pipeline:
        for number in range(120):
            pipeline.set(f"{prefix}:page:{number}", "\x02", ex=3590 + spread * number)
        pipeline.execute()

    assert say(tags=["keys"]).keys() == ids


def test_entries_of_another_version_are_told(admin, prefix):
    """Their format byte is another."""
    admin.set(f"{prefix}:old", bytes([FORMAT + 1]) + b"x" * 60, ex=60)

    found = say(tags=["keys"])

    assert found.keys() == {"D405"}
    assert "1 of 1 entries" in found["D405"].msg


def test_other_databases_are_told(healthy, admin):
    """Their keys are not looked at."""
    admin.execute_command("SELECT", 3)
    admin.set("any", "thing")

    assert "db3" in say(tags=["keys"])["D407"].msg


def test_names_are_escaped(admin, prefix):
    """No key speaks to a terminal, or breaks a line."""
    admin.set(f"{prefix}:\x1b[31m\n".encode() + b"\xff", "\x02")

    assert rf"{prefix}:\x1b[31m\x0a\xff" in say(tags=["keys"])["D401"].msg


def test_a_sample_is_bounded_and_told(admin, prefix):
    """A page of SCAN more, at most."""
    admin.mset({f"{prefix}:{number}": "\x02" for number in range(3000)})

    report = examine(tags=["keys"], sample=1000)

    assert 1000 <= report.sampled <= 1500
    assert examine(tags=["keys"], sample=0).sampled == 0


def test_a_look_leaves_idle_times_alone(admin, prefix):
    """But those of a hundred strings, whose first byte is read where the server cannot be told not to count it."""
    admin.mset({f"{prefix}:{number}": "\x02" for number in range(300)})

    examine(tags=["keys"])

    stats = admin.info("commandstats")
    assert stats["cmdstat_getrange"]["calls"] == 100
    assert stats.keys() & {"cmdstat_strlen", "cmdstat_get", "cmdstat_dump"} <= {
        "cmdstat_get"
    }  # the application's own try
