from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib import messages
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.template.response import TemplateResponse
from django.test import Client, RequestFactory
from django.urls import path
from django.utils import translation
from django.views import View

from redis_integration import cache_aside_view, flights, get_redis
from tests.settings import MIDDLEWARE
from tests.stampede.watch import until

pytestmark = pytest.mark.django_db(transaction=True)


class Calls:
    count = 0

    def next(self):
        self.count += 1
        return self.count


calls = Calls()


def page(request, *args, **kwargs):
    return HttpResponse(f"page {calls.next()}", headers={"X-Origin": "yes"})


class ClassPage(View):
    def get(self, request):
        return HttpResponse(f"class {calls.next()}")


def varying(change):
    """A cached view whose response or request is changed by `change` while it renders."""

    def view(request):
        response = HttpResponse(f"page {calls.next()}")
        return change(request, response) or response

    return cache_aside_view(ttl=60, namespace=f"varying{id(change)}")(view)


def set_header(name, value):
    def change(request, response):
        response.headers[name] = value

    return change


UNSAFE = {
    "set-cookie": lambda request, response: response.set_cookie("a", "b"),
    "vary": set_header("Vary", "User-Agent"),
    "vary-language": set_header("Vary", "Accept-Language"),
    "vary-star": set_header("Vary", "*"),
    "private": set_header("Cache-Control", "max-age=5, Private"),
    "no-store": set_header("Cache-Control", "no-store"),
    "session-read": lambda request, response: request.session.get("x") and None,
    "session-written": lambda request, response: request.session.update({"x": 1}),
    "user": lambda request, response: str(request.user) and None,
    "csrf": lambda request, response: get_token(request) and None,
    "message": lambda request, response: messages.info(request, "hello"),
    "streaming": lambda request, response: StreamingHttpResponse([f"page {calls.next()}"]),
    "unrendered": lambda request, response: TemplateResponse(request, "missing.html"),
    "status": lambda request, response: HttpResponse("gone", status=410),
}
SAFE = {
    "plain": lambda request, response: None,
    "public": set_header("Cache-Control", "public, max-age=5"),
    "header": set_header("X-Frame-Options", "DENY"),
}

cached_page = cache_aside_view(ttl=60)(page)

urlpatterns = [
    path("page/", cached_page),
    path("page/<int:pk>/", cached_page),
    path("class/", cache_aside_view(ttl=60)(ClassPage.as_view())),
    *(path(f"unsafe/{name}/", varying(change)) for name, change in UNSAFE.items() if name != "unrendered"),
    *(path(f"safe/{name}/", varying(change)) for name, change in SAFE.items()),
]


@pytest.fixture(autouse=True)
def urls(settings, live):
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = MIDDLEWARE
    settings.ALLOWED_HOSTS = ["testserver", "other.example"]


@pytest.fixture
def client():
    return Client()


def status(response):
    return response.headers.get("Cache-Status", "")


def test_second_get_is_answered_from_redis(client):
    """Body, status and headers are those of the first answer; Cache-Status says where each came from."""
    first, second = client.get("/page/"), client.get("/page/")

    assert second.content == first.content
    assert second.headers["X-Origin"] == "yes"
    assert second.headers["Content-Type"] == first.headers["Content-Type"]
    assert status(first) == "redis_integration; fwd=miss; stored; detail=redis"
    assert re.fullmatch(r"redis_integration; hit; ttl=5\d; detail=redis", status(second))


def test_head_is_answered_from_an_entry_and_never_fills(client):
    """HEAD of a cold page calls the view and stores nothing; of a warm one it does not call it."""
    cold = client.head("/page/")
    after_cold = client.get("/page/")
    warm = client.head("/page/")

    assert "stored" not in status(cold)
    assert "stored" in status(after_cold)
    assert "hit" in status(warm)


@pytest.mark.parametrize("method", ["post", "put", "delete", "options"])
def test_other_methods_pass_by(client, method):
    """A POST is neither answered from an entry nor stored."""
    client.get("/page/")

    response = getattr(client, method)("/page/")

    assert response.content != b"page 1"
    assert status(response) == "redis_integration; fwd=method"


def test_query_host_scheme_language_and_arguments_make_their_own_entries(client):
    """What makes another page makes another key."""
    with translation.override("de"):
        german = client.get("/page/", headers={"accept-language": "de"})
    responses = [
        german,
        client.get("/page/"),
        client.get("/page/?a=1"),
        client.get("/page/?a=2"),
        client.get("/page/", SERVER_NAME="other.example"),
        client.get("/page/", secure=True),
        client.get("/page/7/"),
    ]

    assert [status(response) for response in responses[1:]] == ["redis_integration; fwd=miss; stored; detail=redis"] * 6


def test_order_of_the_query_does_not_matter(client):
    """?a=1&b=2 is the page ?b=2&a=1."""
    client.get("/page/?a=1&b=2")

    assert "hit" in status(client.get("/page/?b=2&a=1"))


def test_forbidden_host_is_not_the_caches_business(client):
    """A host outside ALLOWED_HOSTS gets Django's own answer."""
    request = RequestFactory().get("/page/", SERVER_NAME="evil.example")

    assert cached_page(request).status_code == 200
    assert client.get("/page/", SERVER_NAME="evil.example").status_code in (200, 400)


@pytest.mark.parametrize("name", sorted(set(UNSAFE) - {"unrendered"}))
def test_what_is_not_plainly_safe_is_returned_and_not_stored(client, name):
    """Each visitor gets his own page, and Cache-Status says why."""
    first, second = client.get(f"/unsafe/{name}/"), client.get(f"/unsafe/{name}/")

    assert "hit" not in status(second)
    assert "stored" not in status(first)
    assert 'detail="' in status(first)


def test_unrendered_response_is_returned_and_not_stored(rf):
    """A TemplateResponse is rendered later, by whoever decorates outside."""
    view = varying(UNSAFE["unrendered"])

    response = view(rf.get("/x/"))

    assert "stored" not in status(response)
    assert not response.is_rendered


@pytest.mark.parametrize("name", sorted(SAFE))
def test_what_is_plainly_safe_is_stored(client, name):
    """An ordinary page is a hit the second time."""
    first, second = client.get(f"/safe/{name}/"), client.get(f"/safe/{name}/")

    assert "hit" in status(second)
    assert second.content == first.content


def test_request_with_authorization_is_not_stored(client):
    """A page made for credentials is nobody else's."""
    client.get("/page/", headers={"authorization": "Basic x"})

    assert "fwd=miss" in status(client.get("/page/"))


@pytest.mark.parametrize("headers", [{"authorization": "Basic x"}, {"range": "bytes=0-3"}])
@pytest.mark.parametrize("method", ["get", "head"])
def test_request_with_credentials_or_a_range_is_not_answered_from_an_entry(client, method, headers):
    """What is stored was made for nobody in particular and is whole."""
    client.get("/page/")

    assert "fwd=bypass" in status(getattr(client, method)("/page/", headers=headers))


def test_hit_touches_neither_session_nor_user(client):
    """A hit sends no cookie and adds no Vary: Cookie."""
    client.get("/page/")
    response = client.get("/page/")

    assert not response.cookies
    assert "Cookie" not in response.headers.get("Vary", "")


def test_as_view_is_decorated_as_a_function(client):
    """MyView.as_view() is cached like a view function."""
    assert client.get("/class/").content == client.get("/class/").content


def test_decorating_a_method_says_how_to_decorate_a_class():
    """A view called with self first is told what to write."""

    class Page(View):
        @cache_aside_view(ttl=60)
        def get(self, request):
            return HttpResponse()

    with pytest.raises(TypeError, match=r"cache_aside_view\(ttl=60\)\(MyView.as_view\(\)\)"):
        Page.as_view()(RequestFactory().get("/"))


def test_page_is_purged_by_request_or_by_path(client, rf):
    """invalidate() ends the page of a request, or of a path, with all its queries."""
    client.get("/page/")
    client.get("/page/7/?a=1")

    cached_page.invalidate(rf.get("/page/?b=2"))
    cached_page.invalidate("/page/7/")

    assert "fwd=miss" in status(client.get("/page/"))
    assert "fwd=miss" in status(client.get("/page/7/?a=1"))


def test_every_stored_page_has_a_time_to_live(client, prefix):
    """No page is kept for ever, and its tag twice as long as page and lease."""
    client.get("/page/")

    assert [0 < get_redis().pttl(key) <= 140_000 for key in get_redis().scan_iter(f"{prefix}:*")] == [True, True]


def test_error_of_a_view_is_its_own(rf):
    """An exception goes to Django as it is."""

    def view(request):
        raise LookupError("of the view")

    with pytest.raises(LookupError, match="of the view"):
        cache_aside_view(ttl=60)(view)(rf.get("/x/"))


def test_error_of_a_visitor_is_given_to_nobody_else(rf, live):
    """Who had joined got the PermissionDenied of another."""
    opened, asked = threading.Event(), threading.Event()

    def view(request):
        opened.set()
        asked.wait(20)
        request.session = SessionStore()
        request.session.get("user")
        if "denied" in request.META:
            raise PermissionDenied
        return HttpResponse("yours")

    page = cache_aside_view(ttl=60, namespace="own")(view)
    with ThreadPoolExecutor(2) as pool:
        denied = pool.submit(page, rf.get("/x/", denied="yes"))
        opened.wait(20)
        mine = pool.submit(page, rf.get("/x/"))
        until(lambda: any(flight.has_company for flight in flights._flights.values()))
        asked.set()

        assert mine.result(timeout=20).content == b"yours"
        assert isinstance(denied.exception(timeout=20), PermissionDenied)


def test_visitor_with_a_session_fills_no_page(client):
    """A page that named a visitor's session key was stored and served to others."""
    client.get("/unsafe/session-written/")

    assert 'detail="session present"' in status(client.get("/page/"))


def test_view_that_returns_nothing_gets_djangos_message(rf):
    """A view without a return was an AttributeError of ours."""
    assert cache_aside_view(ttl=60, namespace="none")(lambda request: None)(rf.get("/x/")) is None


def test_query_that_is_not_ascii_passes_by(rf):
    """Raw bytes and their escapes as another text shared a page."""
    request = rf.get("/x/")
    request.META["QUERY_STRING"] = "q=\xe9"

    assert status(cached_page(request)) == 'redis_integration; fwd=bypass; detail="query not ASCII"'
