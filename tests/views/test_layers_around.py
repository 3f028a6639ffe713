"""Our middleware around Django's own, in any documented order."""

from __future__ import annotations

import gzip
import itertools

import django
import pytest
from django.contrib.auth.models import User
from django.template import engines
from django.template.response import TemplateResponse
from django.test import Client
from django.urls import path
from django.views.generic import TemplateView

from redis_integration import cache_aside_view
from tests.views.table import number, plain

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "redis_integration.middleware.CacheAsideMiddleware"
LOCALE = "django.middleware.locale.LocaleMiddleware"
SESSION = "django.contrib.sessions.middleware.SessionMiddleware"
CSP = "django.middleware.csp.ContentSecurityPolicyMiddleware"
FREE = ["django.middleware.gzip.GZipMiddleware", "django.middleware.http.ConditionalGetMiddleware", LOCALE]
FIXED = [
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
has_csp = django.VERSION >= (6, 0)
FORM = "{{ number }} {% csrf_token %}" + "x" * 500


def long_page(request):
    response = plain(request)
    response.content += b"x" * 500
    return response


def template(source):
    def view(request):
        return TemplateResponse(request, engines["django"].from_string(source), {"number": number})

    return view


class Page(TemplateView):
    def render_to_response(self, context, **kwargs):
        return template("{{ number }}" + "y" * 500)(self.request)


def named(name, view):
    return path(f"{name}/", cache_aside_view(ttl=60, namespace=name)(view))


urlpatterns = [
    named("page", long_page),
    named("template", template("{{ number }}" + "z" * 500)),
    named("class", Page.as_view()),
    named("form", template(FORM)),
    named("hello", lambda request: TemplateResponse(request, engines["django"].from_string("{{ user }}" + "u" * 500))),
]


def orders():
    """Session before Locale, else any order of those that may stand anywhere: outside, or inside of all that is fixed."""
    for free in itertools.permutations(FREE):
        for at in range(len(free) + 1):
            yield [OURS, *free[:at], SESSION, *FIXED, *free[at:], *([CSP] if has_csp else [])]


ORDERS = [order for order in orders() if order.index(SESSION) < order.index(LOCALE)]


@pytest.fixture(params=ORDERS, ids=lambda order: "-".join(name.rpartition(".")[2][:4] for name in order[1:]))
def site(request, settings, live):
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = request.param
    settings.SECURE_CSP = {"default-src": ["'self'"]}


def visit(url, client=None, **headers):
    return (client or Client()).get(f"/{url}/", headers={"accept-encoding": "gzip", "accept-language": "de", **headers})


def text(response):
    content = response.content
    return gzip.decompress(content) if response.headers.get("Content-Encoding") == "gzip" else content


def status(response):
    return response.headers.get("Cache-Status", "")


def test_pages_go_through_all_layers(site):
    """They are stored plain, compressed anew for who can read it, kept apart by language, and known by their ETag."""
    for url in ("page", "template", "class"):
        first, second = visit(url), visit(url)
        raw = visit(url, **{"accept-encoding": "identity"})
        known = visit(url, **{"if-none-match": second.headers["ETag"]})
        other = visit(url, **{"accept-language": "fr"})

        assert ("stored" in status(first), "hit" in status(second), "hit" in status(raw)) == (True, True, True)
        assert text(first) == text(second) == text(raw) == raw.content
        assert second.headers["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in raw.headers
        assert {"Accept-Encoding", "Accept-Language"} <= {name.strip() for name in second.headers["Vary"].split(",")}
        assert second.headers["ETag"] == first.headers["ETag"]
        assert second.headers["Content-Language"] == "de"
        assert ("X-Frame-Options" in second.headers, "Content-Security-Policy" in second.headers) == (True, has_csp)
        assert (known.status_code, known.content) == (304, b"")
        assert "fwd=miss" in status(other)


def test_one_visitors_pages_are_not_stored(site):
    """A form's token, a name: two visitors have two pages."""
    for url in ("form", "hello"):
        alice = Client()
        alice.force_login(User.objects.get_or_create(username="alice")[0])
        pages = [visit(url, alice), visit(url), visit(url)]

        assert ["hit" in status(page) or "stored" in status(page) for page in pages] == [False] * 3
        assert len({text(page) for page in pages}) >= 2
