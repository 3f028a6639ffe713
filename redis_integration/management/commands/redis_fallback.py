"""Reads the arguments of redis_fallback and prints what pruning.py and recovery.py found or did."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error

from redis_integration import pruning, recovery
from redis_integration.conf import RedisSettings, get_settings
from redis_integration.exceptions import FallbackUnavailable, RedisUnavailable
from redis_integration.management.console import ConsoleCommand
from redis_integration.text import duration, size

MILLISECOND = timedelta(milliseconds=1)
ACTIONS = {
    "status": "what the fallback tier and the journal hold",
    "drain": "repeat the invalidations that Redis did not confirm",
    "prune": "delete what has expired, and rows above FALLBACK_ENTRIES",
}


class Command(ConsoleCommand):
    help = "Shows what the fallback tier and the journal hold in the database, drains the journal, deletes what nobody needs any more."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="{status,drain,prune}")
        for name, words in ACTIONS.items():
            action = actions.add_parser(name, help=words, description=words, allow_abbrev=False)
            action.add_argument("--alias", default="default", help="alias in REDIS_INTEGRATION; default: default")
            if name != "status":
                action.add_argument("--dry-run", action="store_true", help="say how many there are; change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        alias, action = options["alias"], options["action"]
        try:
            if action == "status":
                said = "\n".join(_status(alias, get_settings(alias)))
            else:
                said = {"drain": _drain, "prune": _prune}[action](alias, options["dry_run"])
        except RedisUnavailable as error:
            raise CommandError(f"Nothing was drained, and nothing is lost. {error}") from error
        except Error as error:
            database = get_settings(alias).database
            raise CommandError(
                f"The database {database!r} says: {error} Is it there, and was `manage.py migrate --database {database}` run?"
            ) from error
        self.stdout.write(said)


def _status(alias: str, settings: RedisSettings) -> Iterator[str]:
    has_rows, has_journal = settings.fallback is not None, settings.journal is not None
    if settings.database is None or not (has_rows or has_journal):
        raise FallbackUnavailable(
            f"The alias {alias!r} has neither fallback tier nor journal: DATABASE is None, or FALLBACK and JOURNAL are."
        )
    yield f"{alias}: FALLBACK is {settings.fallback!r}, JOURNAL is {settings.journal!r}, in the database {settings.database!r}"
    if has_rows:
        found = pruning.status(alias)
        yield f"  rows     {found.rows:>10,}   at most {settings.fallback_entries:,} after pruning"
        yield f"  fresh    {found.fresh:>10,}"
        yield f"  held     {found.held:>10,}   being computed now"
        yield f"  expired  {found.expired:>10,}   to be pruned"
        yield f"  tags     {found.tags:>10,}"
        yield f"  bytes    {found.payload_bytes:>10,}   {size(found.payload_bytes)} of values".rstrip()
        if found.oldest and found.youngest:
            yield f"  computed {found.oldest:%Y-%m-%d %H:%M:%S} to {found.youngest:%Y-%m-%d %H:%M:%S} {found.oldest:%Z}".rstrip()
    if has_journal:
        journal = recovery.journal_status(alias)
        yield f"  journal  {journal.rows:>10,}   invalidations of {journal.names:,} names that Redis has not confirmed"
        if journal.first:
            yield f"           {'age':>10}   {'tries':>5}   name"
            for row in journal.first:
                yield f"           {duration(row.age / MILLISECOND):>10}   {row.tries:>5,}   {row.name}"
        if (more := journal.rows - len(journal.first)) > 0:
            yield f"           and {more:,} younger ones"


def _drain(alias: str, dry_run: bool) -> str:
    if dry_run:
        found = recovery.journal_status(alias)
        return f"DRY RUN, nothing is sent. The journal holds {found.rows:,} invalidations of {found.names:,} names."
    drained = recovery.drain_now(alias)
    rest = "" if drained.is_all else " There are more: run it again."
    return f"Invalidated once more: {drained.names:,} names.{rest}"


def _prune(alias: str, dry_run: bool) -> str:
    gone = pruning.prune(alias, dry_run=dry_run)
    lead = "DRY RUN, nothing is deleted. These would go: " if dry_run else "Deleted: "
    most = get_settings(alias).fallback_entries
    return (
        f"{lead}{gone.expired:,} expired rows, {gone.tags:,} expired tags, {gone.excess:,} rows above "
        f"FALLBACK_ENTRIES ({most:,})."
    )
