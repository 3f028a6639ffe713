"""`explain` tells what the next call would get, and why; it changes nothing."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now
from django.http import HttpResponse
from django.test import RequestFactory

from redis_integration import cache_aside, cache_aside_many, cache_aside_view, get_redis, invalidate, pools
from redis_integration.codecs import JsonCodec
from redis_integration.entries import pack, unpack
from redis_integration.models import FallbackEntry
from redis_integration.tiers import leases
from redis_integration.tiers import redis as redis_tier
from redis_integration.tiers.leases import lease_key
from redis_integration.tiers.redis import get_redis_tier

SOMEBODY = b"8 bytes.web-3:4711"


class Down(Exception):
    pass


class Sync:
    """The function under test, called as a test reads."""

    def __init__(self):
        self.calls = 0
        self.is_down = False

    def compute(self):
        self.calls += 1
        if self.is_down:
            raise Down
        return f"value {self.calls}"

    def decorate(self, **options):
        @cache_aside(**{"ttl": 60, "key": "price:{pk}", "tags": ["product:{pk}", "products"], **options})
        def price(pk):
            return self.compute()

        self.price = price
        return self

    def get(self, pk):
        return self.price(pk)

    def explain(self, pk):
        return self.price.explain(pk)

    def expire(self, pk):
        self.price.expire(pk)


class Async(Sync):
    def decorate(self, **options):
        @cache_aside(**{"ttl": 60, "key": "price:{pk}", "tags": ["product:{pk}", "products"], **options})
        async def price(pk):
            return self.compute()

        self.price = price
        return self

    def get(self, pk):
        return asyncio.run(self.price(pk))

    def explain(self, pk):
        return asyncio.run(self.price.aexplain(pk))

    def expire(self, pk):
        asyncio.run(self.price.aexpire(pk))


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def price(request):
    return request.param().decorate()


@pytest.fixture
def exchanges(monkeypatch):
    """The commands of each exchange with Redis that was made since."""
    made = []
    exchange, aexchange = pools.exchange, pools.aexchange

    def noted(alias, commands, **options):
        made.append([command[0] for command in commands])
        return exchange(alias, commands, **options)

    def anoted(alias, commands, **options):
        made.append([command[0] for command in commands])
        return aexchange(alias, commands, **options)

    monkeypatch.setattr(pools, "exchange", noted)
    monkeypatch.setattr(pools, "aexchange", anoted)
    redis_tier.start_afresh()
    return made


def answers(explanation):
    return explanation.answer, explanation.answer_why


def edit(key, **changes):
    """Change the entry at this key, its checksum too."""
    entry = unpack(get_redis().get(key), key)
    get_redis().set(key, pack(entry._replace(**changes), key), keepttl=True)


def test_a_hit_is_explained(live, price, prefix):
    """Key, tier, age, freshness, size, codec, tags with their generations, and that nobody has the lease."""
    price.get(7)
    generation = get_redis().get(f"{prefix}:#product:7").hex()

    found = price.explain(7)

    assert (found.key, found.redis, *answers(found)) == (f"{prefix}:price:7", "up", "redis", "fresh")
    assert 0 <= found.age < 10
    assert 0 <= found.took < 10
    assert 40 < found.fresh_for <= 60
    assert found.fresh_for == pytest.approx(found.kept_for, abs=7)
    assert (found.size, found.codec) == (get_redis().strlen(found.key), "json")
    assert found.tags[0] == (f"{prefix}:#product:7", generation, True)
    assert [tag.is_current for tag in found.tags] == [True, True]
    assert (found.holder, found.held_for) == ("", None)


def test_a_miss_is_explained(live, price, prefix):
    """There is no entry; the tags that stand are told all the same."""
    price.get(8)

    found = price.explain(7)

    assert answers(found) == ("origin", "no entry")
    assert (found.size, found.codec, found.age, found.fresh_for, found.kept_for) == (None, "", None, None, None)
    assert [(tag.key, bool(tag.generation)) for tag in found.tags] == [
        (f"{prefix}:#product:7", False),
        (f"{prefix}:#products", True),
    ]


def test_it_reads_once_and_changes_nothing(live, price, exchanges):
    """One round trip of reads, whether the entry is there, stale, revoked, or not there."""
    price.decorate(stale_for=60)
    price.get(7)
    price.expire(7)
    before = get_redis().dump(price.price.key_for(7))
    exchanges.clear()

    price.explain(7)
    price.explain(8)

    assert exchanges == [["GET", "PTTL", "GET", "PTTL", "MGET"]] * 2
    assert price.calls == 1
    assert get_redis().dump(price.price.key_for(7)) == before
    assert get_redis().exists(lease_key(price.price.key_for(7)), price.price.key_for(8)) == 0


def test_the_value_is_not_decoded(live, price, monkeypatch):
    """What it costs to decode, or may do, is nobody's business here."""
    price.get(7)
    monkeypatch.setattr(JsonCodec, "decode", lambda self, payload: pytest.fail("decoded"))

    assert answers(price.explain(7)) == ("redis", "fresh")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"stale_for": 60}, ("redis", "stale, and computed anew in the background")),
        ({"stale_for": 60, "refresh": "caller"}, ("origin", "stale, and computed anew by the caller")),
    ],
)
def test_a_stale_entry_is_explained(live, price, given, expected):
    """Who computes it anew depends on `refresh`; `expire` is told as such."""
    price.decorate(**given)
    price.get(7)
    price.expire(7)

    found = price.explain(7)

    assert answers(found) == expected
    assert found.fresh_for < 0
    assert "stale   since it was expired\n" in f"{found}"


def test_a_due_entry_is_explained(live, price):
    """It is fresh, and past the share of its ttl that `eager` names."""
    price.decorate(eager=0.001, stale_for=60)
    price.get(7)
    edit(price.price.key_for(7), created=time.time() - 30)

    assert answers(price.explain(7)) == ("redis", "due, and computed anew in the background")


def test_a_stale_entry_that_another_refreshes_is_explained(live, price):
    """It is answered at once, and the lease tells who computes it."""
    price.decorate(stale_for=60)
    price.get(7)
    price.expire(7)
    get_redis().set(lease_key(price.price.key_for(7)), SOMEBODY, px=60_000)

    found = price.explain(7)

    assert answers(found) == ("redis", "stale")
    assert found.holder == "web-3:4711"
    assert 0 < found.held_for <= 60


def test_a_miss_that_another_computes_is_explained(live, price):
    """A call waits for who has the lease."""
    get_redis().set(lease_key(price.price.key_for(7)), SOMEBODY, px=60_000)

    assert answers(price.explain(7)) == ("origin", "no entry; waited for, since another computes it")


def test_a_lease_tells_this_process(live, prefix):
    """While the origin runs, the lease names the host and the process that runs it."""
    seen = []

    @cache_aside(ttl=60, key="price:{pk}")
    def price(pk):
        seen.append(price.explain(pk))

    price(7)

    assert seen[0].holder == f"{leases.me()} (this process)"
    assert 0 < seen[0].held_for <= 10


def test_an_origin_that_is_held_back_is_explained(live, price):
    """After an error the copy is answered, and nobody has the lease."""
    price.decorate(stale_for=60, refresh="caller", error_ttl=30)
    price.get(7)
    price.expire(7)
    price.is_down = True
    price.get(7)

    found = price.explain(7)

    assert answers(found) == ("redis", "stale")
    assert found.holder == "held back, since the origin has just failed"


def test_a_revoked_entry_names_the_tag(live, price, prefix):
    """The entry is still there, and the tag that was invalidated is told from the other."""
    price.get(7)
    invalidate(tags=["products"])
    price.get(8)

    found = price.explain(7)

    assert answers(found) == ("origin", f"revoked, since {prefix}:#products was invalidated")
    assert [tag.is_current for tag in found.tags] == [True, False]
    assert found.age is not None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"version": 2}, "revoked, since it was made by another version"),
        ({"version": None}, "revoked, since it was made with other tags, or by another version"),
        ({"version": 1, "tags": []}, "revoked, since it was made with other tags, or by another version"),
    ],
)
def test_another_version_is_explained(live, price, given, why):
    """What an older release stored is a miss."""
    price.decorate(version=1).get(7)

    assert answers(price.decorate(**given).explain(7)) == ("origin", why)


def test_another_life_is_explained(live, price):
    """What a server held before a restart is a miss."""
    price.get(7)
    edit(price.price.key_for(7), life=b"12345678")

    assert answers(price.explain(7)) == (
        "origin",
        "revoked, since the server restarted or failed over: it is of another life",
    )


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (lambda key: get_redis().set(key, "not ours"), "These 8 bytes are no entry of format"),
        (lambda key: get_redis().setrange(key, 70, "X"), "The entry's bytes were changed"),
        (lambda key: edit(key, codec=77), "codec 77 made it, not json"),
        (lambda key: (get_redis().delete(key), get_redis().lpush(key, "x")), "WRONGTYPE"),
    ],
)
def test_foreign_values_are_explained(live, price, put, why):
    """What is at the key and not ours is a miss, and left alone."""
    price.get(7)
    put(price.price.key_for(7))

    found = price.explain(7)

    assert found.answer == "origin"
    assert found.answer_why.startswith(f"what is there is not ours, and left alone: {why}")


def test_a_remembered_error_is_explained(live, price):
    """It is an entry like any other, as long as it is fresh."""
    price.decorate(negative_ttl={Down: 30})
    price.is_down = True
    with pytest.raises(Down):
        price.get(7)

    assert (*answers(price.explain(7)), price.explain(7).codec) == ("redis", "fresh", "an error of the origin")
    price.expire(7)
    assert answers(price.explain(7)) == ("origin", "the error that was remembered is over")


def test_a_pending_name_is_explained(live, price, prefix):
    """What Redis did not confirm is bypassed; to explain it does not repeat it."""
    price.get(7)
    get_redis_tier("default", is_async=False).journal.remember([f"{prefix}:#products"])

    found = price.explain(7)

    assert (found.redis, found.answer) == ("shy", "origin")
    assert found.redis_why == f"the invalidation of {prefix}:#products is pending, and repeated soon"
    assert found.answer_why == "Redis is left alone, and nothing is stored"
    assert get_redis_tier("default", is_async=False).journal.pending
    assert price.get(7) == "value 2"


@pytest.mark.django_db(transaction=True)
def test_an_invalidation_of_this_transaction_is_explained(live):
    """The transaction sees its own writes, and no entry."""
    price = Sync().decorate()
    price.get(7)

    with transaction.atomic():
        price.price.invalidate(7)
        found = price.explain(7)

    assert (found.redis, found.answer) == ("shy", "origin")
    assert "transaction" in found.redis_why


def test_disabled_caching_is_explained(settings, live, price, prefix, exchanges):
    """Every call is its origin, and Redis is not asked."""
    settings.REDIS_INTEGRATION = {"default": {"URL": live.url, "KEY_PREFIX": prefix, "ENABLED": False}}

    found = price.explain(7)

    assert (found.redis, *answers(found)) == ("not asked", "origin", "'ENABLED' of 'default' is False")
    assert exchanges == []


@pytest.mark.django_db(transaction=True)
def test_a_row_is_explained_while_redis_is_down(live_own, price):
    """It never raises: the row that answers is told."""
    live_own.stop()
    price.get(7)

    found = price.explain(7)

    assert (found.redis, *answers(found)) == ("down", "fallback", "fresh")
    assert (found.codec, found.kept_for, found.tags) == ("json", None, ())
    assert 0 < found.fresh_for <= 10
    assert re.fullmatch(r"for \d+\.\d s; it is tried again every few seconds", found.redis_why)
    assert answers(price.explain(8)) == ("origin", "no row of the database")


@pytest.mark.django_db(transaction=True)
def test_an_own_row_is_explained_as_it_answers(live_own, price):
    """By the database's clock it is older than the outage; who made it knows better, as a call does."""
    live_own.stop()
    price.get(7)
    FallbackEntry.objects.update(started=Now() - timedelta(seconds=5), leased=Now() - timedelta(seconds=5))

    assert answers(price.explain(7)) == ("fallback", "fresh")
    assert price.get(7) == "value 1"


@pytest.mark.django_db(transaction=True)
def test_a_row_costs_one_query(live_own, exchanges, django_assert_num_queries):
    """While the breaker is open Redis is not asked."""
    live_own.stop()
    price = Sync().decorate()
    price.get(7)
    exchanges.clear()

    with django_assert_num_queries(1):
        price.explain(7)

    assert exchanges == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows.update(payload=b"not ours"), "what is there is not ours, and left alone: These 8 bytes"),
        (lambda rows: rows.update(fresh_until="2020-01-01T00:00Z"), "the row is no longer fresh"),
        (lambda rows: rows.update(started="2020-01-01T00:00Z"), "the row is older than this outage"),
    ],
)
def test_a_row_that_is_not_believed_is_explained(live_own, price, change, why):
    """Rows that no longer answer are told from those that do."""
    live_own.stop()
    price.get(7)
    change(FallbackEntry.objects.all())

    found = price.explain(7)

    assert found.answer == "origin"
    assert found.answer_why.startswith(why)


@pytest.mark.django_db(transaction=True)
def test_another_version_of_a_row_is_explained(live_own):
    """A row that another version of the function made is a miss."""
    live_own.stop()
    Sync().decorate(version=1).get(7)

    assert answers(Sync().decorate(version=2).explain(7)) == (
        "origin",
        "a tag of it was invalidated, or the version is another",
    )


@pytest.mark.django_db(transaction=True)
def test_an_outage_that_nobody_knows_is_explained(live_own, price):
    """It says what it has met, and leaves the breaker to those who call."""
    price.get(7)
    live_own.stop()

    found = price.explain(7)

    assert (found.redis, found.answer) == ("down", "origin")
    assert "Is the server running" in found.redis_why
    assert get_redis_tier("default", is_async=False).breaker.is_closed


@pytest.mark.django_db(transaction=True)
def test_a_database_that_fails_is_no_error(live_own, price, monkeypatch):
    """Then there is no row."""
    live_own.stop()
    price.get(7)
    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", lambda self: 1 / 0)

    assert answers(price.explain(7)) == ("origin", "no row of the database: ZeroDivisionError: division by zero")


def test_an_item_of_a_list_is_explained(live, prefix):
    """`cache_aside_many`: explain takes one item."""

    @cache_aside_many(ttl=60, key="price:{pks}")
    def prices(pks, currency="EUR"):
        return pks

    @cache_aside_many(ttl=60, key="price:{pks}")
    async def aprices(pks, currency="EUR"):
        return pks

    prices([1, 2])

    assert [answers(prices.explain(1)), answers(prices.explain(3, currency="EUR"))] == [
        ("redis", "fresh"),
        ("origin", "no entry"),
    ]
    assert answers(asyncio.run(aprices.aexplain(2))) == ("redis", "fresh")


def test_a_page_is_explained(live):
    """A view's takes the view's own arguments; a request that is not answered from entries says why."""

    @cache_aside_view(ttl=60, tags=["product:{pk}"])
    def page(request, pk):
        return HttpResponse(b"page")

    factory = RequestFactory()
    page(factory.get("/7/"), pk=7)

    assert answers(page.explain(factory.get("/7/"), pk=7)) == ("redis", "fresh")
    assert page.explain(factory.get("/7/"), pk=7).codec == "response"
    assert answers(page.explain(factory.post("/7/"), pk=7)) == ("origin", "method POST")
    with pytest.raises(TypeError, match="request"):
        page.explain("/7/")


def test_the_text_is_aligned_lines(live, price, prefix):
    """One fact a line."""
    price.get(7)
    get_redis().set(lease_key(price.price.key_for(7)), SOMEBODY, px=60_000)

    lines = f"{price.explain(7)}".splitlines()

    assert [line[:8].strip() for line in lines] == [
        *("key", "redis", "answer", "size", "age", "fresh", "kept", "tag", "tag", "lease", "held")
    ]
    assert lines[:3] == [f"key     {prefix}:price:7", "redis   up", "answer  redis: fresh"]
    assert lines[7].endswith("  the entry's")
    assert lines[9] == "lease   web-3:4711"


def test_what_stands_in_redis_speaks_to_no_terminal(live, price):
    """A lease is anybody's bytes."""
    get_redis().set(lease_key(price.price.key_for(7)), b"12345678\x1b[31m\n\xff", px=60_000)

    text = f"{price.explain(7)}"

    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    assert "\\x1b[31m\\x0a" in text


def test_times_of_no_calendar_are_no_error(live, price):
    """A time that no clock can tell is text all the same."""
    price.get(7)
    edit(price.price.key_for(7), fresh_until=1e300, created=-1e300)

    assert "fresh   for " in f"{price.explain(7)}"
