"""How a test carries out a plan: on a database of its own, in a folder that goes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.databases import start_postgres
from tests.history.checker import Bounds, judge
from tests.history.site import SQLITE, Site, prepare


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """An SQLite database with all tables, to be copied."""
    path = tmp_path_factory.mktemp("history") / "db.sqlite3"
    prepare({**SQLITE, "NAME": str(path)})
    return path


@pytest.fixture
def sqlite(tables, tmp_path):
    """The entry of DATABASES for a copy of it."""
    return {**SQLITE, "NAME": shutil.copy(tables, tmp_path)}


@pytest.fixture
def postgres_of_its_own():
    """The entry of DATABASES for a PostgreSQL with all tables. Raises DatabaseMissing."""
    with start_postgres() as server:
        entry = server.as_database()
        prepare(entry)
        yield entry


@pytest.fixture
def carry_out(tmp_path):
    """Call it with a plan, a database and the options of the alias: the history, and what the checker says of it."""

    def carry_out(plan, database, *, mutation="", judged_as=None, **options):
        options = {"WATCH_INTERVAL": 1.0, "FALLBACK_TTL": 10.0, **options}
        folder = tempfile.mkdtemp(dir=tmp_path)  # each time another
        with contextlib.closing(Site(plan, Path(folder), database=database, redis_options=options)) as site:
            site.mutation = mutation
            history = site.run()
        return history, judge(history, bounds_of({**options, **(judged_as or {})}))

    return carry_out


def bounds_of(options):
    """What is documented for these options."""
    return Bounds(
        watch_interval=options["WATCH_INTERVAL"],
        fallback_ttl=0.0 if options.get("FALLBACK") == "durable" else options["FALLBACK_TTL"],
        is_always=options.get("JOURNAL") == "always",
    )
