"""The list of what this package sends is right: with it all works, and without any of it something does not."""

from __future__ import annotations

from contextlib import suppress

import pytest

from redis_integration import cache_aside, cache_aside_many, invalidate
from redis_integration.conf import get_settings
from redis_integration.doctor.permissions import needed, patterns
from redis_integration.exceptions import RedisUnavailable
from redis_integration.flow import run
from redis_integration.pools import close_pools, distrust_connections
from redis_integration.recovery import recover
from redis_integration.stats import publish
from redis_integration.tiers.redis import get_redis_tier
from tests.doctor.conftest import permit_what_is_needed

pytestmark = pytest.mark.django_db(transaction=True)
# Of what a client is told by name only, nobody sees a refusal: a connection that cannot be named is none.
RULES = ["+get", "+mget", "+set", "+unlink", "+pttl", "+pexpire", "+getrange", "+setrange", "+eval", "+evalsha"]
RULES += ["+hincrby", "+client|setname", "+ping", "+info"]


@pytest.fixture
def options():
    return {"HEALTH_CHECK_INTERVAL": 0.000001}


def live():
    """Do all that sends something to Redis."""
    price = cache_aside(ttl=60, key="price:{pk}")(lambda pk: pk)
    tagged = cache_aside(ttl=60, key="tagged:{pk}", tags=["tag"])(lambda pk: pk)
    longer = cache_aside(ttl=6000, key="longer:{pk}", tags=["tag"])(lambda pk: pk)
    all_prices = cache_aside_many(ttl=60, key="many:{pks}")(lambda pks: pks)
    for call in (price, tagged, longer):
        assert [call(1), call(1)] == [1, 1]
        call.explain(1)
    all_prices([1, 2])
    all_prices([1, 2])
    price.expire(1)
    tagged.refresh(1)
    price.invalidate(1)
    invalidate(tags=["tag"])
    run(recover(get_redis_tier("default", is_async=False)))
    with suppress(RedisUnavailable):
        run(publish("default", is_async=False))


def refusals(admin):
    return [entry["object"] for entry in admin.acl_log()]


def test_nothing_is_refused_to_a_user_with_what_is_needed(admin, healthy):
    """Whatever this package does."""
    permit_what_is_needed(healthy)
    close_pools()

    live()

    assert refusals(admin) == []


def test_every_rule_is_tried(healthy):
    """The list of this test is that of the package."""
    assert [*needed(get_settings("default"))] == RULES


@pytest.mark.parametrize("rule", RULES)
def test_nothing_of_it_is_too_much(admin, healthy, rule):
    """Without it something is refused."""
    live()  # scripts are cached, so that EVALSHA and EVAL are both needed
    admin.script_flush()
    permit_what_is_needed(healthy, without=[rule])
    distrust_connections("default")

    live()

    assert refusals(admin) != []


@pytest.mark.parametrize("at", [0, 1], ids=["entries and tags", "leases"])
def test_patterns_are_needed(admin, healthy, at):
    """Of entries and tags, and of leases."""
    permit_what_is_needed(healthy, without=[[*patterns(get_settings("default"))][at]])

    live()

    assert "key" in {entry["reason"] for entry in admin.acl_log()}
