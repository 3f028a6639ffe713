"""`{% cache_aside %}`: a fragment of a template with the policy of `cache_aside`, in sync code and on an event loop."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.template import Context, Library, Node, NodeList, TemplateSyntaxError, Variable, VariableDoesNotExist
from django.template.base import FilterExpression, Parser, Token, kwarg_re
from django.template.loader_tags import BlockNode
from django.utils import timezone, translation
from django.utils.functional import Promise
from django.utils.safestring import SafeString

from redis_integration import visitors
from redis_integration.arguments import NoText, split
from redis_integration.caching import Caching, Outcome, attempt
from redis_integration.conf import get_settings, get_view_variations
from redis_integration.exceptions import UncacheableCall
from redis_integration.keys import Names, fragment_key, full_key
from redis_integration.tags import tag_keys, text_of
from redis_integration.undecorated import answer, caching_of

register = Library()

OPTIONS = ("tags", "stale_for", "durable", "lease_timeout", "alias")
EXAMPLE = '{% cache_aside 300 "sidebar" product.pk tags="products product:{product.pk}" %}'
# What of a context changes how values are written, and what it usually is.
_usual = {"autoescape": True, "use_l10n": None, "use_tz": None}
# A tag as a template writes it: its literals, and the values between them.
Tag = tuple[Sequence[str], Sequence[FilterExpression]]


class Undefined(TemplateSyntaxError):
    """A variable that the tag needs is not there."""


class _Required(Variable):
    """Django puts an empty text for a variable that is not there, and all who lack it would share one fragment."""

    def resolve(self, context: Any) -> Any:
        try:
            return super().resolve(context)
        except VariableDoesNotExist as error:
            remedy = f"Pass it to the template, or say what stands for it: {self.var}|default:0."
            raise Undefined(f"cache_aside: there is no {self.var} in this context. {remedy}") from error


class FragmentNode(Node):
    """One fragment; `values` tell its entries apart, and `options` are resolved at each rendering unless they are constants."""

    child_nodelists = ("nodelist",)

    def __init__(
        self,
        name: str,
        nodelist: NodeList,
        *,
        values: Sequence[FilterExpression],
        tags: Sequence[Tag] | FilterExpression,
        options: Mapping[str, FilterExpression],
    ) -> None:
        self.name = name
        self.nodelist = nodelist
        self.values = values
        self.tags = tags
        self.options = options
        # Of these the values speak for their visitor.
        self.covered = {visitors.kind_of(str(each.var)) for each in values if isinstance(each.var, Variable)}
        # Other templates fill a block: what they make of it is theirs.
        self.has_blocks = bool(nodelist.get_nodes_by_type(BlockNode))
        self.known: Caching | None = None
        with suppress(Undefined):  # where not all are constants
            self.known = self._caching(Context())

    def render(self, context: Context) -> SafeString:
        """The fragment. One round trip for a hit, 3 for a miss. Raises what rendering it raises."""
        caching = self.known or self._caching(context)
        settings = get_settings(caching.alias)
        if not settings.enabled:
            with context.push():
                return self.nodelist.render(context)
        names = self._names(context, settings.key_prefix)
        return SafeString(answer(caching, names, lambda: self._compute(context, caching)))

    def _caching(self, context: Context) -> Caching:
        options = {option: each.resolve(context) for option, each in self.options.items()}
        ttl, alias = options.pop("ttl"), options.pop("alias", "default")
        try:
            # By the caller: a context belongs to the thread that renders.
            return caching_of(f"fragment {self.name}", ttl, alias, {"refresh": "caller", **options})[0]
        except (TypeError, ValueError) as error:
            raise TemplateSyntaxError(f"cache_aside {self.name!r}: {error}") from error

    def _names(self, context: Context, prefix: str) -> Names:
        by_language, by_time_zone = get_view_variations()
        variant = [translation.get_language() or "" if by_language else ""]
        variant.append(timezone.get_current_timezone_name() if by_time_zone else "")
        variant += [f"{name}-{getattr(context, name)}" for name in _usual if getattr(context, name) is not _usual[name]]
        if self.has_blocks:
            variant.append(f"in-{getattr(context.template, 'name', '')}")
        try:
            key = fragment_key(self.name, [_now(each.resolve(context)) for each in self.values], variant)
            tags = self._tags(context)
        except NoText as error:
            remedy = "Name what has a text: its primary key, say, and not the object."
            raise UncacheableCall(f"cache_aside {self.name!r} cannot tell a value: {error}. {remedy}") from error
        if isinstance(tags, (list, tuple, set, frozenset)):  # all else is refused
            tags = [f"fragment:{self.name}", *tags]
        return Names(full_key(prefix, key), tag_keys(prefix, tags, f"tags= of cache_aside {self.name!r}"))

    def _tags(self, context: Context) -> object:
        if isinstance(self.tags, FilterExpression):
            found = self.tags.resolve(context)
            return _words(found) if isinstance(found, str) else found
        made = []
        for literals, values in self.tags:
            texts = [text_of(each.resolve(context)) for each in values]
            made.append("".join(f"{literal}{text}" for literal, text in zip(literals, [*texts, ""], strict=True)))
        return made

    def _compute(self, context: Context, caching: Caching) -> Outcome:
        with visitors.observed(context) as kinds:
            # Its content: a codec stores no subclass.
            outcome = attempt(lambda: str.__str__(self.nodelist.render(context)))
            private = sorted(kinds() - self.covered)
        if private:
            text = "redis_integration.fragment_private {%% cache_aside %%} %r shows its visitor's own (%s), and is not stored. %s"
            remedy = "Move that out of it, or name the visitor (user.pk) in the tag."
            caching.warn_once("private", text, self.name, ", ".join(private), remedy)
            outcome = outcome._replace(why_not_stored=f"{', '.join(private)} used", is_own=True)
        return outcome


@register.tag("cache_aside")
def cache_aside(parser: Parser, token: Token) -> FragmentNode:
    """Keep what the block renders for so many seconds: {% cache_aside 300 "sidebar" product.pk tags="products" %}…{% endcache_aside %}.

    Behind seconds and name stand the values that tell its entries apart; language and time zone do so by themselves. Options:
    tags (with values in braces, "product:{product.pk}", or a list), stale_for, durable, lease_timeout, alias.
    """
    values: list[FilterExpression] = []
    options: dict[str, FilterExpression] = {}
    ttl, name, *bits = [*token.split_contents()[1:], "", ""]
    if not re.fullmatch(r"""(["'])[^"']+\1""", name):
        raise TemplateSyntaxError(f"cache_aside takes seconds and a name in quotes. Write {EXAMPLE}.")
    for bit in filter(None, bits):
        option, value = kwarg_re.match(bit).groups()  # type: ignore[union-attr]
        if option is None:
            values.append(_compile(parser, value))
        elif option in options or option not in OPTIONS:
            fact = "is given twice" if option in options else "is no option"
            raise TemplateSyntaxError(
                f"cache_aside: {option}= {fact}. It takes each of these once: {', '.join(OPTIONS)}."
            )
        else:
            options[option] = _compile(parser, value)
    options["ttl"] = _compile(parser, ttl)
    tags = options.pop("tags", None)
    nodelist = parser.parse(("endcache_aside",))
    parser.delete_first_token()
    return FragmentNode(name[1:-1], nodelist, values=values, tags=_read_tags(parser, tags), options=options)


def _now(value: object) -> object:
    return str(value) if isinstance(value, Promise) else value  # of a lazy translation, what is shown in this language


def _compile(parser: Parser, text: str) -> FilterExpression:
    expression = parser.compile_filter(text)
    has_default = any(getattr(each, "_filter_name", "") == "default" for each, _ in expression.filters)
    if isinstance(expression.var, Variable) and not has_default:
        expression.var = _Required(expression.var.var)
    return expression


def _read_tags(parser: Parser, tags: FilterExpression | None) -> Sequence[Tag] | FilterExpression:
    if tags is None or isinstance(tags.var, Variable) or tags.filters:
        return tags or []
    found = []
    for tag in _words(str(tags.var)):
        literals, fields = split(tag)
        if any({"{", "}"} & {*literal} for literal in literals):
            raise TemplateSyntaxError(
                f"cache_aside: the tag {tag!r} is no template. Write a name and {{values}}: {EXAMPLE}."
            )
        found.append((literals, [_compile(parser, field) for field in fields]))
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[^\s,]+", text)
