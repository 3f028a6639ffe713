"""The register of the doctor's rules: the id, the area and the needs of each. It asks nobody.

A rule is a function from a Reading to findings, which are Django's CheckMessages; its docstring is what --explain says, the
first line of it when it fires. The file it stands in is its tag.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from django.core.checks import CheckMessage

from redis_integration.doctor.readings import Reading
from redis_integration.text import escape_for_print

Find = Callable[[Reading], Iterable[CheckMessage]]
PREFIX = "redis_integration."


class Rule(NamedTuple):
    """`id` is stable and without the app's name; without what it `needs` a rule says nothing."""

    id: str
    tag: str
    needs: frozenset[str]
    find: Find

    @property
    def explanation(self) -> str:
        return inspect.getdoc(self.find) or ""

    @property
    def fires_when(self) -> str:
        return self.explanation.partition("\n")[0]


class NotChecked(NamedTuple):
    """A rule that could not look: `allow` is what the ACL lacks for it, or `why` says what else is in the way."""

    rule: Rule
    allow: str
    why: str


RULES: dict[str, Rule] = {}


def rule(rule_id: str, *needs: str) -> Callable[[Find], Find]:
    """A decorator that makes a function a rule."""

    def register(find: Find) -> Find:
        assert rule_id not in RULES
        RULES[rule_id] = Rule(rule_id, find.__module__.rpartition(".")[2], frozenset(needs), find)
        return find

    return register


def choose(tags: Collection[str] = ()) -> list[Rule]:
    """The rules of these tags, by id; all, where no tag is named."""
    return [RULES[each] for each in sorted(RULES) if not tags or RULES[each].tag in tags]


def consult(reading: Reading, rules: Iterable[Rule]) -> Iterator[CheckMessage | NotChecked]:
    """What each of these rules finds, or why it could not look."""
    for each in rules:
        missing = sorted(each.needs & reading.unknown.keys())
        if missing:
            why = reading.unknown[missing[0]]
            is_refused = why.startswith("+")  # a rule of an ACL that would allow it
            yield NotChecked(each, why if is_refused else "", "" if is_refused else why)
            continue
        for finding in each.find(reading):
            finding.id = f"{PREFIX}{each.id}"
            finding.obj = reading.alias
            finding.msg = _printable(finding.msg)
            finding.hint = finding.hint and _printable(finding.hint)
            yield finding


def _printable(text: str) -> str:
    # Rules escape names of keys; what a server or a database says of itself may hold anything.
    return text if text.isprintable() else escape_for_print(text)
