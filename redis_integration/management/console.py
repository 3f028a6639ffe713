"""How a command of this package meets the shell: options, colour, streams and how it ends. It knows no command."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from importlib import import_module
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from redis_integration.exceptions import RedisIntegrationError
from redis_integration.text import Sheet, escape_for_print


class ConsoleCommand(BaseCommand):
    """A command whose `handle` may print, be interrupted and lose its reader without a traceback.

    Options cannot be abbreviated. Colour only on a terminal, and not where NO_COLOR is set. Exit status: 1 for a
    CommandError, and for errors of this package, which become one; 2 for an option that does not exist; 130 for Ctrl-C;
    0 where the reader of a pipe has left.
    """

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django would take --del --y for --delete --yes.
        return super().create_parser(prog_name, subcommand, allow_abbrev=False, **kwargs)

    def execute(self, *args: Any, **options: Any) -> str | None:
        stdout = options.get("stdout") or self.stdout
        # Django does not know https://no-color.org, and asks sys.stdout where another stream was given.
        if not options["force_color"] and (os.environ.get("NO_COLOR") or not stdout.isatty()):
            options["no_color"] = True
        try:
            return super().execute(*args, **options)
        except BrokenPipeError:
            _abandon(self.stdout)
            _abandon(self.stderr)
        except KeyboardInterrupt:
            sys.exit(130)
        except (ImproperlyConfigured, RedisIntegrationError) as exc:
            raise CommandError(str(exc)) from exc
        return None

    @property
    def sheet(self) -> Sheet:
        """The standard output as a place for text."""
        return Sheet(self.stdout)


class Progress:
    """One line that is drawn over itself, on a terminal only; `stream` is the command's stderr."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._sheet = Sheet(stream)
        self._next = 0.0
        self._is_drawn = False

    def is_due(self) -> bool:
        """Whether to draw now: five times a second at most."""
        return self._sheet.is_terminal and time.monotonic() >= self._next

    def draw(self, text: str) -> None:
        self._next = time.monotonic() + 0.2
        self._is_drawn = True
        self._write("\r" + self._sheet.cut(self._sheet.show(text), self._sheet.width - 1) + "\x1b[K")

    def erase(self) -> None:
        """Make room for what is printed next."""
        if self._is_drawn:
            self._is_drawn = False
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text, style_func=str, ending="")
        self._stream.flush()


def argument(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """`read` as the type of an argument: what its ValueError says is what the user is told."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as exc:
            raise ArgumentTypeError(str(exc)) from exc

    return typed


def pause(text: str) -> float:
    """Seconds between two looks, as the type of an argument."""
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise ValueError
    return seconds


def import_path(path: str) -> Any:
    """What is imported from this path, attributes of attributes too. Raises CommandError."""
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise CommandError(f"{escape_for_print(path)} is no path such as shop.prices.price.")
    found = None
    for at, part in enumerate(parts):
        outer, name = ".".join(parts[:at]), ".".join(parts[: at + 1])
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = import_module(name)
        except Exception as exc:
            fault = f"{type(exc).__name__}: {exc}"
            if isinstance(exc, ModuleNotFoundError) and f"{name}.".startswith(f"{exc.name}."):
                fault = f"there is no {part!r} in {outer}" if outer else "there is no such module"
            raise CommandError(f"{name} cannot be imported: {fault}.") from exc
    return found


def _abandon(stream: Any) -> None:
    # Python flushes once more at exit, and would complain there about the closed pipe.
    try:
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
