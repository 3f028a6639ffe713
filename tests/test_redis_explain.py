"""The command redis_explain: what it calls with which arguments, and what it says of mistakes."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command
from django.http import HttpResponse

from redis_integration import cache_aside, cache_aside_many, cache_aside_view, get_redis


@cache_aside(ttl=60, key="price:{pk}:{currency}")
def price(pk, currency="EUR"):
    return f"{pk!r} {currency!r}"


@cache_aside(ttl=60)
def typed(pk):
    return pk


@cache_aside(ttl=60, key="rates:{currency}", tags=["rates"])
async def rates(currency):
    return currency


@cache_aside_many(ttl=60, key="listed:{pks}")
def listed(pks):
    return pks


@cache_aside(ttl=60, key="elsewhere", alias="elsewhere")
def elsewhere():
    return 1


@cache_aside_view(ttl=60)
def page(request):
    return HttpResponse()


class Cart:
    def __init__(self, pk):
        self.pk = pk

    @cache_aside(ttl=60, key="cart:{self.pk}")
    def total(self):
        return 0


def plain():
    return 1


def run(*arguments):
    """What the command wrote."""
    stdout = io.StringIO()
    call_command("redis_explain", *arguments, stdout=stdout)
    return stdout.getvalue()


def refusal(*arguments):
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_call_is_explained(live, prefix):
    """The lines of `explain`, for the arguments as they would stand in Python."""
    price(7, currency="USD")

    lines = run(f"{__name__}.price", "7", "currency=USD").splitlines()

    assert lines[:3] == [f"key     {prefix}:price:7:USD", "redis   up", "answer  redis: fresh"]


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("7", "pk=7"),
        ("-7", "pk=-7"),
        ("'7'", "pk='7'"),
        ("None", "pk=None"),
        ("(1, 'a')", "pk=tuple(1,'a')"),
        ("seven", "pk='seven'"),
        ("2026-10-11", "pk='2026-10-11'"),
        ("pk=7", "pk=7"),
        ("pk=a=b", "pk='a%3Db'"),
        ("'a=b'", "pk='a%3Db'"),
        ("\x1b[31m\n", "pk='%1B%5B31m%0A'"),
    ],
)
def test_arguments_are_literals_or_text(live, prefix, argument, part):
    """What reads as a Python literal is one; a name before = makes it an argument by name."""
    assert (
        run(f"{__name__}.typed", argument).splitlines()[0] == f"key     {prefix}:tests.test_redis_explain.typed:{part}"
    )


def test_a_coroutine_function_is_explained(live, prefix):
    """The command awaits what must be awaited."""
    assert f"key     {prefix}:rates:EUR\n" in run(f"{__name__}.rates", "EUR")


def test_an_item_of_a_list_is_explained(live, prefix):
    """`cache_aside_many`: the argument is one item."""
    listed([3])

    assert "answer  redis: fresh\n" in run(f"{__name__}.listed", "3")


def test_a_lease_cannot_speak_to_the_terminal(live):
    """What stands in Redis is escaped, as the keys of redis_scan are."""
    get_redis().set(f"{{{price.key_for(7)}}}:lease", b"12345678\x1b[31mred\n", px=60_000)

    assert "lease   \\x1b[31mred\\x0a\n" in run(f"{__name__}.price", "7")


@pytest.mark.django_db
def test_redis_down_is_an_answer(settings):
    """The command is for the moment of an outage: it says so, and ends well."""
    text = run(f"{__name__}.price", "7")

    assert "redis   down: Redis at 127.0.0.1:1/0: " in text
    assert "answer  origin: no row of the database\n" in text


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("shop.prices.price", "shop cannot be imported: there is no such module."),
        ("tests.nowhere.price", "tests.nowhere cannot be imported: there is no 'nowhere' in tests."),
        (f"{__name__}.prize", f"{__name__}.prize cannot be imported: there is no 'prize' in {__name__}."),
        (f"{__name__}.Cart.sum", f"{__name__}.Cart.sum cannot be imported: there is no 'sum' in {__name__}.Cart."),
        ("", " is no path such as shop.prices.price."),
        ("tests/test\n.py", "tests/test\\x0a.py is no path such as shop.prices.price."),
    ],
)
def test_a_path_that_leads_nowhere_names_the_part(path, message):
    """Which part is missing, and where."""
    assert refusal(path) == message


def test_a_module_that_fails_says_why(monkeypatch, tmp_path):
    """An error inside the user's module is not taken for a missing one."""
    (tmp_path / "broken_prices.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert refusal("broken_prices.price") == (
        "broken_prices cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'."
    )


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (f"{__name__}.plain", "function"),
        (f"{__name__}.Cart", "type"),
        (__name__, "module"),
        ("django.contrib.auth.models.User.objects", "UserManager"),
    ],
)
def test_what_is_not_decorated_is_refused(path, kind):
    """It says what was found, and what to name; the explain() of a QuerySet is not called."""
    message = refusal(path)

    assert message.startswith(f"{path} is a {kind} that nothing of this package decorates.")
    assert "@cache_aside" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["price"], "price(pk, currency): missing a required argument: 'pk'."),
        (["price", "1", "2", "3"], "price(pk, currency): too many positional arguments."),
        (["price", "1", "pk=2"], "price(pk, currency): multiple values for argument 'pk'."),
        (["price", "nation=2"], "price(pk, currency): missing a required argument: 'pk'."),
        (["price", "pk=1", "pk=2"], "pk is given twice."),
        (["price", "None"], "cannot be cached by its argument 'pk'"),
        (["Cart.total", "7"], "cannot be cached by its argument 'self'"),
        (["elsewhere"], "REDIS_INTEGRATION has no alias 'elsewhere', only 'default'."),
        (["page"], "is a view: call its explain() in Python, with a request and its arguments."),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    """The signature, or what is wrong with the argument."""
    assert message in refusal(f"{__name__}.{arguments[0]}", *arguments[1:])


def test_options_are_not_abbreviated(capsys):
    """--verb is no option."""
    with pytest.raises(CommandError, match="unrecognized arguments: --verb"):
        call_command("redis_explain", f"{__name__}.price", "7", "--verb=2")


def test_help_shows_an_example(capsys):
    """What to type, and how arguments are read."""
    with pytest.raises(SystemExit):
        call_command("redis_explain", "--help")

    text = capsys.readouterr().out
    assert "manage.py redis_explain shop.prices.price 7 currency=USD" in " ".join(text.split())
    assert "Python literal" in text
