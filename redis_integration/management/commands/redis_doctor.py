"""Reads the arguments of redis_doctor and prints what doctor.py found. Does not speak to Redis itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from django.core.checks import CRITICAL, DEBUG, ERROR, INFO, WARNING, CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from redis_integration import doctor
from redis_integration.conf import get_aliases
from redis_integration.doctor import Report
from redis_integration.doctor.readings import SAMPLE
from redis_integration.doctor.rules import RULES
from redis_integration.management.console import ConsoleCommand, pause
from redis_integration.text import duration

LEVELS = {"CRITICAL": CRITICAL, "ERROR": ERROR, "WARNING": WARNING, "INFO": INFO, "DEBUG": DEBUG}
HEADINGS = {CRITICAL: "CRITICALS", ERROR: "ERRORS", WARNING: "WARNINGS", INFO: "INFOS", DEBUG: "DEBUGS"}
STYLES = {CRITICAL: "ERROR", ERROR: "ERROR", WARNING: "WARNING"}  # Django's NOTICE is red


class Command(ConsoleCommand):
    help = "Says what is wrong with each Redis of REDIS_INTEGRATION, with the way to it and beside it, and what to do."
    # They are part of what it says, and an error of theirs must not keep it from saying the rest.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--alias", help="only this alias of REDIS_INTEGRATION; default: all")
        add("--workers", type=_count, metavar="N", help="processes that use an alias: are there connections enough?")
        add("--sample", type=_count, metavar="N", default=SAMPLE, help="keys to look at; default 10000, 0: none")
        add("--tag", action="append", choices=doctor.TAGS, default=[], help="only rules of this area; may be repeated")
        add("--fail-level", choices=LEVELS, default="ERROR", help="exit with 1 from this level on; default ERROR")
        add("--format", choices=["text", "json"], default="text", help="json: one document on one line")
        add("--watch", type=pause, metavar="SECONDS", help="look again and again; then say what came and what went")
        add("--explain", metavar="ID", help="what a rule looks at and why, such as D202; looks at nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        self.options = options
        if options["explain"]:
            self.stdout.write(_explain(options["explain"]))
            return
        is_failed = self._look(None)
        while options["watch"]:
            time.sleep(options["watch"])
            is_failed = self._look(self.known)
        if is_failed:
            raise CommandError(f"There are findings of level {options['fail_level']} or above.")

    def _look(self, before: list[CheckMessage] | None) -> bool:
        """Look once, and say all of it, or what has changed; whether it is grave enough to fail."""
        reports, found = self._examine()
        self.known = found
        if self.options["format"] == "json":
            self._print(json.dumps(_document(reports, found)))
        elif before is None:
            self._say(reports, found)
        else:
            self._say_changes(before)
        self.stdout.flush()
        return any(each.level >= LEVELS[self.options["fail_level"]] for each in found)

    def _examine(self) -> tuple[list[Report], list[CheckMessage]]:
        tags, alias = self.options["tag"], self.options["alias"]
        found = [*doctor.examine_settings(alias)] if not tags or doctor.SETTINGS in tags else []
        reports = []
        aliases = [alias] if alias else get_aliases()
        for alias in aliases if tags != [doctor.SETTINGS] else ():
            try:
                report = doctor.examine(
                    alias, workers=self.options["workers"], sample=self.options["sample"], tags=tags
                )
            except ImproperlyConfigured:
                # An error among the settings' own findings says why; where none does, or they are not asked for, this does.
                if not any(each.is_serious() for each in found):
                    raise
                continue
            reports.append(report)
            found += report.findings
        return reports, sorted(found, key=lambda each: -each.level)

    def _say(self, reports: Sequence[Report], found: Sequence[CheckMessage]) -> None:
        for report in reports:
            self._print(self.style.MIGRATE_HEADING(_headline(report)))
        for level, heading in HEADINGS.items():
            if chosen := [each for each in found if each.level == level]:
                self._print(self.style.MIGRATE_HEADING(f"{heading}:"))
                for each in chosen:
                    self._say_finding(each)
        if any(report.not_checked for report in reports):
            self._print(self.style.MIGRATE_HEADING("NOT CHECKED:"))
            for report in reports:
                for line in _not_checked(report):
                    self._print(line)
        self._print(_summary(reports, found))

    def _say_finding(self, finding: CheckMessage, lead: str = "") -> None:
        head, *hint = str(finding).split("\n")
        style = getattr(self.style, STYLES.get(finding.level, ""), str)
        self._print("\n".join([style(lead + head), *hint]))

    def _say_changes(self, before: list[CheckMessage]) -> None:
        clock = time.strftime("%H:%M:%S")
        was, now = ({(each.id, each.obj, each.level): each for each in found} for found in (before, self.known))
        for each in (was[key] for key in was if key not in now):
            self._print(self.style.SUCCESS(f"{clock}  gone: {each.obj}: ({each.id})"))
        for each in (now[key] for key in now if key not in was):
            self._say_finding(each, f"{clock}  new: ")

    def _print(self, text: str) -> None:
        encoding = self.sheet.encoding
        self.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _headline(report: Report) -> str:
    up = "" if report.uptime is None else f", up {duration(report.uptime * 1000)}"
    took = report.latency
    speed = "" if took is None else f", PING {1000 * took.p50:.2f} ms, one in a hundred {1000 * took.p99:.2f} ms"
    return f"{report.alias}: {report.server or 'a Redis'}, {report.address}{up}{speed}"


def _not_checked(report: Report) -> Iterator[str]:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for each in report.not_checked:
        by_reason.setdefault((each.allow, each.why), []).append(each.rule.id)
    for (allow, why), ids in by_reason.items():
        said = f"Allow: ACL SETUSER {report.user or '<user>'} {allow}" if allow else why
        yield f"{report.alias}: {', '.join(ids)}. {said}"


def _summary(reports: Sequence[Report], found: Sequence[CheckMessage]) -> str:
    checks, silenced, sampled = (
        sum(getattr(each, name) for each in reports) for name in ("checks", "silenced", "sampled")
    )
    muted = f" ({silenced:,} silenced)" if silenced else ""
    seconds = sum(report.seconds for report in reports)
    return f"{len(found):,} findings{muted}, {checks:,} checks, {sampled:,} keys sampled, {seconds:.1f} s."


def _explain(name: str) -> str:
    rule = RULES.get(name.removeprefix("redis_integration.").upper())
    if rule is not None:
        needs = ", ".join(sorted(rule.needs)) or "nothing of the server"
        return f"redis_integration.{rule.id} ({rule.tag}; needs: {needs})\n\n{rule.explanation}"
    nearest = get_close_matches(name.upper(), RULES, n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"Known: {', '.join(sorted(RULES))}."
    raise CommandError(f"There is no rule {name!r}. {hint} Ids with E or W stand in docs/settings.md.")


def _document(reports: Sequence[Report], found: Sequence[CheckMessage]) -> dict[str, Any]:
    names = {level: name for name, level in LEVELS.items()}
    return {
        "schema": 1,
        "complete": not any(report.not_checked for report in reports),
        "findings": [
            {"id": each.id, "level": names[each.level], "about": each.obj, "message": each.msg, "hint": each.hint}
            for each in found
        ],
        "aliases": [
            {
                "alias": report.alias,
                "address": report.address,
                "server": report.server or None,
                "uptime_seconds": report.uptime,
                "ping_ms": report.latency and {n: round(1000 * s, 3) for n, s in report.latency._asdict().items()},
                "checks": report.checks,
                "silenced": report.silenced,
                "sampled": report.sampled,
                "user": report.user or None,
                "acl": report.line or None,
                "not_checked": [
                    {"id": f"redis_integration.{each.rule.id}", "allow": each.allow or None, "why": each.why or None}
                    for each in report.not_checked
                ],
            }
            for report in reports
        ],
    }


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError
    return count
