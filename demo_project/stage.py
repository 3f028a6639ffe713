"""What the demo's story is played on: a Redis, a proxy in front of it that can be cut, and the shop's pages. No story."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.test.utils import override_settings

from demo_project.proxy import CuttableProxy
from demo_project.server import start_server
from redis_integration import close_pools

CLEANING_BATCH = 500  # keys in one SCAN or UNLINK


class StageError(RuntimeError):
    """The demo cannot begin; the message says what to do."""


class Stage(NamedTuple):
    """`redis` reaches the server beside the proxy. `pid` is that of a server of ours, else None."""

    redis: redis.Redis
    proxy: CuttableProxy
    words: str
    pid: int | None


@contextmanager
def set_stage() -> Iterator[Stage]:
    """
    A Redis behind a proxy, with REDIS_INTEGRATION pointed at the proxy until the end.

    That Redis is REDIS_URL, where the demo's keys get a prefix of their own and are removed at the end, or else a server
    started for the occasion. Raises StageError, ServerError.
    """
    with ExitStack() as stack:
        given = os.environ.get("REDIS_URL")
        prefix, pid = "shop", None
        if given:
            url = _carriable(given)
            prefix = f"shop-demo-{secrets.token_hex(4)}"
        else:
            server = stack.enter_context(start_server())
            url, pid = server.url, server.pid
            words = f"{server.name} from {server.found.name}, port {server.port}"
        direct = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2)
        stack.callback(direct.close)
        if given:
            words = f"{_greet(direct)}, REDIS_URL, keys under {prefix}:"
            stack.callback(_remove_keys, direct, prefix)
        proxy, proxied = _behind_proxy(url)
        stack.enter_context(proxy)
        options = {**settings.REDIS_INTEGRATION["default"], "URL": proxied, "KEY_PREFIX": prefix}
        stack.enter_context(override_settings(REDIS_INTEGRATION={**settings.REDIS_INTEGRATION, "default": options}))
        stack.callback(close_pools)
        yield Stage(direct, proxy, words, pid)


@contextmanager
def served_pages() -> Iterator[str]:
    """The address of the shop's pages on a free local port, served in threads until the end."""
    server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    server.daemon_threads = True
    server.set_app(StaticFilesHandler(get_wsgi_application()))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="pages")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _carriable(url: str) -> str:
    scheme = urlsplit(url).scheme  # that it is an address at all, the system checks have seen to
    if scheme != "redis":
        raise StageError(
            f"REDIS_URL begins with {scheme}://, and the demo's proxy carries plain TCP only. "
            "Give a redis:// address, or none: then the demo starts a server of its own."
        )
    return url


def _behind_proxy(url: str) -> tuple[CuttableProxy, str]:
    parts = urlsplit(url)
    proxy = CuttableProxy(parts.port or 6379, host=parts.hostname or "localhost")
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return proxy, parts._replace(netloc=f"{login}127.0.0.1:{proxy.port}").geturl()


def _greet(direct: redis.Redis) -> str:
    try:
        told = direct.info("server")
    except redis.RedisError as exc:
        raise StageError(
            f"The Redis of REDIS_URL does not answer ({exc}). "
            "Start it, or unset REDIS_URL: then the demo starts a server of its own."
        ) from exc
    return f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"


def _remove_keys(direct: redis.Redis, prefix: str) -> None:
    for pattern in (f"{prefix}:*", f"{{{prefix}:*"):
        cursor = -1
        while cursor:
            cursor, keys = direct.scan(max(cursor, 0), match=pattern, count=CLEANING_BATCH)
            if keys:
                direct.unlink(*keys)
