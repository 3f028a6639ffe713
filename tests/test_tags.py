from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import partial, wraps
from types import SimpleNamespace
from urllib.parse import unquote
from uuid import UUID

import pytest
from django.contrib.auth.models import Group
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString
from django.views import View
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_integration.exceptions import UncacheableCall
from redis_integration.keys import MAX_KEY_BYTES, Names
from redis_integration.tags import MAX_TAGS, TagMaker, tag_key


class Level(IntEnum):
    LOW = 1


class Plain(str, Enum):  # noqa: UP042
    NEW = "new"


class Short(StrEnum):
    NEW = "new"


class Cart:
    def __init__(self, pk):
        self.pk = pk

    def total(self, currency="EUR"):
        raise AssertionError("tags are made without running the function")


class Page(View):
    pass


def price(pk, currency="EUR", *, net=False):
    raise AssertionError("tags are made without running the function")


def single(value):
    raise AssertionError("tags are made without running the function")


def gather(first, /, *rest, flag=False, **options):
    raise AssertionError("tags are made without running the function")


def nothing():
    raise AssertionError("tags are made without running the function")


async def acoroutine(pk, currency, net):
    return []


def generator(pk, currency, net):
    yield "a"


async def agenerator(pk, currency, net):
    yield "a"


class AsyncCallable:
    async def __call__(self, pk, currency, net):
        return []


def names(function, tags, *args, **kwargs):
    return TagMaker(function, tags).names("shop", args, kwargs)


def written(*tags):
    """The full keys of tags as the user writes them for invalidate(tags=…)."""
    return tuple(tag_key("shop", tag) for tag in tags)


texts = st.text(st.characters(exclude_categories=()), max_size=120)


@pytest.mark.parametrize(
    ("tag", "key"),
    [
        ("products", "shop:#products"),
        ("product:7", "shop:#product:7"),
        ("lang=de", "shop:#lang=de"),
        ("#a{b}*", "shop:#%23a%7Bb%7D%2A"),
        ("50%~x y\n", "shop:#50%25%7Ex%20y%0A"),
        ("straße", "shop:#stra%C3%9Fe"),
        ("\ud800", "shop:#%ED%A0%80"),
        (Plain.NEW, "shop:#new"),
        (Short.NEW, "shop:#new"),
        (SafeString("<b>"), "shop:#%3Cb%3E"),
    ],
)
def test_tag_is_readable_and_forges_nothing(tag, key):
    """The colon and the equals sign of a tag stay; what could be a brace, a glob or another tag's start does not."""
    assert tag_key("shop", tag) == key


@settings(deadline=None)
@given(texts.filter(bool))
def test_two_tags_never_share_a_key_by_escaping(tag):
    """Escaping can be undone, and leaves ASCII without separators of lines."""
    key = tag_key("p", tag)
    short = tag_key("p", tag[:12])

    assert len(key) <= MAX_KEY_BYTES
    assert re.fullmatch(r"p:#[A-Za-z0-9_./@+:=%-]*(~[0-9a-f]{32})?", key)
    assert unquote(short.removeprefix("p:#"), errors="surrogatepass") == tag[:12]


def test_long_tag_has_a_readable_head_and_a_digest():
    """Two long tags with one head are two tags."""
    one, other = tag_key("shop", "x" * 300), tag_key("shop", "x" * 301)

    assert one.startswith("shop:#xxx")
    assert len(one) == MAX_KEY_BYTES
    assert one != other


@pytest.mark.parametrize("tag", [7, None, b"a", ["a"], Level.LOW])
def test_tag_that_is_no_string_is_an_error(tag):
    """The error names the type and shows a tag."""
    with pytest.raises(TypeError, match=rf'A tag is a {type(tag).__name__}\. Give a string, such as "product:7"'):
        tag_key("shop", tag)


def test_empty_tag_is_an_error():
    """It would be every tag's start and nobody's name."""
    with pytest.raises(ValueError, match="A tag is empty. Give it a name"):
        tag_key("shop", "")


def test_names_of_an_entry_without_tags():
    """A key alone has no tags."""
    assert Names("shop:a") == ("shop:a", (), ())


@settings(deadline=None)
@given(texts, texts)
def test_template_and_f_string_give_the_same_tag(value, other):
    """Whatever the text is, invalidate(tags=[f"product:{pk}"]) meets what the template made: nothing is missed."""
    made = names(lambda pk, x: 0, ["product:{pk}", "{pk}:%ü {x}:{pk}"], value, other)

    assert made == written(f"product:{value}", f"{value}:%ü {other}:{value}")


@pytest.mark.parametrize(
    "value",
    [
        7,
        -7,
        True,
        None,
        1.5,
        10**30,
        Decimal("1.50"),
        UUID(int=1),
        date(2024, 5, 1),
        datetime(2024, 5, 1, tzinfo=UTC),
        Level.LOW,
        Plain.NEW,
        Short.NEW,
        b"a:b",
        "a:b",
        "<b>",
        " at 0x",
        SafeString("a&b"),
        SimpleLazyObject(lambda: "a:b"),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}",
)
def test_value_has_the_text_of_the_f_string(value):
    """What the function was called with, formatted, is the tag."""
    assert names(single, ["v:{value}"], value) == written(f"v:{value}")


@pytest.mark.parametrize(
    "row",
    [Group(pk=7), SimpleLazyObject(lambda: Group(pk=7)), Group(pk="7"), Group(pk="a:b%"), Group(pk=UUID(int=1))],
)
def test_row_stands_for_its_primary_key(row):
    """A template given an instance meets the f-string of its pk."""
    assert (
        names(single, ["group:{value}"], row) == written(f"group:{row.pk}") == names(single, ["group:{value.pk}"], row)
    )


def test_composite_primary_key_has_the_text_of_its_f_string():
    """A key of several columns is a tuple."""
    row = SimpleNamespace(_meta=SimpleNamespace(label_lower="shop.line"), pk=(1, "a"), _state=None)

    assert names(single, ["line:{value}"], row) == written(f"line:{row.pk}")


def test_templates_reach_attributes_and_items():
    """As templates of keys do, also from self."""
    assert names(Cart.total, ["cart:{self.pk}", "cart:{self.pk}:{currency}"], Cart(5)) == written(
        "cart:5", "cart:5:EUR"
    )
    assert names(single, ["d:{value[1][id].pk}"], [0, {"id": Cart("x y")}]) == written("d:x y")


def test_arguments_by_name_by_position_and_by_default_are_one_call():
    """Keys bind the same way."""
    tags = ["products", "product:{pk}", "in:{currency}:{net}"]

    made = names(price, tags, 7)

    assert made == written("products", "product:7", "in:EUR:False")
    assert (
        made == names(price, tags, pk=7) == names(price, tags, 7, "EUR", net=False) == names(price, tags, 7, net=False)
    )


def test_same_tag_twice_is_once():
    """The order is that of the templates."""
    assert names(gather, ["b:{first}", "a", "b:{flag}", "a"], 1, flag=1) == written("b:1", "a")


@pytest.mark.parametrize("none", [[], (), lambda value: [], lambda value: set()])
def test_no_tags_are_no_names(none):
    """A function without tags has entries without tags."""
    assert names(single, none, 1) == ()


def test_long_tag_of_a_template_is_the_long_tag_of_the_f_string():
    """The digest is made of the whole."""
    assert names(single, ["p:{value}", "q"], "ü" * 99) == written(f"p:{'ü' * 99}", "q")


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (Page.as_view(), ("request",), {"pk": 7, "slug": "a"}),
        (gather, (1,), {"pk": 7, "slug": "a"}),
        (wraps(price)(lambda *args, **kwargs: 0), (7,), {}),
        (partial(price, currency="USD"), (7,), {}),
    ],
)
def test_template_names_what_a_view_gets_from_its_path(function, args, kwargs):
    """as_view() gives (request, *args, **kwargs): names from the path are looked for in kwargs."""
    assert names(function, ["product:{pk}"], *args, **kwargs) == written("product:7")


def test_open_parameters_can_be_named_themselves():
    """Their items too; keywords with the name of a positional-only parameter are kwargs."""
    assert names(gather, ["{first}:{rest[0]}:{options[first]}"], 1, 2, first=3) == written("1:2:3")
    assert names(Page.as_view(), ["p:{args[0]}:{kwargs[b]}"], "request", 4, b=5) == written("p:4:5")
    assert names(Page.as_view(), ["p:{request}"], request="r") == written("p:r")


def test_name_that_a_call_does_not_bring_is_refused():
    """The error names the view, the template, what is missing and what there is."""
    with pytest.raises(UncacheableCall) as caught:
        names(Page.as_view(), ["product:{pk}"], "request", slug="a", page=2)

    assert str(caught.value) == (
        "tests.test_tags.Page(request, args, kwargs) cannot be cached by its argument 'pk': this call brings slug, page "
        "by name. In tags=['product:{pk}'] name what each call brings and what has a text, or make tags= a callable."
    )


@pytest.mark.parametrize(
    "value", [object(), Cart(1), Group(), print, [1], (1, 2), {1}, {1: 1}], ids=lambda value: type(value).__name__
)
def test_value_without_a_text_that_the_writer_could_write_is_refused(value):
    """An address, an unsaved row, or a container whose order is chance would never be met again."""
    with pytest.raises(
        UncacheableCall, match=r"single\(value\) cannot be cached by its argument 'value': .*'v:\{value\}'"
    ):
        names(single, ["v:{value}"], value)


@pytest.mark.parametrize("tag", ["v:{value.nope}", "v:{value[a]}", "v:{value[9]}"])
def test_attribute_that_a_value_does_not_have_is_refused(tag):
    """The error is the cache's, not the function's."""
    with pytest.raises(UncacheableCall, match="by its argument 'value'"):
        names(single, [tag], "a")


def test_refusal_does_not_show_the_value():
    """Arguments may be secrets."""
    with pytest.raises(UncacheableCall) as caught:
        names(single, ["v:{value}"], ["hunter2"])

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "tag", "message"),
    [
        (price, "product:{id}", "The tag 'product:{id}' names 'id', which is no parameter of tests.test_tags.price(pk, currency, net). Use one of: pk, currency, net."),
        (price, "product:{}", "names ''"),
        (price, "product:{pk!r}", "names 'pk!r'"),
        (nothing, "product:{pk}", "Leave it out."),
        (gather, "product:{a b}", "names 'a b'"),
    ],
)  # fmt: skip
def test_template_that_names_no_parameter_is_an_error_at_decoration(function, tag, message):
    """The module is not imported, and the error lists what there is."""
    with pytest.raises(TypeError, match=re.escape(message)):
        TagMaker(function, [tag])


@pytest.mark.parametrize("tag", ["", "{pk}", "{pk}{currency}", "a:{pk", "a:pk}", "a:{{pk}}"])
def test_template_without_a_name_or_with_a_lone_brace_is_an_error(tag):
    """It would be empty for an empty argument, or not what was meant."""
    with pytest.raises(ValueError, match=r"is no template\. Write a name and \{fields\}"):
        TagMaker(price, [tag])


def test_string_in_place_of_a_list_is_an_error():
    """Its letters would be tags; the error shows the list."""
    with pytest.raises(TypeError, match=re.escape("tags='products' is a string. Write tags=['products'].")):
        TagMaker(price, "products")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (None, "tags is a NoneType. Write tags=["),
        ({"a"}, "tags is a set. Write tags=["),
        ([7], "tags= holds a int. Write tags=["),
        ([b"a"], "tags= holds a bytes."),
        ([acoroutine], "tags= holds a function."),
    ],
)
def test_tags_that_are_no_list_of_templates_are_an_error(tags, message):
    """The error names the type and shows both forms."""
    with pytest.raises(TypeError, match=re.escape(message)):
        TagMaker(price, tags)


def test_callable_gets_the_arguments_of_the_function():
    """Defaults are filled in; what is keyword-only comes by name."""
    made = names(price, lambda pk, currency, *, net: [f"product:{pk}", f"in:{currency}:{net}"], pk=7)

    assert made == written("product:7", "in:EUR:False")


def test_callable_of_a_view_gets_request_and_path():
    """It may name what the path brings."""
    assert names(Page.as_view(), lambda request, pk: [f"{request}:{pk}"], "r", pk=7) == written("r:7")


@pytest.mark.parametrize("make", [Cart.total, partial(lambda x, self, currency: [x], "cart:5"), max])
def test_any_callable_may_make_tags(make):
    """Methods, partials, and builtins, whose parameters nobody can know."""
    assert TagMaker(Cart.total, make)


@pytest.mark.parametrize(
    ("found", "tags"),
    [
        (["b", "a", "b"], ["b", "a"]),
        (("b", "a"), ["b", "a"]),
        ({"c", "a", "b"}, ["a", "b", "c"]),
        (frozenset("cab"), ["a", "b", "c"]),
        ([SafeString("a:b"), "x" * 300], ["a:b", "x" * 300]),
    ],
)
def test_result_of_a_callable_is_in_a_stable_order(found, tags):
    """The order of a set is chance, and the entry's bytes follow the order."""
    assert names(single, lambda value: found, 1) == written(*tags)


@pytest.mark.parametrize(
    ("found", "fact"),
    [
        ("product:7", "is a str"),
        (None, "is a NoneType"),
        ((tag for tag in "ab"), "is a generator"),
        ({"a": 1}, "is a dict"),
        ([7], "holds a int"),
        ([["a"]], "holds a list"),
        ({"a", 7}, "holds a int"),
        ([""], "holds an empty string"),
    ],
)
def test_result_that_is_no_list_of_strings_is_refused(found, fact):
    """The error names the function, the type and the remedy."""
    message = rf"What tags= gave for tests\.test_tags\.single\(value\) {fact}\. Return a list of strings"

    with pytest.raises(UncacheableCall, match=message):
        names(single, lambda value: found, 1)


def test_error_of_the_callable_is_the_callers():
    """It is a bug of theirs, and passes through as it is."""
    with pytest.raises(ZeroDivisionError):
        names(single, lambda value: [f"{1 / value}"], 0)


@pytest.mark.parametrize("make", [acoroutine, generator, agenerator, AsyncCallable()])
def test_callable_whose_result_is_no_list_yet_is_an_error(make):
    """A generator or a coroutine is seen when the function is decorated."""
    with pytest.raises(TypeError, match="is a generator or a coroutine function. Return a list"):
        TagMaker(price, make)


@pytest.mark.parametrize(
    "make",
    [lambda pk: [], lambda pk, currency: [], lambda: [], lambda pk, currency, net, x: [], lambda pk, currency, net: []],
)
def test_callable_of_other_parameters_is_an_error_at_decoration(make):
    """The error names the parameters."""

    def priced(pk, currency="EUR", net=False, gross=False, *, x=1):
        raise AssertionError("not called")

    with pytest.raises(
        TypeError, match=r"cannot be called with .* Give it the same parameters: lambda pk, currency, net"
    ):
        TagMaker(priced, make)


def test_templates_are_counted():
    """The header of an entry counts its tags in one byte."""
    tags = [f"t{number}:{{value}}" for number in range(MAX_TAGS)]

    assert len(names(single, tags, 1)) == MAX_TAGS
    with pytest.raises(ValueError, match="has 256 tags. Give at most 255"):
        TagMaker(single, [*tags, "one"])


def test_tags_of_a_callable_are_counted():
    """Once each: 255 are stored, 256 are refused."""
    tags = [str(number) for number in range(MAX_TAGS)]

    assert len(names(single, lambda value: tags * 2, 1)) == MAX_TAGS
    with pytest.raises(UncacheableCall, match="is 256 tags. Return at most 255"):
        names(single, lambda value: [*tags, "one"], 1)


@pytest.mark.parametrize("tags", [["a:{pk}"], lambda pk, currency, net: ["a"]])
@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"pk": 1}), ((1,), {"colour": 1})])
def test_wrong_call_is_the_callers_type_error(tags, args, kwargs):
    """A call that does not fit the function fails as it would without tags."""
    with pytest.raises(TypeError, match=r"tests.test_tags.price\(pk, currency, net\): ") as caught:
        names(price, tags, *args, **kwargs)

    assert not isinstance(caught.value, UncacheableCall)
