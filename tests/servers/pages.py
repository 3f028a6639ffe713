"""A Django project of one file: the views of tests/views/table.py, and pages for tests/views/hammer.py. It is served by tests/views/test_servers.py.

TEST_DATABASE, TEST_REDIS and TEST_PREFIX say where; `wsgi` and `asgi` are its applications. It makes its tables itself.
"""

from __future__ import annotations

import os

import django
from django.conf import settings

from tests import settings as base

OWN = {
    "ALLOWED_HOSTS": ["*"],
    "ROOT_URLCONF": __name__,
    "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
    "LOGGING_CONFIG": None,
    "MIDDLEWARE": [
        "redis_integration.middleware.CacheAsideMiddleware",
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    "DATABASES": {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["TEST_DATABASE"],
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        }
    },
    "REDIS_INTEGRATION": {
        "default": {
            "URL": os.environ["TEST_REDIS"],
            "KEY_PREFIX": os.environ["TEST_PREFIX"],
            "COMMAND_TIMEOUT": 10,
            "CONNECT_TIMEOUT": 10,
            "POOL_TIMEOUT": 10,
            "REQUEST_BUDGET": 60,
        }
    },
}
settings.configure(**{name: getattr(base, name) for name in dir(base) if name.isupper()} | OWN)
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connections  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.template import engines  # noqa: E402
from django.template.response import TemplateResponse  # noqa: E402
from django.urls import path  # noqa: E402

from redis_integration import answers, cache_aside_view  # noqa: E402
from tests.views.table import urlpatterns as table  # noqa: E402

NAMES = ("alice", "bob")
NOBODY = "nobody"
# What one row had refused is asked for by the next.
answers.LEFT_ALONE = 0.0


def owned_by(name):
    """The body of a page: whose it is, between marks."""
    return HttpResponse(f"<{name}>")


def user(request, number):
    return owned_by(request.user.username)


def session(request, number):
    return owned_by(request.session.get("name", NOBODY))


def cookie(request, number):
    return owned_by(request.COOKIES.get("name", NOBODY))


def meta(request, number):
    return owned_by(request.META.get("HTTP_X_NAME", NOBODY))


def lazily(request, number):
    return TemplateResponse(request, engines["django"].from_string("<{{ user.username }}>"))


def fragment(request, number):
    source = "{% load redis_integration %}{% cache_aside 60 'owner' %}<{{ user.username }}>{% endcache_aside %}"
    return HttpResponse(engines["django"].from_string(source).render({"user": request.user}, request))


def everybodys(request, number):
    return owned_by(NOBODY)


VIEWS = {view.__name__: view for view in (user, session, cookie, meta, lazily, everybodys)}
hammered = {name: cache_aside_view(ttl=1, namespace=name)(view) for name, view in VIEWS.items()}
hammered["by_user"] = cache_aside_view(ttl=1, namespace="by_user", vary_on=["user"])(user)
hammered["by_cookie"] = cache_aside_view(ttl=1, namespace="by_cookie", vary_on=["cookie:name"])(cookie)
hammered["fragment"] = fragment

urlpatterns = [*table, *(path(f"hammer/{name}/<int:number>/", view) for name, view in hammered.items())]

call_command("migrate", verbosity=0)
for name in NAMES:
    User.objects.get_or_create(username=name)
connections.close_all()

wsgi = get_wsgi_application()
asgi = get_asgi_application()
