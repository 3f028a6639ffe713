"""What a fault of faults.py is made to: a server behind a proxy, and those who ask it."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import copy_context

import pytest
import redis

from demo_project.proxy import CuttableProxy
from demo_project.server import start_server
from redis_integration import ainvalidate, invalidate
from redis_integration.breaker import Breaker
from redis_integration.flow import arun, run
from redis_integration.pools import aget_pool, get_pool
from redis_integration.tiers.redis import get_redis_tier
from redis_integration.watch import watch
from tests.conftest import PATIENT
from tests.outage.callers import Cached, retry_now
from tests.outage.faults import CONNECTIONS, USER

# What is invalidated: an entry by its key, or one by its tag.
WAYS = ["key", "tag"]
# A pool that is in use is not waited for.
SCENE = {"MAX_CONNECTIONS": CONNECTIONS, **PATIENT, "POOL_TIMEOUT": 0.01}


class Asker:
    """Who asks by one alias, for an entry of each way, and invalidates them; what `read` gives is cached.

    Each alias has a breaker, connections and a memory of its own, and so stands for a process.
    """

    def __init__(self, alias, *, form, read, run, **options):
        self.alias, self.form, self.run = alias, form, run
        self.tier = get_redis_tier(alias, is_async=form.is_async)
        self.breaker, self.journal = self.tier.breaker, self.tier.journal
        # As it is called in a process of its own.
        self.journal.alias = "default"
        self.cached = {
            "key": Cached(form, read, "by-key", run=run, alias=alias, **options),
            "tag": Cached(form, read, "by-tag", run=run, alias=alias, tags=["tag"], **options),
        }

    def watched(self):
        """Its calls leave it to the watch to try Redis, and to repeat what is pending: to `beat`."""
        self.breaker.is_watched = True
        return self

    def load(self, name, way="key"):
        return self.cached[way].load(name)

    def load_all(self):
        return [self.load("warm", way) for way in WAYS]

    def invalidate(self, way):
        if way == "key":
            self.cached[way].invalidate("warm")
        else:
            self.run((ainvalidate if self.form.is_async else invalidate)(tags=["tag"], alias=self.alias))

    def invalidate_all(self):
        for way in WAYS:
            self.invalidate(way)

    def beat(self):
        """What its watch does, with the pause of an open breaker over."""
        retry_now(self.alias)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watch, "_tiers", lambda is_async: iter([self.tier]))
            flow = watch._beat(is_async=self.form.is_async)
            self.run(arun(flow) if self.form.is_async else run(flow))


class Scene(Asker):
    """A server behind a proxy, and an origin that gives "entry" until it is told otherwise, cached in front of it."""

    def __init__(self, server, proxy, *, form, prefix, folder, runner, **options):
        self.server, self.proxy, self.folder, self.runner = server, proxy, folder, runner
        self.value = "entry"
        super().__init__("default", form=form, read=self.read, run=self.await_or_not, **options)
        self.admin = self.connect()
        self.pool = aget_pool() if runner else get_pool()
        self.breaker.note = self.note
        self.failures = []
        self.milliseconds = []  # of each call that was met
        self.keys = {way: self.cached[way].key_for("warm") for way in WAYS}
        self.names = {"key": self.cached["key"].name_for("warm"), "tag": f"{prefix}:#tag"}

    def read(self):
        return self.value

    def await_or_not(self, result):
        """What was returned; what is awaited runs on this scene's event loop, in the context of the test."""
        return self.runner.run(result, context=copy_context()) if self.runner else result

    def note(self, failure):
        self.failures.append((failure.kind, failure.is_short))
        Breaker.note(self.breaker, failure)

    def connect(self):
        """A client of the operator's, past the proxy."""
        return redis.Redis(unix_socket_path=self.server.unixsocket, decode_responses=True, retry=None)

    def disconnect(self):
        """End all connections but the operator's."""
        self.admin.client_kill_filter(_type="normal", skipme=True)

    def stored(self):
        """All that the server holds."""
        with redis.Redis(unix_socket_path=self.server.unixsocket) as client:
            return {key: client.dump(key) for key in client.scan_iter()}


@contextlib.contextmanager
def scene_of(fault, form, *, settings, server, prefix, folder, **decoration):
    """The scene of this fault, its entries stored: `server` is any, for its version."""
    if tuple(map(int, server.name.split()[-1].split("."))) < fault.since:
        pytest.skip(f"{server.name} cannot be made to do this.")
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start_server(*USER, *fault.arguments, directory=folder))
        proxy = stack.enter_context(CuttableProxy(server.port))
        options = {**SCENE, "KEY_PREFIX": prefix}
        settings.REDIS_INTEGRATION = {
            "default": {"URL": fault.url.format(port=proxy.port), **options},
            # Other settings make it another process.
            "behind": {"URL": fault.url.format(port=proxy.port), "CLIENT_NAME": "behind", **options},
            "third": {"URL": fault.url.format(port=proxy.port), "CLIENT_NAME": "third", **options},
            "beside": {"URL": fault.url.format(port=server.port), "CLIENT_NAME": "beside", **options},
        }
        runner = stack.enter_context(asyncio.Runner()) if form.is_async else None
        scene = Scene(server, proxy, form=form, prefix=prefix, folder=folder, runner=runner, **decoration)
        stack.callback(server.kill)  # in a tenth of the time that it takes to stop
        stack.callback(scene.admin.close)
        scene.load_all()
        yield scene
