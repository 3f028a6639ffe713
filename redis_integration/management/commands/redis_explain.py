"""Reads the arguments of redis_explain and prints what `explain` says. Does not speak to Redis itself."""

from __future__ import annotations

import asyncio
from ast import literal_eval
from collections.abc import Callable, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from redis_integration.explain import Explanation
from redis_integration.management.console import ConsoleCommand, import_path
from redis_integration.text import escape_for_print

EXAMPLE = "manage.py redis_explain shop.prices.price 7 currency=USD"


class Command(ConsoleCommand):
    help = f"Says what a call of a cached function would get now, and why: {EXAMPLE}. Changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", help="where the function is imported from, such as shop.prices.price")
        parser.add_argument(
            "arguments",
            nargs="*",
            metavar="ARG or NAME=VALUE",
            help="an argument of the call: a Python literal where it reads as one (7, None, \"'7'\"), else text",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        explain = _explain_of(options["path"])
        positional, named = _read(options["arguments"])
        try:
            self.stdout.write(f"{explain(*positional, **named)}")
        except (TypeError, ValueError, ImproperlyConfigured) as exc:
            raise CommandError(f"{escape_for_print(str(exc))}") from exc


def _explain_of(path: str) -> Callable[..., Explanation]:
    """What explains the calls of the function that has this path. Raises CommandError."""
    found = import_path(path)
    # Not only `explain`: a QuerySet has that too.
    if hasattr(found, "key_for") and hasattr(found, "explain"):
        return found.explain  # type: ignore[no-any-return]
    if hasattr(found, "key_for") and hasattr(found, "aexplain"):
        return lambda *args, **kwargs: asyncio.run(found.aexplain(*args, **kwargs))
    raise CommandError(
        f"{path} is a {type(found).__name__} that nothing of this package decorates. Name a function below @cache_aside or "
        "@cache_aside_many; other decorators must keep its attributes, as functools.wraps does."
    )


def _read(arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name.isidentifier():
            positional.append(_value(argument))
        elif name in named:
            raise CommandError(f"{name} is given twice.")
        else:
            named[name] = _value(value)
    return positional, named


def _value(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
