"""The command redis_doctor: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import re
import time
from types import SimpleNamespace
from weakref import WeakSet

import pytest
from django.core.management import CommandError, call_command
from django.core.management.color import color_style

from demo_project.server import free_port
from redis_integration import cache_aside_view
from redis_integration.doctor.rules import RULES
from redis_integration.management.commands.redis_doctor import Command
from tests.doctor.conftest import LOOKING, permit, permit_what_is_needed

pytestmark = pytest.mark.django_db(transaction=True)


def say(*words, out=None):
    out = out or io.StringIO()
    call_command("redis_doctor", *words, stdout=out)
    return out.getvalue()


@pytest.fixture(autouse=True)
def quiet(settings):
    """Servers of tests are young, and their clients on the same machine."""
    settings.SILENCED_SYSTEM_CHECKS = ["redis_integration.D305"]


def test_healthy_server_is_two_lines(healthy):
    """Where it is and how fast, and how much was looked at."""
    permit_what_is_needed(healthy, *LOOKING)

    said = say()

    assert re.fullmatch(
        r"default: (Redis|Valkey) [\d.]+, 127\.0\.0\.1:\d+/0, up \d+m?s, PING [\d.]+ ms, one in a hundred [\d.]+ ms\n"
        rf"0 findings \(1 silenced\), {len(RULES)} checks, 0 keys sampled, \d+\.\d s\.\n",
        said,
    )


def test_findings_are_in_djangos_format(healthy, admin):
    """By level, each with what to do, and then what could not be checked."""
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 500_000)
    permit_what_is_needed(healthy, "+config|get", "+acl|whoami", "+acl|dryrun", "+acl|getuser", "+time")
    out = io.StringIO()

    with pytest.raises(CommandError, match="findings of level ERROR or above"):
        say("--tag", "memory", "--tag", "load", "--tag", "access", out=out)

    said = out.getvalue()
    assert re.sub(r"at \d+%", "at 299%", said[said.index("ERRORS") :]) == (
        "ERRORS:\n"
        "default: (redis_integration.D202) noeviction at 299% of maxmemory (488 KB).\n"
        "\tHINT: CONFIG SET maxmemory-policy allkeys-lru, and in redis.conf.\n"
        "NOT CHECKED:\n"
        "default: D304. Allow: ACL SETUSER app +slowlog|get\n" + said[said.index("1 findings") :]
    )


@pytest.mark.parametrize("level", ["INFO", "WARNING", "ERROR"])
def test_fail_level_decides_the_exit_status(healthy, admin, level):
    """A warning fails where it is asked for."""
    admin.keys()

    try:
        say("--tag", "load", "--fail-level", level)
        failed = False
    except CommandError:
        failed = True

    assert failed is (level != "ERROR")


def test_no_redis_is_a_finding(settings):
    """And no traceback; what could not be looked at is one line."""
    settings.REDIS_INTEGRATION = {"default": {"URL": f"redis://127.0.0.1:{free_port()}/0", "KEY_PREFIX": "t"}}
    out = io.StringIO()

    with pytest.raises(CommandError):
        say(out=out)

    said = out.getvalue()
    assert "HINT: Is the server running, and is this its address?" in said
    assert len(said[said.index("NOT CHECKED") :].splitlines()) == 3


def test_settings_are_part_of_it(settings):
    """Also those that keep an alias from being used; `manage.py check` would say no more."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://localhost", "RETRIES": "1"}}
    out = io.StringIO()

    with pytest.raises(CommandError):
        say(out=out)

    assert "REDIS_INTEGRATION['default']: (redis_integration.E002) RETRIES is of type str." in out.getvalue()


def test_settings_alone_ask_no_server(settings):
    """--tag settings is `check --deploy` of this app."""
    settings.REDIS_INTEGRATION = {"default": {"URL": f"redis://127.0.0.1:{free_port()}/0", "RETRIES": 9}}

    said = say("--tag", "settings")

    assert "redis_integration.W001" in said
    assert "D101" not in said


def test_json_is_one_document(healthy, prefix, admin):
    """With all that the text says, and what it leaves out."""
    admin.set(f"{prefix}:\x1b\n".encode() + b"\xff", "\x02")
    permit(healthy, "+@all", "-slowlog", "~*")

    document = json.loads(say("--format", "json"))

    assert (document["schema"], document["complete"]) == (1, False)
    (alias,) = document["aliases"]
    assert alias["not_checked"] == [{"id": "redis_integration.D304", "allow": "+slowlog|get", "why": None}]
    assert alias["ping_ms"].keys() == {"p50", "p95", "p99", "most"}
    assert alias["acl"].startswith("ACL SETUSER app resetkeys")
    found = {each["id"].removeprefix("redis_integration."): each for each in document["findings"]}
    assert found["D401"]["level"] == "WARNING"
    assert rf"{prefix}:\x1b\x0a\xff" in found["D401"]["message"]
    assert found["D401"]["hint"]


@pytest.mark.parametrize("name", ["D202", "d202", "redis_integration.D202"])
def test_explain_is_the_long_text(name):
    """What the rule looks at and why; no server is asked."""
    said = say("--explain", name)

    assert said.startswith("redis_integration.D202 (memory; needs: info)\n\nmaxmemory is set and ")
    assert "refused (OOM)" in said


def test_slip_of_an_id_is_told_with_the_nearest():
    """The ids of the system checks stand elsewhere."""
    with pytest.raises(CommandError, match=r"no rule 'D2O2'. Did you mean D202\?.*docs/settings.md"):
        say("--explain", "D2O2")


@pytest.mark.parametrize(
    "words", [["--fail", "ERROR"], ["--watch", "0"], ["--workers", "-1"], ["--tag", "nope"], ["--alias", "nope"]]
)
def test_slips_are_told(settings, words):
    """No abbreviation, no number without a meaning, no alias that does not exist."""
    with pytest.raises(CommandError):
        say(*words)


def test_alias_that_does_not_exist_is_told_beside_findings_of_all(settings, monkeypatch):
    """A warning about the whole project is no reason to leave it unsaid."""
    every = WeakSet()
    monkeypatch.setattr("redis_integration.checks.every_caching", every)
    monkeypatch.setattr("redis_integration.caching.every_caching", every)
    settings.MIDDLEWARE = []
    page = cache_aside_view(ttl=60, namespace="doctor")(lambda request: None)

    with pytest.raises(CommandError, match="nope"):
        say("--alias", "nope")
    assert len(every) == 1, page


def test_watch_says_what_came_and_what_went(healthy, admin, monkeypatch):
    """After a first look that says everything; Ctrl-C ends it."""
    out = io.StringIO()
    acts = [
        lambda: admin.config_set("maxmemory-policy", "noeviction"),
        lambda: None,
        lambda: admin.config_set("maxmemory-policy", "allkeys-lru"),
    ]

    def act(seconds):
        out.write(f"-- {seconds:g}\n")
        if not acts:
            raise KeyboardInterrupt
        acts.pop(0)()

    # Of the command alone: others sleep too.
    clock = SimpleNamespace(sleep=act, strftime=time.strftime)
    monkeypatch.setattr("redis_integration.management.commands.redis_doctor.time", clock)

    with pytest.raises(SystemExit) as ended:
        say("--tag", "memory", "--watch", "2", out=out)

    assert ended.value.code == 130
    first, came, same, went = out.getvalue().split("-- 2\n")[:4]
    assert "0 findings" in first
    assert re.match(r"\d\d:\d\d:\d\d  new: default: \(redis_integration\.D202\) noeviction .*\n\tHINT: ", came)
    assert same == ""
    assert re.fullmatch(r"\d\d:\d\d:\d\d  gone: default: \(redis_integration\.D202\)\n", went)


def test_colour_is_not_the_only_carrier(healthy, admin):
    """What is red stands below ERRORS; hints have no colour."""
    admin.config_set("maxmemory", 1)
    admin.config_set("maxmemory-policy", "noeviction")
    plain, coloured = io.StringIO(), io.StringIO()

    with pytest.raises(CommandError):
        call_command("redis_doctor", "--tag", "memory", stdout=plain)
    with pytest.raises(CommandError):
        call_command("redis_doctor", "--tag", "memory", "--force-color", stdout=coloured)

    assert "\x1b" not in plain.getvalue()
    assert color_style(force_color=True).ERROR("default: (redis_integration.D202)")[:8] in coloured.getvalue()
    assert "\tHINT: CONFIG SET" in coloured.getvalue()


def test_encoding_that_lacks_a_character(healthy, prefix, admin):
    """No key ends the command."""
    admin.set(f"{prefix}:日本", "\x02")
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")

    call_command("redis_doctor", "--tag", "keys", stdout=out)
    out.flush()

    assert rf"{prefix}:\u65e5\u672c" in raw.getvalue().decode("ascii")


def test_an_alias_is_examined_alone(healthy, settings):
    """Neither another one's server nor its settings."""
    settings.REDIS_INTEGRATION = {
        "default": settings.REDIS_INTEGRATION["default"],
        "pages": {"URL": f"redis://127.0.0.1:{free_port()}/0", "RETRIES": 9},
    }

    said = say("--alias", "default")

    assert "pages" not in said
    assert "default: " in said


def test_no_system_check_keeps_it_from_running():
    """Its errors are findings."""
    assert Command.requires_system_checks == ()
