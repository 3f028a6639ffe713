"""The register of rules, what `examine` makes of it, and that docs/doctor.md has each."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import redis
from django.core.checks import CheckMessage, Warning
from django.core.exceptions import ImproperlyConfigured

from redis_integration import cache_aside
from redis_integration.doctor import TAGS, examine, examine_settings
from redis_integration.doctor.readings import ALLOWED_BY, gather
from redis_integration.doctor.rules import RULES, Rule, consult
from tests.doctor.conftest import LOOKING, is_redis_6, permit_what_is_needed

PAGE = (Path(__file__).parent.parent.parent / "docs" / "doctor.md").read_text()

pytestmark = pytest.mark.django_db(transaction=True)


def test_healthy_server_has_nothing_to_say(healthy):
    """All rules can look, and all are content, but for the age of a server that has just started."""
    permit_what_is_needed(healthy, *LOOKING)
    price = cache_aside(ttl=600, key="price:{pk}", tags=["prices"])(lambda pk: "x" * 100)
    [price(pk) for pk in range(20)]

    report = examine()

    assert [each.id for each in report.findings] == ["redis_integration.D305"]
    assert report.not_checked == ()
    assert (report.checks, report.sampled) == (len(RULES), 21)
    assert report.server.split()[1] == healthy.name.split()[-1]
    assert 0 < report.latency.p50 <= report.latency.p95 <= report.latency.p99 <= report.latency.most


def test_a_look_is_a_few_round_trips(healthy):
    """Beside the handshakes, the PINGs and the pages of the sample."""
    with redis.Redis(port=healthy.port) as client:
        client.config_resetstat()
        examine(sample=0)
        stats = client.info("all")

    # Without ACL DRYRUN, what the application needs is sent.
    assert stats["cmdstat_ping"]["calls"] == 100 + is_redis_6(healthy)
    assert stats.get("total_reads_processed", 0) <= 100 + 25


def test_tags_bound_what_is_asked(healthy):
    """Who asks about memory walks no keys."""
    with redis.Redis(port=healthy.port) as client:
        examine(tags=["memory"])

        assert not {"cmdstat_scan", "cmdstat_time", "cmdstat_acl|dryrun"} & client.info("commandstats").keys()


def test_silenced_findings_are_counted(healthy, settings):
    """By Django's own setting."""
    settings.SILENCED_SYSTEM_CHECKS = ["redis_integration.D305"]

    report = examine(tags=["load"])

    assert (report.findings, report.silenced) == ((), 1)


def test_findings_come_by_level(healthy, settings):
    """The gravest first."""
    settings.REDIS_INTEGRATION = {"default": {**settings.REDIS_INTEGRATION["default"], "MAX_CONNECTIONS": 20_000}}

    levels = [each.level for each in examine().findings]

    assert levels == sorted(levels, reverse=True)
    assert len({*levels}) > 1


def test_alias_that_cannot_be_used_raises(settings):
    """The findings of the settings say why."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://localhost", "RETRIES": "1"}, "other": {"URL": "no"}}

    with pytest.raises(ImproperlyConfigured):
        examine()
    assert {each.id for each in examine_settings("default")} == {"redis_integration.E001", "redis_integration.E002"}


def test_a_rule_without_its_need_says_so(healthy):
    """And nothing else; what a server says is made printable."""
    reading = gather("default", {"info"})
    reading.unknown["keys"] = ALLOWED_BY["keys"]
    told = Rule("D999", "keys", frozenset(), lambda reading: [Warning("\x1b[31mred\n", hint="look")])
    blind = Rule("D998", "keys", frozenset({"keys"}), lambda reading: 1 / 0)

    finding, missed = consult(reading, [told, blind])

    assert isinstance(finding, CheckMessage)
    assert (finding.id, finding.obj, finding.msg) == ("redis_integration.D999", "default", r"\x1b[31mred\x0a")
    assert (missed.rule, missed.allow) == (blind, ALLOWED_BY["keys"])


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_rule_says_when_it_fires_and_why(rule):
    """Its docstring is what --explain says: one line that ends in a stop, and more behind it."""
    assert rule.fires_when.endswith(".")
    assert len(rule.explanation) > len(rule.fires_when)
    assert rule.tag in TAGS
    assert rule.needs <= {*ALLOWED_BY, "database"}
    assert inspect.isgeneratorfunction(rule.find)


def test_docs_list_every_rule():
    """The table of the page has every rule, and no other, with the words of the code."""
    rows = re.findall(r"^\| `(D\d{3})` \| (\w+) \| (.*) \|$", PAGE, re.MULTILINE)

    assert rows == [(each.id, each.tag, each.fires_when.replace("|", "\\|")) for each in map(RULES.get, sorted(RULES))]


def test_docs_list_what_may_be_missing():
    """The rules of an ACL that let the doctor look at all."""
    assert {*LOOKING} <= {*re.findall(r"\+[a-z|]+", PAGE)}
