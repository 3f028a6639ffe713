"""The command redis_scan: what it prints where, what it refuses, and how it ends."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from django.core.management import CommandError, call_command

from demo_project.server import start_server
from redis_integration import RedisUnavailable, scan
from redis_integration.scan import Found

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


def test_the_default_pattern_is_the_prefix(client):
    """Without a pattern the keys below KEY_PREFIX are listed, with type and time to live; the count is a note."""
    fill(client, "t:a", "other")

    stdout, stderr = run()

    assert stdout == "string     never  t:a\n"
    assert stderr.startswith("1 key matches; walked all 2 in ")


def test_on_a_terminal_the_count_follows_the_list(client):
    """A person sees one text; a pipe gets one line for each key."""
    fill(client, "t:a")

    stdout, stderr = run(stdout=Terminal())

    assert stdout.splitlines()[1].startswith("1 key matches; walked all 1 in ")
    assert stderr == ""


def test_a_hostile_key_stays_on_its_line(client):
    """Control characters and line ends reach no terminal."""
    client.set(b"t:\x1b[31m\n\xff\\", "x")

    stdout, _ = run()

    assert stdout == "string     never  t:\\x1b[31m\\x0a\\xff\\\\\n"


@pytest.mark.parametrize(
    ("ttl_ms", "printed"),
    [
        (None, "never"),
        (0, "0ms"),
        (999, "999ms"),
        (59_999, "59s"),
        (299_500, "4m 59s"),
        (86_399_000, "23h 59m"),
        (1_209_600_000, "14d 0h"),
    ],
)
def test_times_to_live_are_for_people(settings, monkeypatch, ttl_ms, printed):
    """Two units at most, rounded down."""
    monkeypatch.setattr(scan, "find", lambda alias, search, tally: iter([Found(b"t:a", "string", ttl_ms)]))

    stdout, _ = run()

    assert stdout == f"string  {printed:>8}  t:a\n"


def test_type_and_count_reach_the_walk(client):
    """--type hash lists hashes only."""
    fill(client, "t:string")
    client.hset("t:hash", "a", 1)

    stdout, _ = run("--type", "hash", "--count", "10")

    assert stdout == "hash       never  t:hash\n"


def test_a_limit_is_told(client):
    """What was walked is then an estimate, and says so."""
    fill(client, *(f"t:{number}" for number in range(2_000)))

    stdout, stderr = run("--limit", "3", "--count", "10")

    assert len(stdout.splitlines()) == 3
    assert stderr.startswith("3 keys match; walked about 10 of 2,000 in ")
    assert stderr.endswith(" s. That is the --limit.\n")


def test_a_bound_on_memory_is_told(client, monkeypatch):
    """A count that may contain repetitions says so."""
    fill(client, "t:a", "t:b")
    monkeypatch.setattr(scan, "REMEMBERED_KEYS", 1)

    _, stderr = run()

    assert stderr.endswith("After 1 keys, one that Redis returned twice counts twice.\n")


def test_delete_is_a_dry_run(client):
    """It names server, number and a few keys, and deletes nothing."""
    fill(client, *(f"t:page:{number}" for number in range(12)), "t:other")

    stdout, stderr = run("t:page:*", "--delete")

    first, *examples, more, summary, remedy = stdout.splitlines()
    assert first.startswith("DRY RUN, nothing is deleted. On default (127.0.0.1:")
    assert [line.startswith("string     never  t:page:") for line in examples] == [True] * 5
    assert more == "and 7 more"
    assert summary.startswith("12 keys would be unlinked; walked all 13 in ")
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

    assert stdout.splitlines()[-1].startswith("0 keys would be unlinked; walked all 0 in ")


def test_yes_deletes_the_matching(client):
    """Keys of other names stay."""
    fill(client, *(f"t:page:{number}" for number in range(1_200)), "t:other", "other")

    stdout, stderr = run("t:page:*", "--delete", "--yes")

    assert stdout.startswith("1,200 keys unlinked; walked all 1,202 in ")
    assert stderr == ""
    assert set(client.scan_iter()) == {b"t:other", b"other"}


def test_any_prefix_reaches_keys_of_others(client):
    """It is the word of somebody who knows."""
    fill(client, "session:1", "t:a")

    run("session:*", "--any-prefix", "--delete", "--yes")

    assert list(client.scan_iter()) == [b"t:a"]


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
        (["t:a", "--yes"], "belong to --delete. Add --delete"),
        (["t:a", "--everything"], "belong to --delete. Add --delete"),
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
    """The note comes before the error."""
    fill(client, "t:a", "t:b")

    def broken_walk(alias, search):
        yield [b"t:a"], False
        raise RedisUnavailable("Redis is gone.", remedy="Look for it.")

    monkeypatch.setattr(scan, "walk", broken_walk)
    stdout = io.StringIO()

    with pytest.raises(CommandError, match=r"Redis is gone\. Look for it\."):
        run("t:*", "--delete", "--yes", "--everything", stdout=stdout)

    assert stdout.getvalue().startswith("Stopped: 1 key unlinked; walked about 2 of 2 in ")
    assert list(client.scan_iter()) == [b"t:b"]


@pytest.mark.parametrize(
    ("arguments", "done"),
    [
        ([], "Stopped: 1 key matches; walked about 2 of 2 in "),
        (["--delete"], "Stopped: 1 key would be unlinked; walked about 2 of 2 in "),
        (["--delete", "--yes", "--everything"], "Stopped: 1 key unlinked; walked about 2 of 2 in "),
    ],
)
def test_an_interrupt_tells_what_was_done(client, monkeypatch, arguments, done):
    """Ctrl-C ends with a summary, status 130, and no hint to go on with --yes."""
    fill(client, "t:a", "t:b")

    def interrupted_walk(alias, search):
        yield [b"t:a"], False
        raise KeyboardInterrupt

    monkeypatch.setattr(scan, "walk", interrupted_walk)
    stdout = Terminal()

    with pytest.raises(SystemExit) as ending:
        run(*arguments, stdout=stdout)

    assert ending.value.code == 130
    assert stdout.getvalue().splitlines()[-1].startswith(done)


def test_an_unanswered_batch_is_told(client, monkeypatch):
    """Ctrl-C while an UNLINK is under way: nobody knows whether Redis carried it out."""
    fill(client, "t:a", "t:b")

    def interrupted_unlink(client, *keys):
        raise KeyboardInterrupt

    monkeypatch.setattr(redis.Redis, "unlink", interrupted_unlink)
    stdout = io.StringIO()

    with pytest.raises(SystemExit):
        run("t:*", "--delete", "--yes", "--everything", stdout=stdout)

    assert stdout.getvalue().startswith("Stopped: 0 keys unlinked; ")
    assert stdout.getvalue().endswith(" s. 2 more may be: their UNLINK was not answered.\n")


def test_a_real_interrupt_ends_with_130_and_no_traceback(client, start):
    """SIGINT amid a list of which one line was read."""
    fill(client, *(f"t:{number:020}" for number in range(MANY)))

    with start() as command:
        command.stdout.readline()
        command.send_signal(signal.SIGINT)
        _, stderr = command.communicate(timeout=30)

    assert command.returncode == 130
    assert stderr.startswith(b"Stopped: ")
    assert stderr.count(b"\n") == 1


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
