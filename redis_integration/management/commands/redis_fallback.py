"""Reads the arguments of redis_fallback and prints what pruning.py found or deleted."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error
from django.template.defaultfilters import filesizeformat

from redis_integration import pruning
from redis_integration.conf import get_settings
from redis_integration.exceptions import FallbackUnavailable


class Command(BaseCommand):
    help = "Shows what the fallback tier holds in the database, or deletes what it needs no more."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, allow_abbrev=False, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="{status,prune}")
        for name, words in (
            ("status", "how many rows there are, and how old"),
            ("prune", "delete what has expired, and rows above FALLBACK_ENTRIES"),
        ):
            action = actions.add_parser(name, help=words, description=words, allow_abbrev=False)
            action.add_argument("--alias", default="default", help="alias in REDIS_INTEGRATION; default: default")
        action.add_argument("--dry-run", action="store_true", help="say how many would go; delete nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        alias = options["alias"]
        try:
            said = self._status(alias) if options["action"] == "status" else self._prune(alias, options["dry_run"])
        except (ImproperlyConfigured, FallbackUnavailable) as error:
            raise CommandError(str(error)) from error
        except Error as error:
            database = get_settings(alias).database
            raise CommandError(
                f"The database {database!r} says: {error} Is it there, and was `manage.py migrate --database {database}` run?"
            ) from error
        self.stdout.write(said)

    def _status(self, alias: str) -> str:
        found, settings = pruning.status(alias), get_settings(alias)
        lines = [
            f"{alias}: FALLBACK is {settings.fallback!r}, in the database {found.database!r}",
            f"  rows     {found.rows:>10,}   at most {settings.fallback_entries:,} after pruning",
            f"  fresh    {found.fresh:>10,}",
            f"  held     {found.held:>10,}   being computed now",
            f"  expired  {found.expired:>10,}   to be pruned",
            f"  tags     {found.tags:>10,}",
            f"  bytes    {found.payload_bytes:>10,}   {_size(found.payload_bytes)} of values",
        ]
        if found.oldest and found.youngest:
            lines.append(
                f"  computed {found.oldest:%Y-%m-%d %H:%M:%S} to {found.youngest:%Y-%m-%d %H:%M:%S} {found.oldest:%Z}"
            )
        return "\n".join(line.rstrip() for line in lines)

    def _prune(self, alias: str, dry_run: bool) -> str:
        gone = pruning.prune(alias, dry_run=dry_run)
        lead = "DRY RUN, nothing is deleted. These would go: " if dry_run else "Deleted: "
        most = get_settings(alias).fallback_entries
        return (
            f"{lead}{gone.expired:,} expired rows, {gone.tags:,} expired tags, {gone.excess:,} rows above "
            f"FALLBACK_ENTRIES ({most:,})."
        )


def _size(count: int) -> str:
    # Django's space is one that does not break, which not every terminal knows.
    return filesizeformat(count).replace("\xa0", " ")
