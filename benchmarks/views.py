"""
What a cached view costs: a page of 5 kB on a hit and as a 304, against Django's cache_page, and a page that is refused.

Usage: python -m benchmarks.views [--rounds N] [--calls N]. Starts a server of its own on a free loopback port.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.rounds import Subject, measure, repeat, table
from benchmarks.setting import configure, describe
from demo_project.server import start_server

HTML = "<li>A product with a name and a price</li>\n" * 120
CACHES = {"Django's RedisCache": "default", "django-redis": "django_redis", "LocMemCache": "memory"}


def page(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse(HTML)


def page_with_cookie(request: Any) -> Any:
    response = page(request)
    response.set_cookie("seen", "1")
    return response


def visit(view: Callable[..., Any], **headers: str) -> Subject:
    from django.test import RequestFactory

    requests = RequestFactory()
    return lambda: view(requests.get("/page/?a=1", headers=headers))


def hits(url: str) -> Mapping[str, Subject]:
    import redis
    from django.views.decorators.cache import cache_page

    from redis_integration import cache_aside_view

    client = redis.Redis.from_url(url)
    client.set("bench-page", HTML, ex=600)
    return {
        "redis-py GET of the page's bytes": lambda: client.get("bench-page"),
        "@cache_aside_view": visit(cache_aside_view(ttl=600, namespace="page")(page)),
        "@cache_aside_view with two tags": visit(
            cache_aside_view(ttl=600, namespace="tags", tags=["pages", "all"])(page)
        ),
        **{f"cache_page, {name}": visit(cache_page(600, cache=alias)(page)) for name, alias in CACHES.items()},
        "making the request alone": visit(lambda request: None),
    }


def known_pages() -> Mapping[str, Subject]:
    """The same where the visitor has the page already: 304. cache_page needs conditional_page around it for that."""
    from django.test import RequestFactory
    from django.views.decorators.cache import cache_page
    from django.views.decorators.http import conditional_page

    from redis_integration import cache_aside_view

    views: dict[str, Any] = {
        "@cache_aside_view": cache_aside_view(ttl=600, namespace="known")(page),
        **{
            f"cache_page, {name}": conditional_page(cache_page(600, cache=alias)(page))
            for name, alias in CACHES.items()
        },
    }
    subjects = {}
    for name, view in views.items():
        etag = view(RequestFactory().get("/page/?a=1")).headers["ETag"]
        assert view(RequestFactory().get("/page/?a=1", headers={"if-none-match": etag})).status_code == 304
        subjects[name] = visit(view, **{"if-none-match": etag})
    return subjects


def refused() -> Mapping[str, Subject]:
    from redis_integration import cache_aside_view

    return {
        "the view alone": visit(page_with_cookie),
        "@cache_aside_view, refused each time": visit(cache_aside_view(ttl=600, namespace="refused")(page_with_cookie)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--calls", type=int, default=100)
    options = vars(parser.parse_args())
    with start_server() as server:
        configure(server.url)
        print(describe(server.name))
        print("What a cached view costs: {rounds} rounds of {calls} calls, interleaved.\n".format(**options))
        tables = {
            "cached view, 5 kB": repeat(hits(server.url)),
            "the same page, known to the visitor: 304": repeat(known_pages()),
            "a view that sets a cookie": repeat(refused()),
        }
        for title, batches in tables.items():
            print(table(title, measure(batches, **options)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
