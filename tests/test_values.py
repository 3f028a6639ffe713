from __future__ import annotations

import asyncio
import threading
from collections import namedtuple
from decimal import Decimal

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.safestring import SafeString

from redis_integration import cache_aside, cache_aside_many, cache_aside_view, compression, get_redis
from redis_integration.entries import pack, unpack
from redis_integration.models import FallbackEntry
from tests.stampede.watch import until, waiting, watched_flights

Point = namedtuple("Point", "x y")
TEXT = "All happy families are alike; each unhappy family is unhappy in its own way. " * 50


class Lossy:
    """Forgets its name on the way."""

    def __init__(self, name):
        self.name = name

    def __getstate__(self):
        return {"name": None}


class Origin:
    """Returns what it is told to, and counts its calls."""

    def __init__(self, value):
        self.value = value
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.value


@pytest.fixture
def options():
    """Of the alias; no row of the database."""
    return {"DATABASE": None}


@pytest.fixture
def reconfigure(settings):
    """Change options of the alias, as a deploy would."""

    def reconfigure(**options):
        configured = settings.REDIS_INTEGRATION["default"]
        settings.REDIS_INTEGRATION = {"default": {**configured, **options}}

    return reconfigure


@pytest.fixture
def watched(monkeypatch):
    """Flights whose waiters are counted."""
    with watched_flights(monkeypatch):
        yield


def make_sync(origin, **options):
    return cache_aside(**{"ttl": 60, "key": "price:{pk}", **options})(lambda pk: origin())


def make_async(origin, **options):
    @cache_aside(**{"ttl": 60, "key": "price:{pk}", **options})
    async def price(pk):
        return origin()

    def call(pk):
        return asyncio.run(price(pk))

    call.key_for = price.key_for
    return call


def make_many(origin, **options):
    @cache_aside_many(**{"ttl": 60, "key": "price:{pks}", **options})
    def prices(pks):
        return [origin() for _ in pks]

    def call(pk):
        return prices([pk])[0]

    call.key_for = prices.key_for
    return call


@pytest.fixture(params=[make_sync, make_async, make_many], ids=["sync", "async", "many"])
def make(request):
    """A cached function of one argument with this origin and these options, called sync."""
    return request.param


def entry_of(price, pk=7):
    key = price.key_for(pk)
    return unpack(get_redis().get(key), key)


# codec=


def test_pickle_stores_what_json_refuses(live, make):
    """With its type."""
    origin = Origin({"at": [Point(1, SafeString("a"))]})
    price = make(origin, codec="pickle")
    found = [price(7), price(7)]

    assert (found, origin.calls) == ([origin.value] * 2, 1)
    assert type(found[1]["at"][0]) is Point
    assert entry_of(price).codec == 3


def test_everybody_gets_a_copy_of_their_own(live, make):
    """Nobody changes another's value."""
    price = make(Origin([Point(1, 2)]), codec="pickle")
    price(7)
    price(7).append(3)

    assert price(7) == [Point(1, 2)]


@pytest.mark.parametrize("codec", ["yaml", "response", None, 2])
@pytest.mark.parametrize("decorator", [cache_aside, cache_aside_many])
def test_unknown_codec_is_an_error_at_decoration(decorator, codec):
    """With those there are."""
    with pytest.raises(ValueError, match='codec is .*Give "json" or "pickle"'):
        decorator(ttl=60, codec=codec)


def test_views_have_a_codec_of_their_own():
    """No page is a pickle."""
    with pytest.raises(TypeError, match="codec"):
        cache_aside_view(ttl=60, codec="pickle")


def test_another_codec_replaces_what_was_stored(live, make):
    """An entry of ours that a deploy has made unreadable does not keep its key uncached until it ends."""
    make(Origin(1))(7)
    origin = Origin(1)
    price = make(origin, codec="pickle")

    assert ([price(7), price(7)], origin.calls) == ([1, 1], 1)


def test_another_secret_replaces_what_was_stored(live, settings, make, caplog):
    """And says so, once."""
    origin = Origin(1)
    price = make(origin, codec="pickle")
    price(7)
    settings.SECRET_KEY = "new"

    assert ([price(7), price(7)], origin.calls) == ([1, 1], 2)
    assert [line.split(" ")[0] for line in caplog.messages] == ["redis_integration.entry_unreadable"]


def test_signed_entry_is_refused_at_another_key(live, make):
    """Though its header was made for that key."""
    price = make(Origin(1), codec="pickle")
    price(7)
    key = price.key_for(8)
    get_redis().set(key, pack(entry_of(price), key), ex=60)
    origin = Origin(2)

    assert make(origin, codec="pickle")(8) == 2


def test_functions_of_one_key_and_two_codecs_do_not_share_a_flight(live, watched):
    """A caller that joins the other's computation computes for itself."""
    begun, go = threading.Event(), threading.Event()

    @cache_aside(ttl=60, key="shared")
    def slow():
        begun.set()
        assert go.wait(10)
        return 1

    found = []
    threads = [threading.Thread(target=slow), threading.Thread(target=lambda: found.append(other()))]
    other = cache_aside(ttl=60, key="shared", codec="pickle")(lambda: 2)
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    until(lambda: waiting() == 1)
    go.set()
    [thread.join(10) for thread in threads]

    assert found == [2]


# What cannot be stored


@pytest.mark.parametrize(
    ("value", "codec", "says"),
    [
        (Point(1, 2), "json", "test_values.Point (value): it would not come back as the same type. codec='pickle' can"),
        ([{"a": SafeString("x")}], "json", "SafeString (value[0]['a'])"),
        ([{"a": SafeString("x")}], "json", "codec='pickle' can store it."),
        (threading.Lock(), "json", "_thread.lock (value): it would not come back as the same type."),
        (threading.Lock(), "pickle", "_thread.lock: TypeError: cannot pickle '_thread.lock' object."),
        ([1, Lossy("a")], "pickle", "test_values.Lossy (value[1]): it does not come back equal."),
        (Lossy("a"), "json", "Lossy (value): it would not come back as the same type."),
    ],
)
def test_unstorable_value_is_returned_and_named_in_the_log(live, make, caplog, value, codec, says):
    """With its place, and with the codec that could store it; once for this origin and type."""
    origin = Origin(value)
    price = make(origin, codec=codec)

    assert all(each is value for each in (price(7), price(7), price(8)))
    assert (origin.calls, get_redis().exists(price.key_for(7))) == (3, 0)
    assert len(caplog.messages) == 1
    assert says in caplog.text


@pytest.mark.parametrize("value", [threading.Lock(), Lossy("a"), [lambda: 1]])
def test_no_codec_is_recommended_that_could_not_store_it(live, make, caplog, value):
    """What pickle cannot bring back equal either."""
    make(Origin(value))(7)

    assert "value_unstorable" in caplog.text
    assert "pickle" not in caplog.text


def test_another_type_is_said_too(live, make, caplog):
    """The second one is news."""
    origin = Origin(Point(1, 2))
    price = make(origin)
    price(7)
    origin.value = SafeString("a")
    price(7)

    assert ["Point" in line for line in caplog.messages] == [True, False]


@pytest.mark.parametrize("codec", ["json", "pickle"])
def test_debug_verifies_every_fill(live, settings, monkeypatch, make, caplog, codec):
    """Also those of the json codec, which is trusted elsewhere."""
    settings.DEBUG = True
    monkeypatch.setattr(
        f"redis_integration.{'codecs.JsonCodec' if codec == 'json' else 'pickles.PickleCodec'}.decode", lambda *_: [1.0]
    )

    assert make(Origin([1]), codec=codec)(7) == [1]
    assert f"The {codec} codec cannot store builtins.int (value[0]): it does not come back equal." in caplog.text


def test_pages_are_stored_in_debug(live, settings):
    """A response is equal to nothing, so it is not compared."""
    settings.DEBUG, settings.ALLOWED_HOSTS = True, ["testserver"]
    view = cache_aside_view(ttl=60, namespace="page")(lambda request: HttpResponse("hello"))
    request = RequestFactory().get("/")

    assert ["hit" in view(request).headers["Cache-Status"] for _ in range(2)] == [False, True]


def test_foreign_value_is_named_once(live, prefix, make, caplog):
    """Not at each of a thousand calls."""
    origin = Origin(1)
    price = make(origin)
    get_redis().set(price.key_for(7), "not ours", ex=60)

    assert [price(7), price(7)] == [1, 1]
    assert ["entry_unreadable" in line for line in caplog.messages] == [True]
    assert get_redis().get(price.key_for(7)) == b"not ours"


def test_foreign_value_that_came_meanwhile_is_named(live, make, caplog):
    """While the origin ran: it is left alone too."""
    price = make(lambda: get_redis().set(price.key_for(7), "not ours", ex=60))

    assert price(7) is True
    assert ["entry_unreadable" in line for line in caplog.messages] == [True]
    assert get_redis().get(price.key_for(7)) == b"not ours"


def test_key_of_another_type_is_named_once(live, prefix, make, caplog):
    """A list at our key."""
    price = make(Origin(1))
    get_redis().rpush(price.key_for(7), "a")
    get_redis().expire(price.key_for(7), 60)

    assert [price(7), price(7)] == [1, 1]
    assert ["entry_unreadable" in line for line in caplog.messages] == [True]


# MAX_ENTRY_BYTES


@pytest.mark.parametrize("codec", ["json", "pickle"])
def test_value_above_the_limit_is_returned_and_not_stored(live, reconfigure, make, caplog, codec):
    """However small it can be compressed; the log says so once."""
    reconfigure(MAX_ENTRY_BYTES=1000)
    origin = Origin(TEXT)
    price = make(origin, codec=codec)

    assert [price(7), price(7)] == [TEXT, TEXT]
    assert (origin.calls, get_redis().exists(price.key_for(7))) == (2, 0)
    assert len(caplog.messages) == 1
    assert "more than MAX_ENTRY_BYTES (1,000)." in caplog.text


@pytest.mark.parametrize(("limit", "calls"), [(len(TEXT) + 1, 2), (len(TEXT) + 2, 1)])
def test_limit_counts_the_payload_before_compression(live, reconfigure, make, limit, calls):
    """With the quotes of its JSON."""
    reconfigure(MAX_ENTRY_BYTES=limit)
    origin = Origin(TEXT)
    price = make(origin)
    price(7)
    price(7)

    assert origin.calls == calls


@pytest.mark.parametrize("over", [1024, None], ids=["compressed", "plain"])
def test_stored_entry_above_the_limit_is_a_miss(live, reconfigure, make, over):
    """By its own bytes, or by those it would become; it is left alone."""
    reconfigure(COMPRESS_OVER_BYTES=over)
    origin = Origin(TEXT)
    price = make(origin)
    price(7)
    stored = get_redis().get(price.key_for(7))
    reconfigure(MAX_ENTRY_BYTES=1000)

    assert [price(7), price(7)] == [TEXT, TEXT]
    assert origin.calls == 3
    assert get_redis().get(price.key_for(7)) == stored


def test_error_above_the_limit_is_not_remembered(live, reconfigure, caplog):
    """As a value."""
    reconfigure(MAX_ENTRY_BYTES=100)

    @cache_aside(ttl=60, key="price:{pk}", negative_ttl={LookupError: 5})
    def price(pk):
        raise LookupError("x" * 101)

    with pytest.raises(LookupError):
        price(7)
    assert get_redis().exists(price.key_for(7)) == 0
    assert "error_unstorable" in caplog.text


# Compression


@pytest.mark.parametrize(("name", "flags"), [("zlib", 1), ("zstd", 2)])
@pytest.mark.parametrize("codec", ["json", "pickle"])
def test_large_values_are_compressed(live, reconfigure, make, name, flags, codec):
    """And come back."""
    reconfigure(COMPRESSION=name)
    origin = Origin({"text": TEXT, "price": Decimal("1.50")})
    price = make(origin, codec=codec)

    assert ([price(7), price(7)], origin.calls) == ([origin.value] * 2, 1)
    assert entry_of(price).flags == flags
    assert get_redis().strlen(price.key_for(7)) < 500


@pytest.mark.parametrize(("over", "flags"), [(1000, 0), (999, 1), (0, 1), (None, 0)])
def test_threshold_is_that_of_the_setting(live, reconfigure, make, over, flags):
    """Above it, not at it; None is never."""
    reconfigure(COMPRESS_OVER_BYTES=over)
    price = make(Origin("x" * 998))
    price(7)

    assert entry_of(price).flags == flags


def test_pages_are_compressed(live, settings):
    """And answered as they were."""
    settings.ALLOWED_HOSTS = ["testserver"]
    view = cache_aside_view(ttl=60, namespace="page")(lambda request: HttpResponse(TEXT))
    request = RequestFactory().get("/")
    found = [view(request).content.decode() for _ in range(2)]

    assert found == [TEXT, TEXT]
    assert get_redis().strlen(view.key_for(request)) < 500


def test_stale_compressed_entry_is_replaced(live):
    """It is known again by its head, which is that of the compressed bytes."""
    origin = Origin(TEXT)
    price = make_sync(origin, stale_for=60, refresh="caller")
    price(7)
    price.expire(7)
    origin.value = TEXT + "!"

    assert [price(7), price(7), origin.calls] == [origin.value, origin.value, 2]


def test_those_who_joined_get_what_was_compressed(live, watched):
    """Each their own copy of it."""
    begun, go = threading.Event(), threading.Event()

    @cache_aside(ttl=60, key="price:{pk}")
    def price(pk):
        begun.set()
        assert go.wait(10)
        return [TEXT]

    found = []
    threads = [threading.Thread(target=lambda: found.append(price(7))) for _ in range(5)]
    threads[0].start()
    assert begun.wait(10)
    [thread.start() for thread in threads[1:]]
    until(lambda: waiting() == 4)
    go.set()
    [thread.join(10) for thread in threads]

    assert found == [[TEXT]] * 5
    assert len({id(each) for each in found}) == 5


def test_without_zstd_an_entry_of_another_process_is_a_miss(live, reconfigure, monkeypatch, make):
    """And replaced by one that is not compressed."""
    reconfigure(COMPRESSION="zstd")
    make(Origin(TEXT))(7)
    monkeypatch.setattr(compression, "_find_zstd", lambda: None)
    origin = Origin(TEXT)
    price = make(origin)

    assert ([price(7), price(7)], origin.calls) == ([TEXT, TEXT], 1)
    assert entry_of(price).flags == 0


@pytest.mark.django_db(transaction=True)
def test_rows_are_compressed(settings):
    """In an outage, as Redis would have it."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0"}}
    origin = Origin(TEXT)
    price = make_sync(origin)
    price(1)
    price(7)

    assert ([price(7), price(7)], origin.calls) == ([TEXT, TEXT], 2)
    assert len(FallbackEntry.objects.get(key=price.key_for(7)).payload) < 500
