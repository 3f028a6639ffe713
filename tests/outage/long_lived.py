"""A process that lives through many outages; see test_long_lived.py, which starts it.

Usage: python -m tests.outage.long_lived URL UNIXSOCKET FOLDER WATCH_INTERVAL OUTAGES. Prints one JSON object: what was answered, and what
there is in this process, in Redis and in the database after some of the outages.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

from demo_project.proxy import CuttableProxy
from tests.stampede.watch import until

KEYS = 2
# Python 3.13 settles for some thirty outages: code that runs often enough is kept in another form.
SETTLED = 30
FEW = 10  # the first outages from then on, and the last, after which it is measured: that takes longer than an outage
# A pause of the breaker, so that an outage ends soon.
SOON = 0.02  # seconds


def configure(url: str, folder: str, watch_interval: float) -> None:
    import django
    from django.conf import settings
    from django.core.management import call_command

    from redis_integration import breaker

    breaker.FIRST_PAUSE = breaker.LONGEST_PAUSE = SOON
    sqlite = {
        "ENGINE": "django.db.backends.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": "PRAGMA synchronous=OFF"},
    }
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=["redis_integration"],
        DATABASES={"default": {**sqlite, "NAME": f"{folder}/db.sqlite3"}},
        LOGGING_CONFIG=None,
        REDIS_INTEGRATION={
            "default": {
                "URL": url,
                "FALLBACK": "durable",
                "WATCH_INTERVAL": watch_interval,
                "COMMAND_TIMEOUT": 0.2,  # of which a frozen server costs two
                "CONNECT_TIMEOUT": 0.2,
                "REQUEST_BUDGET": 60,
            }
        },
    )
    django.setup()
    call_command("migrate", verbosity=0)


class Life:
    """One process: sync and async callers over one changing value, with short rows and with durable ones."""

    def __init__(self, proxy: CuttableProxy, unixsocket: str, runner: asyncio.Runner) -> None:
        import redis
        from django.http import HttpResponse
        from django.test import RequestFactory

        from redis_integration import ainvalidate, cache_aside, cache_aside_view, invalidate
        from redis_integration.tiers.redis import get_redis_tier

        self.proxy, self.runner, self.value, self.wrong = proxy, runner, 0, 0
        self.admin = redis.Redis(unix_socket_path=unixsocket)
        self.breaker = get_redis_tier("default", is_async=False).breaker
        self.by = [lambda: invalidate(tags=["all"]), lambda: runner.run(ainvalidate(tags=["all"]))]
        request = RequestFactory().get("/")

        async def value(pk):
            return self.value

        def load(pk):
            return self.value

        options: Any = {"ttl": 60, "tags": ["all"]}
        functions = [cache_aside(**options, key=f"{d}:{{pk}}", durable=d)(load) for d in (False, True)]
        coroutines = [cache_aside(**options, key=f"a{d}:{{pk}}", durable=d)(value) for d in (False, True)]
        view: Any = cache_aside_view(**options, namespace="page")(lambda request: HttpResponse(str(self.value)))
        self.callers = [
            *functions,
            *(lambda pk, each=each: runner.run(each(pk)) for each in coroutines),
            lambda pk: int(view(request).content),
        ]

    def ask(self) -> None:
        for pk in range(KEYS):
            answers = [call(pk) for call in self.callers]
            self.wrong += answers != [self.value] * len(answers)

    def change(self) -> None:
        """Both kinds of callers tell it."""
        self.value += 1
        for tell in self.by:
            tell()

    def live_through(self, number: int) -> None:
        """One outage: refused, or frozen for some. What is changed in it is seen at once and afterwards."""
        self.ask()
        if number % 10 == 0:
            self.proxy.freeze()
            self.ask()
        # Also of a frozen server: what was held back never arrives.
        self.proxy.cut()
        self.ask()
        self.change()
        self.ask()
        self.proxy.heal()
        until(self.is_over)
        self.ask()
        self.change()
        self.ask()

    def is_over(self) -> bool:
        # Where no watch runs, a call tries Redis.
        self.callers[0](0)
        return self.breaker.is_closed

    def measure(self) -> dict[str, int]:
        """What there is. `names` are what is still to be invalidated, `objects` instances of this package's classes."""
        from redis_integration import journal, responses
        from redis_integration.models import FallbackEntry, FallbackTag
        from redis_integration.tiers import fallback

        # A page of another value has another head; of 1,024 they are kept.
        responses._model_of.cache_clear()
        gc.collect()
        names = [name for unended in fallback._unended.values() for name in unended]
        names += [name for each in journal._journals.values() for name in each.pending]
        return {
            "threads": threading.active_count(),
            "files": len(os.listdir("/dev/fd")),
            "connections": len(self.admin.client_list()),
            # Each minute has its counts, for an hour.
            "keys": sum(b"##stats:" not in each for each in self.admin.scan_iter()),
            "rows": FallbackEntry.objects.count() + FallbackTag.objects.count(),
            "names": len(names),
            "objects": sum(type(each).__module__.startswith("redis_integration") for each in gc.get_objects()),
            "blocks": sys.getallocatedblocks(),
        }


def main() -> None:
    url, unixsocket, folder, watch_interval, outages = sys.argv[1:]
    with CuttableProxy(urlsplit(url).port or 0) as proxy, asyncio.Runner() as runner:
        configure(f"redis://127.0.0.1:{proxy.port}/0", folder, float(watch_interval))
        life, measured = Life(proxy, unixsocket, runner), []
        for number in range(int(outages)):
            life.live_through(number)
            if SETTLED <= number < SETTLED + FEW or number >= int(outages) - FEW:
                measured.append(life.measure())
        names = [thread.name for thread in threading.enumerate()]
        print(json.dumps({"wrong": life.wrong, "measured": measured, "threads": names}))


if __name__ == "__main__":
    main()
