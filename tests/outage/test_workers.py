"""Processes of a site that are killed, that start, and that are forked: what one of them could not send, the others do and know."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connections

from redis_integration.conf import get_settings
from redis_integration.journal import Journal
from redis_integration.models import PendingInvalidation
from redis_integration.tags import tag_key
from redis_integration.watch import watch
from tests.databases import added_databases
from tests.outage.worker import THREADS, Site, database_of, options_of
from tests.stampede.crew import PATIENCE
from tests.stampede.watch import until

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}


@pytest.fixture
def path(tmp_path, django_db_blocker):
    """A database of all processes, which holds "old"."""
    path = str(tmp_path / "db.sqlite3")
    with added_databases({"site": database_of(path)}), django_db_blocker.unblock():
        call_command("migrate", "redis_integration", database="site", verbosity=0)
        with connections["site"].cursor() as cursor:
            cursor.execute("CREATE TABLE value (value text)")
            cursor.execute("INSERT INTO value VALUES ('old')")
        yield path


@pytest.fixture(params=["sync", "async"])
def form(request):
    return request.param


@pytest.fixture
def site(path, form, settings, server, prefix):
    """This process is one of the site too; what it has read is stored."""
    settings.REDIS_INTEGRATION = {
        "default": {**options_of(server.url, prefix), "DATABASE": "site", "WATCH_INTERVAL": 0.05}
    }
    site = Site(form, path)
    site.ask()
    return site


@pytest.fixture
def start(site, form, server, prefix, path):
    """Start a worker with a job."""
    started = []

    def start(job):
        command = [sys.executable, "-W", "ignore", "-m", "tests.outage.worker", job, form, server.url, prefix, path]
        worker = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.communicate()


def journal(site, prefix):
    """What a process does that changes the data and cannot reach Redis."""
    with connections["site"].cursor() as cursor:
        cursor.execute("UPDATE value SET value = 'new'")
    another = Journal(get_settings())
    another.remember([*site.names["keys"], tag_key(prefix, "tag")])
    another.write()


def rows():
    return PendingInvalidation.objects.using("site").count()


@pytest.mark.parametrize(
    ("job", "form"),
    [("change", "sync"), ("achange", "async"), ("change_without_transaction", "async")],
    indirect=["form"],
)
def test_invalidation_of_a_worker_killed_between_commit_and_unlink_arrives(site, start, job):
    """With JOURNAL = "always" another's watch finds it. With "on_failure" this is outside of what is promised."""
    worker = start(job)
    ended = worker.wait(PATIENCE)
    left, committed = rows(), site.read()
    watch.start()
    until(lambda: not rows())

    assert ended == -signal.SIGKILL
    assert (left, committed) == (2, "new")
    assert site.ask() == ["new"] * 2


@pytest.mark.parametrize(("job", "times"), [("ask", 1), ("ask_in_threads", THREADS)])
def test_process_that_starts_does_not_answer_what_was_invalidated_before(site, start, prefix, job, times):
    """Redis is well and holds it, and only the journal knows; the first calls are answered right, in all threads."""
    journal(site, prefix)
    assert site.ask() == ["old"] * 2

    said, _ = start(job).communicate(timeout=PATIENCE)

    assert json.loads(said) == ["new"] * 2 * times


def test_forked_child_does_not_answer_what_was_invalidated_after_its_parent_had_looked(site, start, prefix):
    """The child looks for itself, as its parent had before it used the cache."""
    worker = start("fork")
    before = json.loads(worker.stdout.readline())
    journal(site, prefix)

    said, _ = worker.communicate("go on\n", timeout=PATIENCE)

    assert before == ["old"] * 2
    assert json.loads(said) == ["new"] * 2
