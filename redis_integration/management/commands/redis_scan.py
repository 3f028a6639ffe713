"""Prints what scan/ found or changed, and how far it came. Does not speak to Redis itself."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from math import inf
from typing import Any

from django.core.management.base import CommandError, CommandParser

from redis_integration import scan
from redis_integration.conf import get_settings
from redis_integration.exceptions import RedisIntegrationError
from redis_integration.management.console import ConsoleCommand, Progress
from redis_integration.management.listings import Branches, Listing, Rehearsal, Table, Top, Values
from redis_integration.management.records import Csv, Json, Keys
from redis_integration.management.scan_options import (
    MOST_SHOWN,
    MOST_VALUES,
    add_options,
    change_of,
    is_broad,
    read_search,
)
from redis_integration.text import Sheet, duration, escape_for_print, size

# What is said of keys before a change and after it; {} is the time that they are given.
WORDS = {
    None: ("match", "match"),
    "delete": ("would be deleted", "deleted"),
    "expire": ("would be given {} to live", "given {} to live"),
    "persist": ("would be kept for ever", "kept for ever"),
}


class Command(ConsoleCommand):
    help = "Finds keys by SCAN, never KEYS: lists them, sums them up, shows what is in them, deletes them."
    argv: list[str] | None = None

    def run_from_argv(self, argv: list[str]) -> None:
        self.argv = argv
        super().run_from_argv(argv)

    def add_arguments(self, parser: CommandParser) -> None:
        add_options(parser.add_argument_group)

    def handle(self, *args: Any, **options: Any) -> None:
        self.options = options
        try:
            self.change = change_of(options)
            self.search = read_search(options)
        except ValueError as exc:
            raise CommandError(str(exc)) from exc
        self.tally = scan.Tally()
        self.started = time.monotonic()
        self.progress = Progress(self.stderr)
        listing = None if options["yes"] else self._listing()
        steps = self._changes() if listing is None else self._found(listing)
        try:
            for _ in steps:
                self._draw()
        except KeyboardInterrupt:
            self._conclude(listing, "Stopped: ")
            sys.exit(130)
        except RedisIntegrationError:
            if self.tally.cursor:
                self._conclude(listing, "Stopped: ")
            elif listing and options["format"] == "json":
                listing.end(self.tally)  # a document all the same
            raise
        self._conclude(listing)

    def _found(self, listing: Listing) -> Iterator[None]:
        for page in scan.Walk(self.options["alias"], self.search, self.tally).found():
            if page:
                listing.add(page)
            yield

    def _changes(self) -> Iterator[int]:
        alias = self.options["alias"]
        if self.change == "expire":
            return scan.expire(alias, self.search, self.tally, self.options["expire"])
        return (scan.delete if self.change == "delete" else scan.persist)(alias, self.search, self.tally)

    def _listing(self) -> Listing:
        options, sheet, facts = self.options, self.sheet, self.search.facts
        alias, settings = options["alias"], get_settings(options["alias"])
        write = partial(self.stdout.write, ending="")
        about = {"alias": alias, "address": settings.address, "pattern": self.search.pattern}
        document = about if options["format"] == "json" else None
        if self.change:
            lead = f"DRY RUN, nothing is changed. On {alias} ({settings.address}) --yes would reach:"
            trail = "and their leases, so that what is being computed now is not stored" * (self.change == "delete")
            return Rehearsal(write, sheet, self.style.WARNING(lead), trail=trail)
        if options["tree"]:
            tree = scan.Tree(options["depth"], separator=options["separator"], prefix=settings.key_prefix)
            return Branches(write, sheet, tree, most=options["top"] or MOST_SHOWN, about=document)
        listing: Listing = Table(write, sheet, facts, paint=self.style.MIGRATE_HEADING)
        if options["format"] in ("json", "jsonl"):
            listing = Json(write, facts, document)
        elif options["format"] == "csv":
            listing = Csv(write, sheet, facts)
        elif options["format"] == "keys":
            listing = Keys(self._write_raw if options["print0"] else write, sheet, is_raw=options["print0"])
        if options["value"]:
            as_json = listing if isinstance(listing, Json) else None
            listing = Values(write, sheet, partial(scan.read_values, alias), as_json)
        if options["sort"] or options["top"]:
            most = MOST_VALUES if options["value"] else MOST_SHOWN
            listing = Top(listing, options["top"] or most, options["sort"] or "bytes")
        return listing

    def _write_raw(self, text: str) -> None:
        binary = getattr(self.stdout, "buffer", None)
        if binary is None:
            self.stdout.write(text, ending="")
        else:
            binary.write(text.encode("utf-8", "surrogateescape"))

    def _draw(self) -> None:
        is_late = any(self.options[name] for name in ("tree", "value", "sort", "top"))
        is_quiet = self.change or (is_late and self.options["format"] == "table")
        if not self.progress.is_due() or (self.stdout.isatty() and not is_quiet):
            return  # between lines of a list it would be in the way
        tally, took = self.tally, time.monotonic() - self.started
        done = tally.walked / (tally.total or 1)
        left = duration(1000 * took * (1 - tally.share) / done) if done else "?"
        bar = Sheet(self.stderr).bar(tally.share, 20)
        speed = tally.walked / took
        self.progress.draw(
            f"{tally.share:4.0%} {bar:<20}  {tally.keys:,} {self._words()}  {speed:,.0f} keys/s  {left} left"
        )

    def _words(self) -> str:
        seconds = self.options["expire"] or 0
        return WORDS[self.change][bool(self.options["yes"])].format(duration(seconds * 1000))

    def _conclude(self, listing: Listing | None, lead: str = "") -> None:
        self.progress.erase()
        if listing:
            listing.end(self.tally)
        self.stdout.flush()
        # In a pipe a list is only its keys; what was changed is a result of its own.
        is_result = self.change or (self.stdout.isatty() and self.options["format"] == "table")
        stream = self.stdout if is_result else self.stderr
        stream.write(lead + self._summary(lead), style_func=str)
        if self.change and not self.options["yes"] and self.tally.keys and not lead:
            prefix = get_settings(self.options["alias"]).key_prefix
            more = {"--yes": ""} | ({"--everything": ""} if is_broad(self.search, prefix) else {})
            stream.write(f"To do it: {self._again(more)}", style_func=str)
        elif self.tally.cursor and not self.tally.cursor.startswith("0-"):
            limit, done = self.options["limit"] or inf, self.tally.keys + self.tally.in_doubt
            if done < limit or not self.tally.in_doubt:  # else the limit may have been reached
                rest = {"--at-most": str(limit - done)} if done < limit < inf else {}
                more = {"--cursor": self.tally.cursor} | rest
                stream.write(f"The rest, from here: {self._again(more)}", style_func=str)
        stream.flush()

    def _again(self, more: Mapping[str, str]) -> str:
        """This command with these options and their values, to be copied; in words where it was not typed, or cannot be printed."""
        argv, words = list[str](), iter(self.argv or ())
        added = [word for pair in more.items() for word in pair if word]
        for word in words:
            name, is_joined, _ = word.partition("=")
            name = {"--limit": "--at-most"}.get(name, name)
            if word == "--":
                added += [word, *words]  # names from here on
            elif name not in more:
                argv.append(word)
            elif more[name] and not is_joined:
                next(words, None)
        typed = shlex.join([*argv, *added])
        is_plain = argv and escape_for_print(typed) == typed
        return typed if is_plain else f"the same command with {' '.join(added)}."

    def _summary(self, lead: str) -> str:
        tally, limit = self.tally, self.search.limit
        is_one = tally.keys == 1
        words = "matches" if is_one and not self.change else self._words()
        summary = f"{tally.keys:,} key{'' if is_one else 's'} {words}"
        summary += f", {size(tally.bytes)}" if "bytes" in self.search.facts else ""
        walked = "all" if tally.complete and tally.walked == tally.total else f"about {tally.walked:,} of"
        summary += f"; walked {walked} {tally.total:,} in {time.monotonic() - self.started:.1f} s."
        if tally.complete and tally.resumed:
            summary += " That was the rest."
        if tally.never and "ttl" in self.search.facts and not self.change:
            summary += f" {tally.never:,} never expire{'s' if tally.never == 1 else ''}."
        if not tally.complete and not lead:
            summary += " That is the --limit." if limit == tally.keys else " The --max-seconds are over."
        if self.search.tag and tally.complete and not tally.share:
            summary += " No entry has this tag now."
        if tally.in_doubt:
            summary += f" {tally.in_doubt:,} more may be: that was not confirmed."
            if self.change == "delete" and tally.is_journalled:
                summary += " The journal repeats what may be an entry."
        return summary
