from __future__ import annotations

import re
import time

import pytest
from django.http import Http404, HttpResponse
from django.test import Client
from django.urls import path

from redis_integration import cache_aside_view, get_redis, invalidate
from redis_integration.cache_aside import look
from tests.views.table import number, plain

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "redis_integration.middleware.CacheAsideMiddleware"
LONG_AGO = "Wed, 21 Oct 2015 07:28:00 GMT"


def dated(request):
    return HttpResponse(number(), headers={"Last-Modified": LONG_AGO, "ETag": '"mine"'})


def missing(request):
    raise Http404("No such page")


def controlled(request):
    return HttpResponse(number(), headers={"Cache-Control": "public, max-age=5"})


def cached(view, **options):
    return cache_aside_view(**{"ttl": 60, "namespace": f"{view.__name__}-{options}", **options})(view)


page = cached(plain)
urlpatterns = [
    path("plain/", page),
    path("product/<int:pk>/", page),
    path("dated/", cached(dated)),
    path("missing/", cached(missing, negative_ttl=60)),
    path("controlled/", cached(controlled, browser_ttl=30)),
    path("browser/", cached(plain, browser_ttl=30, stale_while_revalidate=10, stale_if_error=600)),
    path("varied/", cached(plain, vary_on=["Accept-Language", "cookie:theme", "user"])),
    path("stale/", cached(plain, stale_for=60)),
]


@pytest.fixture(autouse=True)
def site(settings, live):
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["testserver", "other.example"]
    settings.MIDDLEWARE = [OURS, "django.contrib.sessions.middleware.SessionMiddleware"]
    settings.MIDDLEWARE += ["django.contrib.auth.middleware.AuthenticationMiddleware"]


@pytest.fixture
def client():
    return Client()


def status(response):
    return response.headers.get("Cache-Status", "")


def test_miss_and_hit_have_the_same_validator_and_a_hit_has_an_age(client):
    """The ETag is made when the page is, so that a browser that asked first can ask again."""
    miss, hit = client.get("/plain/"), client.get("/plain/")

    assert re.fullmatch(r'"[0-9a-f]{24}"', miss.headers["ETag"])
    assert hit.headers["ETag"] == miss.headers["ETag"]
    assert (miss.headers["Cache-Control"], hit.headers["Cache-Control"]) == ("max-age=0", "max-age=0")
    assert "Age" not in miss.headers
    assert hit.headers["Age"] == "0"


@pytest.mark.parametrize("weakness", ["", "W/"])
def test_known_page_is_a_304_without_a_body(client, weakness):
    """Also where compression has weakened the ETag."""
    etag = client.get("/plain/").headers["ETag"]

    response = client.get("/plain/", headers={"if-none-match": f"{weakness}{etag}"})

    assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", etag)
    assert (response.headers["Age"], "hit" in status(response)) == ("0", True)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"if-none-match": '"other"'}, 200),
        ({"if-none-match": '"other"', "if-modified-since": LONG_AGO}, 200),
        ({"if-modified-since": LONG_AGO}, 304),
        ({"if-modified-since": "Tue, 20 Oct 2015 07:28:00 GMT"}, 200),
        ({"if-modified-since": "x"}, 200),
        ({"if-none-match": '"x", "mine"'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-match": '"other"', "if-none-match": '"x"'}, 200),
    ],
)
def test_validators_of_the_view_are_kept(client, headers, expected):
    """Its ETag and Last-Modified decide."""
    client.get("/dated/")

    response = client.get("/dated/", headers=headers)

    assert response.status_code == expected
    assert (response.headers["ETag"], response.headers["Last-Modified"]) == ('"mine"', LONG_AGO)


def test_head_of_a_page_is_answered_from_it(client):
    """With its headers and without a body."""
    hit = client.get("/plain/")

    head = client.head("/plain/")

    assert (head.content, head.headers["ETag"], "hit" in status(head)) == (b"", hit.headers["ETag"], True)


def test_remembered_404_is_raised_again(client):
    """Django makes its page anew, and the middleware says where it came from."""
    first, second = client.get("/missing/"), client.get("/missing/")

    assert (first.status_code, second.status_code) == (404, 404)
    assert "stored" in status(first)
    assert "hit" in status(second)
    assert "ETag" not in second.headers


def test_what_the_view_says_to_browsers_stands(client):
    """Its Cache-Control is not ours to change."""
    assert client.get("/controlled/").headers["Cache-Control"] == "public, max-age=5"
    assert client.get("/controlled/").headers["Cache-Control"] == "public, max-age=5"


def test_browser_ttl_counts_from_now(client, monkeypatch):
    """A browser subtracts Age, so Age is added."""
    first = client.get("/browser/")
    now = time.time
    monkeypatch.setattr("redis_integration.headers.time", lambda: now() + 20)

    hit = client.get("/browser/")

    assert first.headers["Cache-Control"] == "max-age=30, stale-while-revalidate=10, stale-if-error=600"
    assert hit.headers["Age"] == "20"
    assert hit.headers["Cache-Control"] == "max-age=50, stale-while-revalidate=10, stale-if-error=600"


@pytest.mark.parametrize("step", ["miss", "hit"])
def test_what_a_page_varies_on_is_told(client, step):
    """Caches behind us must tell its variants apart too."""
    responses = {"miss": client.get("/varied/"), "hit": client.get("/varied/")}

    assert {*responses[step].headers["Vary"].split(", ")} == {"Accept-Language", "Cookie"}
    assert step in status(responses[step])


def test_variants_are_kept_apart(client):
    """A header, a cookie: each value has its page, and so has its absence."""
    languages = [client.get("/varied/", headers={"accept-language": value}) for value in ("de", "fr", "de", "")]
    client.cookies["theme"] = "dark"
    dark = client.get("/varied/", headers={"accept-language": "de"})

    assert ["hit" in status(each) for each in [*languages, dark]] == [False, False, True, False, False]


def test_debug_tells_the_key(client, settings, prefix):
    """What is in it can be read."""
    settings.DEBUG = True

    assert f'; key="{prefix}:plain-%7B%7D:http:testserver:/plain/:a=1' in status(client.get("/plain/?a=1"))


def test_key_is_not_told_to_strangers(client):
    """Without DEBUG it is nobody's business."""
    assert "key=" not in status(client.get("/plain/"))


def test_path_ends_all_variants(client):
    """Hosts, queries and schemes; other pages stay."""
    variants = [("/product/7/", {}), ("/product/7/?a=1", {}), ("/product/7/", {"SERVER_NAME": "other.example"})]
    variants += [("/product/7/", {"secure": True}), ("/product/8/", {})]
    for url, options in variants:
        client.get(url, **options)

    page.invalidate("/product/7/?whatever")

    assert ["hit" in status(client.get(url, **options)) for url, options in variants] == [False] * 4 + [True]


def test_page_is_a_tag_of_its_path(client):
    """Nobody has to import the view."""
    client.get("/product/7/")

    invalidate(tags=["page:/product/7/"])

    assert "fwd=miss" in status(client.get("/product/7/"))


@pytest.mark.parametrize("wrong", ["product/7/", "", 7, None])
def test_what_is_no_page_is_told(wrong):
    """A path without its slash would end nothing."""
    with pytest.raises(ValueError, match="Give a request, or a path"):
        page.invalidate(wrong)


def test_expire_has_one_visitor_compute_anew(client, rf):
    """The old page is kept for the others."""
    client.get("/stale/")

    cached_stale.expire(rf.get("/stale/"))

    assert "fwd=stale; stored" in status(client.get("/stale/"))


cached_stale = next(each.callback for each in urlpatterns if str(each.pattern) == "stale/")


def test_keys_of_pages_can_be_found_by_path(client, prefix):
    """redis_scan takes a glob."""
    client.get("/product/7/?b=2&a=1")

    assert [*get_redis().scan_iter(f"{prefix}:*:/product/7/:*")] == [
        page.key_for(client.get("/product/7/?b=2&a=1").wsgi_request).encode()
    ]


def test_explanation_tells_the_parts_of_the_key_and_the_last_refusal(rf):
    """What is in its key, and why was this not cached."""

    def view(request):
        return HttpResponse(headers={"Vary": "User-Agent"})

    cached_view = cached(view, vary_on=["cookie:theme"], query=["page"])
    request = rf.get("/x/?page=2&utm_x=1", headers={"cookie": "theme=dark"})
    cached_view(request)

    told = cached_view.explain(request)

    assert told.refused == "Vary: User-Agent"
    assert [*told.parts] == [
        ("site", "http://testserver"),
        ("path", "/x/"),
        ("query", "page=2"),
        ("language", "en-us"),
        ("time zone", "America/Chicago"),
        ("cookie.theme", "dark"),
    ]
    assert "refused Vary: User-Agent" in str(told)
    assert "in key  path /x/" in str(told)


def test_refusal_is_logged_once_for_each_reason(rf, caplog):
    """One line, whatever the traffic."""
    cached_view = cached(lambda request: HttpResponse(headers={"Vary": request.META["HTTP_X"]}), namespace="logged")
    for header in ("A", "B", "A"):
        cached_view(rf.get("/x/", headers={"x": header}))

    assert [record.message.split(": ", 1)[1] for record in caplog.records] == ["Vary: A", "Vary: B"]


def test_page_refused_again_and_again_is_not_asked_for(rf, monkeypatch):
    """Three times; then Redis is left alone for a second, and tried again."""
    asked = []
    monkeypatch.setattr("redis_integration.answers.LEFT_ALONE", 60.0)
    monkeypatch.setattr("redis_integration.views.look", lambda *args: asked.append(args) or look(*args))
    cached_view = cached(lambda request: HttpResponse(headers={"Vary": "User-Agent"}), namespace="refused")

    responses = [cached_view(rf.get("/x/")) for _ in range(5)]

    assert len(asked) == 3
    assert status(responses[-1]) == 'redis_integration; fwd=bypass; detail="Vary: User-Agent"'
