"""Transactions of requests: ATOMIC_REQUESTS, sync views and async code, as Django's WSGI and ASGI applications run them."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections, transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import path

from redis_integration import ainvalidate, cache_aside, cache_aside_view, invalidate
from tests.transactions.conftest import Boom, Price, in_every_database, reading_committed, reading_snapshots


class Urls:
    """A URLconf with one page."""

    def __init__(self, view):
        self.urlpatterns = [path("", view)]


@pytest.fixture
def atomic_requests(database):
    """ATOMIC_REQUESTS of this database is true."""
    connections.settings[database]["ATOMIC_REQUESTS"] = True
    yield
    connections.settings[database]["ATOMIC_REQUESTS"] = False


@pytest.fixture
def page(settings):
    """Serve this view as the only page."""

    def serve(view):
        settings.ROOT_URLCONF = Urls(view)

    return serve


class Answer(NamedTuple):
    status_code: int
    content: bytes


def get_sync():
    response = Client(raise_request_exception=False).get("/")
    return Answer(response.status_code, response.content)


def get_async():
    """By Django's own ASGI application: its test client ends a request in another thread than servers do."""
    sent = []
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/"}
    scope |= {"query_string": b"", "headers": [(b"host", b"testserver")]}

    async def serve():
        requests = asyncio.Queue()
        await requests.put({"type": "http.request", "body": b"", "more_body": False})

        async def send(message):
            sent.append(message)

        await ASGIHandler()(scope, requests.get, send)

    asyncio.run(serve())
    return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent))


@pytest.fixture(params=[get_sync, get_async], ids=["wsgi", "asgi"])
def get(request):
    """Ask for the page as a WSGI or an ASGI server would."""
    return request.param


@reading_committed
def test_miss_in_a_view_is_stored_when_the_request_commits(price, atomic_requests, page, get):
    """ATOMIC_REQUESTS commits after the view has answered."""
    inside = []

    def view(request):
        answer = HttpResponse(price.get())
        inside.append(price.is_stored)
        return answer

    page(view)

    assert [get().content, get().content] == [b"old", b"old"]
    assert (inside, price.reads, price.is_leased) == ([False, True], 1, False)


@reading_snapshots
def test_miss_in_a_view_on_a_snapshot_is_not_stored(price, atomic_requests, page, get):
    """And no lease outlives the request."""
    page(lambda request: HttpResponse(price.get()))

    assert get().content == b"old"
    assert (price.is_stored, price.is_leased) == (False, False)


@in_every_database
def test_view_that_raises_stores_nothing_and_keeps_no_lease(price, atomic_requests, page, get):
    """Its transaction is rolled back, and with the request the lease ends."""

    def view(request):
        price.change()
        price.get()
        raise Boom

    page(view)

    assert get().status_code == 500
    assert (price.is_stored, price.is_leased) == (False, False)
    assert price.get() == "old"


@in_every_database
def test_view_that_raises_invalidates_nothing(price, atomic_requests, page, get):
    """The change is undone, so the entry is right."""
    price.get()

    def view(request):
        price.change()
        price.invalidate()
        raise Boom

    page(view)

    assert get().status_code == 500
    assert price.get() == "old"
    assert price.reads == 1


@in_every_database
def test_view_that_changes_sees_the_change_and_everybody_sees_it_afterwards(price, atomic_requests, page, get):
    """Read, change, invalidate, read: as views do."""
    price.get()

    def view(request):
        before = price.get()
        price.change()
        price.invalidate()
        return HttpResponse(f"{before} {price.get()}")

    page(view)

    assert get().content == b"old new"
    assert price.get() == "new"


OURS = "redis_integration.middleware.CacheAsideMiddleware"


def with_cookie(get_response):
    """A middleware that has the last word on the answer."""

    def middleware(request):
        response = get_response(request)
        response.set_cookie("a", "b")
        return response

    return middleware


@pytest.mark.parametrize("middleware", [[], [OURS]], ids=["alone", "middleware"])
@reading_committed
def test_cached_view_is_stored_when_its_request_commits(
    database, atomic_requests, live, page, get, settings, middleware
):
    """ATOMIC_REQUESTS wraps the view from outside, and our middleware speaks after the commit."""
    settings.MIDDLEWARE = middleware
    price = Price(database)
    page(cache_aside_view(ttl=60, namespace="page")(lambda request: HttpResponse(price._read())))

    assert [get().content, get().content] == [b"old", b"old"]
    assert price.reads == 1


@pytest.mark.parametrize("middleware", [[], [OURS]], ids=["alone", "middleware"])
@reading_committed
def test_cached_view_whose_transaction_is_rolled_back_is_not_stored(
    database, atomic_requests, live, page, get, settings, middleware
):
    """It has answered, with what nobody else will ever see."""
    settings.MIDDLEWARE = middleware
    price = Price(database)

    def view(request):
        price.change()
        answer = HttpResponse(price._read())
        transaction.set_rollback(True, using=database)
        return answer

    page(cache_aside_view(ttl=60, namespace="page")(view))

    assert [get().content, get().content] == [b"new", b"new"]
    assert price.reads == 2


@reading_committed
def test_page_that_its_own_transaction_invalidated_is_not_stored(database, atomic_requests, live, page, get, settings):
    """The commit has revoked the lease before the middleware speaks."""
    settings.MIDDLEWARE = [OURS]
    price = Price(database)

    def view(request):
        invalidate(tags=["page:/"])
        return HttpResponse(price._read())

    page(cache_aside_view(ttl=60, namespace="page")(view))

    assert [get().content, get().content] == [b"old", b"old"]
    assert price.reads == 2


@reading_committed
def test_page_refused_after_the_commit_is_not_stored(database, atomic_requests, live, page, get, settings):
    """The last word is the middleware's."""
    settings.MIDDLEWARE = [OURS, f"{__name__}.with_cookie"]
    price = Price(database)
    page(cache_aside_view(ttl=60, namespace="page")(lambda request: HttpResponse(price._read())))

    assert [get().content, get().content] == [b"old", b"old"]
    assert price.reads == 2


@reading_snapshots
def test_cached_view_on_a_snapshot_is_computed_each_time(database, atomic_requests, live, page):
    """A check warns for ATOMIC_REQUESTS there."""
    price = Price(database)
    page(cache_aside_view(ttl=60, namespace="page")(lambda request: HttpResponse(price._read())))

    assert [get_sync().content, get_sync().content] == [b"old", b"old"]
    assert price.reads == 2


@in_every_database
def test_lease_of_a_transaction_that_a_view_rolled_back_ends_with_the_request(price, page, get):
    """A view that catches the error of its own transaction answers as usual."""

    def view(request):
        with pytest.raises(Boom), price.atomic():
            price.get()
            raise Boom
        return HttpResponse("fine")

    page(view)

    assert get().content == b"fine"
    assert not price.is_leased


@in_every_database
def test_async_view_stores_at_once_outside_transactions(database, live, page):
    """An await in an async view is in no transaction."""
    price = Price(database)

    @cache_aside(ttl=60, key="awaited")
    async def awaited():
        return await sync_to_async(price._read)()

    async def view(request):
        return HttpResponse(await awaited())

    page(view)

    assert [get_async().content, get_async().content] == [b"old", b"old"]
    assert price.reads == 1


@in_every_database
def test_async_view_may_change_in_a_sync_transaction(database, live, page):
    """What a transaction must hold together is written sync; ainvalidate inside it waits for its commit."""
    price = Price(database, is_async=True)
    price.get()
    inside = []

    def change():
        with price.atomic():
            price.change()
            async_to_sync(ainvalidate)(keys=[price.key_for()])
            inside.extend([price.get(), price.is_stored])

    async def view(request):
        await sync_to_async(change)()
        return HttpResponse("fine")

    page(view)

    assert get_async().content == b"fine"
    assert inside == ["new", True]
    assert price.get() == "new"


@reading_committed
def test_async_view_with_a_sync_transaction_fills_on_its_commit(database, live, page):
    """The coroutine function is called by async_to_sync, in the thread that has the transaction."""
    price = Price(database, is_async=True)
    inside = []

    def compute():
        with price.atomic():
            price.get()
            inside.append(price.is_stored)

    async def view(request):
        await sync_to_async(compute)()
        return HttpResponse("fine")

    page(view)

    assert get_async().content == b"fine"
    assert (inside, price.is_stored) == ([False], True)


@in_every_database
def test_awaited_invalidation_outside_transactions_is_sent_at_once(database, live, page):
    """The next await reads the change."""
    price = Price(database)

    @cache_aside(ttl=60, key="awaited", tags=["prices"])
    async def awaited():
        return await sync_to_async(price._read)()

    async def view(request):
        before = await awaited()
        await sync_to_async(price.change)()
        await ainvalidate(tags=["prices"])
        return HttpResponse(f"{before} {await awaited()}")

    page(view)

    assert get_async().content == b"old new"


@pytest.mark.parametrize("name", ["ainvalidate", "arefresh", "aexpire"])
def test_twins_are_coroutine_functions(name):
    """async_to_sync, by which transactions call them, warns of anything else."""

    @cache_aside(ttl=60, key="a")
    async def load():
        return 1

    assert iscoroutinefunction(getattr(load, name))
