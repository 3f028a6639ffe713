"""Reads the arguments of redis_scan and prints what scan.py found or deleted. Does not speak to Redis itself."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from redis_integration import scan
from redis_integration.conf import get_settings
from redis_integration.exceptions import RedisUnavailable

EXAMPLES = 5  # keys that a dry run shows


class Command(BaseCommand):
    help = "Lists the keys that match a pattern, with type and time to live, or deletes them. SCAN only, never KEYS."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django would take --del --y for --delete --yes.
        return super().create_parser(prog_name, subcommand, allow_abbrev=False, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("pattern", nargs="?", help="glob of keys: * ? [a-z], \\ before a literal one; default {KEY_PREFIX}:*")
        add("--alias", default="default", help="alias in REDIS_INTEGRATION; default: default")
        add("--type", choices=scan.TYPES, help="only keys of this type")
        add("--limit", type=int, metavar="N", help="stop after N keys")
        add("--count", type=int, metavar="N", default=scan.DEFAULT_COUNT, help="COUNT of one SCAN; default 500")
        add("--any-prefix", action="store_true", help="allow a pattern outside KEY_PREFIX")
        add("--delete", action="store_true", help="show what would be deleted; deletes nothing without --yes")
        add("--yes", action="store_true", help="with --delete: delete, which nothing brings back")
        add("--everything", action="store_true", help="with --yes: allow a pattern that is only globs")

    def execute(self, *args: Any, **options: Any) -> str | None:
        # Django does not know https://no-color.org.
        if os.environ.get("NO_COLOR") and not options["force_color"]:
            options["no_color"] = True
        return super().execute(*args, **options)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            search = _read(options)
        except (ImproperlyConfigured, ValueError) as exc:
            raise CommandError(str(exc)) from exc
        self.options = options
        self.tally = scan.Tally()
        self.started = time.monotonic()
        try:
            self._run(search)
        except BrokenPipeError:
            _abandon(self.stdout)
            _abandon(self.stderr)

    def _run(self, search: scan.Search) -> None:
        try:
            if not self.options["delete"]:
                self._list(search)
            elif not self.options["yes"]:
                self._rehearse(search)
            else:
                self._delete(search)
        except KeyboardInterrupt:
            self._conclude(search, "Stopped: ")
            sys.exit(130)
        except RedisUnavailable as exc:
            if self.tally.walked:
                self._conclude(search, "Stopped: ")
            raise CommandError(str(exc)) from exc
        self._conclude(search)

    def _list(self, search: scan.Search) -> None:
        for found in scan.find(self.options["alias"], search, self.tally):
            self._show(found)

    def _rehearse(self, search: scan.Search) -> None:
        alias = self.options["alias"]
        self.stdout.write(
            f"DRY RUN, nothing is deleted. On {alias} ({get_settings(alias).address}) --yes would unlink:"
        )
        for found in scan.find(alias, search, self.tally):
            if self.tally.keys <= EXAMPLES:
                self._show(found)
        if self.tally.keys > EXAMPLES:
            self.stdout.write(f"and {self.tally.keys - EXAMPLES:,} more")

    def _delete(self, search: scan.Search) -> None:
        for _ in scan.delete(self.options["alias"], search, self.tally):
            pass

    def _show(self, found: scan.Found) -> None:
        key = scan.escape_for_print(found.key, getattr(self.stdout, "encoding", None))
        self.stdout.write(f"{found.type:<6}  {_duration(found.ttl_ms):>8}  {key}")

    def _conclude(self, search: scan.Search, lead: str = "") -> None:
        self.stdout.flush()
        # In a pipe a list is only its keys; what was deleted is a result of its own.
        is_result = self.options["delete"] or self.stdout.isatty()
        stream = self.stdout if is_result else self.stderr
        stream.write(lead + self._summary(), style_func=str)
        if self.options["delete"] and not self.options["yes"] and self.tally.keys and not lead:
            is_broad = scan.is_everything(search.pattern, get_settings(self.options["alias"]).key_prefix)
            stream.write(f"To do it: the same command with --yes{' --everything' * is_broad}.")
        stream.flush()

    def _summary(self) -> str:
        tally, limit = self.tally, self.options["limit"]
        many = "" if tally.keys == 1 else "s"
        verb = "match" if many else "matches"
        if self.options["delete"]:
            verb = "unlinked" if self.options["yes"] else "would be unlinked"
        walked = "all" if tally.complete else f"about {tally.walked:,} of"
        summary = f"{tally.keys:,} key{many} {verb}; walked {walked} {tally.total:,}"
        summary += f" in {time.monotonic() - self.started:.1f} s."
        if limit is not None and tally.keys >= limit and not tally.complete:
            summary += " That is the --limit."
        if tally.in_doubt:
            summary += f" {tally.in_doubt:,} more may be: their UNLINK was not answered."
        if tally.forgot:
            summary += f" After {scan.REMEMBERED_KEYS:,} keys, one that Redis returned twice counts twice."
        return summary


def _read(options: dict[str, Any]) -> scan.Search:
    prefix = get_settings(options["alias"]).key_prefix
    pattern = f"{prefix}:*" if options["pattern"] is None else options["pattern"]
    search = scan.Search(pattern=pattern, type=options["type"], limit=options["limit"], count=options["count"])
    if not options["any_prefix"] and not scan.is_inside(pattern, prefix):
        raise CommandError(
            f"The pattern {scan.escape_for_print(pattern)} can match keys that are not ours: it does not begin with "
            f"'{prefix}:'. Add --any-prefix if you mean them too."
        )
    if (options["yes"] or options["everything"]) and not options["delete"]:
        raise CommandError("--yes and --everything belong to --delete. Add --delete, or leave them out.")
    if options["yes"] and not options["everything"] and scan.is_everything(pattern, prefix):
        raise CommandError(
            f"The pattern {scan.escape_for_print(pattern)} names no part of the keys, so all of them would be deleted. "
            "Name a part, such as a namespace, or add --everything."
        )
    return search


def _duration(ttl_ms: int | None) -> str:
    if ttl_ms is None:
        return "never"
    seconds = ttl_ms // 1000
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    if minutes:
        return f"{minutes}m {seconds % 60}s"
    return f"{seconds}s" if seconds else f"{ttl_ms}ms"


def _abandon(stream: Any) -> None:
    # Python flushes once more at exit, and would complain there about the closed pipe.
    try:
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
