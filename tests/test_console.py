"""How a command meets the shell. What needs a shell of its own is tested with redis_scan."""

from __future__ import annotations

import io

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.core.management.color import color_style

from redis_integration.exceptions import RedisUnavailable
from redis_integration.management.console import ConsoleCommand, Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


class Command(ConsoleCommand):
    """Does what it was made for."""

    requires_system_checks = ()

    def __init__(self, act, **kwargs):
        super().__init__(**kwargs)
        self.act = act

    def handle(self, *args, **options):
        self.act(self)


def raising(error):
    def act(command):
        raise error

    return Command(act)


def greet(command):
    command.stdout.write("done", command.style.SUCCESS)


@pytest.mark.parametrize("error", [RedisUnavailable("It is gone.", remedy="Look."), ImproperlyConfigured("No alias.")])
def test_an_error_of_ours_is_a_line_and_no_traceback(error):
    """A CommandError with the same text."""
    with pytest.raises(CommandError) as caught:
        call_command(raising(error))

    assert str(caught.value) == str(error)


def test_an_interrupt_ends_with_130():
    """As a shell expects of Ctrl-C."""
    with pytest.raises(SystemExit) as caught:
        call_command(raising(KeyboardInterrupt()))

    assert caught.value.code == 130


def test_abbreviated_options_are_refused():
    """--verb is not --verbosity."""
    with pytest.raises(CommandError, match="unrecognized arguments: --verb"):
        call_command(Command(greet), "--verb=2")


@pytest.mark.parametrize(
    ("options", "variables", "is_coloured"),
    [
        ({"stdout": Terminal}, {}, True),
        ({"stdout": Terminal}, {"NO_COLOR": "1"}, False),
        ({"stdout": Terminal, "no_color": True}, {}, False),
        ({"stdout": io.StringIO}, {}, False),
        ({"stdout": io.StringIO, "force_color": True}, {"NO_COLOR": "1"}, True),
    ],
)
def test_colour_is_for_terminals_and_for_who_forces_it(monkeypatch, options, variables, is_coloured):
    """NO_COLOR and --no-color end it, --force-color wins."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("DJANGO_COLORS", "dark")
    [*(monkeypatch.setenv(name, value) for name, value in variables.items())]
    command = Command(greet)
    command.style = color_style(force_color=True)
    stdout = options.pop("stdout")()

    call_command(command, stdout=stdout, **options)

    assert stdout.getvalue() == ("\x1b[32;1mdone\n\x1b[0m" if is_coloured else "done\n")


def drawing(stream):
    """What progress wrote that was asked three times at once, and then erased."""

    def act(command):
        progress = Progress(command.stderr)
        [progress.draw(f"{number} keys\x07") for number in range(3) if progress.is_due()]
        progress.erase()
        progress.erase()

    call_command(Command(act), stderr=stream)
    return stream.getvalue()


def test_progress_is_one_line_that_goes():
    """Five times a second at most; what was drawn is erased once."""
    assert drawing(Terminal()) == "\r0 keys\\x07\x1b[K\r\x1b[K"


def test_progress_is_for_terminals():
    """A log gets none."""
    assert drawing(io.StringIO()) == ""
