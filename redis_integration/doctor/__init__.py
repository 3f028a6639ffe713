"""Tells what is wrong with a Redis, with the way to it and with what lies beside it, and what to do: `examine`.

`readings` asks, in a few round trips; a rule is a pure function over what was read. To add one, write it where its tag says,
and add its row to docs/doctor.md.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from django.core.checks import CheckMessage

from redis_integration.checks import check_deployment, check_settings
from redis_integration.doctor import access, connection, keys, load, memory, tiers  # noqa: F401  # the rules
from redis_integration.doctor.readings import SAMPLE, gather
from redis_integration.doctor.rules import RULES, NotChecked, choose, consult

SETTINGS = "settings"
TAGS = (*dict.fromkeys(RULES[each].tag for each in sorted(RULES)), SETTINGS)


class Latency(NamedTuple):
    """Of round trips measured now, in seconds: by how much time half of them, 95 % and 99 % were answered, and all."""

    p50: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found about one alias. `seconds` is what it took; `checks` are rules that could look."""

    alias: str
    address: str
    server: str = ""  # name and version; "" where INFO was refused
    uptime: int | None = None  # seconds
    latency: Latency | None = None
    findings: tuple[CheckMessage, ...] = ()
    silenced: int = 0
    not_checked: tuple[NotChecked, ...] = ()
    checks: int = 0
    sampled: int = 0
    seconds: float = 0.0
    user: str = ""
    line: str = ""  # the smallest ACL that would do


def examine(
    alias: str = "default", *, workers: int | None = None, sample: int = SAMPLE, tags: Collection[str] = ()
) -> Report:
    """What is wrong with this alias. See `gather` for what it costs.

    `workers` is how many processes use it, `sample` how many keys are walked. Findings come by level, the gravest first, those of
    SILENCED_SYSTEM_CHECKS are only counted. Raises ImproperlyConfigured where the alias cannot be used.
    """
    begun = time.monotonic()
    rules = choose(tags) if not tags or {*tags} - {SETTINGS} else []
    needs = {need for each in rules for need in each.needs} | {"info"}
    reading = gather(alias, needs, workers=workers, sample=sample)
    found = [*consult(reading, rules)]
    messages = [each for each in found if isinstance(each, CheckMessage)]
    told = [each for each in messages if not each.is_silenced()]
    not_checked = tuple(each for each in found if isinstance(each, NotChecked))
    return Report(
        alias=alias,
        address=reading.settings.address,
        server=reading.server,
        uptime=reading.info.get("uptime_in_seconds"),
        latency=Latency(*map(reading.ping, (0.5, 0.95, 0.99, 1.0))) if reading.pings else None,
        findings=tuple(sorted(told, key=lambda each: (-each.level, each.id or ""))),
        silenced=len(messages) - len(told),
        not_checked=not_checked,
        checks=len(rules) - len(not_checked),
        sampled=len(reading.sample.keys),
        seconds=time.monotonic() - begun,
        user=reading.permissions.user,
        line=reading.permissions.line,
    )


def examine_settings(alias: str | None = None) -> tuple[CheckMessage, ...]:
    """What `manage.py check --deploy` says about this alias, or all, the gravest first; silenced ones are left out."""
    found = [each for each in (*check_settings(), *check_deployment()) if not each.is_silenced()]
    told = [each for each in found if alias is None or each.obj in (None, f"REDIS_INTEGRATION[{alias!r}]")]
    return tuple(sorted(told, key=lambda each: (-each.level, each.id or "")))
