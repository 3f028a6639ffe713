"""Views, requests, and whether their pages are stored: the table that every way of serving them is tested against."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from django.contrib import messages
from django.contrib.auth import get_user
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import (
    FileResponse,
    Http404,
    HttpResponse,
    HttpResponseNotModified,
    HttpResponsePermanentRedirect,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token, rotate_token
from django.template import engines
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.http import condition
from django.views.decorators.vary import vary_on_cookie, vary_on_headers

from redis_integration import cache_aside_view

STORED = "stored"
_numbers = itertools.count(1)


def number():
    """Another one each time a view is called."""
    return f"page {next(_numbers)}"


class Row(NamedTuple):
    """A view and a request. `why` is STORED, or what Cache-Status says instead of it."""

    name: str
    view: Callable[..., Any]
    why: str = STORED
    options: dict[str, Any] = {}
    request: dict[str, Any] = {}
    around: Callable[..., Any] | None = None  # a decorator above ours, which only the middleware hears
    is_error: bool = False  # it is raised: only the middleware can say anything on Django's page


def says(**headers):
    """A view whose answer has these headers."""

    def view(request):
        return HttpResponse(number(), headers={name.replace("_", "-"): value for name, value in headers.items()})

    return view


def answers(make, *args, **kwargs):
    """A view that answers with what this class makes."""
    return lambda request: make(*args, **kwargs)


def does(act):
    """A view that does something with its request first."""

    def view(request):
        act(request)
        return HttpResponse(number())

    return view


def after(act):
    """A view that does something with its answer."""

    def view(request):
        response = HttpResponse(number())
        act(response)
        return response

    return view


def raises(error):
    def view(request):
        raise error

    return view


def template(source, **context):
    """A view that answers with a template, rendered later."""
    return lambda request: TemplateResponse(
        request, engines["django"].from_string(source), {"number": number, **context}
    )


def with_callback(request):
    response = TemplateResponse(request, engines["django"].from_string("{{ number }}"), {"number": number})
    response.add_post_render_callback(lambda rendered: rendered.headers.__setitem__("X-Callback", "yes"))
    return response


def callback_cookie(request):
    response = TemplateResponse(request, engines["django"].from_string("{{ number }}"), {"number": number})
    response.add_post_render_callback(lambda rendered: rendered.set_cookie("a", "b"))
    return response


def outside(act):
    """A decorator above ours that does something with the answer, or with the request that led to it."""

    def decorate(view):
        def decorated(request, *args, **kwargs):
            response = view(request, *args, **kwargs)
            act(request, response)
            return response

        return decorated

    return decorate


def set_header(name, value):
    return lambda *given: given[-1].headers.__setitem__(name, value)


def set_cookie(*given):
    given[-1].set_cookie("a", "b")


def currency(request):
    return request.COOKIES.get("currency", "EUR")


def plain(request, **kwargs):
    return HttpResponse(number())


ROWS = [
    # What is stored.
    Row("plain", plain),
    Row("json", lambda request: JsonResponse({"number": number()})),
    Row("bytes", lambda request: HttpResponse(number().encode() + b"\xff\x00\n\n", content_type="image/png")),
    Row("empty", lambda request: HttpResponse()),
    Row("status-203", lambda request: HttpResponse(number(), status=203)),
    Row("status-301", answers(HttpResponsePermanentRedirect, "/elsewhere/")),
    Row("status-308", answers(HttpResponsePermanentRedirect, "/elsewhere/", preserve_request=True)),
    Row("reason", lambda request: HttpResponse(number(), reason="Fine")),
    Row("404-remembered", lambda request: HttpResponse(number(), status=404), options={"negative_ttl": 60}),
    Row("410-remembered", lambda request: HttpResponse(number(), status=410), options={"negative_ttl": 60}),
    Row("Http404-remembered", raises(Http404("No such product")), options={"negative_ttl": 60}, is_error=True),
    Row("cache-control-public", says(Cache_Control="public, max-age=5")),
    Row("cache-control-lookalike", says(Cache_Control='x="private, no-store", privateer')),
    Row("etag", says(ETag='"mine"')),
    Row("last-modified", says(Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT")),
    Row("condition-below", condition(etag_func=lambda request: '"mine"')(plain)),
    Row("expires", says(Expires="0")),
    Row("link", says(Link="</a.css>; rel=preload", X_Frame_Options="DENY")),
    Row("vary-in-key", says(Vary="Accept-Language"), options={"vary_on": ["Accept-Language"]}),
    Row("vary-empty", says(Vary="")),
    Row("template", template("{{ number }}")),
    Row("template-callback", with_callback),
    Row("template-context", template("{{ number }} {{ request.path }}")),
    Row("query", plain, request={"query_params": {"page": "2", "q": "a b&c"}}),
    Row("cookie-unread", plain, request={"headers": {"cookie": "theme=dark"}}),
    Row("cookie-in-key", does(lambda request: request.COOKIES.get("theme")), options={"vary_on": ["cookie:theme"]}),
    Row("cookie-by-function", does(currency), "cookie currency read", options={"vary_on": [currency]}),
    Row("header-in-key", does(lambda request: request.headers.get("HX-Request")), options={"vary_on": ["HX-Request"]}),
    Row(
        "authorization-in-key",
        plain,
        options={"vary_on": ["Authorization"]},
        request={"headers": {"authorization": "Basic eA=="}},
    ),
    Row("user-in-key", does(lambda request: str(request.user)), options={"vary_on": ["user"]}),
    Row("whole-cookie-in-key", does(lambda request: [*request.COOKIES]), options={"vary_on": ["Cookie"]}),
    Row("conditional-request", plain, request={"headers": {"if-none-match": '"x"', "if-modified-since": "x"}}),
    Row(
        "host-read", does(lambda request: request.headers["Host"] if "Host" in request.headers else request.get_host())
    ),
    Row("scheme-and-path-read", does(lambda request: request.build_absolute_uri())),
    # The request passes by.
    Row("post", plain, "fwd=method", request={"method": "post"}),
    Row("put", plain, "fwd=method", request={"method": "put"}),
    Row("patch", plain, "fwd=method", request={"method": "patch"}),
    Row("delete", plain, "fwd=method", request={"method": "delete"}),
    Row("options", plain, "fwd=method", request={"method": "options"}),
    Row("head", plain, "method HEAD", request={"method": "head"}),
    Row("range", plain, "request header Range", request={"headers": {"range": "bytes=0-3"}}),
    Row("authorization", plain, "request header Authorization", request={"headers": {"authorization": "Basic eA=="}}),
    Row("fat-get", plain, "request body", request={"CONTENT_LENGTH": "3"}),
    Row("chunked-get", plain, "request body", request={"headers": {"transfer-encoding": "chunked"}}),
    Row(
        "content-type", plain, "request header Content-Type", request={"headers": {"content-type": "application/json"}}
    ),
    Row("raw-query", plain, "query not ASCII", request={"QUERY_STRING": "q=\xe9"}),
    # The answer is not the page, or says that it is nobody else's.
    Row("status-201", lambda request: HttpResponse(number(), status=201), "status 201"),
    Row("status-204", lambda request: HttpResponse(status=204), "status 204"),
    Row("status-206", lambda request: HttpResponse(number(), status=206), "status 206"),
    Row("status-302", answers(HttpResponseRedirect, "/login/"), "status 302"),
    Row("status-304", answers(HttpResponseNotModified), "status 304"),
    Row("status-403", lambda request: HttpResponse(number(), status=403), "status 403"),
    Row("status-404", lambda request: HttpResponse(number(), status=404), "status 404"),
    Row("status-410", lambda request: HttpResponse(number(), status=410), "status 410"),
    Row("status-500", lambda request: HttpResponse(number(), status=500), "status 500"),
    Row("status-503", lambda request: HttpResponse(number(), status=503), "status 503"),
    Row("permission-denied", raises(PermissionDenied()), "PermissionDenied raised", is_error=True),
    Row("bad-request", raises(BadRequest()), "BadRequest raised", is_error=True),
    Row("Http404", raises(Http404()), "status 404", is_error=True),
    Row("streaming", lambda request: StreamingHttpResponse([number()]), "streaming"),
    Row("file", lambda request: FileResponse(iter([b"x"])), "streaming"),
    Row("content-range", says(Content_Range="bytes 0-1/2"), "Content-Range"),
    Row(
        "content-encoding",
        lambda request: HttpResponse(gzip.compress(b"x"), headers={"Content-Encoding": "gzip"}),
        "Content-Encoding",
    ),
    Row("set-cookie", after(set_cookie), "Set-Cookie"),
    Row("delete-cookie", after(lambda response: response.delete_cookie("a")), "Set-Cookie"),
    Row("set-cookie-header", says(Set_Cookie="a=b"), "Set-Cookie"),
    Row("template-cookie", callback_cookie, "Set-Cookie"),
    Row("private", says(Cache_Control="max-age=5, Private"), "Cache-Control: private"),
    Row("no-store", says(Cache_Control="no-store"), "Cache-Control: no-store"),
    Row("no-cache", says(Cache_Control='no-cache="Set-Cookie"'), "Cache-Control: no-cache"),
    Row("never-cache", after(add_never_cache_headers), "Cache-Control: private"),
    Row("vary", says(Vary="User-Agent"), "Vary: User-Agent"),
    Row("vary-star", says(Vary="*"), "Vary: *"),
    Row("vary-cookie", after(lambda response: patch_vary_headers(response, ["Cookie"])), "Vary: Cookie"),
    Row("vary-language", says(Vary="Accept-Language"), "Vary: Accept-Language"),
    Row("vary-encoding", says(Vary="Accept-Encoding"), "Vary: Accept-Encoding"),
    Row(
        "vary-one-of-two",
        says(Vary="accept-language, User-Agent"),
        "Vary: User-Agent",
        options={"vary_on": ["Accept-Language"]},
    ),
    Row("exempt-from-frames", xframe_options_exempt(plain), "put its decorator above"),
    # The visitor shows in it.
    Row("session-read", does(lambda request: request.session.get("x")), "session used"),
    Row("session-written", does(lambda request: request.session.update({"x": 1})), "session used"),
    Row("session-asked", does(lambda request: "x" in request.session), "session used"),
    Row(
        "session-beside-user",
        does(lambda request: request.session.get("x")),
        "session used",
        options={"vary_on": ["user"]},
    ),
    Row(
        "session-by-its-cookie",
        does(lambda request: request.session.get("x")),
        options={"vary_on": ["cookie:sessionid"]},
    ),
    Row(
        "session-changed-by-its-cookie",
        does(lambda request: request.session.update({"x": 1})),
        "session changed",
        options={"vary_on": ["cookie:sessionid"]},
    ),
    Row("user", does(lambda request: str(request.user)), "session used"),
    Row("user-fetched", does(get_user), "session used"),
    Row("user-in-template", template("{{ number }} {{ user.is_authenticated }}"), "session used"),
    Row("csrf-token", does(get_token), "CSRF token issued"),
    Row("csrf-token-in-template", template("{{ number }} {% csrf_token %}"), "CSRF token issued"),
    Row("csrf-token-rotated", does(rotate_token), "CSRF token issued"),
    Row("message-added", does(lambda request: messages.info(request, "hello")), "messages used"),
    Row("no-messages-to-show", template("{% for message in messages %}{{ message }}{% endfor %}{{ number }}")),
    Row("cookie-read", does(lambda request: request.COOKIES.get("theme")), "cookie theme read"),
    Row("absent-cookie-asked", does(lambda request: "theme" in request.COOKIES), "cookie theme read"),
    Row("cookies-listed", does(lambda request: json.dumps(dict(request.COOKIES))), "cookies read"),
    Row(
        "cookies-as-json",
        lambda request: JsonResponse(request.COOKIES),
        "cookies read",
        request={"headers": {"cookie": "a=b"}},
    ),
    Row("any-cookies", does(lambda request: bool(request.COOKIES)), "cookies read"),
    Row("signed-cookie", does(lambda request: request.get_signed_cookie("theme", None)), "cookie theme read"),
    Row("cookie-in-template", template("{{ number }} {{ request.COOKIES.theme }}"), "cookie theme read"),
    Row("header-read", does(lambda request: request.headers.get("HX-Request")), "header Hx-Request read"),
    Row("accepts", does(lambda request: request.accepts("text/html")), "header Accept read"),
    Row("meta-header", does(lambda request: request.META.get("HTTP_X_API_KEY")), "header X-Api-Key read"),
    Row("meta-address", does(lambda request: request.META.get("REMOTE_ADDR")), "REMOTE_ADDR read"),
    Row("headers-listed", does(lambda request: [*request.headers]), "headers read"),
    # A layer around it has the last word.
    Row("outer-language", plain, around=vary_on_headers("Accept-Language")),
    Row("outer-encoding", plain, around=vary_on_headers("Accept-Encoding")),
    Row("outer-public", plain, around=cache_control(public=True, max_age=5)),
    Row("outer-body", plain, around=outside(lambda request, response: response.write(" and more"))),
    Row("outer-header", plain, around=outside(set_header("X-Outer", "1"))),
    Row("outer-cookie", plain, "Set-Cookie", around=outside(set_cookie)),
    Row("outer-cookie-header", plain, "Set-Cookie", around=outside(set_header("Set-Cookie", "a=b"))),
    Row("outer-vary", plain, "Vary: User-Agent", around=vary_on_headers("User-Agent")),
    Row("outer-vary-cookie", plain, "Vary: Cookie", around=vary_on_cookie),
    Row("outer-vary-star", plain, "Vary: *", around=outside(set_header("Vary", "*"))),
    Row("outer-private", plain, "Cache-Control: private", around=cache_control(private=True)),
    Row("outer-never-cache", plain, "Cache-Control: private", around=never_cache),
    Row("outer-session", plain, "session used", around=outside(lambda request, response: request.session.get("x"))),
    Row("outer-user", plain, "session used", around=outside(lambda request, response: str(request.user))),
    Row("outer-csrf-token", plain, "Set-Cookie", around=outside(lambda request, response: get_token(request))),
    Row("outer-message", plain, "messages used", around=outside(lambda request, response: messages.info(request, "x"))),
    Row("outer-of-template", template("{{ number }}"), "Vary: User-Agent", around=vary_on_headers("User-Agent")),
]


calls: Counter[str] = Counter()


def counted(row):
    def view(request, *args, **kwargs):
        calls[row.name] += 1
        return row.view(request, *args, **kwargs)

    return view


def url_of(row):
    cached = cache_aside_view(ttl=60, namespace=row.name, **row.options)(counted(row))
    return path(f"{row.name}/", row.around(cached) if row.around else cached)


urlpatterns = [url_of(row) for row in ROWS]
