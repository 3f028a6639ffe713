from __future__ import annotations

import re
import subprocess
import sys
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from functools import partial, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from django.views import View
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_integration.exceptions import UncacheableCall
from redis_integration.keys import MAX_KEY_BYTES, KeyMaker, escape, full_key, namespace_of, view_key

Point = namedtuple("Point", "x y")


class Colour(Enum):
    RED = 1
    DARK = "1"


class Level(IntEnum):
    LOW = 1


class Access(Flag):
    READ = 1
    WRITE = 2


class Metres(float):
    pass


class OddZone(tzinfo):
    def utcoffset(self, moment):
        return timedelta(hours=1)

    def dst(self, moment):
        return None

    def tzname(self, moment):
        return None


class Cart:
    def __init__(self, pk):
        self.pk = pk

    def total(self, currency="EUR"):
        raise AssertionError("a key is made without running the function")


class Page(View):
    pass


def price(pk, currency="EUR"):
    raise AssertionError("a key is made without running the function")


def single(value):
    raise AssertionError("a key is made without running the function")


def gather(first, /, *rest, flag=False, **options):
    raise AssertionError("a key is made without running the function")


def nothing():
    raise AssertionError("a key is made without running the function")


def key_of(value):
    return KeyMaker(single, namespace="f").parts((value,), {})


def templated(value):
    return KeyMaker(single, key="f:{value}").parts((value,), {})


def endless():
    value = []
    value.append(value)
    return value


texts = st.text(st.characters(exclude_categories=()), max_size=300)


@pytest.mark.parametrize(
    ("part", "escaped"),
    [
        ("7", "7"),
        ("shop/üb er", "shop/%C3%BCb%20er"),
        ("a:b", "a%3Ab"),
        ("{a}#", "%7Ba%7D%23"),
        ("*?[]\\^", "%2A%3F%5B%5D%5C%5E"),
        ("\r\n\x00\x7f", "%0D%0A%00%7F"),
        ("'\",()=&~", "%27%22%2C%28%29%3D%26%7E"),
        ("100%", "100%25"),
        ("\ud800", "%ED%A0%80"),
        ("a-b_c.d/e@f+g", "a-b_c.d/e@f+g"),
    ],
)
def test_escape_leaves_only_what_means_nothing(part, escaped):
    """Separators, globs, quotes, blanks and control characters cannot be forged."""
    assert escape(part) == escaped


@settings(deadline=None)
@given(texts)
def test_escape_can_be_undone(part):
    """Two parts never share an escaped form."""
    assert re.fullmatch(r"(?:[A-Za-z0-9_./@+-]|%[0-9A-F]{2})*", escape(part))
    assert unquote(escape(part), errors="surrogatepass") == part


def test_full_key_is_prefix_and_rest():
    """A short key is shown as it is."""
    assert full_key("shop", "product:123") == "shop:product:123"


@settings(deadline=None)
@given(texts.map(escape) | st.text("aé€😀", max_size=300), st.integers(0, 5))
def test_long_key_has_at_most_200_bytes_and_whole_characters(rest, shift):
    """A long key is a readable head, cut at a character, and a digest."""
    key = full_key("p" * shift, rest)
    head = key.partition("~")[0]

    assert len(key.encode()) <= MAX_KEY_BYTES
    assert f"{'p' * shift}:{rest}".startswith(head)
    assert unquote(head, encoding="utf-8", errors="surrogatepass")
    assert re.search(r"%.?$", head) is None


@pytest.mark.parametrize("shift", range(12))
@pytest.mark.parametrize("sign", ["ü", "€", "😀"])
def test_head_of_a_long_key_never_ends_inside_an_escaped_character(shift, sign):
    """The head can be unquoted strictly, wherever the cut falls."""
    head = full_key("p" * shift + "p", escape(sign * 60)).partition("~")[0]

    assert unquote(head, errors="strict").endswith(sign)


def test_key_of_200_bytes_is_readable_and_longer_ones_differ():
    """The limit counts bytes; two long keys with one head have two digests."""
    assert full_key("p", "x" * 198) == "p:" + "x" * 198
    assert full_key("p", "x" * 199) == "p:" + "x" * 165 + "~" + full_key("p", "x" * 199)[-32:]
    assert full_key("p", "é" * 100) != full_key("p", "é" * 101)
    assert full_key("p", "x" * 250) != full_key("p", "x" * 251)


def test_same_call_makes_the_same_key():
    """Positional, by keyword and by default are one call."""
    maker = KeyMaker(price)
    calls = [
        ((7,), {}),
        ((7, "EUR"), {}),
        ((), {"pk": 7}),
        ((), {"currency": "EUR", "pk": 7}),
        ((7,), {"currency": "EUR"}),
    ]

    assert {maker.parts(*call) for call in calls} == {"tests.test_keys.price:pk=7:currency='EUR'"}


def test_namespace_replaces_the_name():
    """A namespace survives the renaming of the function."""
    assert KeyMaker(price, namespace="shop:price").parts((7, "USD"), {}) == "shop:price:pk=7:currency='USD'"


def test_function_without_parameters_has_one_key():
    """The namespace alone, or the template alone, is the key."""
    assert KeyMaker(nothing).parts((), {}) == "tests.test_keys.nothing"
    assert KeyMaker(nothing, key="rates").parts((), {}) == "rates"


def test_variable_arguments_are_in_the_key():
    """Positional-only, keyword-only and variable arguments are told apart; the order of keywords is not."""
    maker = KeyMaker(gather, namespace="f")

    assert maker.parts((1, 2), {"b": 1, "a": "x"}) == "f:first=1:rest=tuple(2):flag=False:options=dict('a'='x','b'=1)"
    assert maker.parts((1, 2), {"b": 1, "a": "x"}) == maker.parts((1, 2), {"a": "x", "b": 1})
    assert (
        len(
            {
                maker.parts((1,), {}),
                maker.parts((1, 2), {}),
                maker.parts((1,), {"first": 2}),
                maker.parts((1,), {"rest": 2}),
            }
        )
        == 4
    )


TOLD_APART = [
    1,
    "1",
    True,
    1.0,
    None,
    "None",
    b"1",
    Decimal("1"),
    UUID(int=1),
    date(2024, 5, 1),
    datetime(2024, 5, 1),
    datetime(2024, 5, 1, fold=1),
    datetime(2024, 5, 1, tzinfo=UTC),
    datetime(2024, 5, 1, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(2024, 5, 1, tzinfo=timezone(timedelta(hours=2))),
    datetime(2024, 5, 1, tzinfo=timezone(timedelta(hours=2), "Europe/Berlin")),
    "2024-05-01",
    time(1),
    time(1, tzinfo=UTC),
    timedelta(seconds=1),
    timedelta(days=-1),
    Colour.RED,
    Colour.DARK,
    Level.LOW,
    Access.READ,
    Access.READ | Access.WRITE,
    Metres(1),
    (1,),
    [1],
    {1},
    frozenset({1}),
    {1: 1},
    {1: "1"},
    OrderedDict({1: 1}),
    Point(1, 2),
    (1, 2),
    ((1,), 2),
    (1, (2,)),
    ("1,2",),
    (),
    [],
    ["a,b"],
    ["a", "b"],
    ["a'", "'b"],
    "",
    "'",
    Group(pk=1),
    User(pk=1),
    Group(pk="1"),
    float("nan"),
    -0.0,
    0,
]


def test_arguments_of_different_types_are_told_apart():
    """f(1), f("1"), f(True) and the like never share an entry."""
    keys = [key_of(value) for value in TOLD_APART]

    assert len(set(keys)) == len(TOLD_APART)


@pytest.mark.parametrize("value", TOLD_APART, ids=repr)
def test_text_of_an_argument_forges_nothing(value):
    """No argument brings a separator, a glob, a brace or a blank into the key."""
    assert re.fullmatch(r"f:value=[A-Za-z0-9_./@+%'(),=-]*", key_of(value))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Zoë's", "'Zo%C3%AB%27s'"),
        (Decimal("1.50"), "Decimal(1.50)"),
        (datetime(2024, 5, 1, tzinfo=ZoneInfo("Europe/Berlin")), "datetime(2024-05-01T00%3A00%3A00+02%3A00,ZoneInfo(Europe/Berlin))"),
        (timedelta(days=1, microseconds=5), "timedelta(1d0.000005s)"),
        (Colour.RED, "tests.test_keys.Colour.RED"),
        (Group(pk=7), "auth.group(7)"),
        (SimpleLazyObject(lambda: Group(pk=7)), "auth.group(7)"),
        ([1, ("a", None)], "list(1,tuple('a',None))"),
        (SafeString("a"), "SafeString('a')"),
    ],
)  # fmt: skip
def test_text_of_an_argument_is_readable(value, text):
    """A person sees which call an entry belongs to."""
    assert key_of(value) == f"f:value={text}"


@settings(deadline=None)
@given(texts, texts)
def test_two_texts_never_share_a_key(one, other):
    """Escaping loses nothing."""
    assert (key_of(one) == key_of(other)) is (one == other)
    assert (templated(one) == templated(other)) is (one == other)


def test_order_of_sets_and_dicts_does_not_matter():
    """What compares equal makes the same key."""
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"c", "a", "b"}) == "f:value=set('a','b','c')" == key_of({"b", "c", "a"})


def test_template_names_its_parameters():
    """A template is the key; what it leaves out is shared."""
    assert KeyMaker(price, key="price:{pk}").parts((7,), {"currency": "USD"}) == "price:7"
    assert KeyMaker(price, key="in:{currency}:p={pk}:x").parts((), {"pk": 7}) == "in:EUR:p=7:x"


def test_template_reaches_attributes_and_items():
    """Attributes and items of arguments may be named, those of self too."""
    total = KeyMaker(Cart.total, key="cart:{self.pk}:{currency}")
    deep = KeyMaker(single, key="d:{value.rows[1][id].name}")

    assert total.parts((Cart(5),), {}) == "cart:5:EUR"
    assert deep.parts((SimpleNamespace(rows=[0, {"id": SimpleNamespace(name="a b")}]),), {}) == "d:a%20b"


def test_template_shares_7_and_the_text_7():
    """A template renders by str(), so a path parameter and a primary key meet."""
    assert templated(7) == templated("7") == templated(Group(pk=7)) == templated(SimpleLazyObject(lambda: Group(pk=7)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"),
        (1.5, "1.5"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (date(2024, 5, 1), "2024-05-01"),
        (Level.LOW, "1"),
        (Colour.RED, "Colour.RED"),
        ("a:b{c}*", "a%3Ab%7Bc%7D%2A"),
        ("<b>", "%3Cb%3E"),
        ({"b", "a"}, "set('a','b')"),
        ([1, "1"], "list(1,'1')"),
        (b"a", "bytes(61)"),
        (gettext_lazy("plain"), "plain"),
        ("", ""),
    ],
)
def test_template_renders_by_str_and_escapes(value, text):
    """A value cannot forge a separator; containers have their typed, ordered text."""
    assert templated(value) == f"f:{text}"


@pytest.mark.parametrize(
    "value",
    [None, object(), Cart(1), SimpleLazyObject(object), Group(), print, iter([1]), [object()], HttpRequest()],
    ids=lambda value: type(value).__name__,
)
def test_template_refuses_what_has_no_stable_text(value):
    """None, addresses and unsaved rows would share a key, or never meet it again."""
    with pytest.raises(UncacheableCall, match=r"single\(value\).*'value'.*key="):
        templated(value)


def test_template_refuses_a_queryset(db):
    """The text of a QuerySet shows its first rows only, in angle brackets."""
    with pytest.raises(UncacheableCall):
        templated(Group.objects.all())


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Cart(1),
        Group(),
        Group,
        [Cart(1)],
        {"a": {1: Cart(1)}},
        endless(),
        len,
        1j,
        bytearray(b"a"),
        gettext_lazy("a"),
        HttpRequest(),
        10**5000,
        datetime(2024, 5, 1, tzinfo=OddZone()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_unknown_argument_is_refused(value):
    """The error names the function, the argument and the type, and says what to do."""
    with pytest.raises(UncacheableCall, match=r"tests\.test_keys\.single\(value\) .*'value'.* Pass key= "):
        key_of(value)


def test_refusal_names_the_innermost_type():
    """In a list of carts it is the cart that has no text."""
    with pytest.raises(UncacheableCall, match=r"tests\.test_keys\.Cart has no text"):
        key_of([1, Cart(1)])


def test_refusal_says_that_a_row_is_not_saved():
    """An unsaved row is fixed by saving it, not by key=."""
    with pytest.raises(UncacheableCall, match="Group is not saved"):
        key_of(Group())


def test_refusal_does_not_show_the_value():
    """Arguments may be secrets."""
    with pytest.raises(UncacheableCall) as caught:
        key_of({"password": Cart("hunter2")})

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", [[], None, {"a": 1}, 5])
def test_field_that_cannot_be_reached_is_refused(value):
    """A template over `ids[0]` says so when there are no ids."""
    with pytest.raises(UncacheableCall, match="'value'"):
        KeyMaker(single, key="f:{value[0].pk}").parts((value,), {})


def test_self_works_for_saved_rows_only():
    """A method of a model is cached by its row; any other self needs key=."""
    maker = KeyMaker(Cart.total, namespace="total")

    assert maker.parts((Group(pk=7),), {}) == "total:self=auth.group(7):currency='EUR'"
    with pytest.raises(UncacheableCall, match=r"'self'.*key=\"cart:\{self\.pk\}\""):
        maker.parts((Cart(1),), {})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "empty"),
        ("price", "names no parameter: all calls of tests.test_keys.price(pk, currency) would share one entry"),
        ("price:{id}", "key='price:{id}' names 'id', which is no parameter of tests.test_keys.price(pk, currency). Use one of: pk, currency."),
        ("price:{}", "no parameter"),
        ("price:{0}", "names '0'"),
        ("price:{pk:>5}", "names 'pk:>5'"),
        ("price:{pk!r}", "names 'pk!r'"),
        ("price:{pk.}", "names 'pk.'"),
        ("price:{pk()}", "no parameter"),
        ("price:{pk", "contains '{'"),
        ("price:pk}", "contains '}'"),
        ("price:{{pk}}", "contains '{'"),
        ("price:#{pk}", "contains '#'"),
        ("price:*:{pk}", "contains '*'"),
        ("price:[{pk}]", "contains '['"),
        ("the price:{pk}", "contains ' '"),
        ("price:{pk}\n", "contains '\\n'"),
        ("price%3A{pk}", "contains '%'"),
        ("price~{pk}", "contains '~'"),
        ("{pk}:price", "begins with no name of its own"),
        ("p:{pk}{currency}", "no ':' between two fields"),
        ("p:{pk}-{currency}", "no ':' between two fields"),
    ],
)  # fmt: skip
def test_template_that_cannot_tell_calls_apart_is_an_error(key, message):
    """A wrong template is found when the function is decorated, and the error says what is right."""
    with pytest.raises(TypeError, match=re.escape(message)):
        KeyMaker(price, key=key)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "a:{pk}", "namespace": "b"}, "not both"),
        ({"namespace": ""}, "empty"),
        ({"namespace": "a b"}, "contains ' '"),
    ],
)
def test_key_and_namespace_exclude_each_other(options, message):
    """A template begins with a namespace of its own; neither may be empty or odd."""
    with pytest.raises(TypeError, match=message):
        KeyMaker(price, **options)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"pk": 1}), ((1,), {"colour": 1}), ((), {"currency": "EUR"})],
)
@pytest.mark.parametrize("options", [{}, {"key": "price:{pk}"}])
def test_wrong_call_is_the_callers_type_error(args, kwargs, options):
    """A call that does not fit the function fails as it would without a cache, and names the function."""
    with pytest.raises(TypeError, match=r"tests.test_keys.price\(pk, currency\): ") as caught:
        KeyMaker(price, **options).parts(args, kwargs)

    assert not isinstance(caught.value, UncacheableCall)


def test_wrong_call_never_runs_the_function():
    """Decorated by others, the function is still only asked for its signature."""

    @wraps(price)
    def around(*args, **kwargs):
        raise AssertionError("ran")

    with pytest.raises(TypeError, match="missing a required argument: 'pk'"):
        KeyMaker(around).parts((), {})


def test_wrong_call_of_a_partial_is_a_type_error():
    """What is no plain function is judged by its signature alone."""
    with pytest.raises(TypeError, match="pk"):
        KeyMaker(partial(price, currency="USD"), key="price:{pk}").parts((), {})


def test_partial_arguments_are_in_the_key():
    """What a partial fixes by keyword is a default like any other."""
    assert KeyMaker(partial(price, currency="USD"), namespace="p").parts((7,), {}) == "p:pk=7:currency='USD'"


@pytest.mark.parametrize("function", [lambda value: value, partial(price)])
def test_nameless_functions_need_a_name(function):
    """Two lambdas of a module would share their keys."""
    with pytest.raises(TypeError, match="Pass key= or namespace="):
        KeyMaker(function)


def test_namespace_is_module_and_qualified_name():
    """A class-based view is named by its class, since all as_view() functions have one name."""
    assert namespace_of(price) == "tests.test_keys.price"
    assert namespace_of(Cart.total) == "tests.test_keys.Cart.total"
    assert namespace_of(Page.as_view()) == "tests.test_keys.Page"


def test_keys_are_the_same_in_every_process():
    """Hash randomisation changes the order of sets, and must not change keys."""
    code = (
        "from redis_integration.keys import KeyMaker\n"
        "def f(a): ...\n"
        "print(KeyMaker(f, namespace='f').parts(({'a', 'b', 'c', 'd'},), {}), KeyMaker(f, key='k:{a}').parts(({'a', 'b', 'c'},), {}))"
    )  # fmt: skip
    told = {subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout for seed in "123"}  # fmt: skip

    assert told == {b"f:a=set('a','b','c','d') k:set('a','b','c')\n"}


PAGE: dict[str, Any] = {
    "namespace": "shop.views.product_list",
    "scheme": "https",
    "host": "shop.example:8000",
    "path": "/products/",
    "query": "",
    "language": None,
    "time_zone": None,
}


def test_view_key_is_readable():
    """Namespace, scheme, host, path, query, language and time zone, in this order."""
    key = view_key(**PAGE | {"query": "page=2&q=a+b", "language": "de", "time_zone": "Europe/Berlin"})

    assert key == "shop.views.product_list:https:shop.example%3A8000:/products/:page=2&q=a%20b:de:Europe/Berlin"


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "shop.views.other"},
        {"scheme": "http"},
        {"host": "shop.example"},
        {"path": "/products"},
        {"path": "/products/:de"},
        {"path": "/pröducts/"},
        {"query": "a=1"},
        {"language": "de"},
        {"time_zone": "UTC"},
    ],
    ids=str,
)
def test_what_makes_another_page_makes_another_key(change):
    """Each part of the request tells pages apart, and nothing in it is dropped."""
    assert view_key(**PAGE | change) != view_key(**PAGE)


def test_queries_that_differ_make_different_keys():
    """Blank values, repeated names and bytes that are not UTF-8 are told apart."""
    queries = [
        "",
        "a",
        "a=",
        "a=1",
        "a=1&a=2",
        "a=2&a=1",
        "a=1&b",
        "a=1%26b",
        "a=%FF",
        "a=%FE",
        "a=%EF%BF%BD",
        "a=%2B",
        "a=+",
    ]

    assert len({view_key(**PAGE | {"query": query}) for query in queries}) == len(queries)


@pytest.mark.parametrize(
    "query",
    ["b=1&a=2&a=1", "a=2&b=1&a=1", "a=2&a=1&b=1", "%61=2&a=%31&b=1"],
)
def test_order_of_names_does_not_matter(query):
    """The order of one name's values does, as in request.GET.getlist()."""
    assert view_key(**PAGE | {"query": query}).split(":")[4] == "a=2&a=1&b=1"


def test_visitor_cannot_forge_another_page():
    """Host, path and query are percent-escaped: no separator, glob or blank of a visitor reaches the key."""
    key = view_key(**PAGE | {"host": "a:b", "path": "/x:y/*?[z] {}#", "query": "q=a:b*&%0a=%26%3D"})

    assert key == "shop.views.product_list:https:a%3Ab:/x%3Ay/%2A%3F%5Bz%5D%20%7B%7D%23:%0A=%26%3D&q=a%3Ab%2A::"
