"""A call → the full keys of its tags, and a tag as the user writes it → its full key.
Two tags may share a key, which ends an entry too many; one tag never has two keys, which would leave one standing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis_integration.arguments import Arguments, Field, NoText, Template, split
from redis_integration.exceptions import UncacheableCall
from redis_integration.keys import UNSAFE_LITERAL, escape, full_key, primary_key, stable_text

MAX_TAGS = 255  # of one entry, whose header counts them in a byte
Tags = Sequence[str] | Callable[..., Any]
_example = 'Write tags=["products", "product:{pk}"], or a callable that returns such a list.'


def tag_key(prefix: str, tag: str) -> str:
    """The full key of a tag: `prefix:#tag`, escaped. Raises TypeError for what is no string, ValueError for ""."""
    if not isinstance(tag, str):
        raise TypeError(f'A tag is a {type(tag).__name__}. Give a string, such as "product:7".')
    if not tag:
        raise ValueError('A tag is empty. Give it a name, such as "product:7".')
    # The content: the str() of a member of an enum of strings would be the member's name.
    return full_key(prefix, f"#{escape(str.__str__(tag), UNSAFE_LITERAL)}")


def tag_list(found: object, source: str) -> list[str]:
    """`found` as a list of tags. Raises TypeError for what is none, with `source`, which says whose it is, and no value."""
    if not isinstance(found, (list, tuple, set, frozenset)):
        raise TypeError(f'{source} is a {type(found).__name__}. Return a list of strings, such as ["product:7"].')
    for tag in found:
        if not isinstance(tag, str) or not tag:
            odd = "an empty string" if tag == "" else f"a {type(tag).__name__}"
            raise TypeError(f'{source} holds {odd}. Return a list of strings, such as ["product:7"].')
    return sorted(found) if isinstance(found, (set, frozenset)) else [*found]


def tag_keys(prefix: str, found: object, source: str) -> tuple[str, ...]:
    """The full keys of these tags, once each. Raises UncacheableCall for what is no list of tags, with `source`."""
    try:
        keys = tuple(dict.fromkeys([tag_key(prefix, tag) for tag in tag_list(found, source)]))
    except TypeError as error:
        raise UncacheableCall(f"{error}") from None
    if len(keys) > MAX_TAGS:
        raise UncacheableCall(f"{source} is {len(keys)} tags. Return at most {MAX_TAGS}.")
    return keys


def refuse_uncallable(tags: Callable[..., Any]) -> None:
    """Raises TypeError for a callable whose result is no list yet: a generator or a coroutine function."""
    for each in (tags, type(tags).__call__):
        if inspect.iscoroutinefunction(each) or inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            raise TypeError(f"tags={tags!r} is a generator or a coroutine function. Return a list from a plain one.")


class TagMaker:
    """The full keys of the tags of one function's calls; built when the function is decorated.

    `tags` holds templates over the arguments ("product:{pk}"), which give what the f-string f"product:{pk}" gives, and a
    model instance its primary key; or it is a callable of the function's arguments that returns a list of tags.
    Raises TypeError and ValueError, when built, for tags that could not be made.
    """

    def __init__(self, function: Callable[..., Any], tags: Tags) -> None:
        self._arguments = arguments = Arguments(function)
        self._bind = arguments.bind
        self._template: Template | None = None
        self._make: Callable[..., Any] | None = None
        if isinstance(tags, (list, tuple)):
            if len(tags) > MAX_TAGS:
                raise ValueError(f"{arguments.described} has {len(tags)} tags. Give at most {MAX_TAGS}.")
            self._template = self._parse(tags) if tags else None
        elif isinstance(tags, str):
            raise TypeError(f"tags={tags!r} is a string. Write tags=[{tags!r}].")
        elif callable(tags):
            self._make = self._checked(tags)
        else:
            raise TypeError(f"tags is a {type(tags).__name__}. {_example}")

    @property
    def has_any(self) -> bool:
        """Whether it makes any."""
        return self._template is not None or self._make is not None

    def names(self, prefix: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """The full keys of the tags of this call, once each. Two templates of one number each take 1.5 µs (Python 3.11).

        Raises UncacheableCall, TypeError for a call that does not fit the function, and what the user's callable raises.
        """
        if self._template:
            texts = self._template.fill(self._bind(args, kwargs)).split("\n")
            keys = [full_key(prefix, text) for text in texts]
            return tuple(keys if len({*keys}) == len(keys) else dict.fromkeys(keys))
        if self._make is None:
            return ()
        positional, named = self._arguments.spread(args, kwargs)
        made, source = self._make(*positional, **named), f"What tags= gave for {self._arguments.described}"
        return tag_keys(prefix, made, source)

    def _parse(self, tags: Sequence[str]) -> Template:
        patterns: list[str] = []
        fields: list[Field] = []
        for tag in tags:
            if not isinstance(tag, str):
                raise TypeError(f"tags= holds a {type(tag).__name__}. {_example}")
            literals, names = split(tag)
            if not any(literals) or any({"{", "}"} & {*literal} for literal in literals):
                raise ValueError(f'The tag {tag!r} is no template. Write a name and {{fields}}: "product:{{pk}}".')
            patterns.append("%s".join(escape(literal, UNSAFE_LITERAL).replace("%", "%%") for literal in literals))
            fields += [self._arguments.field(name, f"The tag {tag!r}", options=True) for name in names]
        remedy = f"In tags={[*tags]} name what each call brings and what has a text, or make tags= a callable."
        # One template of all tags, a line each, takes half the time of one for each; escaping leaves no other newline.
        return Template(self._arguments, "\n".join(f"#{each}" for each in patterns), fields, text=_text, remedy=remedy)

    def _checked(self, make: Callable[..., Any]) -> Callable[..., Any]:
        refuse_uncallable(make)
        described, names = self._arguments.described, ", ".join(self._arguments.names)
        try:
            signature = inspect.signature(make)
        except (TypeError, ValueError):  # some builtins have none
            return make
        try:
            self._arguments.try_on(signature)
        except TypeError as error:
            fix = f"Give it the same parameters: lambda {names}: […]."
            raise TypeError(
                f"tags={make!r} cannot be called with the arguments of {described}: {error}. {fix}"
            ) from None
        return make


def text_of(value: Any) -> str:
    """What f"{value}" is, and of a model instance its primary key. Raises NoText."""
    if value is None or isinstance(value, (str, int, float)):
        return f"{value}"
    if row := primary_key(value):
        return f"{row[1]}"
    if isinstance(value, (tuple, list, set, frozenset, dict)):
        raise NoText.of(value, "is a container, whose text the writer could not write again")
    stable_text(value)
    return f"{value}"


def _text(value: Any) -> str:
    # Escaping goes letter by letter, so parts come out as in the whole.
    return f"{value}" if type(value) is int else escape(text_of(value), UNSAFE_LITERAL)
