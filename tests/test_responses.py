from __future__ import annotations

import json

import django
import pytest
from django.contrib import messages
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.messages.storage.cookie import CookieStorage
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import FileResponse, Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import CsrfViewMiddleware, get_token
from django.template import engines
from django.template.response import TemplateResponse
from django.test import RequestFactory
from django.utils.cache import add_never_cache_headers
from django.utils.functional import SimpleLazyObject, empty
from django.views.decorators.clickjacking import xframe_options_exempt
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_integration.exceptions import UnreadableEntry, UnstorableValue
from redis_integration.responses import (
    ADDRESS,
    Covered,
    Prepared,
    response_codec,
    why_bypassed,
    why_not_response,
    why_private,
)

needs_csp = pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has CSP nonces since 6.0")


IMMUTABLE = (str, bytes, int, type(None))
BY_LANGUAGE = Covered(headers=frozenset({"accept-language"}))


def why_not_stored(request, response, covered=ADDRESS):
    return (
        why_bypassed(request, covered.headers)
        or why_not_response(response, covered)
        or why_private(request, covered, response)
    )


@pytest.fixture
def request_with_all():
    """A GET request that has passed Django's own middleware, nothing of it touched."""
    request = RequestFactory().get("/", headers={"cookie": "theme=dark"})
    SessionMiddleware(HttpResponse).process_request(request)
    AuthenticationMiddleware(HttpResponse).process_request(request)
    MessageMiddleware(HttpResponse).process_request(request)
    CsrfViewMiddleware(HttpResponse).process_request(request)
    return request


def get(**headers):
    return RequestFactory().get("/", headers=headers)


def template_response(request):
    return TemplateResponse(request, engines["django"].from_string("{{ word }}"), {"word": "hello"})


def again(response):
    return response_codec.decode(response_codec.encode(response))


def with_headers(**headers):
    return HttpResponse(b"x", headers={name.replace("_", "-"): value for name, value in headers.items()})


def without_content_type():
    response = HttpResponse(b"x")
    del response["Content-Type"]
    return response


def with_cookie():
    response = HttpResponse(b"x")
    response.set_cookie("a", "b")
    return response


@pytest.mark.parametrize(
    "response",
    [
        HttpResponse(),
        HttpResponse("Zoë"),
        HttpResponse("Zoë", content_type="text/plain; charset=latin-1"),
        HttpResponse("Zoë", charset="utf-16", content_type="text/plain"),
        HttpResponse(b"\x00\n\n\xff", content_type="application/octet-stream"),
        HttpResponse("teapot", status=418, reason="Short and stout"),
        JsonResponse({"a": 1}),
        with_headers(X_Zeta="1", x_alpha="2", Content_Type="text/css", Subject="ü"),
        without_content_type(),
        template_response(None).render(),
    ],
)
def test_response_comes_back_plain_and_equal(response):
    """Status, reason, headers in order and case, charset and body survive; the class does not."""
    stored = again(response)

    assert type(stored) is HttpResponse
    assert (stored.status_code, stored.reason_phrase) == (response.status_code, response.reason_phrase)
    assert [*stored.items()] == [*response.items()]
    assert (stored.charset, stored.content) == (response.charset, response.content)
    assert not stored.cookies


def test_content_type_that_was_absent_stays_absent():
    """Django would add one of its own."""
    assert "Content-Type" not in again(without_content_type()).headers


def test_each_reader_gets_a_response_of_its_own():
    """A middleware that changes a hit does not change the next one."""
    payload = response_codec.encode(HttpResponse("x"))
    response_codec.decode(payload).headers["X-Seen"] = "1"

    assert "X-Seen" not in response_codec.decode(payload).headers


def test_readers_share_nothing_that_can_be_changed():
    """What Django may come to keep in a response is copied too, or this fails."""
    payload = response_codec.encode(HttpResponse("x"))
    first, second = (vars(response_codec.decode(payload)) for _ in range(2))

    assert first.keys() == vars(HttpResponse("x", status=200)).keys()
    assert {name for name in first if first[name] is second[name] and not isinstance(first[name], IMMUTABLE)} == set()


def test_raised_404_comes_back_as_it_was_raised():
    """Its arguments are kept as texts, and it has no headers."""
    payload = response_codec.encode(Http404("No product", 7))

    assert payload == b'[404,null,null,null]\n["No product", "7"]'
    assert response_codec.decode(payload).args == ("No product", "7")


def test_what_was_prepared_is_stored_as_it_is():
    """A response that has changed since is not looked at."""
    assert response_codec.encode(Prepared(200, b"head\nbody")) == b"head\nbody"


def test_payload_is_a_line_of_json_and_the_body():
    """redis-cli shows what was stored."""
    payload = response_codec.encode(HttpResponse("hello\n", headers={"Content-Type": "text/plain", "X-A": "b"}))

    assert payload == b'[200,null,null,[["Content-Type","text/plain"],["X-A","b"]]]\nhello\n'


def test_codec_names_itself():
    """The header of an entry says 2 for responses."""
    assert (response_codec.number, response_codec.name) == (2, "response")


@pytest.mark.parametrize(
    "value",
    [StreamingHttpResponse([b"x"]), FileResponse(iter([b"x"])), template_response(None), with_cookie(), "text", None],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_unstorable(value):
    """A body that is not there yet, cookies, and what is no response are refused."""
    with pytest.raises(UnstorableValue, match=type(value).__name__):
        response_codec.encode(value)


@pytest.mark.parametrize(
    "head",
    [
        "",
        "{",
        "null",
        "[200]",
        '["200",5,null,[]]',
        "[99,null,null,[]]",
        '["x",null,null,[]]',
        "[200,7,null,[]]",
        "[200,null,7,[]]",
        "[200,[],{},[]]",
        "[200,null,null,null]",
        '[200,null,null,[["A"]]]',
        '[200,null,null,[["A",5]]]',
        '[200,null,null,[["A","b\\r\\nSet-Cookie: c"]]]',
        '[200,null,null,[["Ä","b"]]]',
        '[200,null,null,["ab"]]',
        "[" * 100_000,
    ],
    ids=lambda head: head[:40],
)
def test_damaged_payload_is_unreadable(head):
    """No bytes become a response that Django could not have built, or another error."""
    with pytest.raises(UnreadableEntry):
        response_codec.decode(head.encode() + b"\nbody")


@pytest.mark.parametrize("payload", [b"", b"[200,null,null,[]]", b"\xff\xfe\n", b'[200,"a\\r\\nb",null,[]]\n'])
def test_payload_without_its_line_is_unreadable(payload):
    """A head without its end, no UTF-8, and a reason over two lines are damage."""
    with pytest.raises(UnreadableEntry):
        response_codec.decode(payload)


scraps = st.recursive(
    st.none() | st.integers(-1, 700) | st.sampled_from(["", "A", "utf-8", "\n", "ä", 1.5, True]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("a"), inner),
)


def read_or_refuse(payload):
    try:
        response = response_codec.decode(payload)
        return response.serialize(), response.reason_phrase.encode(), response.charset.lower()
    except UnreadableEntry:
        return None


@settings(deadline=None)
@given(st.binary() | scraps.map(lambda head: json.dumps(head).encode() + b"\nx"))
def test_arbitrary_bytes_raise_nothing_but_unreadable_entry(payload):
    """What can be read can also be sent."""
    read_or_refuse(payload)


@settings(deadline=None)
@given(st.integers(min_value=0), st.integers(0, 7))
def test_flipped_bit_raises_nothing_but_unreadable_entry(at, bit):
    """Damage inside a real payload is damage."""
    payload = bytearray(response_codec.encode(with_headers(Content_Type="text/plain; charset=latin-1", X_A="b")))
    payload[at % len(payload)] ^= 1 << bit

    read_or_refuse(bytes(payload))


def test_plain_page_is_stored(request_with_all):
    """A request through Django's middleware and a rendered page give no reason against."""
    assert why_not_stored(request_with_all, template_response(request_with_all).render()) is None


def test_bare_request_is_stored():
    """A project without sessions, users and messages is cached as well."""
    assert why_not_stored(get(), HttpResponse("x")) is None


def test_looking_leaves_session_user_and_messages_untouched(request_with_all):
    """To ask whether a view touched them must not touch them."""
    why_not_stored(request_with_all, HttpResponse("x"))

    assert (request_with_all.session.accessed, request_with_all.session.modified) == (False, False)
    assert request_with_all.user._wrapped is empty
    assert not hasattr(request_with_all._messages, "_loaded_data")
    assert not hasattr(request_with_all, "_cached_user")


def test_head_is_answered():
    """A HEAD may be answered from what a GET stored."""
    assert why_bypassed(RequestFactory().head("/")) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "DELETE"])
def test_only_get_is_stored(method):
    """Other methods change something, or have no body."""
    request = RequestFactory().generic(method, "/")

    assert why_bypassed(request) == why_not_stored(request, HttpResponse("x")) == f"method {method}"


@pytest.mark.parametrize("header", ["Authorization", "Range"])
def test_requests_for_one_person_or_part_are_neither_answered_nor_stored(header):
    """This is known before the view runs, so such a request is not answered from an entry either."""
    request = get(**{header: "x"})

    assert why_bypassed(request) == why_not_stored(request, HttpResponse("x")) == f"request header {header}"


def test_other_request_headers_do_not_matter():
    """Cookies alone make no page personal: what the view read of them does."""
    assert why_bypassed(get(cookie="a=b", accept="text/html", if_none_match='"x"')) is None


@pytest.mark.parametrize("status", [201, 204, 206, 302, 304, 400, 500, 503])
def test_other_statuses_are_not_stored(status):
    """Errors and temporary redirects are not remembered."""
    assert why_not_stored(get(), HttpResponse(status=status)) == f"status {status}"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (StreamingHttpResponse([b"x"]), "streaming"),
        (FileResponse(iter([b"x"])), "streaming"),
        (template_response(None), "not rendered"),
        (with_cookie(), "Set-Cookie"),
        (with_headers(set_cookie="a=b"), "Set-Cookie"),
        (with_headers(content_range="bytes 0-1/2"), "Content-Range"),
        (with_headers(content_encoding="gzip"), "Content-Encoding"),
        (with_headers(Vary="Cookie"), "Vary: Cookie"),
        (with_headers(Vary="*"), "Vary: *"),
        (with_headers(vary="accept-language, Accept-Encoding"), "Vary: Accept-Encoding"),
        (with_headers(Cache_Control="private"), "Cache-Control: private"),
        (with_headers(Cache_Control="max-age=60, NO-STORE"), "Cache-Control: no-store"),
        (with_headers(Cache_Control='max-age=60,no-cache="Set-Cookie, X-A"'), "Cache-Control: no-cache"),
        (with_headers(Cache_Control='x="a\\"b",Private'), "Cache-Control: private"),
        (xframe_options_exempt(lambda request: HttpResponse())(None), "xframe_options_exempt: put its decorator above"),
    ],
)
def test_responses_that_forbid_it_are_not_stored(response, reason):
    """What the response says about itself is obeyed."""
    assert why_not_stored(get(), response, covered=BY_LANGUAGE).startswith(reason)


def test_never_cache_is_obeyed():
    """Django's own way of saying it is understood."""
    response = HttpResponse("x")
    add_never_cache_headers(response)

    assert why_not_stored(get(), response).startswith("Cache-Control: ")


@pytest.mark.parametrize(
    "response",
    [
        with_headers(Cache_Control="public, max-age=60, must-revalidate"),
        with_headers(Cache_Control='x="private, no-store", y=no-cache, privateer'),
        with_headers(Vary="accept-LANGUAGE"),
        with_headers(Vary=""),
        with_headers(ETag='"x"', Last_Modified="x", Expires="0"),
    ],
)
def test_responses_that_do_not_forbid_it_are_stored(response):
    """Lookalikes of directives, and Vary over what is in the key, are no reason."""
    assert why_not_stored(get(), response, covered=BY_LANGUAGE) is None


def test_vary_is_a_reason_for_headers_outside_the_key():
    """Accept-Language is covered only where the language is in the key."""
    assert why_not_stored(get(), with_headers(Vary="Accept-Language")) == "Vary: Accept-Language"


def read_session(request):
    request.session.get("basket")


def write_session(request):
    request.session["basket"] = [1]


def ask_whether_session_has(request):
    return "basket" in request.session


@pytest.mark.parametrize("touch", [read_session, write_session, ask_whether_session_has])
def test_used_session_is_a_reason(request_with_all, touch):
    """A view that reads or writes the session makes pages for one visitor."""
    touch(request_with_all)

    assert why_not_stored(request_with_all, HttpResponse("x")) == "session used"


@pytest.mark.parametrize(("attribute", "reason"), [("accessed", "session used"), ("modified", "session used")])
def test_either_flag_of_the_session_is_a_reason(attribute, reason):
    """One of the two flags is enough."""
    request = get()
    request.session = SessionStore()
    setattr(request.session, attribute, True)

    assert why_not_stored(request, HttpResponse("x")) == reason


def test_session_that_cannot_be_watched_is_a_reason():
    """A plain dict set by other middleware does not tell who read it."""
    request = get()
    request.session = {}

    assert why_not_stored(request, HttpResponse("x")) == "session used"


def test_used_user_is_a_reason(request_with_all):
    """A view that asks who is there makes different pages, for the anonymous too."""
    assert request_with_all.user.is_anonymous
    request_with_all.session = SessionStore()

    assert why_not_stored(request_with_all, HttpResponse("x")) == "user used"


@pytest.mark.parametrize("name", ["_cached_user", "_acached_user"])
def test_fetched_user_is_a_reason(request_with_all, name):
    """auth.get_user() and request.auser() leave the lazy request.user lazy."""
    setattr(request_with_all, name, AnonymousUser())

    assert why_not_stored(request_with_all, HttpResponse("x")) == "user used"


@pytest.mark.parametrize("user", [AnonymousUser(), User(pk=1)], ids=["anonymous", "user"])
def test_plain_user_is_a_reason(user):
    """Whether a view looked at a user that is not lazy cannot be seen; a page for nobody is wrong for somebody."""
    request = get()
    request.user = user

    assert why_not_stored(request, HttpResponse("x")) == "user used"


def test_lazy_user_of_other_middleware_is_no_reason():
    """Middleware that sets a lazy user keeps pages cacheable."""
    request = get()
    request.user = SimpleLazyObject(AnonymousUser)

    assert why_not_stored(request, HttpResponse("x")) is None


def test_issued_csrf_token_is_a_reason(request_with_all):
    """A form's token belongs to one visitor."""
    get_token(request_with_all)

    assert why_not_stored(request_with_all, HttpResponse("x")) == "CSRF token issued"


def test_csrf_cookie_of_the_visitor_is_no_reason():
    """A visitor who has the cookie, and sees a page without a form, shares that page."""
    request = get(cookie=f"csrftoken={'a' * 32}")
    CsrfViewMiddleware(HttpResponse).process_request(request)

    assert request.META["CSRF_COOKIE"]
    assert why_not_stored(request, HttpResponse("x")) is None


def test_added_message_is_a_reason(request_with_all):
    """A message is for the one who caused it."""
    messages.info(request_with_all, "saved")

    assert why_not_stored(request_with_all, HttpResponse("x")) == "messages used"


def test_shown_messages_are_a_reason(request_with_all):
    """Reading messages ends them, and shows them to one visitor."""
    assert list(messages.get_messages(request_with_all)) == []

    assert why_not_stored(request_with_all, HttpResponse("x")) == "messages used"


def visitor_with_message():
    sender, response = get(), HttpResponse()
    storage = CookieStorage(sender)
    storage.add(messages.INFO, "saved")
    storage.update(response)
    request = get(cookie=f"messages={response.cookies['messages'].coded_value}")
    request._messages = CookieStorage(request)
    return request


@pytest.mark.parametrize(("asks", "reason"), [(True, "messages used"), (False, None)])
def test_waiting_message_is_a_reason_once_asked_for(asks, reason):
    """`{% if messages %}` makes another page where one waits; a view that does not ask makes the same page."""
    request = visitor_with_message()

    assert not asks or len(messages.get_messages(request)) == 1
    assert why_not_stored(request, HttpResponse("x")) == reason


def test_asking_in_vain_for_messages_is_no_reason(request_with_all):
    """A base template that says `{% if messages %}` keeps pages cacheable for visitors without any."""
    assert len(messages.get_messages(request_with_all)) == 0

    assert why_not_stored(request_with_all, HttpResponse("x")) is None


@needs_csp
def test_made_csp_nonce_is_a_reason():
    """A nonce in a stored page would be known to everybody, and match no later header."""
    from django.middleware.csp import ContentSecurityPolicyMiddleware, get_nonce

    request = get()
    ContentSecurityPolicyMiddleware(HttpResponse).process_request(request)

    assert why_not_stored(request, HttpResponse("x")) is None
    assert get_nonce(request)._wrapped is empty
    assert str(get_nonce(request))
    assert why_not_stored(request, HttpResponse("x")) == "CSP nonce made"


@needs_csp
@pytest.mark.parametrize("name", ["csp_override", "csp_report_only_override"])
def test_csp_override_is_a_reason(name):
    """The middleware would not see the override on a hit; above the cache, the decorator marks hits too."""
    from django.views.decorators import csp

    response = getattr(csp, name)({})(lambda request: HttpResponse("x"))(get())

    assert "put its decorator above cache_aside_view" in why_not_stored(get(), response)


def test_nonce_of_django_csp_is_a_reason():
    """The package django-csp keeps the nonce it made as plain text."""
    request = get()
    request._csp_nonce = "bm9uY2U="

    assert why_not_stored(request, HttpResponse("x")) == "CSP nonce made"
