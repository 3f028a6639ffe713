"""What waits for the last word: who joins it, and every way in which it is let go."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, StreamingHttpResponse
from django.template import TemplateDoesNotExist, engines
from django.template.response import TemplateResponse
from django.test import Client
from django.test.client import AsyncClient
from django.urls import path

from redis_integration import cache_aside_view, flights, get_redis, invalidate
from redis_integration.middleware import CacheAsideMiddleware
from tests.stampede.watch import until
from tests.views.table import number

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "redis_integration.middleware.CacheAsideMiddleware"


def slow(request):
    slow.opened.set()
    slow.gate.wait(20)
    return HttpResponse(number())


def slow_template(request):
    return TemplateResponse(
        request, engines["django"].from_string("{{ number }}"), {"number": lambda: slow(request).content}
    )


async def awaited(request):
    return HttpResponse(number())


async def awaited_forever(request):
    slow.opened.set()
    await asyncio.sleep(60)


async def awaited_template(request):
    return TemplateResponse(request, engines["django"].from_string("{{ number }}"), {"number": number})


def unrenderable(request):
    return TemplateResponse(request, "there-is-no-such-template.html")


def within(request):
    """A page that shows another one."""
    return HttpResponse(number().encode() + inner(request).content)


def named(view, **options):
    return cache_aside_view(ttl=60, namespace=view.__name__, **options)(view)


inner = cache_aside_view(ttl=60, namespace="inner")(lambda request: HttpResponse(number()))
urlpatterns = [
    path("slow/", named(slow)),
    path("slow-template/", named(slow_template)),
    path("awaited/", named(awaited)),
    path("awaited-forever/", named(awaited_forever)),
    path("awaited-template/", named(awaited_template)),
    path("unrenderable/", named(unrenderable)),
    path("within/", named(within)),
]


class Layer:
    """A middleware behind ours whose `act` a test sets: it gets request and response, and gives what is sent."""

    act = None

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        return Layer.act(request, response) or response if Layer.act else response


@pytest.fixture(autouse=True)
def site(settings, live, monkeypatch):
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [OURS, f"{__name__}.Layer"]
    monkeypatch.setattr(Layer, "act", None)
    slow.opened, slow.gate = threading.Event(), threading.Event()
    slow.gate.set()


@pytest.fixture
def act(monkeypatch):
    return lambda function: monkeypatch.setattr(Layer, "act", staticmethod(function))


def status(response):
    return response.headers.get("Cache-Status", "")


def fetch(url="/slow/", **kwargs):
    return Client(raise_request_exception=False).get(url, **kwargs)


async def afetch(url):
    return await AsyncClient().get(url)


def has_left_nothing(prefix):
    """Whether there is no lease and no flight."""
    gc.collect()
    return [*get_redis().scan_iter("{" + prefix + ":*")] == [] and not flights._flights


def test_page_is_not_stored_before_all_layers_have_spoken(act, prefix):
    """While they speak, there is a lease and no entry."""
    seen = []
    act(lambda request, response: seen.extend(get_redis().scan_iter("*" + prefix + "*")))

    fetch()

    assert sorted(name.decode().rpartition(":")[2] for name in seen if b"#" not in name) == ["lease"]
    assert "hit" in status(fetch())
    assert has_left_nothing(prefix)


def test_visitors_who_come_meanwhile_wait_for_the_last_word(act):
    """One computation; who had joined gets the page when it is stored."""
    opened, gate = threading.Event(), threading.Event()
    act(lambda request, response: opened.set() or gate.wait(20) and None)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch)
        opened.wait(20)
        second = pool.submit(fetch)
        until(lambda: any(flight.has_company for flight in flights._flights.values()))
        gate.set()

        assert second.result(20).content == first.result(20).content
        assert "collapsed" in status(second.result(20))


def test_visitors_who_come_meanwhile_do_not_get_what_is_refused(act, prefix):
    """A cookie of an outer layer: each computes his own."""
    opened, gate = threading.Event(), threading.Event()

    def speak(request, response):
        response.set_cookie("a", "b")
        opened.set()
        gate.wait(20)

    act(speak)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch)
        opened.wait(20)
        second = pool.submit(fetch)
        until(lambda: any(flight.has_company for flight in flights._flights.values()))
        gate.set()

        assert second.result(20).content != first.result(20).content
    assert has_left_nothing(prefix)


def test_what_others_made_of_the_answer_is_not_stored(act):
    """The view's own answer is."""

    def change(request, response):
        response.content = b"changed"
        response.headers["X-Changed"] = "yes"
        response.status_code = 203

    act(change)
    first = fetch()
    act(None)

    hit = fetch()

    assert (first.content, first.status_code) == (b"changed", 203)
    assert hit.content.startswith(b"page")
    assert (hit.status_code, "X-Changed" in hit.headers) == (200, False)


def explode(request, response):
    raise RuntimeError("of a layer")


def deny(request, response):
    raise PermissionDenied


@pytest.mark.parametrize(
    ("speak", "why"),
    [
        (explode, "status 500 of an outer layer"),
        (lambda request, response: HttpResponse(status=503), "status 503 of an outer layer"),
        (lambda request, response: HttpResponse(headers={"Cache-Control": "private"}), "Cache-Control: private"),
    ],
    ids=["raises", "replaces", "private"],
)
@pytest.mark.parametrize("url", ["/slow/", "/slow-template/", "/awaited/"])
def test_layer_that_fails_lets_the_page_go(act, prefix, speak, why, url):
    """Its lease and its flight are gone with the request."""
    act(speak)

    response = fetch(url)

    assert why in status(response)
    assert has_left_nothing(prefix)


@pytest.mark.parametrize(
    "speak",
    [lambda request, response: StreamingHttpResponse([b"x"]), lambda request, response: HttpResponse("other"), deny],
    ids=["streams", "replaces", "denies"],
)
def test_answer_that_a_layer_replaces_is_stored_all_the_same(act, prefix, speak):
    """The layer replaces it for the next visitor too."""
    act(speak)
    fetch()
    act(None)

    assert "hit" in status(fetch())
    assert has_left_nothing(prefix)


def test_exception_that_passes_the_middleware_lets_the_page_go(rf, prefix):
    """No layer of Django's lets one through; somebody else's may."""

    def get_response(request):
        urlpatterns[0].callback(request)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CacheAsideMiddleware(get_response)(rf.get("/slow/"))

    assert has_left_nothing(prefix)


def test_template_that_cannot_be_rendered_lets_its_page_go(prefix):
    """With the middleware, and without it as soon as the response is forgotten."""
    assert fetch("/unrenderable/").status_code == 500
    assert has_left_nothing(prefix)


def test_template_that_cannot_be_rendered_lets_its_page_go_without_the_middleware(rf, prefix):
    """Nobody has the last word: the flow is closed with the last reference to it."""
    view = next(each.callback for each in urlpatterns if str(each.pattern) == "unrenderable/")
    with pytest.raises(TemplateDoesNotExist):
        view(rf.get("/x/")).render()

    assert has_left_nothing(prefix)


def test_page_invalidated_while_layers_speak_is_not_stored(act):
    """As any computation that began before."""
    act(lambda request, response: invalidate(tags=["page:/slow/"]))
    assert "stored" not in status(fetch())
    act(None)

    assert "fwd=miss" in status(fetch())


def test_page_within_a_page_is_stored_and_so_is_the_outer_one(prefix):
    """The outer one waits; the inner one has no slot, and does not."""
    first, second = fetch("/within/"), fetch("/within/")

    assert ("stored" in status(first), "hit" in status(second), second.content) == (True, True, first.content)
    assert has_left_nothing(prefix)


@pytest.mark.parametrize("url", ["/awaited/", "/awaited-template/", "/slow/", "/slow-template/"])
def test_async_handler(url, prefix):
    """Async and sync views on one event loop."""

    async def visits():
        return [await afetch(url), await afetch(url)]

    first, second = asyncio.run(visits())

    assert ("stored" in status(first), "hit" in status(second), second.content) == (True, True, first.content)
    assert has_left_nothing(prefix)


@pytest.mark.parametrize("middleware", [[OURS], []], ids=["middleware", "alone"])
@pytest.mark.parametrize("url", ["/awaited/", "/awaited-template/"])
def test_async_view_in_a_sync_handler(settings, url, middleware, prefix):
    """Its event loop has ended when the last word is spoken: another one stores it."""
    settings.MIDDLEWARE = middleware
    first, second = fetch(url), fetch(url)

    assert ("stored" in status(first), "hit" in status(second), second.content) == (True, True, first.content)
    assert has_left_nothing(prefix)


def test_async_stampede_is_one_computation():
    """Fifty visitors of a cold page."""

    async def visits():
        return await asyncio.gather(*(afetch("/awaited/") for _ in range(50)))

    assert len({response.content for response in asyncio.run(visits())}) == 1


@pytest.mark.parametrize("url", ["/awaited-forever/"])
def test_visitor_who_goes_while_an_async_view_computes_leaves_nothing(url, prefix):
    """The task of the request is cancelled."""

    async def visit():
        task = asyncio.create_task(afetch(url))
        await asyncio.to_thread(slow.opened.wait, 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.2)

    asyncio.run(visit())

    assert has_left_nothing(prefix)


def test_visitor_who_goes_while_a_sync_view_computes_leaves_nothing(prefix):
    """Its thread computes on, and finds nobody who waits."""
    slow.gate.clear()

    async def visit():
        task = asyncio.create_task(afetch("/slow/"))
        await asyncio.to_thread(slow.opened.wait, 20)
        task.cancel()
        await asyncio.sleep(0.1)
        slow.gate.set()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(until, lambda: not flights._flights)

    asyncio.run(visit())

    assert has_left_nothing(prefix)
