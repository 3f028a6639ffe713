"""The command redis_scan: what it prints where, what it refuses, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from django.core.management import CommandError, call_command

from demo_project.server import start_server
from redis_integration import RedisUnavailable, cache_aside, scan
from redis_integration.management.commands.redis_scan import Command
from redis_integration.scan import changes
from tests.scan.answers import answer_scans

ROOT = Path(__file__).resolve().parent.parent
# A shell in the background starts its children with SIGINT ignored, and Python then leaves it so.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "redis_scan", "--skip-checks", *sys.argv[1:]])
"""
# Lines of more bytes than a pipe holds, so that a command whose reader has stopped cannot have ended.
MANY = 10_000


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(scope="module")
def server():
    """A server of this module's own: it is emptied before each test."""
    with start_server() as server:
        yield server


@pytest.fixture
def client(settings, server):
    """A client of the test's own on the emptied server, to which the alias "default" leads."""
    settings.REDIS_INTEGRATION = {"default": {"URL": server.url, "KEY_PREFIX": "t"}}
    with redis.Redis(port=server.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def start(client, server, tmp_path):
    """Starts the command as a program of its own, with the alias "default" on the server."""
    (tmp_path / "scan_settings.py").write_text(
        "from tests.settings import *\n"
        f"REDIS_INTEGRATION = {{'default': {{'URL': {server.url!r}, 'KEY_PREFIX': 't'}}}}\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "scan_settings", "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    def start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **variables):
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=stdout,
            stderr=stderr,
            env=environment | variables,
            cwd=tmp_path,
        )

    return start_command


def fill(client, *names):
    client.mset(dict.fromkeys(names, "x"))


def run(*arguments, stdout=None):
    """What the command wrote to stdout and to stderr."""
    stdout, stderr = stdout or io.StringIO(), io.StringIO()
    call_command("redis_scan", *arguments, stdout=stdout, stderr=stderr)
    return stdout.getvalue(), stderr.getvalue()


def found(*arguments):
    """The names that are listed, in their order."""
    return run(*arguments, "--format", "keys")[0].split()


def test_the_default_pattern_is_the_prefix(client):
    """Without a pattern the keys below KEY_PREFIX are listed, with type and time to live; the count is a note."""
    fill(client, "t:a", "other")

    stdout, stderr = run()

    assert re.fullmatch(r" +\d+ B  string     never  t:a\n", stdout)
    assert re.match(r"1 key matches, \d+ B; walked all 2 in ", stderr)


def test_on_a_terminal_the_count_follows_the_list(client):
    """A person sees one text; a pipe gets one line for each key."""
    fill(client, "t:a")

    stdout, stderr = run(stdout=Terminal())

    heading, _, summary = stdout.splitlines()
    assert heading == "   BYTES  TYPE     EXPIRES  KEY"
    assert re.match(r"1 key matches, \d+ B; walked all 1 in ", summary)
    assert stderr == ""


def test_a_hostile_key_stays_on_its_line(client):
    """Control characters and line ends reach no terminal."""
    client.set(b"t:\x1b[31m\n\xff\\", "x")

    stdout, _ = run()

    assert stdout.endswith("  string     never  t:\\x1b[31m\\x0a\\xff\\\\\n")


def test_type_and_count_reach_the_walk(client):
    """--type hash lists hashes only."""
    fill(client, "t:string")
    client.hset("t:hash", "a", 1)

    stdout, _ = run("--type", "hash", "--count", "10")

    assert [line.split()[-1] for line in stdout.splitlines()] == ["t:hash"]


def test_a_limit_is_told(client):
    """What was walked is then an estimate, and says so."""
    fill(client, *(f"t:{number}" for number in range(2_000)))

    stdout, stderr = run("--limit", "3", "--count", "10")

    assert len(stdout.splitlines()) == 3
    assert re.fullmatch(
        r"3 keys match, \d+ B; walked about \d\d? of 2,000 in .* s. 3 never expire. That is the --limit.\n", stderr
    )


def test_delete_is_a_dry_run(client):
    """It names server, number and a few keys, and deletes nothing."""
    fill(client, *(f"t:page:{number}" for number in range(12)), "t:other")

    stdout, stderr = run("t:page:*", "--delete")

    first, what, *examples, leases, summary, remedy = stdout.splitlines()
    assert first.startswith("DRY RUN, nothing is changed. On default (127.0.0.1:")
    assert re.fullmatch(r"  string 12   \d+ B   12 never expire", what)
    assert [line.startswith("  e.g. t:page:") for line in examples] == [True] * 5
    assert leases == "  and their leases, so that what is being computed now is not stored"
    assert re.match(r"12 keys would be deleted, \d+ B; walked all 13 in ", summary)
    assert remedy == "To do it: the same command with --yes."
    assert stderr == ""
    assert client.dbsize() == 13


def test_a_dry_run_of_everything_names_the_option_it_needs(client):
    """The hint is a command that works."""
    fill(client, "t:a")

    stdout, _ = run("--delete")

    assert stdout.endswith("To do it: the same command with --yes --everything.\n")


def test_a_dry_run_without_keys_gives_no_hint(client):
    """There is nothing to do."""
    stdout, _ = run("t:page:*", "--delete")

    assert stdout.splitlines()[-1].startswith("0 keys would be deleted, 0 B; walked all 0 in ")


def test_yes_deletes_the_matching(client):
    """Keys of other names stay."""
    fill(client, *(f"t:page:{number}" for number in range(1_200)), "t:other", "other")

    stdout, stderr = run("t:page:*", "--delete", "--yes")

    assert stdout.startswith("1,200 keys deleted; walked all 1,202 in ")
    assert stderr == ""
    assert set(client.scan_iter()) == {b"t:other", b"other"}


def test_any_prefix_reaches_keys_of_others(client):
    """It is the word of somebody who knows."""
    fill(client, "session:1", "t:a")

    run("session:*", "--any-prefix", "--delete", "--yes")

    assert list(client.scan_iter()) == [b"t:a"]


def test_at_most_stops_before_more_are_touched(client):
    """And says from where to go on."""
    fill(client, *(f"t:page:{number}" for number in range(20)))

    stdout, _ = run("t:page:*", "--delete", "--yes", "--at-most", "5")

    assert stdout.startswith("5 keys deleted; walked ")
    assert client.dbsize() == 15


def test_expire_and_persist_are_dry_runs_too(client):
    """They say what would be, and what is."""
    fill(client, "t:page:1")

    rehearsed, _ = run("t:page:*", "--expire", "10m")
    before = client.ttl("t:page:1")
    expired, _ = run("t:page:*", "--expire", "10m", "--yes")
    after = client.ttl("t:page:1")
    persisted, _ = run("t:page:*", "--persist", "--yes")

    assert re.search(r"^1 key would be given 10m 0s to live, \d+ B; walked all 1 in ", rehearsed, re.M)
    assert expired.startswith("1 key given 10m 0s to live; walked all 1 in ")
    assert persisted.startswith("1 key kept for ever; ")
    assert (before, 590 < after <= 600, client.ttl("t:page:1")) == (-1, True, -1)


def test_a_dry_run_of_persist_counts_what_expires(client):
    """The others would stay as they are."""
    fill(client, "t:page:1")
    client.set("t:page:2", "x", ex=600)

    stdout, _ = run("t:page:*", "--persist")

    assert re.search("^1 key would be kept for ever, ", stdout, re.M)


@pytest.mark.parametrize(("pages", "limit", "rest"), [((1,), "4", " --at-most 3"), ((2, 2), "4", ""), ((1,), None, "")])
def test_the_rest_of_a_limited_deletion_is_not_the_whole_again(client, monkeypatch, pages, limit, rest):
    """Who stopped after one of four is told how to delete three; who has deleted four, how to delete the next four."""
    names = [f"t:page:{number}".encode() for number in range(10)]
    fill(client, *names)
    left = iter(names)
    answer_scans(monkeypatch, *([next(left) for _ in range(count)] for count in pages), KeyboardInterrupt())
    stdout = io.StringIO()

    with contextlib.suppress(SystemExit):
        run("t:page:*", "--delete", "--yes", *(["--at-most", limit] if limit else []), stdout=stdout)

    told = re.search(r"The rest, from here: the same command with --cursor \S+-[0-9a-f]{8}(.*)\.", stdout.getvalue())
    assert told[1] == rest
    assert client.dbsize() == 10 - sum(pages)


def test_what_may_have_reached_the_limit_has_no_rest(client, monkeypatch):
    """Keys in doubt count: to go on with the limit anew could be more than was allowed."""
    fill(client, "t:a:1", "t:a:2", "t:a:3")
    answer_scans(monkeypatch, [b"t:a:1"], [b"t:a:2", b"t:a:3"], [])
    end_entries, ended = changes.end_entries, []

    def interrupted(names, *alias, **options):
        ended.append(names)
        if len(ended) > 1:
            raise KeyboardInterrupt
        return end_entries(names, *alias, **options)

    monkeypatch.setattr(changes, "end_entries", interrupted)
    stdout = io.StringIO()

    with pytest.raises(SystemExit):
        run("t:a:*", "--delete", "--yes", "--at-most", "3", stdout=stdout)

    assert stdout.getvalue().startswith("Stopped: 1 key deleted; ")
    assert " 2 more may be" in stdout.getvalue()
    assert "The rest" not in stdout.getvalue()


class Typed(Command):
    """As a shell gives it: the command says what was typed."""

    def handle(self, *args, **options):
        self.argv = ["manage.py", "redis_scan", *self.words]
        super().handle(*args, **options)


@pytest.mark.parametrize(
    ("typed", "again"),
    [
        # An option that is there already takes no word with it.
        ("--delete --everything --no-ttl", "--delete --no-ttl --yes --everything"),
        ("t:* --delete --everything --at-most 2", "'t:*' --delete --at-most 2 --yes --everything"),
        ("--everything --delete --alias=default", "--delete --alias=default --yes --everything"),
        ("--delete -- t:n*", "--delete --yes -- 't:n*'"),
    ],
)
def test_the_command_that_does_it_is_the_one_that_was_tried(client, typed, again):
    """With --yes."""
    fill(client, *(f"t:n{number}" for number in range(5)))
    stdout, command = io.StringIO(), Typed()
    command.words = typed.split()

    call_command(command, *command.words, stdout=stdout)

    assert stdout.getvalue().endswith(f"\nTo do it: manage.py redis_scan {again}\n")


@pytest.mark.parametrize(
    ("typed", "again"),
    [
        # Neither a value that is also a number of keys, nor the limit under its other name, nor joined to it.
        (
            "t:n* --delete --yes --ttl-over 1000 --no-color --at-most 1001",
            "--ttl-over 1000 --no-color {} --at-most 1000",
        ),
        ("t:n* --delete --yes --ttl-over 1000 --limit=1001", "--ttl-over 1000 {} --at-most 1000"),
        ("t:n* --delete --yes --limit 1001 --ttl-over 1000", "--ttl-over 1000 {} --at-most 1000"),
        ("--delete --yes --at-most 1001 -- t:n*", "{} --at-most 1000 -- 't:n*'"),
    ],
)
def test_the_command_that_goes_on_is_for_what_is_left(client, monkeypatch, typed, again):
    """What else was typed stays."""
    client.set("t:n1", "x", ex=60_000)
    answer_scans(monkeypatch, [b"t:n1"], KeyboardInterrupt())
    stdout, command = io.StringIO(), Typed()
    command.words = typed.split()

    with pytest.raises(SystemExit):
        call_command(command, *command.words, stdout=stdout)

    told = re.search(r"The rest, from here: manage.py redis_scan (.*)\n", stdout.getvalue())[1]
    cursor = re.search(r"--cursor \S+", told)[0]
    assert told.removeprefix("'t:n*' ").removeprefix("--delete --yes ") == again.format(cursor)


def test_filters_reach_the_search(client):
    """Each option by its name."""
    client.set("t:large", "x" * 10_000)
    client.set("t:soon", "x", px=50_000)
    client.hset("t:hash", "a", 1)

    assert found("--bytes-over", "5k") == ["t:large"]
    assert found("--ttl-under", "1m") == found("--ttl-over", "1s") == ["t:soon"]
    assert found("--no-ttl", "--type", "hash", "--type", "list") == ["t:hash"]
    assert found("--idle-over", "1d") == []


@cache_aside(ttl=60, key="price:{pk}", tags=["prices"])
def price(pk):
    return pk


def test_entries_of_a_function_and_of_a_tag(client):
    """Others are not among them."""
    price(7)
    fill(client, "t:other", "t:price:7:EUR")

    assert found("--owner", "tests.test_redis_scan.price") == ["t:price:7"]
    assert found("--tag", "prices") == ["t:price:7"]


def test_entries_of_a_function_are_no_broad_pattern(client):
    """They are a part of the keys, as those of a tag are."""
    price(7)
    fill(client, "t:other")

    run("--owner", "tests.test_redis_scan.price", "--delete", "--yes")
    run("--tag", "prices", "--delete", "--yes")

    assert {*client.scan_iter()} == {b"t:other", b"t:#prices"}


def test_a_tag_that_nothing_has_is_told(client):
    """There was no need to walk."""
    fill(client, "t:a")

    assert re.fullmatch(
        r"0 keys match, 0 B; walked about 0 of 1 in .* s. No entry has this tag now.\n", run("--tag", "x")[1]
    )


def test_the_first_of_an_order(client):
    """The largest two, largest first."""
    [client.set(f"t:{size}", "x" * size) for size in (1_000, 10, 100_000, 10_000)]

    assert found("--sort", "bytes", "--top", "2") == ["t:100000", "t:10000"]
    assert found("--top", "1") == ["t:100000"]
    assert found("--sort", "length", "--top", "1") == ["t:100000"]
    assert found("--sort", "name") == ["t:10", "t:1000", "t:10000", "t:100000"]


def test_a_tree_of_a_server(client):
    """Keys by namespace; what is not ours is marked."""
    fill(client, *(f"t:page:{number}" for number in range(20)), "counter")
    client.set("session:abc", "x" * 200)

    heading, *lines = run("*", "--any-prefix", "--tree")[0].splitlines()

    assert heading.split() == ["NAMESPACE", "KEYS", "BYTES", "SHARE", "NO", "TTL"]
    assert [re.match(r"(\S+|. \S+|\(no namespace\)) +(\d+) ", line).groups() for line in lines] == [
        ("t:", "20"),
        ("└ page:*", "20"),
        ("session:", "1"),
        ("└ abc", "1"),
        ("(no namespace)", "1"),
    ]
    assert [line.endswith("  not ours") for line in lines] == [False, False, True, False, True]


def test_values_are_shown(client):
    """An entry, and what is none."""
    price(7)
    client.set("t:other", b"\x1b[31m")

    text, _ = run("--value", "--sort", "name")

    assert "  entry    json, 1 B\n" in text
    assert "  tag      prices\n" in text
    assert "  value    7\n" in text
    assert "  value    \\x1b[31m\n" in text


def test_json_is_a_document_also_after_an_interrupt(client, monkeypatch):
    """With what was found, how far that was, and the cursor to go on."""
    fill(client, "t:a", "t:b")
    answer_scans(monkeypatch, [b"t:a"], KeyboardInterrupt())
    stdout = io.StringIO()

    with pytest.raises(SystemExit):
        run("--format", "json", stdout=stdout)

    document = json.loads(stdout.getvalue())
    assert [key["key"] for key in document["keys"]] == ["t:a"]
    assert (document["schema"], document["complete"], document["matched"], document["total"]) == (1, False, 1, 2)
    assert document["cursor"].startswith("1-")


@pytest.mark.parametrize(("form", "is_drawn"), [("json", False), ("table", True)])
def test_no_progress_is_drawn_over_what_is_printed(client, form, is_drawn):
    """The beginning of a document stands on the line that it would take."""
    fill(client, "t:a")
    stdout, stderr = Terminal(), Terminal()

    call_command("redis_scan", "--value", "--format", form, stdout=stdout, stderr=stderr)

    assert ("\x1b[K" in stderr.getvalue()) is is_drawn


def test_a_walk_goes_on_from_the_cursor_it_printed(client):
    """--max-seconds stops it, --cursor takes it up; together they find all."""
    names = {f"t:{number}" for number in range(2_000)}
    fill(client, *names)

    first, note = run("--format", "keys", "--max-seconds", "0")
    cursor = re.search(r"The rest, from here: the same command with --cursor (\S+)\.\n", note)[1]
    second, end = run("--format", "keys", "--cursor", cursor)

    assert " The --max-seconds are over.\n" in note
    assert " s. That was the rest.\n" in end
    assert {*first.split(), *second.split()} == names


def test_the_command_to_go_on_with_can_be_copied(client, start):
    """As it was typed, quoted for a shell, with the new cursor in place of the old."""
    fill(client, *(f"t:{number}" for number in range(2_000)))
    arguments = ("t:[0-9]*", "--format", "keys", "--max-seconds", "0")

    with start(*arguments) as command:
        _, first = command.communicate(timeout=30)
    cursor = first.decode().split()[-1]
    with start(*arguments, "--cursor", cursor) as command:
        _, second = command.communicate(timeout=30)

    typed = r"The rest, from here: manage.py redis_scan --skip-checks 't:\[0-9\]\*' --format keys --max-seconds 0 --cursor (\S+)\n"
    assert re.search(typed, first.decode())[1] == cursor
    assert re.search(typed, second.decode())[1] != cursor


def test_raw_names_are_bytes(client, start):
    """For xargs -0, whatever is in them."""
    client.set(b"t:\x1b[31m\n\xff", "x")

    with start("--format", "keys", "--print0") as command:
        stdout, _ = command.communicate(timeout=30)

    assert stdout == b"t:\x1b[31m\n\xff\0"


def test_everything_deletes_the_whole_prefix(client):
    """And nothing beside it."""
    fill(client, "t:a", "t:b", "other")

    run("--delete", "--yes", "--everything")

    assert list(client.scan_iter()) == [b"other"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["session:*"], "does not begin with 't:'. Add --any-prefix"),
        (["*", "--delete", "--yes"], "does not begin with 't:'. Add --any-prefix"),
        (["*", "--any-prefix", "--delete", "--yes"], "or add --everything"),
        (["--delete", "--yes"], "or add --everything"),
        (["t:a", "--yes"], "belong to --delete, --expire or --persist. Add one"),
        (["t:a", "--everything"], "belong to --delete, --expire or --persist. Add one"),
        (["t:a", "--delete", "--expire", "5"], "Choose one of --delete, --expire and --persist"),
        (["t:a", "--persist", "--no-ttl"], "A key that never expires has no time to live"),
        (["t:a", "--delete", "--top", "5"], "--delete shows no --top. Look first"),
        (["t:a", "--persist", "--format", "json"], "--persist shows no --format"),
        (["--tree", "--sort", "ttl"], "--tree sorts by bytes and shows no keys"),
        (["--tree", "--format", "csv"], "--tree cannot be shown as csv. Choose --format table or json"),
        (["--value", "--format", "keys"], "--value cannot be shown as keys"),
        (["--print0"], "Add --format keys"),
        (["--top", "0"], "--top is 0. Give 1 or more"),
        (["--tree", "--depth", "5000"], "--depth is 5000. Give at most 100"),
        (["--tree", "--separator", ""], "--separator is empty"),
        (["--tag", ""], "--tag is empty"),
        (["--owner", "", "--delete", "--yes"], "is no path such as"),
        (["--max-rate", "nan"], "rate is nan"),
        (["--max-rate", "inf"], "rate is inf"),
        (["--expire", "0", "--yes"], "--expire is 0 seconds. Give more than 0"),
        (["--expire", "0", "--persist", "--yes"], "--expire is 0 seconds. Give more than 0"),
        (["--expire", "99999999999999w", "--yes"], "Give more than 0 and at most"),
        (["--ttl-over", "soon"], "'soon' cannot be read. Give seconds, or a number with s, m, h, d or w"),
        (["--bytes-over", "-1"], "'-1' cannot be read. Give bytes, or a number with k, m or g"),
        (["--owner", "tests.test_redis_scan.run"], "Nothing called tests.test_redis_scan.run makes entries"),
        (["--owner", "tests.nowhere"], "there is no 'nowhere' in tests"),
        (["--cursor", "1-deadbeef"], "restarted or failed over since"),
        (["--cursor", "x"], "cursor x is none that an earlier walk has printed"),
        ([""], "pattern is empty"),
        (["t:[a"], r"has a '\[' without its '\]'"),
        (["--limit", "-1"], "limit is -1. Give 1 or more"),
        (["--count", "0"], "count is 0. Give 1 to 10000"),
        (["--alias", "nope"], "'nope'"),
        (["t:a", "--del", "--y"], "unrecognized arguments: --del --y"),
        (["--type", "json"], "invalid choice: 'json'"),
    ],
)
def test_a_refusal_names_the_remedy_and_deletes_nothing(client, arguments, message):
    """One clear line; no key is touched."""
    fill(client, "t:a", "session:1")

    with pytest.raises(CommandError, match=message) as refusal:
        run(*arguments)

    assert "\n" not in str(refusal.value)
    assert client.dbsize() == 2


def test_redis_away_is_one_line_with_the_remedy(settings):
    """Nobody listens at port 1."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "KEY_PREFIX": "t"}}

    with pytest.raises(CommandError, match="127.0.0.1:1.*Is the server running") as failure:
        run()

    assert "\n" not in str(failure.value)


def test_a_silent_redis_is_one_line_with_the_remedy(live_own):
    """A frozen server is given up after the timeouts."""
    live_own.pause()

    with pytest.raises(CommandError, match="SLOWLOG"):
        run()


def test_a_missing_password_is_one_line_with_the_remedy(settings):
    """NOAUTH says which settings to look at, and shows no secret."""
    with start_server("--requirepass", "secret") as server:
        settings.REDIS_INTEGRATION = {"default": {"URL": server.url, "KEY_PREFIX": "t"}}

        with pytest.raises(CommandError, match="PASSWORD") as failure:
            run()

    assert "secret" not in str(failure.value)


def test_an_outage_amid_a_walk_tells_what_was_done(client, monkeypatch):
    """The note comes before the error, and says from where to go on."""
    fill(client, "t:a", "t:b")
    answer_scans(monkeypatch, [b"t:a"], RedisUnavailable("Redis is gone.", remedy="Look for it."))
    stdout = io.StringIO()

    with pytest.raises(CommandError, match=r"Redis is gone\. Look for it\."):
        run("t:*", "--delete", "--yes", "--everything", stdout=stdout)

    done, rest = stdout.getvalue().splitlines()
    assert done.startswith("Stopped: 1 key deleted; walked about 1 of 2 in ")
    assert re.fullmatch(r"The rest, from here: the same command with --cursor 1-[0-9a-f]{8}\.", rest)
    assert list(client.scan_iter()) == [b"t:b"]


@pytest.mark.parametrize(
    ("arguments", "done"),
    [
        ([], "Stopped: 1 key matches, "),
        (["--delete"], "Stopped: 1 key would be deleted, "),
        (["--delete", "--yes", "--everything"], "Stopped: 1 key deleted; "),
        (["--top", "3"], "Stopped: 1 key matches, "),
        (["--tree"], "Stopped: 1 key matches, "),
    ],
)
def test_an_interrupt_tells_what_was_done(client, monkeypatch, arguments, done):
    """Ctrl-C ends with what is known by then, a summary, where to go on, status 130, and no hint to go on with --yes."""
    fill(client, "t:a", "t:b")
    answer_scans(monkeypatch, [b"t:a"], KeyboardInterrupt())
    stdout = Terminal()

    with pytest.raises(SystemExit) as ending:
        run(*arguments, stdout=stdout)

    *_, summary, rest = stdout.getvalue().splitlines()
    assert ending.value.code == 130
    assert summary.startswith(done)
    assert "; walked about 1 of 2 in " in summary
    assert rest.startswith("The rest, from here: the same command with --cursor 1-")


def test_an_interrupt_before_the_first_page_is_only_a_summary(client, monkeypatch):
    """There is nothing to go on from."""
    answer_scans(monkeypatch, KeyboardInterrupt())
    stdout = Terminal()

    with pytest.raises(SystemExit):
        run(stdout=stdout)

    assert stdout.getvalue().startswith("Stopped: 0 keys match, 0 B; walked about 0 of 0 in ")


def test_an_unanswered_batch_is_told(client, monkeypatch):
    """Ctrl-C while a deletion is under way: nobody knows whether Redis carried it out."""
    fill(client, "t:a", "t:b")

    def interrupted(*names, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(changes, "end_entries", interrupted)
    stdout = io.StringIO()

    with pytest.raises(SystemExit):
        run("t:*", "--delete", "--yes", "--everything", stdout=stdout)

    assert stdout.getvalue().startswith("Stopped: 0 keys deleted; ")
    assert stdout.getvalue().endswith(
        " s. 2 more may be: that was not confirmed. The journal repeats what may be an entry.\n"
    )


def test_a_real_interrupt_ends_with_130_and_no_traceback(client, start):
    """SIGINT amid a list of which one line was read."""
    fill(client, *(f"t:{number:020}" for number in range(MANY)))

    with start() as command:
        command.stdout.readline()
        command.send_signal(signal.SIGINT)
        _, stderr = command.communicate(timeout=30)

    assert command.returncode == 130
    # The second line says how to go on, unless it was the first page.
    assert re.fullmatch(rb"Stopped: .*\n(The rest, from here: .*\n)?", stderr)


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_a_reader_that_leaves_ends_the_list_silently(client, start, unbuffered):
    """`| head`: status 0, no word."""
    fill(client, *(f"t:{number:020}" for number in range(MANY)))

    with start(PYTHONUNBUFFERED=unbuffered) as command:
        command.stdout.readline()
        command.stdout.close()
        stderr = command.stderr.read()

    assert (command.returncode, stderr) == (0, b"")


def test_a_reader_that_never_read_is_no_error(client, start):
    """`| true`: the one line waits in a buffer until the end, and then nobody is there."""
    fill(client, "t:a")
    reader, writer = os.pipe()
    os.close(reader)

    with start(stdout=writer, PYTHONUNBUFFERED="") as command:
        os.close(writer)
        stderr = command.stderr.read()

    assert (command.returncode, stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "status"), [(["t:none"], 0), (["*"], 1), (["--alias", "nope"], 1), (["--lim", "1"], 2)]
)
def test_exit_statuses(start, arguments, status):
    """0 done, nothing found included; 1 refused; 2 an option that does not exist, abbreviations included."""
    with start(*arguments) as command:
        _, stderr = command.communicate(timeout=30)

    assert command.returncode == status
    assert b"Traceback" not in stderr


@pytest.mark.parametrize(("no_color", "is_coloured"), [("", True), ("1", False)])
def test_no_color_is_obeyed(start, no_color, is_coloured):
    """On a terminal Django colours an error, but for NO_COLOR."""
    terminal, end = pty.openpty()

    with start("*", stdout=end, stderr=end, NO_COLOR=no_color, DJANGO_COLORS="dark") as command:
        command.wait(timeout=30)
    written = os.read(terminal, 65_536)
    os.close(terminal)
    os.close(end)

    assert b"Add --any-prefix" in written
    assert (b"\x1b[" in written) is is_coloured


def test_values_in_an_order_are_the_first_of_all(client):
    """And not of the ten that are found first."""
    fill(client, *(f"t:small:{number}" for number in range(500)))
    client.set("t:big", "x" * 100_000)

    assert run("--value", "--sort", "bytes")[0].startswith("t:big")


@pytest.mark.parametrize("options", [(), ("--value",), ("--tree",)])
def test_a_document_is_whole_where_redis_is_away(settings, options):
    """Whoever parses it gets no key, and the status."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1/0", "KEY_PREFIX": "t"}}
    said = io.StringIO()

    with pytest.raises(CommandError):
        run("--format", "json", *options, stdout=said)

    assert json.loads(said.getvalue())["address"] == "127.0.0.1:1/0"


def test_a_document_of_values_is_whole_where_redis_goes(client, monkeypatch):
    """Amid the walk, when it is asked for them."""
    fill(client, "t:a")

    def gone(*arguments):
        raise RedisUnavailable("Redis is gone.")

    monkeypatch.setattr(scan, "read_values", gone)
    said = io.StringIO()

    with pytest.raises(CommandError, match="gone"):
        run("--format", "json", "--value", stdout=said)

    json.loads(said.getvalue())
