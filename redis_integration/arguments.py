"""The arguments of a call by name, and the texts that a template picks from them.
What the text of a value is, keys and tags decide, each for itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

from redis_integration.exceptions import UncacheableCall

_braced = re.compile(r"\{([^{}]*)\}")
_field = re.compile(r"(\w+)((?:\.\w+|\[\w+\])*)")
_step = re.compile(r"\.(\w+)|\[(\w+)\]")
# Name and index of a parameter, and the steps from it to an attribute or item.
Field = tuple[str, int, Sequence[Callable[[Any], Any]]]


class NoText(Exception):
    """Why a value has no text."""

    @classmethod
    def of(cls, value: object, fault: str = "has no text that it would have in another process too") -> NoText:
        return cls(f"{type(value).__module__}.{type(value).__qualname__} {fault}")


def split(template: str) -> tuple[list[str], list[str]]:
    """The literals of a template, and the fields between them as they are written."""
    pieces = _braced.split(template)
    return pieces[::2], pieces[1::2]


class Arguments:
    """Binds the arguments of each call to a function's parameters; built when the function is decorated."""

    def __init__(self, function: Callable[..., Any]) -> None:
        # What REST framework's ViewSet.as_view() says that it wraps is called with another `self` first.
        view_set = getattr(function, "cls", None)
        self._signature = inspect.signature(function, follow_wrapped=view_set is None)
        self.names = (*self._signature.parameters,)
        named = getattr(function, "view_class", view_set or function)
        called = f"{named.__module__}.{getattr(named, '__qualname__', type(named).__name__)}"
        self.described = f"{called}({', '.join(self.names)})"
        parameters = self._signature.parameters.values()
        kinds = [each.kind for each in parameters]
        self._defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
        is_simple = {*kinds} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        self._positional = sum(kind is not inspect.Parameter.KEYWORD_ONLY for kind in kinds) if is_simple else -1
        # By the number of positional arguments: what the defaults add, or None where something else must be given.
        tails = (self.names[count:] for count in range(self._positional + 1))
        self._tails = [
            tuple(self._defaults[name] for name in tail) if self._defaults.keys() >= {*tail} else None for tail in tails
        ]
        # `(request, *args, **kwargs)` is what as_view() makes of every view.
        is_view = kinds[-2:] == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
        self._ahead = len(kinds) - 2 if is_view else -1

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """The values in the order of the parameters, defaults included. Raises TypeError for a call that does not fit."""
        count, ahead = len(args), self._ahead
        if count <= self._positional:
            if not kwargs and (tail := self._tails[count]) is not None:
                return (*args, *tail)
            rest, given = self.names[count:], {**self._defaults, **kwargs}
            if given.keys() >= {*rest} >= kwargs.keys():
                return [*args, *(given[name] for name in rest)]
        elif 0 <= ahead <= count and kwargs.keys().isdisjoint(self.names[:ahead]):
            return (*args[:ahead], args[ahead:], kwargs)
        return [*self._bound(args, kwargs).arguments.values()]

    def spread(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The call as another function of the same parameters takes it: by position where it can, defaults included."""
        if self._positional < 0:
            bound = self._bound(args, kwargs)
            return bound.args, bound.kwargs
        values, count = self.bind(args, kwargs), self._positional
        return values[:count], dict(zip(self.names[count:], values[count:], strict=True))

    def try_on(self, signature: inspect.Signature) -> None:
        """Raises TypeError if `spread` may give what does not fit this signature; open ones cannot be known."""
        if self._positional >= 0:
            signature.bind(*self.names[: self._positional], **dict.fromkeys(self.names[self._positional :]))

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.described}: {error}.") from None
        bound.apply_defaults()
        return bound

    def field(self, text: str, source: str, *, options: bool = False) -> Field:
        """What `text` names: a parameter and steps from it, with `options` also one that `**kwargs` may bring."""
        match = _field.fullmatch(text)
        name = match[1] if match else text
        steps: list[Callable[[Any], Any]] = [
            attrgetter(attribute) if attribute else itemgetter(int(item) if item.isdecimal() else item)
            for attribute, item in _step.findall(match[2] if match else "")
        ]
        if match and name in self.names:
            return name, self.names.index(name), steps
        keywords = inspect.Parameter.VAR_KEYWORD
        if match and options and self.names and self._signature.parameters[self.names[-1]].kind is keywords:
            return name, len(self.names) - 1, [_option(name), *steps]
        remedy = f"Use one of: {', '.join(self.names)}." if self.names else "Leave it out."
        raise TypeError(f"{source} names {name!r}, which is no parameter of {self.described}. {remedy}")


def _option(name: str) -> Callable[[Mapping[str, Any]], Any]:
    def pick(given: Mapping[str, Any]) -> Any:
        if name in given:
            return given[name]
        raise NoText(f"this call brings {', '.join(given) or 'nothing'} by name")

    return pick


class Template:
    """A %-pattern and the fields in it. `text` makes the text of a value, `remedy` ends the error of one without."""

    def __init__(
        self, arguments: Arguments, pattern: str, fields: Sequence[Field], *, text: Callable[[Any], str], remedy: str
    ) -> None:
        self._pattern, self._fields, self._text = pattern, fields, text
        self._described, self._remedy = arguments.described, remedy

    def fill(self, values: Sequence[Any]) -> str:
        """The text of a call with these values. Raises UncacheableCall for a value that has none."""
        texts, text = [], self._text
        try:
            for name, index, steps in self._fields:  # noqa: B007
                value = values[index]
                if steps:
                    for step in steps:
                        value = step(value)
                texts.append(text(value))
        except (NoText, AttributeError, LookupError, TypeError, ValueError, RecursionError) as exc:
            why = exc if isinstance(exc, NoText) else NoText.of(values[index])
            fact = f"{self._described} cannot be cached by its argument {name!r}: {why}."
            raise UncacheableCall(f"{fact} {self._remedy}") from exc
        return self._pattern % tuple(texts)
