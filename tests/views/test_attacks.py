"""None of the classic attacks on caches stores a page that a second visitor wrongly receives."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import path, re_path
from django.utils import translation

from redis_integration import cache_aside_view, get_redis
from tests.views.table import number, plain

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "redis_integration.middleware.CacheAsideMiddleware"


def links(request):
    """A page that shows where it thinks it is."""
    return HttpResponse(f"{number()} {request.build_absolute_uri()} {request.GET.urlencode()}")


def account(request):
    return HttpResponse(f"the account of {request.user}")


def greeting(request):
    return HttpResponse(f"{number()} for {request.COOKIES.get('name', 'nobody')}")


def body(request):
    return HttpResponse(request.body)


def echo_meta(request):
    return HttpResponse(f"{number()} {request.headers.get('X-Forwarded-Host', '')}")


def named(view, **options):
    return cache_aside_view(ttl=60, namespace=view.__name__, **options)(view)


urlpatterns = [
    path("links/", named(links)),
    path("page/", named(links, query=["page"])),
    path("utm/", named(links, ignore_query=["utm_*", "fbclid"])),
    re_path("^account/", named(account)),
    path("mine/", named(account, vary_on=["user"])),
    path("greeting/", named(greeting)),
    path("body/", named(body)),
    path("echo/", named(echo_meta)),
    path("language/", named(lambda request: HttpResponse(f"{number()} {translation.get_language()}"), vary_on=[])),
    path("by-header/", named(plain, vary_on=["X-Shop"])),
]


@pytest.fixture(autouse=True)
def site(settings, live):
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["testserver", "shop.example"]
    settings.MIDDLEWARE = [
        OURS,
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]


def status(response):
    return response.headers.get("Cache-Status", "")


def is_hit(response):
    return "hit" in status(response)


def logged_in(name):
    client = Client()
    client.force_login(User.objects.get_or_create(username=name)[0])
    return client


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-host": "evil.example"},
        {"x-forwarded-host": "shop.example"},
        {"x-host": "evil.example"},
        {"x-original-url": "/admin/"},
        {"x-rewrite-url": "/admin/"},
        {"x-forwarded-proto": "https"},
        {"x-forwarded-port": "444"},
        {"forwarded": "host=evil.example"},
        {"x-http-method-override": "POST"},
        {"x-forwarded-prefix": "/evil"},
    ],
    ids=str,
)
def test_unkeyed_header_poisons_nothing(headers):
    """What Django does not look at changes no page."""
    Client().get("/links/", headers=headers)

    response = Client().get("/links/")

    assert is_hit(response)
    assert b"http://testserver/links/" in response.content


def test_header_that_django_believes_is_in_the_key(settings):
    """With USE_X_FORWARDED_HOST it is the host."""
    settings.USE_X_FORWARDED_HOST = True
    Client().get("/links/", headers={"x-forwarded-host": "shop.example"})

    response = Client().get("/links/")

    assert not is_hit(response)
    assert b"http://testserver/links/" in response.content


def test_host_that_is_not_allowed_is_neither_stored_nor_answered():
    """Django answers 400, and not from an entry."""
    Client().get("/links/")

    assert Client().get("/links/", SERVER_NAME="evil.example").status_code == 400


def test_port_belongs_to_the_host():
    """Links of one port are not those of another."""
    Client().get("/links/", headers={"host": "testserver:8001"})

    assert not is_hit(Client().get("/links/"))


def test_view_that_shows_a_header_is_not_stored():
    """The reflection of a header is seen, since it was read."""
    Client().get("/echo/", headers={"x-forwarded-host": "evil.example"})

    assert b"evil" not in Client().get("/echo/").content


@pytest.mark.parametrize(
    "suffix", ["style.css", "x.js", "%2e%2e/a.png", ";.css", "%00.css", "%0a.css", "%3f.css", "%23.css"]
)
def test_path_suffix_makes_nothing_public(suffix):
    """A victim is sent to his account under a path that looks static: his page is not stored for the attacker."""
    victim = logged_in("victim").get(f"/account/{suffix}")

    attacker = Client().get(f"/account/{suffix}")

    assert victim.content == b"the account of victim"
    assert attacker.content == b"the account of AnonymousUser"


@pytest.mark.parametrize(
    "query",
    [
        "utm_content=1;page=2",
        "utm_content=1%26page=2",
        "utm_x=1&page=2;",
        "page=1&utm_page=2",
        "utm_a&page=3&page=4",
        "fbclid=<script>",
    ],
)
def test_parameter_that_is_ignored_is_not_seen(query):
    """Parameter cloaking: what the cache ignores, the view does not see, however it is written."""
    first = Client().get(f"/utm/?{query}")

    assert b"utm" not in first.content.replace(b"/utm/", b"")
    assert b"script" not in first.content


def test_visitors_of_one_page_by_ignored_parameters_share_it():
    """The first one's campaign is in nobody's links."""
    first, second = Client().get("/utm/?utm_source=a&page=2"), Client().get("/utm/?page=2&fbclid=b")

    assert is_hit(second)
    assert second.content == first.content


@pytest.mark.parametrize("query", ["page=2&debug=1", "debug=1&page=2", "page=2&Page=3"])
def test_parameter_that_is_not_listed_is_not_seen(query):
    """query= lists all that the view gets."""
    assert Client().get(f"/page/?{query}").content.endswith(b"/page/?page=2 page=2")


def test_request_has_its_query_back_afterwards():
    """Layers around the view see what was sent."""
    request = Client().get("/utm/?utm_source=a&page=2").wsgi_request

    assert request.GET.dict() == {"utm_source": "a", "page": "2"}
    assert request.META["QUERY_STRING"] == "utm_source=a&page=2"


def test_body_of_a_get_reaches_nobody_else():
    """Fat GET: the body is not in the key, so such a request passes by."""
    fat = Client().generic("GET", "/body/", "evil")

    assert fat.content == b"evil"
    assert Client().get("/body/").content == b""


@pytest.mark.parametrize("query", ["a=" + "x" * 100_000, "&".join(f"p{number}=1" for number in range(900))])
def test_oversized_query_makes_a_small_key(query, prefix):
    """And not that of a neighbour."""
    Client().get(f"/links/?{query}")

    assert not is_hit(Client().get(f"/links/?{query}y"))
    assert is_hit(Client().get(f"/links/?{query}"))
    assert max(len(key) for key in get_redis().scan_iter(f"{prefix}:*")) <= 200


@pytest.mark.parametrize("value", ["x" * 100_000, "a:b", "a*", "{a}", "a\nb", "de,fr;q=0.1"])
def test_value_of_a_header_forges_no_key(value, prefix):
    """It is escaped, and long keys end in a digest."""
    Client().get("/by-header/", headers={"x-shop": value})

    assert is_hit(Client().get("/by-header/", headers={"x-shop": value}))
    assert not is_hit(Client().get("/by-header/", headers={"x-shop": "a"}))
    assert max(len(key) for key in get_redis().scan_iter(f"{prefix}:*")) <= 200


def test_line_break_in_what_is_shown_makes_no_header(settings):
    """A query or host with CRLF is escaped in key, tag and Cache-Status."""
    settings.DEBUG = True

    response = Client().get("/links/?a=%0d%0aSet-Cookie:x=1")

    assert "\n" not in status(response)
    assert "Set-Cookie" not in response.headers


def test_cookie_of_another_visitor_is_in_no_page():
    """The first visitor's name is shown to him alone."""
    first = Client(headers={"cookie": "name=Alice"}).get("/greeting/")

    assert b"for Alice" in first.content
    assert b"for nobody" in Client().get("/greeting/").content


def test_users_have_their_own_pages():
    """vary_on=["user"] keeps them apart, and keeps them."""
    alice, bob = logged_in("alice"), logged_in("bob")

    pages = [visitor.get("/mine/") for visitor in (alice, bob, Client(), alice, bob, Client())]

    names = [b"the account of alice", b"the account of bob", b"the account of AnonymousUser"]
    assert [page.content for page in pages] == names * 2
    assert [is_hit(page) for page in pages] == [False] * 3 + [True] * 3


def test_session_stands_in_the_key_as_a_digest(prefix):
    """Who can read keys cannot log in by them."""
    view = named(plain, vary_on=["cookie:sessionid", "Authorization"])

    key = view.key_for(RequestWith(cookie="sessionid=secret", authorization="Basic secret"))

    assert "secret" not in key
    assert key != view.key_for(RequestWith(cookie="sessionid=other", authorization="Basic secret"))


def RequestWith(**headers):
    return Client().get("/links/", headers=headers).wsgi_request


def test_languages_have_their_own_pages():
    """LocaleMiddleware's choice is in the key, however the visitor told it."""
    pages = [
        Client().get("/language/", headers={"accept-language": "de"}),
        Client().get("/language/", headers={"accept-language": "fr"}),
        Client(headers={"cookie": "django_language=de"}).get("/language/"),
    ]

    assert [page.content.split()[-1] for page in pages] == [b"de", b"fr", b"de"]
    assert [is_hit(page) for page in pages] == [False, False, True]
