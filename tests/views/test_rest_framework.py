"""Django REST framework, the real package."""

from __future__ import annotations

from typing import ClassVar

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import path
from rest_framework.authentication import BasicAuthentication, SessionAuthentication, TokenAuthentication
from rest_framework.decorators import api_view, authentication_classes, renderer_classes
from rest_framework.renderers import JSONRenderer, StaticHTMLRenderer
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from redis_integration import cache_aside_view
from tests.views.table import number

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "redis_integration.middleware.CacheAsideMiddleware"
JSON = [JSONRenderer]
BOTH = [JSONRenderer, StaticHTMLRenderer]


class Open(APIView):  # type: ignore[misc]
    authentication_classes: ClassVar[list[type]] = []
    renderer_classes = JSON

    def get(self, request, pk=None):
        return Response({"number": number(), "pk": pk})


class Things(ViewSet):  # type: ignore[misc]
    authentication_classes: ClassVar[list[type]] = []
    renderer_classes = JSON

    def retrieve(self, request, pk):
        return Response({"number": number(), "pk": pk})


class Guarded(Open):
    authentication_classes = [BasicAuthentication, TokenAuthentication]


class BySession(Open):
    authentication_classes = [SessionAuthentication]


class Negotiated(Open):
    renderer_classes = BOTH

    def get(self, request, pk=None):
        return Response(number())


class Named(BySession):
    def get(self, request, pk=None):
        return Response({"user": f"{request.user}"})


@cache_aside_view(ttl=60, vary_on=["Accept"])
@api_view(["GET", "POST"])
@authentication_classes([])
@renderer_classes(JSON)
def function(request):
    return Response({"number": number()}, status=200 if request.method == "GET" else 201)


@cache_aside_view(ttl=60, vary_on=["Accept"])
@api_view(["GET"])
@authentication_classes([])
@renderer_classes(JSON)
def reading(request):
    return Response({"body": request.data, "agent": request.headers.get("User-Agent")})


def named(name, view, **options):
    return path(f"{name}/", cache_aside_view(ttl=60, namespace=name, **options)(view.as_view()))


urlpatterns = [
    path("function/", function),
    path("reading/", reading),
    path("open/<int:pk>/", cache_aside_view(ttl=60, vary_on=["Accept"], tags=["product:{pk}"])(Open.as_view())),
    path(
        "set/<int:pk>/",
        cache_aside_view(ttl=60, vary_on=["Accept"], tags=["product:{pk}"])(Things.as_view({"get": "retrieve"})),
    ),
    named("guarded", Guarded, vary_on=["Accept"]),
    named("guarded-by-key", Guarded, vary_on=["Accept", "Authorization"]),
    named("by-session", BySession, vary_on=["Accept"]),
    named("negotiated", Negotiated),
    named("negotiated-by-key", Negotiated, vary_on=["Accept"]),
    named("named", Named, vary_on=["Accept", "user", "cookie:csrftoken"]),
]


@pytest.fixture(autouse=True, params=["middleware", "alone"])
def site(request, settings, live):
    settings.ROOT_URLCONF = __name__
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "rest_framework"]
    settings.MIDDLEWARE = [
        *([OURS] if request.param == "middleware" else []),
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]


def status(response):
    return response.headers.get("Cache-Status", "")


def is_hit(response):
    return "hit" in status(response)


@pytest.mark.parametrize("url", ["function", "open/7", "guarded"])
def test_open_views_are_stored(url):
    """What DRF sets as the user without looking at anybody is nobody."""
    first, second = Client().get(f"/{url}/"), Client().get(f"/{url}/")

    assert "stored" in status(first)
    assert is_hit(second)
    assert (second.content, second.headers["Content-Type"]) == (first.content, "application/json")
    assert second.json() == first.json()


def test_posts_pass_by():
    """They reach the view."""
    Client().get("/function/")

    assert Client().post("/function/").status_code == 201


def test_credentials_pass_by():
    """A page for a token is not stored, nor is one with a token answered from an entry."""
    Client().get("/guarded/")
    response = Client().get("/guarded/", headers={"authorization": "Basic eDp4"})

    assert (response.status_code, is_hit(response)) == (401, False)


def test_credentials_in_the_key_are_kept_apart():
    """vary_on=["Authorization"]: one who logs in gets his own."""
    User.objects.create_user("x", password="x")
    pages = [Client().get("/guarded-by-key/", headers=headers) for headers in [{}, {"authorization": "Basic eDp4"}] * 2]

    assert [is_hit(page) for page in pages] == [False, False, True, True]
    assert pages[0].content != pages[1].content
    assert pages[3].content == pages[1].content


def test_authentication_by_session_is_a_reason():
    """It looks at the user, so each page is its visitor's own."""
    response = Client().get("/by-session/")

    assert 'detail="session used"' in status(response)
    assert not is_hit(Client().get("/by-session/"))


def test_user_in_the_key_is_enough_for_authentication_by_session():
    """Each has his own page; DRF checks the CSRF cookie of who is logged in, so it is in the key too."""
    alice = Client()
    alice.force_login(User.objects.create(username="alice"))

    pages = [alice.get("/named/"), Client().get("/named/"), alice.get("/named/"), Client().get("/named/")]

    assert [is_hit(page) for page in pages] == [False, False, True, True]
    assert [page.json()["user"] for page in pages] == ["alice", "AnonymousUser"] * 2


def test_negotiated_renderer_must_be_in_the_key():
    """DRF reads Accept, and says Vary: Accept where there are several; the reason says what to do."""
    response = Client().get("/negotiated/", headers={"accept": "text/html"})

    assert "Accept" in status(response)
    assert "stored" not in status(response)
    assert (
        Client().get("/negotiated/", headers={"accept": "application/json"}).headers["Content-Type"]
        == "application/json"
    )


def test_negotiated_renderers_have_their_own_pages():
    """vary_on=["Accept"]."""
    accepts = ["text/html", "application/json"] * 2
    pages = [Client().get("/negotiated-by-key/", headers={"accept": accept}) for accept in accepts]

    assert [is_hit(page) for page in pages] == [False, False, True, True]
    assert pages[2].headers["Content-Type"].startswith("text/html")
    assert pages[3].headers["Content-Type"] == "application/json"


def test_body_and_headers_that_a_view_reads_are_noticed():
    """request.data of a GET with a body; request.headers through DRF's own request."""
    fat = Client().generic("GET", "/reading/", '{"a": 1}', content_type="application/json")

    assert fat.json()["body"] == {"a": 1}
    assert 'detail="header User-Agent read' in status(Client().get("/reading/"))


@pytest.mark.parametrize("url", ["/open/7/", "/set/7/"])
def test_tags_come_from_the_url(url):
    """As for other class-based views; a ViewSet's as_view() has the signature of something else."""
    from redis_integration import invalidate

    Client().get(url)
    assert is_hit(Client().get(url))
    invalidate(tags=["product:7"])

    assert not is_hit(Client().get(url))
