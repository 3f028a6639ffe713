"""The Django project that benchmarks/site.py serves with gunicorn: one page for each row of a table, cached as BENCH_SITE says.

`python -m benchmarks.site_project` makes its tables anew. BENCH_SITE is a JSON object: `redis` (URL), `database` (an entry of DATABASES),
`pages`, `origin` (seconds), `cache` ("outage", "durable" or "cache_page").
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

SITE = json.loads(os.environ["BENCH_SITE"])
IS_DURABLE = SITE["cache"] == "durable"

settings.configure(
    SECRET_KEY="benchmark",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    INSTALLED_APPS=["redis_integration"],
    MIDDLEWARE=[
        f"{__name__}.add_counts",
        "redis_integration.middleware.CacheAsideMiddleware",
    ],
    DATABASES={"default": {**SITE["database"], "CONN_MAX_AGE": None}},
    REDIS_INTEGRATION={
        "default": {"URL": SITE["redis"], "KEY_PREFIX": "bench", "FALLBACK": "durable" if IS_DURABLE else "outage"}
    },
    CACHES={
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": SITE["redis"],
            "OPTIONS": {"IGNORE_EXCEPTIONS": True},
        }
    },
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.backends.signals import connection_created  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.cache import cache_page  # noqa: E402

from redis_integration import cache_aside_view, invalidate  # noqa: E402

FILLER = "The quick brown fox jumps over the lazy dog. " * 100

_lock = threading.Lock()
counts = {"queries": 0, "origins": 0}


def count(what: str) -> None:
    with _lock:
        counts[what] += 1


def count_query(execute: Callable[..., Any], *arguments: Any) -> Any:
    count("queries")
    return execute(*arguments)


def watch_queries(*, connection: Any, **_: object) -> None:
    """Count all that this connection is asked, in whatever thread."""
    if count_query not in connection.execute_wrappers:
        connection.execute_wrappers.append(count_query)


connection_created.connect(watch_queries)


def add_counts(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """What this worker has counted since it began, in a header of each response."""

    def respond(request: HttpRequest) -> HttpResponse:
        # A header that the view itself read would be a reason not to store its page.
        request.is_warming = "Warming" in request.headers  # type: ignore[attr-defined]
        response = get_response(request)
        response.headers["Counts"] = f"{os.getpid()} {counts['queries']} {counts['origins']}"
        return response

    return respond


def page(request: HttpRequest, pk: int) -> HttpResponse:
    """Begins with the version of its row. Whoever warms the cache need not wait for it."""
    count("origins")
    with connection.cursor() as cursor:
        cursor.execute("SELECT version FROM bench_page WHERE pk = %s", [pk])
        version = cursor.fetchone()[0]
    if not request.is_warming:  # type: ignore[attr-defined]
        time.sleep(SITE["origin"])
    return HttpResponse(f"{version} {FILLER}")


cached: Any = page
if SITE["cache"] == "cache_page":
    cached = cache_page(3600)(page)
else:
    cached = cache_aside_view(ttl=3600, tags=["page:{pk}"], durable=IS_DURABLE)(page)


def write(request: HttpRequest, pk: int) -> HttpResponse:
    """The new version of this row; the page is invalidated when this answers."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE bench_page SET version = version + 1 WHERE pk = %s", [pk])
        cursor.execute("SELECT version FROM bench_page WHERE pk = %s", [pk])
        version = cursor.fetchone()[0]
    invalidate(tags=[f"page:{pk}"])
    return HttpResponse(str(version))


urlpatterns = [path("page/<int:pk>", cached), path("write/<int:pk>", write)]


def make_tables() -> None:
    call_command("migrate", verbosity=0)
    call_command("flush", interactive=False, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS bench_page")
        cursor.execute("CREATE TABLE bench_page (pk INTEGER PRIMARY KEY, version INTEGER NOT NULL)")
        cursor.executemany("INSERT INTO bench_page VALUES (%s, 1)", [[pk] for pk in range(SITE["pages"])])


if __name__ == "__main__":
    make_tables()
else:
    wsgi = get_wsgi_application()
