"""One process alone is cut off, while others write and invalidate in Redis: how old its answers are, and what is left of that.

It is an alias with a user of its own, whom the server's ACL refuses. Every value is a version, one above the last.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from time import monotonic

import pytest
import redis
from django.db import connections
from django.db.models import F

from redis_integration.models import FallbackEntry
from redis_integration.tiers.redis import get_redis_tier
from tests.conftest import PATIENT
from tests.outage.callers import CALLERS, Source, retry_now

pytestmark = pytest.mark.django_db(transaction=True)

BOUND = 2.0  # seconds, of FALLBACK_TTL
STEPS = 100
TIMES = ("started", "leased", "held_until", "fresh_until", "kept_until")
TICK = 0.01  # seconds; databases may tick in ms


class SlowSource(Source):
    """What it gives is older than the end of its work."""

    def __init__(self, work):
        super().__init__()
        self.work = work

    def read(self):
        value = super().read()
        # In a thread: an event loop may be running in this one, where Django refuses queries.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self.work).result()
        return value


class Site:
    """Callers of the alias "default" and of "lonely", over one source; it keeps when each version was acknowledged.

    Its clock is moved, with all that is compared with a clock, so that no test sleeps.
    """

    def __init__(self, caller, *, database, durable, admin):
        self.source, self.database, self.admin = SlowSource(self.work), database, admin
        self.source.value = "0"
        self.load, self.invalidate = caller(self.source, durable=durable)
        self.load_lonely, self.invalidate_lonely = caller(self.source, durable=durable, alias="lonely")
        self.breaker = get_redis_tier("lonely", is_async=False).breaker
        self.passed = 0.0
        self.acknowledged = {}
        self.ages = []

    def now(self):
        return monotonic() + self.passed

    def wait(self, seconds):
        moved = {name: F(name) - timedelta(seconds=seconds) for name in TIMES}
        FallbackEntry.objects.using(self.database).update(**moved)
        self.breaker.opened_at = self.breaker.opened_at and self.breaker.opened_at - seconds
        self.passed += seconds

    def work(self):
        """What happens while the origin computes: each other time it has read what is old when it ends."""
        if self.source.reads % 2:
            self.write()
        self.wait(BOUND / 4)
        connections.close_all()

    def write(self):
        self._write(self.invalidate)

    def write_lonely(self):
        self._write(self.invalidate_lonely)

    def _write(self, invalidate):
        version = int(self.source.value) + 1
        self.source.value = str(version)
        invalidate()
        self.acknowledged[version] = self.now()

    def ask(self):
        """Note for how long, when it was asked, the answer had been known to be old."""
        asked = self.now()
        newer = int(self.load_lonely()) + 1
        self.ages.append(asked - self.acknowledged.get(newer, asked))

    def live(self, steps):
        """Let things happen, in an order of chance that is always the same; the ages of the answers."""
        chance, self.ages = random.Random(steps), []
        things = {self.ask: 10, self.load: 4, self.write: 4, self.write_lonely: 1}
        for _ in range(steps):
            self.wait(chance.uniform(0, BOUND / 10))
            chance.choices([*things], [*things.values()])[0]()
        return self.ages

    def cut_off(self):
        self.admin.acl_setuser("lonely", enabled=False)
        self.admin.execute_command("CLIENT", "KILL", "USER", "lonely")

    def come_back(self):
        self.admin.acl_setuser("lonely", enabled=True)
        retry_now("lonely")


@pytest.fixture
def durable():
    return False


@pytest.fixture(params=CALLERS)
def site(request, own_server, settings, prefix, database, durable):
    options = {"KEY_PREFIX": prefix, "DATABASE": database, **PATIENT, "FALLBACK_TTL": BOUND}
    options["FALLBACK"] = "durable" if durable else "outage"
    settings.REDIS_INTEGRATION = {
        "default": {"URL": own_server.url, **options},
        "lonely": {"URL": own_server.url, "USERNAME": "lonely", "PASSWORD": "alone", **options},
    }
    with redis.Redis(unix_socket_path=own_server.unixsocket) as admin:
        admin.acl_setuser(
            "lonely", enabled=True, passwords=["+alone"], keys=["*"], channels=["*"], categories=["+@all"]
        )
        yield Site(request.param, database=database, durable=durable, admin=admin)


def test_answers_of_who_is_cut_off_are_bounded(site):
    """At most FALLBACK_TTL passes from an invalidation that only Redis has seen to the last answer from before it, also where its origin takes long."""
    site.ask()
    site.cut_off()

    ages = site.live(STEPS)

    assert not site.breaker.is_closed
    assert BOUND / 2 < max(ages) <= BOUND + TICK


@pytest.mark.parametrize("durable", [True])
def test_durable_answers_of_who_is_cut_off_are_never_old(site):
    """Every invalidation of the others ends rows too."""
    site.ask()
    site.cut_off()

    ages = site.live(STEPS)

    assert not site.breaker.is_closed
    assert max(ages) == 0


@pytest.mark.parametrize("durable", [False, True], ids=["outage", "durable"])
def test_nothing_old_is_answered_when_it_is_back(site):
    """Neither a row, nor what Redis kept because its own invalidations had not arrived."""
    site.ask()
    site.cut_off()
    site.live(STEPS // 5)
    site.write_lonely()

    site.come_back()
    ages = site.live(STEPS // 5)

    assert site.breaker.is_closed
    assert max(ages) == 0
