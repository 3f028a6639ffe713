"""What has been found broken: unusual ways to one visitor's page, and to wrong HTTP."""

from __future__ import annotations

import asyncio
import copy
import io
import itertools

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import Client
from django.test.client import AsyncClient
from django.urls import path
from django.utils.cache import patch_vary_headers

from redis_integration import cache_aside_view
from tests.views.table import number, plain, raises

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "redis_integration.middleware.CacheAsideMiddleware"
SESSION = "django.contrib.sessions.middleware.SessionMiddleware"
AUTH = "django.contrib.auth.middleware.AuthenticationMiddleware"
_names = itertools.count()


def cached(view, **options):
    return cache_aside_view(**{"ttl": 60, "namespace": f"broken-{next(_names)}", **options})(view)


def reads(look):
    """A view that shows what it reads of its request."""
    return lambda request, **kwargs: HttpResponse(f"{number()} {look(request)}")


def status(response):
    return response.headers.get("Cache-Status", "")


def is_hit(response):
    return "; hit" in status(response)


@pytest.fixture(autouse=True)
def redis(live):
    return live


META = {
    "address": (lambda request: request.META["REMOTE_ADDR"], "REMOTE_ADDR read"),
    "user": (lambda request: request.META.get("REMOTE_USER"), "REMOTE_USER read"),
    "certificate": (lambda request: "SSL_CLIENT_S_DN" in request.META, "SSL_CLIENT_S_DN read"),
    "cookie": (lambda request: request.META["HTTP_COOKIE"], "header Cookie read"),
    "key": (lambda request: request.META.get("HTTP_X_API_KEY"), "header X-Api-Key read"),
    "environ": (lambda request: request.environ["HTTP_USER_AGENT"], "header User-Agent read"),
    "raw path": (lambda request: request.META.get("RAW_URI"), "RAW_URI read"),
    "all": (lambda request: {**request.META}, "META read"),
    "copy": (lambda request: copy.deepcopy(request.META), "META read"),
    "csrf": (lambda request: request.META.get("CSRF_COOKIE"), "CSRF_COOKIE read"),
    "cookies differ": (lambda request: request.COOKIES != {}, "cookies read"),
    "cookies copied": (lambda request: copy.deepcopy(request.COOKIES), "cookies read"),
}


@pytest.mark.parametrize(("look", "why"), META.values(), ids=META)
def test_what_is_read_of_meta_is_noticed(rf, look, why):
    """An allow-list of addresses, a key in a header, a client certificate: its page is not for others."""
    request = rf.get("/x/", headers={"cookie": "a=b", "user-agent": "x"})
    meta = request.META

    assert f'detail="{why}' in status(cached(reads(look))(request))
    assert request.META is request.environ is meta


def test_what_is_in_the_key_may_be_read_of_meta(rf, settings):
    """What Django looks at itself to tell host, port, scheme and query; and what is written there stays."""
    settings.USE_X_FORWARDED_HOST = settings.USE_X_FORWARDED_PORT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

    def view(request):
        request.META["MINE"] = "yes"
        del request.META["HTTP_X_OLD"]
        seen = request.build_absolute_uri(), request.get_port(), request.META["HTTP_X_SHOP"], request.is_secure()
        return HttpResponse(f"{number()} {seen}")

    headers = {"x-forwarded-host": "testserver", "x-forwarded-proto": "https", "x-shop": "a", "x-old": "1"}
    page, request = cached(view, vary_on=["X-Shop"]), rf.get("/x/?a=1", headers=headers)

    assert "stored" in status(page(request))
    assert (request.META["MINE"], "HTTP_X_OLD" in request.META) == ("yes", False)


def test_scope_of_an_async_request_is_noticed():
    """As META is."""

    async def view(request):
        return HttpResponse(f"{request.scope['client']}")

    assert 'detail="client read' in status(asyncio.run(cached(view)(asgi_request())))


def asgi_request(body=b"", headers=(), **fields):
    scope = {"type": "http", "method": "GET", "path": "/x/", "query_string": b"", "client": ("127.0.0.1", 1)}
    return ASGIRequest({**scope, **fields, "headers": [(b"host", b"testserver"), *headers]}, io.BytesIO(body))


def test_body_without_a_length_is_noticed():
    """HTTP/2 announces none: a fat GET is like any other until its body is read."""

    async def view(request):
        return HttpResponse(request.body)

    async def by_hand(request):
        return HttpResponse(request.read())

    for each in (view, by_hand):
        assert 'detail="request body"' in status(asyncio.run(cached(each)(asgi_request(b"evil"))))
    assert "stored" in status(asyncio.run(cached(view)(asgi_request())))


@pytest.mark.parametrize("content_type", ["text/html; charset=koi8-r", "application/json"])
def test_content_type_of_a_get_poisons_nothing(rf, content_type):
    """Django decodes the query by its charset, and views choose a format by it."""
    page = cached(reads(lambda request: (request.GET["q"], request.content_type)))
    first = page(rf.get("/x/", QUERY_STRING="q=%D0%BF", CONTENT_TYPE=content_type))

    assert 'fwd=bypass; detail="request header Content-Type"' in status(first)
    assert "stored" in status(
        page(rf.get("/x/", QUERY_STRING="q=%D0%BF", CONTENT_TYPE="text/plain"))
    )  # as runserver says
    in_key = cached(plain, vary_on=["Content-Type"])
    assert "stored" in status(in_key(rf.get("/x/", CONTENT_TYPE=content_type)))


def test_what_a_layer_asked_before_is_asked_again(rf):
    """request.accepts() remembers; so what the view asks would not be seen."""
    request = rf.get("/x/", headers={"accept": "text/html"})
    request.accepts("text/html")

    assert 'detail="header Accept read' in status(cached(reads(lambda each: each.accepts("text/html")))(request))


def test_host_beside_the_one_that_is_believed_poisons_nothing(rf, settings):
    """With USE_X_FORWARDED_HOST, Host is not in the key."""
    settings.USE_X_FORWARDED_HOST = True
    request = rf.get("/x/", headers={"x-forwarded-host": "testserver", "host": "evil.example"})

    assert 'detail="header Host read' in status(cached(reads(lambda each: each.headers["Host"]))(request))


def test_port_that_is_believed_is_in_the_key(rf, settings):
    """With USE_X_FORWARDED_PORT; get_host() names it only where there is no Host."""
    settings.USE_X_FORWARDED_PORT = True
    page = cached(reads(lambda request: request.get_port()))
    page(rf.get("/x/", headers={"host": "testserver", "x-forwarded-port": "666"}))

    assert b"666" not in page(rf.get("/x/", headers={"host": "testserver"})).content


@pytest.mark.parametrize("query", ["q=<script>", "q='onload='", 'q="'])
def test_query_that_no_browser_writes_is_not_stored(rf, query):
    """It shares the key of the encoded one, and a view that shows the raw query would show a script to all."""
    page = cached(reads(lambda request: request.META["QUERY_STRING"]))

    assert 'detail="query not encoded"' in status(page(rf.get("/x/", QUERY_STRING=query)))


def test_function_of_the_request_tells_what_it_gives_apart(rf):
    """None and "None"; two rows of one name."""
    page = cached(plain, vary_on=[lambda request: request.given])
    rows = User(pk=1, username="a"), User(pk=2, username="a")

    def key(given):
        request = rf.get("/x/")
        request.given = given
        return page.key_for(request)

    given = [None, "None", "", "a", *rows, ("a", "b"), ("a,b",)]
    assert len({key(each) for each in given}) == len(given)
    with pytest.raises(TypeError, match="object"):
        key(object())


def test_coroutine_function_in_vary_on_is_refused():
    """Its result would be a coroutine."""

    async def tenant(request):
        return "a"

    with pytest.raises(ValueError, match="vary_on holds"):
        cached(plain, vary_on=[tenant])


def test_header_is_named_as_it_is_sent(rf):
    """User_Agent finds User-Agent, and Vary must too."""
    page = cached(reads(lambda request: request.headers.get("User-Agent")), vary_on=["User_Agent"])

    assert page(rf.get("/x/")).headers["Vary"] == "User-Agent"
    assert is_hit(page(rf.get("/x/")))


def test_urlconf_of_a_layer_is_in_the_key(rf):
    """One view at one path in two sites, chosen by a middleware, has two pages."""
    page = cached(plain)
    mobile = rf.get("/x/")
    mobile.urlconf = "site.mobile"
    page(mobile)

    assert "fwd=miss" in status(page(rf.get("/x/")))


def test_mount_of_the_site_is_in_the_key():
    """reverse() writes it, and under ASGI the path need not begin with it; Daphne has it from a header of the visitor."""

    async def view(request):
        return HttpResponse(request.META["SCRIPT_NAME"])

    page = cached(view)
    mounts = [asyncio.run(page(asgi_request(root_path=each))).content for each in ("/a", "/evil", "")]

    assert mounts == [b"/a", b"/evil", b""]
    assert is_hit(asyncio.run(page(asgi_request(root_path="/a"))))
    asyncio.run(page.ainvalidate("/a/x/"))  # as reverse() says it
    assert [is_hit(asyncio.run(page(asgi_request(root_path=each)))) for each in ("/a", "")] == [False, True]
    asyncio.run(page(asgi_request(root_path="/a", path="/a/x/")))
    asyncio.run(page.ainvalidate("/a/x/"))
    assert not is_hit(asyncio.run(page(asgi_request(root_path="/a", path="/a/x/"))))


class Match:
    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


def test_arguments_that_are_not_of_the_url_pass_by(rf):
    """A decorator above brings a cart, another view calls this one: the path does not tell such calls apart."""
    page = cached(lambda request, pk, cart=None: HttpResponse(f"{pk} {cart}"))
    named = cached(lambda request, pk, cart=None: HttpResponse(f"{pk} {cart}"), vary_on=[lambda request: "x"])
    request = rf.get("/x/7/")
    request.resolver_match = Match(pk=7)

    assert 'fwd=bypass; detail="arguments' in status(page(request, pk=7, cart=1))
    assert 'fwd=bypass; detail="arguments' in status(page(request, 7))
    assert "stored" in status(page(request, pk=7))
    assert "stored" in status(named(request, pk=7, cart=1))


def test_page_for_one_user_is_private_to_browsers(rf):
    """Not every cache between heeds Vary: Cookie."""
    for vary_on in (["user"], ["cookie:sessionid"], ["Cookie"], ["Authorization"]):
        page = cached(plain, vary_on=vary_on, browser_ttl=30)
        page(rf.get("/x/"))
        assert page(rf.get("/x/")).headers["Cache-Control"] == "private, max-age=30"


def test_mark_of_a_csp_package_is_not_lost(rf):
    """django-csp's decorators leave them to its middleware."""

    def view(request):
        response = HttpResponse()
        response._csp_exempt = True
        return response

    assert "_csp_exempt: put its decorator above" in status(cached(view)(rf.get("/x/")))


def test_purge_by_a_path_that_is_not_utf8(client, rf):
    """It names what request.path is."""
    page = cached(plain)
    for url in ("/a/%FF/", "/a/%C3%A9%3F/", "/a/100%25/"):
        page(rf.get(url))
        page.invalidate(url)
        assert "fwd=miss" in status(page(rf.get(url)))


def test_what_is_remembered_is_small(rf, monkeypatch):
    """Long queries and headers fill no memory."""
    from redis_integration import pages

    monkeypatch.setattr(pages, "_known", known := {})
    page = cached(lambda request: HttpResponse(status=500))
    for request in (rf.get("/x/", QUERY_STRING="a" * 9000), rf.get("/x/", headers={"x-forwarded-host": "a" * 9000})):
        page(request)

    assert len(f"{[*known]}") < 9000


def test_head_and_sessions_do_not_keep_a_page_from_being_stored(rf, monkeypatch):
    """Of them it is known before; an uptime check would have everybody compute."""
    monkeypatch.setattr("redis_integration.answers.LEFT_ALONE", 60.0)
    page = cached(plain)
    for _ in range(4):
        page(rf.head("/x/"))

    assert "stored" in status(page(rf.get("/x/")))


def test_class_that_a_layer_has_put_in_place_of_the_user_is_the_user(rf):
    """request.user is set by a middleware of tokens; auser() still tells whose session it is."""

    async def view(request):
        return HttpResponse(request.user.username)

    page = cached(view, vary_on=["user"])

    def visit(name, pk):
        request = rf.get("/x/")
        request.user = User(pk=pk, username=name)

        async def auser():
            request._acached_user = AnonymousUser()
            return request._acached_user

        request.auser = auser
        return asyncio.run(page(request))

    assert (visit("alice", 1).content, visit("bob", 2).content) == (b"alice", b"bob")


class TokenUsers:
    """Sets the user by a header, as APIs do; lazily or not."""

    is_lazy = False

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        from django.utils.functional import SimpleLazyObject

        name = request.headers.get("X-Token")
        user = User(pk=len(name), username=name) if name else AnonymousUser()
        request.user = SimpleLazyObject(lambda: user) if self.is_lazy else user
        return self.get_response(request)


class LazyTokenUsers(TokenUsers):
    is_lazy = True


async def hello_async(request):
    return HttpResponse(f"hello {(await request.auser()).pk} {request.session.get('x') if False else ''}")


by_session = cached(reads(lambda request: request.user), vary_on=["cookie:sessionid"])
for_each = cached(plain, vary_on=["user"])
NEGATIVE = {"negative_ttl": 5, "browser_ttl": 3600, "vary_on": ["Accept-Language"]}
inner = cached(plain, browser_ttl=60)
kept_for_long = cached(plain, stale_for=60)
urlpatterns = [
    path("kept/", kept_for_long),
    path("inner/", inner),
    path("cart/", cached(reads(lambda request: request.session.session_key), vary_on=["user"])),
    path("around/", lambda request: HttpResponse(for_each(request).content + request.user.username.encode())),
    path("gone/", cached(lambda request: HttpResponse(status=404), **NEGATIVE)),
    path("missing/", cached(raises(Http404()), **NEGATIVE)),
    path("composed/", lambda request: HttpResponse(inner(request).content)),
    path("handed-on/", cached(lambda request: inner(request))),
    path("by-session/", by_session),
    path("hello/", cached(hello_async, vary_on=["user"])),
    path("browser/", cached(plain, browser_ttl=3600)),
    path(
        "template/", cached(lambda request: TemplateResponse(request, engines["django"].from_string("x")), query=["a"])
    ),
    path("ours/", cached(plain)),
    path("by-theme/", cached(plain, vary_on=["cookie:theme"])),
    path("behind-a-login/", cached(reads(lambda request: request.user), vary_on=["user", "cookie:sessionid"])),
]


@pytest.fixture
def site(settings):
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [OURS, f"{__name__}.Layer", SESSION, AUTH]
    return settings


class Layer:
    """A middleware whose `act` a test sets."""

    act = None

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        return Layer.act(request, response) or response if Layer.act else response

    def process_template_response(self, request, response):
        return response


@pytest.mark.parametrize("layer", ["TokenUsers", "LazyTokenUsers"])
def test_session_in_the_key_does_not_speak_for_a_user_without_one(site, layer):
    """Who comes with a token has no session: all of them would share the page of no session."""
    site.MIDDLEWARE = [SESSION, f"{__name__}.{layer}"]
    alice, bob, nobody = (
        Client().get("/by-session/", headers=each) for each in ({"x-token": "alice"}, {"x-token": "bo"}, {})
    )

    assert alice.content.endswith(b"alice")
    assert bob.content.endswith(b"bo")


def test_session_in_the_key_speaks_for_its_user(site):
    """The user of Django's own session."""
    client = Client()
    client.force_login(User.objects.create(username="alice"))
    pages = [
        client.get("/by-session/"),
        client.get("/by-session/"),
        Client().get("/by-session/"),
        Client().get("/by-session/"),
    ]

    assert [is_hit(page) for page in pages] == [False, True, False, True]


def test_async_page_for_each_user_is_stored(site):
    """To fetch the user for the key is no use of the session by the view."""
    client = AsyncClient()
    alice = User.objects.create(username="alice")
    client.force_login(alice)

    async def visits():
        return [await client.get("/hello/"), await client.get("/hello/"), await AsyncClient().get("/hello/")]

    first, second, other = asyncio.run(visits())
    assert ("stored" in status(first), is_hit(second), is_hit(other)) == (True, True, False)
    assert second.content == first.content == f"hello {alice.pk} ".encode()


def test_answer_of_a_layer_is_not_told_to_be_kept(site, monkeypatch):
    """A redirect to the login in place of the page: browser_ttl is the page's."""
    monkeypatch.setattr(
        Layer, "act", staticmethod(lambda request, response: HttpResponse(status=302, headers={"Location": "/"}))
    )

    assert "max-age" not in Client().get("/browser/").headers.get("Cache-Control", "")


def test_304_says_no_length(site):
    """CommonMiddleware would say 0, which is not the page's."""
    site.MIDDLEWARE = [OURS, "django.middleware.common.CommonMiddleware"]
    etag = Client().get("/ours/").headers["ETag"]
    known = Client().get("/ours/", headers={"if-none-match": etag})

    assert (known.status_code, known.headers.get("Content-Length")) == (304, None)


def test_request_is_given_back_where_its_template_is_never_rendered(site, monkeypatch):
    """A layer puts its own answer in place of the template's."""
    other = lambda self, request, response: TemplateResponse(request, engines["django"].from_string("other"))  # noqa: E731
    monkeypatch.setattr(Layer, "process_template_response", other)

    request = Client().get("/template/?a=1&b=2").wsgi_request

    assert (type(request.COOKIES), type(request.META), request.META["QUERY_STRING"]) == (dict, dict, "a=1&b=2")


FRAGMENTS = {
    "cookie": "{{ request.COOKIES.theme }}",
    "header": "{{ request.headers.user_agent }}",
    "meta": "{{ request.META.HTTP_USER_AGENT }}",
    "address": "{{ request.META.REMOTE_ADDR }}",
}


def render(source, rf, **context):
    template = engines["django"].from_string("{% load redis_integration %}" + source)
    return template.render(context, rf)


@pytest.mark.parametrize("block", FRAGMENTS.values(), ids=FRAGMENTS)
def test_fragment_that_shows_a_cookie_or_header_is_not_stored(rf, block):
    """The next visitor has another."""
    source = "{% cache_aside 60 'shows' %}" + block + "{% endcache_aside %}"
    alice = rf.get("/x/", headers={"cookie": "theme=alice", "user-agent": "alice"}, REMOTE_ADDR="alice")
    bob = rf.get("/x/", headers={"cookie": "theme=bob", "user-agent": "bob"}, REMOTE_ADDR="bob")

    assert [render(source, each).strip() for each in (alice, bob)] == ["alice", "bob"]


def test_lazy_translation_is_a_value_of_a_fragment(rf):
    """Its text is what is shown in this language."""
    from django.utils.translation import gettext_lazy

    source = "{% cache_aside 60 'lazy' label %}{{ label }}{{ n }}{% endcache_aside %}"

    assert render(source, rf.get("/x/"), n=1, label=gettext_lazy("Yes")) == "Yes1"
    assert render(source, rf.get("/x/"), n=2, label="Yes") == "Yes1"


def test_user_without_a_key_of_his_own_shares_no_page(rf):
    """One who is logged in and not saved is neither nobody nor the next of his kind."""
    page = cached(reads(lambda request: request.user.username), vary_on=["user"])

    def visit(user):
        request = rf.get("/x/")
        request.user = user
        return page(request)

    visit(AnonymousUser())
    assert b"alice" in visit(User(username="alice")).content
    assert b"bob" in visit(User(username="bob")).content


def test_pages_behind_a_login_are_stored_for_each_session(site):
    """LoginRequiredMiddleware has looked at the session before the view: its cookie is in the key too."""
    site.MIDDLEWARE = [OURS, SESSION, AUTH, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    alice, bob = Client(), Client()
    for client, name in ((alice, "alice"), (bob, "bob")):
        client.force_login(User.objects.create(username=name))
    pages = [client.get("/behind-a-login/") for client in (alice, bob, alice, bob)]

    assert [page.content.split()[-1] for page in pages] == [b"alice", b"bob"] * 2
    assert [is_hit(page) for page in pages] == [False, False, True, True]


def test_path_that_a_layer_has_rewritten_is_in_the_key(rf):
    """By a header, say: Django resolves path_info, and request.path stays."""
    page, request = cached(plain), rf.get("/x/")
    request.path_info = "/y/"
    page(request)

    assert "fwd=miss" in status(page(rf.get("/x/")))


def test_query_that_a_layer_has_changed_is_not_stored(rf):
    """request.GET may hold a visitor's currency that QUERY_STRING does not."""
    page, request = cached(reads(lambda request: request.GET.urlencode())), rf.get("/x/?a=1&b")
    request.GET = request.GET.copy()
    assert "stored" in status(page(request))

    request.GET["currency"] = "EUR"
    page.invalidate(request)
    assert 'detail="request.GET changed by a layer"' in status(page(request))


def test_purge_by_a_link_into_a_page(rf):
    """What follows # is the browser's."""
    page = cached(plain)
    page(rf.get("/x/"))
    page.invalidate("/x/#top")

    assert "fwd=miss" in status(page(rf.get("/x/")))


def test_page_that_shows_a_cached_one_is_not_told_to_be_kept(site):
    """The outer one is not cached, and may be one visitor's own: its parts say nothing of it."""
    response = Client().get("/composed/")

    assert b"page" in response.content
    assert not {"Cache-Control", "ETag", "Age"} & {*response.headers}


@pytest.mark.parametrize("middleware", [[OURS], []], ids=["middleware", "alone"])
def test_page_that_hands_on_another_cached_one_says_its_own_age_and_status(site, middleware):
    """It is stored as the view's answer, without what was said of the inner one."""
    site.MIDDLEWARE = middleware
    for _ in range(2):
        Client().get("/inner/")
    Client().get("/handed-on/")
    hit = Client().get("/handed-on/")

    assert status(hit).count("redis_integration;") == 1


def test_answer_that_is_one_object_says_one_thing(rf):
    """A module's constant: each request would make its header longer, for ever."""
    for constant in (HttpResponse("ok"), HttpResponse(status=500)):
        page = cached(lambda request, constant=constant: constant)
        said = [status(page(rf.get(f"/{number}/"))) for number in range(3)]
        assert said[0] == said[2]
    passed_by = cached(lambda request: constant)
    assert status(passed_by(rf.post("/x/"))) == status(passed_by(rf.post("/x/"))) == "redis_integration; fwd=method"


def test_browsers_keep_no_404(site):
    """browser_ttl is for pages; a remembered 404 may be a page in a second, and is told to vary as a page is."""
    for url in ("/gone/", "/missing/"):
        first, second = Client().get(url), Client().get(url)
        assert ("stored" in status(first), is_hit(second)) == (True, True)
        for response in (first, second):
            assert response.headers.get("Cache-Control", "max-age=0") == "max-age=0"
            assert response.headers["Vary"] == "Accept-Language"


@pytest.mark.parametrize("name", ["User", "cookie.name", "Cookie.name"])
def test_header_of_a_misleading_name_covers_nothing(rf, name):
    """It was taken for the user, or for a cookie, while the key held a header that nobody sends."""
    page = cached(reads(lambda request: request.COOKIES.get("name")), vary_on=[name])
    request = rf.get("/x/", headers={"cookie": "name=a"})
    assert "cookie name read" in status(page(request))
    request.user = User(pk=1)
    assert "stored" not in status(cached(plain, vary_on=[name])(request))


def test_function_called_user_is_not_the_user(rf):
    """The key holds what it gives, and that may be less."""

    def user(request):
        return request.user.is_staff

    page = cached(reads(lambda request: request.user.username), vary_on=[user])
    request = rf.get("/x/")
    request.user = User(pk=1, username="alice")

    assert "user used" in status(page(request))


@pytest.mark.parametrize("name", ["GEOIP_COUNTRY_CODE", "eppn", "REDIRECT_REMOTE_USER"])
def test_what_a_server_has_put_into_meta_is_noticed(rf, name):
    """Modules for places and for single sign-on have names of their own."""
    assert f'detail="{name} read"' in status(cached(reads(lambda request: request.META.get(name)))(rf.get("/x/")))


@pytest.mark.parametrize("middleware", [[OURS], []], ids=["middleware", "alone"])
def test_page_around_one_for_each_user_says_that_it_varies(site, middleware):
    """It looks at the user whom the key of its part has fetched: SessionMiddleware must still say Vary: Cookie."""
    site.MIDDLEWARE = [*middleware, SESSION, AUTH]
    client = Client()
    client.force_login(User.objects.create(username="alice"))
    for _ in range(2):
        response = client.get("/around/")
        assert b"alice" in response.content
        assert response.headers["Vary"] == "Cookie"


@pytest.mark.parametrize("value", ["request.COOKIES.lang", "request.headers.accept", "request.META.SERVER_NAME"])
def test_value_of_a_fragment_speaks_for_nothing_else(rf, value):
    """One cookie or header in the key does not cover another."""
    block = "{{ request.COOKIES.theme }} {{ request.headers.user_agent }} {{ request.META.REMOTE_ADDR }}"
    source = "{% cache_aside 60 'other' " + value + "|default:'' %}" + block + "{% endcache_aside %}"
    seen = [
        render(source, rf.get("/x/", headers={"cookie": f"theme={name}", "user-agent": name}, REMOTE_ADDR=name))
        for name in ("alice", "bob")
    ]

    assert seen == ["alice alice alice", "bob bob bob"]


@pytest.mark.parametrize(
    ("value", "block"),
    [
        ("request.COOKIES.theme", "{{ request.COOKIES.theme }}"),
        ("request.headers.user_agent", "{{ request.META.HTTP_USER_AGENT }}"),
        ("request.META.REMOTE_ADDR", "{{ request.META.REMOTE_ADDR }}"),
    ],
)
def test_value_of_a_fragment_speaks_for_itself(rf, value, block):
    """By whichever way it is read."""
    source = "{% cache_aside 60 'itself' " + value + "|default:'' %}" + block + "{{ n }}{% endcache_aside %}"
    request = rf.get("/x/", headers={"cookie": "theme=a", "user-agent": "a"}, REMOTE_ADDR="a")

    assert render(source, request, n=1) == render(source, request, n=2) == "a1"


def test_visitors_known_before_are_left_alone_by_themselves(rf, monkeypatch):
    """Where all have a session, none asks Redis each time; who has none is not among them."""
    monkeypatch.setattr("redis_integration.answers.LEFT_ALONE", 60.0)
    page, request = cached(plain), rf.get("/x/")
    request.user = User(pk=1)
    said = [status(page(request)) for _ in range(5)]

    assert [each.split()[1] for each in said] == ["fwd=miss;"] * 3 + ["fwd=bypass;"] * 2
    assert "stored" in status(page(rf.get("/x/")))
    assert is_hit(page(request))


def test_cart_of_an_anonymous_session_is_in_nobody_elses_page(site):
    """vary_on=["user"] tells no two of them apart, and whether the view read session_key cannot be seen."""
    pages = []
    for name in ("first", "second"):
        client = Client()
        session = client.session
        session["x"] = name
        session.save()
        pages.append((client.get("/cart/").content, session.session_key.encode()))

    assert all(key in content for content, key in pages)


@pytest.mark.parametrize(
    "look",
    [lambda session: session.session_key, lambda session: session.is_empty(), lambda session: session.cache_key],
    ids=["session_key", "is_empty", "cache_key"],
)
def test_page_of_no_session_is_not_for_who_has_one(site, look):
    """An empty cart, by session_key, would be shown to all who have a full one: to read the key is to use the session."""
    site.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    site.ROOT_URLCONF = (path("x/", cached(reads(lambda request: look(request.session)))),)
    first = Client().get("/x/")

    assert 'detail="session used"' in status(first)
    assert type(first.wsgi_request.session).__name__ == "SessionStore"


def test_page_around_a_part_may_be_stored_with_sessions_in_use(site):
    """That its part asks whether there is a session is no use of it."""
    site.ROOT_URLCONF = (path("x/", cached(lambda request: HttpResponse(inner(request).content))),)

    assert ["stored" in status(Client().get("/x/")), is_hit(Client().get("/x/"))] == [True, True]


def test_one_cookie_in_the_key_does_not_speak_for_vary_cookie(site, monkeypatch):
    """A layer has made something of another one, for the view to show."""
    monkeypatch.setattr(Layer, "act", staticmethod(lambda request, response: patch_vary_headers(response, ["Cookie"])))

    assert 'detail="Vary: Cookie"' in status(Client().get("/by-theme/"))


def test_a_404_of_one_user_is_private(rf):
    """As his pages are."""
    page = cached(lambda request: HttpResponse(status=404), vary_on=["Authorization"], negative_ttl=5, browser_ttl=30)
    request = rf.get("/x/", headers={"authorization": "Basic eA=="})

    assert [page(request).headers["Cache-Control"] for _ in range(2)] == ["private, max-age=0"] * 2


def test_session_of_another_layout_is_no_visitors_error(rf):
    """Its class cannot be exchanged for one that tells of session_key."""

    class Slotted:
        __slots__ = ("accessed", "modified")
        session_key = property(lambda self: None)

    request = rf.get("/x/")
    request.session = Slotted()
    request.session.accessed = request.session.modified = False

    assert cached(plain)(request).status_code == 200


def test_cookie_of_a_layer_ends_nobodys_stale_page(site, rf):
    """It is set for one visitor; and an origin that is ill then has no page to answer with."""
    site.MIDDLEWARE = [OURS, f"{__name__}.Layer"]
    client, page = Client(), kept_for_long
    first = client.get("/kept/")
    page.expire(rf.get("/kept/"))
    try:
        Layer.act = lambda request, response: response.set_cookie("a", "b")
        assert "Set-Cookie" in status(client.get("/kept/"))
    finally:
        Layer.act = None
    request = rf.get("/kept/")
    request.user = object()

    assert page(request).content == first.content
