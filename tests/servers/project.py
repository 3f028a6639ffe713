"""A Django project of one file, served by tests/test_web_servers.py: `wsgi` and `asgi` are its applications.

Its prices are cached, and computed with a query of the database; `left` tells what there is in this process.
"""

from __future__ import annotations

import asyncio
import os
import resource
import threading

import django
from django.conf import settings
from django.http import JsonResponse
from django.urls import path

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    # What nobody closes stays open.
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["TEST_DATABASE"], "CONN_MAX_AGE": None}
    },
    REDIS_INTEGRATION={
        "default": {
            "URL": os.environ["TEST_REDIS"],
            "KEY_PREFIX": os.environ["TEST_PREFIX"],
            "JOURNAL": None,  # the watch would keep a connection of its own
            "COMMAND_TIMEOUT": 10,
            "CONNECT_TIMEOUT": 10,
            "POOL_TIMEOUT": 10,
        }
    },
)
django.setup()

from asgiref.sync import sync_to_async  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, connections  # noqa: E402

from redis_integration import cache_aside  # noqa: E402

calls: dict[str, int] = {}


def compute(pk):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sqlite_master")
    calls[pk] = calls.get(pk, 0) + 1
    return calls[pk]


@cache_aside(key="price:{pk}", ttl=600, stale_for=600)
def price(pk):
    return compute(pk)


@cache_aside(key="aprice:{pk}", ttl=600, stale_for=600)
async def aprice(pk):
    return await sync_to_async(compute)(pk)


def show(request, pk):
    answer = price(pk)
    connection.close()  # the request's own, if it had to compute
    return JsonResponse({"answer": answer})


async def ashow(request, pk):
    answer = await aprice(pk)
    await sync_to_async(connections.close_all)()
    return JsonResponse({"answer": answer})


def expire(request, pk):
    price.expire(pk)
    return JsonResponse({})


async def aexpire(request, pk):
    await aprice.aexpire(pk)
    return JsonResponse({})


def is_database(number):
    try:
        return os.path.samestat(os.fstat(number), os.stat(os.environ["TEST_DATABASE"]))
    except OSError:
        return False


def count_open_databases():
    """Descriptors, since a connection that everybody has lost is open too."""
    return sum(map(is_database, range(min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))))


def left(mine):
    """What there is beside the request itself: the names of threads and tasks, the number of open databases."""
    threads = [thread.name for thread in threading.enumerate() if thread not in (threading.main_thread(), mine)]
    return {"threads": threads, "databases": count_open_databases(), "tasks": []}


def show_left(request):
    return JsonResponse(left(threading.current_thread()))


async def ashow_left(request):
    tasks = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
    return JsonResponse({**left(await sync_to_async(threading.current_thread)()), "tasks": tasks})


urlpatterns = [
    path("sync/price/<pk>", show),
    path("sync/expire/<pk>", expire),
    path("sync/left", show_left),
    path("async/price/<pk>", ashow),
    path("async/expire/<pk>", aexpire),
    path("async/left", ashow_left),
]

wsgi = get_wsgi_application()
asgi = get_asgi_application()
