"""Which keys are whose. On no server."""

from __future__ import annotations

import pytest
from django.test import RequestFactory

from redis_integration import cache_aside, cache_aside_many, cache_aside_view
from redis_integration.scan.owners import owned_by

HERE = "tests.scan.test_owners"


@pytest.fixture(autouse=True)
def prefix(settings):
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1", "KEY_PREFIX": "t.1"}}


@cache_aside(ttl=60, key="price:{pk}")
def price(pk):
    return pk


@cache_aside(ttl=60, key="price:{pk}:{currency}")
def price_in(pk, currency):
    return pk


@cache_aside(ttl=60)
def plain(a, b=None):
    return a


@cache_aside(ttl=60, namespace="named")
def named(a):
    return a


@cache_aside(ttl=60)
def alone():
    return 1


@cache_aside_many(ttl=60, key="many:{pks}")
def many(pks):
    return pks


@cache_aside(ttl=60, key="cfg")
def cfg():
    return 1


@cache_aside(ttl=60, key="long" * 60)
def longest():
    return 1


@cache_aside(ttl=60, key=f"{'long' * 50}:{{pk}}")
def long(pk):
    return pk


@cache_aside_view(ttl=60)
def page(request):
    return None


@cache_aside_view(ttl=60, namespace="front")
def front(request):
    return None


REQUEST = RequestFactory().get("/p/1/", {"q": "a:b"})
MADE = [
    ("price", lambda: price.key_for(7), "t.1:price:*"),
    ("price", lambda: price.key_for("x" * 300), "t.1:price:*"),
    ("price_in", lambda: price_in.key_for(7, "EUR"), "t.1:price:*"),
    ("plain", lambda: plain.key_for("a:b", {"c": 1.5}), f"t.1:{HERE}.plain:a=*"),
    ("named", lambda: named.key_for(7), "t.1:named:a=*"),
    ("longest", longest.key_for, f"t.1:{'long' * 38}*"),
    ("long", lambda: long.key_for(7), f"t.1:{'long' * 38}*"),
    ("alone", lambda: alone.key_for(), f"t.1:{HERE}.alone*"),
    ("many", lambda: many.key_for(7), "t.1:many:*"),
    ("page", lambda: page.key_for(REQUEST), f"t.1:{HERE}.page:*"),
    ("front", lambda: front.key_for(REQUEST), "t.1:front:*"),
]


@pytest.mark.parametrize(("name", "key", "pattern"), MADE)
def test_the_entries_of_a_function_are_its_own(name, key, pattern):
    """A pattern for SCAN, and what its keys look like."""
    found, names = owned_by(f"{HERE}.{name}", "default")

    assert found == pattern
    assert names.fullmatch(key().encode())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("price", "t.1:price:7:EUR"),
        ("price_in", "t.1:price:7"),
        ("price", "t_1:price:7"),
        ("price", "t.1:prices:7"),
        ("alone", f"t.1:{HERE}.alone:a=1"),
        ("named", "t.1:named"),
        ("price", "{t.1:price:7}:lease"),
        ("cfg", f"t.1:cfg-user:{'x' * 155}~{'0' * 32}"),
    ],
)
def test_the_entries_of_others_are_not(name, key):
    """Also where their pattern for SCAN is the same."""
    _, names = owned_by(f"{HERE}.{name}", "default")

    assert names.fullmatch(key.encode()) is None


def test_an_unknown_name_is_refused_with_the_nearest():
    """A slip of one letter."""
    with pytest.raises(ValueError, match=f"Nothing called .*pric makes entries.* Did you mean {HERE}.price"):
        owned_by(f"{HERE}.pric", "default")


def test_another_alias_is_another_owner():
    """Its functions are not this one's."""
    with pytest.raises(ValueError, match="makes entries of 'other'. Name a function"):
        owned_by(f"{HERE}.price", "other")
