from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import django
import pytest
from django.contrib.auth.models import User
from django.contrib.messages import add_message, constants
from django.contrib.messages.storage.cookie import CookieStorage
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.template import Context, Engine, TemplateSyntaxError, engines
from django.test import RequestFactory
from django.urls import path
from django.utils import timezone, translation
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString, mark_safe

from redis_integration import (
    UncacheableCall,
    cache_aside,
    cache_aside_view,
    get_redis,
    invalidate,
    undecorated,
)
from redis_integration.tiers.leases import lease_key

needs_csp = pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has CSP nonces since 6.0")
LOAD = "{% load redis_integration %}"
USERS = "django.contrib.auth.context_processors.auth"


class Block:
    """Counts how often it is rendered, in `{{ block }}`."""

    def __init__(self):
        self.calls = 0
        self.error = None

    def __str__(self):
        self.calls += 1
        if self.error:
            raise self.error
        return f"rendered {self.calls}"


@pytest.fixture(autouse=True)
def forget_what_was_logged():
    undecorated._known.clear()


@pytest.fixture
def block():
    return Block()


def compiled(text):
    return engines["django"].from_string(LOAD + text)


def render(text, request=None, **context):
    return compiled(text).render(context, request)


def fragment(arguments, block, content="{{ block }}", request=None, **context):
    """What a template of one fragment renders."""
    text = f"{{% cache_aside {arguments} %}}{content}{{% endcache_aside %}}"
    return render(text, request, block=block, **context)


def keys(prefix):
    return sorted(key.decode().removeprefix(f"{prefix}:") for key in get_redis().scan_iter(f"{prefix}:[a-z]*"))


@pytest.fixture
def visit():
    """A request of a visitor who is logged in, has a theme and a message; nothing of it is loaded."""
    request = RequestFactory().get("/")
    request.session = SessionStore()
    request.session.update({"theme": "dark"})
    request.session.accessed = request.session.modified = False
    request.user = SimpleLazyObject(
        lambda: request.session.get("theme") and User(pk=7, username="alice", is_superuser=True)
    )
    request._messages = CookieStorage(request)
    return request


# What is kept


def test_second_rendering_is_answered_from_redis(live, block):
    """The block is rendered once, whatever its context."""
    assert [fragment('300 "side"', block, other=number) for number in range(3)] == ["rendered 1"] * 3


def test_a_hit_is_what_the_miss_was(live):
    """Safe text, character by character."""
    text = '{% cache_aside 300 "a" %}<b title="ä">\n{{ word }}</b>{% endcache_aside %}'

    first, second = [render(text, word="<&>") for _ in range(2)]

    assert first == second == '<b title="ä">\n&lt;&amp;&gt;</b>'
    assert type(first) is type(second) is SafeString


def test_a_filter_around_it_sees_safe_text(live):
    """Both times."""
    text = '{% filter force_escape %}{% cache_aside 300 "a" %}<b>{% endcache_aside %}{% endfilter %}'

    assert [render(text), render(text)] == ["&lt;b&gt;"] * 2


def test_key_can_be_read(live, prefix, block):
    """Name, values with their types, language, time zone."""
    fragment('300 "side bar" product.pk "x" kind', block, product={"pk": 7}, kind="a:b")

    assert keys(prefix) == ["fragment:side%20bar:7:SafeString('x'):'a%3Ab':en-us:America/Chicago"]


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (1, 2),
        (1, "1"),
        (1, True),
        (None, "None"),
        ("", None),
        ("a:b", "a%3Ab"),
        ("<b>", mark_safe("<b>")),
        ([1, 2], [2, 1]),
        (User(pk=1), User(pk=2)),
        (User(pk=1), 1),
    ],
)
def test_values_tell_entries_apart(live, block, one, another):
    """By what they are and not only by how they look: 1,000 and "1000" are written differently."""
    texts = [fragment('300 "a" value', block, value=value) for value in (one, another, one)]

    assert texts == ["rendered 1", "rendered 2", "rendered 1"]


def test_values_do_not_run_into_each_other(live, block):
    """Each has a part of its own."""
    assert fragment('300 "a" "x:y" "z"', block) == "rendered 1"
    assert fragment('300 "a" "x" "y:z"', block) == "rendered 2"
    assert fragment('300 "a" "x"', block) == "rendered 3"


def test_language_tells_entries_apart(live, block, settings):
    """Without a word in the template; where Django translates nothing, there is one entry."""
    with translation.override("de"):
        assert fragment('300 "a"', block) == "rendered 1"
    assert fragment('300 "a"', block) == "rendered 2"
    text = "{% load i18n %}{% language 'de' %}{% cache_aside 300 'a' %}x{% endcache_aside %}{% endlanguage %}"
    assert render(text) == "rendered 1"

    settings.USE_I18N = False
    assert fragment('300 "a"', block) == "rendered 3"


def test_time_zone_tells_entries_apart(live, block, settings):
    """A date may be another one there."""
    with timezone.override("Asia/Tokyo"):
        assert fragment('300 "a"', block) == "rendered 1"
    assert fragment('300 "a"', block) == "rendered 2"

    settings.USE_TZ = False
    assert fragment('300 "a"', block) == "rendered 3"


def test_autoescape_tells_entries_apart(live):
    """What was written unescaped is never shown where Django escapes."""
    text = '{% cache_aside 300 "a" %}{{ word }}{% endcache_aside %}'

    assert render(f"{{% autoescape off %}}{text}{{% endautoescape %}}", word="<b>") == "<b>"
    assert render(text, word="<b>") == "&lt;b&gt;"


def test_localization_tells_entries_apart(live, settings):
    """`{% localize off %}` and `{% localtime off %}` change how values are written."""
    settings.USE_THOUSAND_SEPARATOR = True
    text = '{% cache_aside 300 "a" %}{{ number }}{% endcache_aside %}'

    assert render(text, number=1000) == "1,000"
    assert render(f"{{% load l10n %}}{{% localize off %}}{text}{{% endlocalize %}}", number=1000) == "1000"
    assert render(f"{{% load tz %}}{{% localtime off %}}{text}{{% endlocaltime %}}", number=2000) == "2,000"


def test_a_ttl_may_be_a_variable(live, block, prefix):
    """Seconds or a timedelta."""
    fragment('ttl "a"', block, ttl=60)
    fragment('ttl "b"', block, ttl=timedelta(minutes=10))

    ends = [get_redis().pttl(f"{prefix}:{key}") for key in keys(prefix)]
    assert 50_000 < ends[0] <= 60_000 < 530_000 < ends[1] <= 600_000


def test_assignments_end_with_the_fragment(live, settings):
    """On a miss as on a hit, and where caching is off: else a page would change with its second rendering."""
    text = '{% cache_aside 300 "a" %}{% now "Y" as year %}{% endcache_aside %}[{{ year }}]'

    assert [render(text), render(text)] == ["[]", "[]"]
    settings.REDIS_INTEGRATION = {"default": {**settings.REDIS_INTEGRATION["default"], "ENABLED": False}}
    assert render(text) == "[]"


def test_state_outside_of_it_goes_on(live):
    """A `{% cycle %}` around fragments is not theirs."""
    text = (
        "{% for row in rows %}{% cycle 'odd' 'even' as kind %}{% cache_aside 300 'row' row kind %}{{ row }}"
        "{% endcache_aside %} {% ifchanged %}{{ row }}{% endifchanged %} {% endfor %}"
    )

    assert render(text, rows=[1, 1, 2]) == render(text, rows=[1, 1, 2]) == "odd1 1 even1  odd2 2 "


def test_disabled_fragments_are_rendered(live, settings, block):
    """Each time, and nothing is asked."""
    settings.REDIS_INTEGRATION = {"default": {**settings.REDIS_INTEGRATION["default"], "ENABLED": False}}

    assert [fragment('300 "a"', block) for _ in range(2)] == ["rendered 1", "rendered 2"]


@pytest.mark.parametrize(("arguments", "round_trips"), [('"warm" tags="x y"', 1), ('"cold" tags="x y"', 3)])
def test_it_costs_the_round_trips_of_a_function(live_own, block, arguments, round_trips):
    """One for a hit, its tags included, three for a miss, counted at the server as it reads."""
    fragment('300 "warm" tags="x y"', block)
    before = get_redis().info("stats")["total_reads_processed"]

    fragment(f"300 {arguments}", block)

    # The question itself is read too.
    assert get_redis().info("stats")["total_reads_processed"] - before - 1 == round_trips


# Invalidation


def test_a_name_ends_all_its_entries(live, block):
    """Whatever their values and languages."""
    fragment('300 "side" 1', block)
    with translation.override("de"):
        fragment('300 "side" 2', block)
    fragment('300 "other"', block)

    invalidate(tags=["fragment:side"])

    assert fragment('300 "side" 1', block) == "rendered 4"
    with translation.override("de"):
        assert fragment('300 "side" 2', block) == "rendered 5"
    assert fragment('300 "other"', block) == "rendered 3"


@pytest.mark.parametrize(
    "tags",
    [
        '"products product:{product.pk}"',
        "'products,product:{product.pk}'",
        '"products, product:{product.pk|add:0}"',
        "found",
        "words",
        '"product:{product}"',
        '"product:"|add:number',
    ],
)
def test_tags_end_it(live, block, tags):
    """Text with values in braces, or a variable: a list, or text."""
    product = User(pk=7)
    context = {"product": product, "found": ["product:7"], "words": "a, product:7", "number": "7"}
    fragment(f'300 "a" tags={tags}', block, **context)

    invalidate(tags=["product:8"])
    assert fragment(f'300 "a" tags={tags}', block, **context) == "rendered 1"

    invalidate(tags=["product:7"])
    assert fragment(f'300 "a" tags={tags}', block, **context) == "rendered 2"


@pytest.mark.parametrize("value", ["a b", "a,b", "<b>", "ü", "{x}"])
def test_a_value_in_a_tag_is_one_word(live, block, value):
    """What a user typed makes no second tag."""
    fragment('300 "a" tags="word:{value}"', block, value=value)

    invalidate(tags=[f"word:{value}"])

    assert fragment('300 "a" tags="word:{value}"', block, value=value) == "rendered 2"


@pytest.mark.parametrize(
    ("tags", "error", "fact"),
    [
        ("found", UncacheableCall, "tags= of cache_aside 'a' holds a int"),
        ("none", UncacheableCall, "tags= of cache_aside 'a' is a NoneType"),
        ("missing", TemplateSyntaxError, "there is no missing in this context"),
        ('"product:{missing.pk}"', TemplateSyntaxError, "there is no missing.pk in this context"),
        ('"product:{thing}"', UncacheableCall, "object has no text"),
        ('"product:{found}"', UncacheableCall, "is a container"),
        ('"{empty}"', UncacheableCall, "holds an empty string"),
    ],
)
def test_tags_that_cannot_be_made_are_refused(live, block, tags, error, fact):
    """A fragment without its tag would stay when its data change."""
    with pytest.raises(error, match=fact):
        fragment(f'300 "a" tags={tags}', block, found=[7], none=None, thing=object(), empty="")
    assert block.calls == 0


def test_an_outer_fragment_is_ended_by_its_own_tags(live, block):
    """The tag of an inner one ends that one only: give it to the outer, too."""
    inner = "{% cache_aside 300 'inner' tags='x' %}{{ block }}{% endcache_aside %}"
    fragment('300 "outer"', block, inner)

    invalidate(tags=["x"])
    assert fragment('300 "outer"', block, inner) == "rendered 1"

    invalidate(tags=["fragment:outer"])
    assert fragment('300 "outer"', block, inner) == "rendered 2"


# What is refused, and when


@pytest.mark.parametrize(
    ("tag", "fact"),
    [
        ("cache_aside", "takes seconds and a name in quotes. Write {% cache_aside 300"),
        ("cache_aside 300", "takes seconds and a name in quotes"),
        ("cache_aside 300 sidebar", "takes seconds and a name in quotes"),
        ('cache_aside 300 ""', "takes seconds and a name in quotes"),
        ('cache_aside "sidebar" 300', "takes seconds and a name in quotes"),
        ('cache_aside 0 "a"', "cache_aside 'a': ttl is 0. Give more than 0 seconds"),
        ('cache_aside -5 "a"', "ttl is -5"),
        ('cache_aside None "a"', "ttl is None"),
        ('cache_aside "300" "a"', "ttl is '300'. Give seconds as a number"),
        ('cache_aside 300 "a" using="x"', "using= is no option. It takes each of these once: tags, stale_for, durable"),
        ('cache_aside 300 "a" tags="x" tags="y"', "tags= is given twice"),
        ('cache_aside 300 "a" stale_for="x"', "stale_for is 'x'"),
        ('cache_aside 300 "a" durable=5', "durable is 5"),
        ('cache_aside 300 "a" tags="x:{a"', "the tag 'x:{a' is no template"),
        ('cache_aside 300 "a" tags="x:{a b}"', "the tag 'x:{a' is no template"),
        ('cache_aside 300 "a" tags="x:{a|nofilter}"', "Invalid filter: 'nofilter'"),
        ('cache_aside 300 "a" x|nofilter', "Invalid filter: 'nofilter'"),
    ],
)
def test_slips_are_told_when_the_template_is_compiled(tag, fact):
    """With the way to write it; no server is asked."""
    with pytest.raises(TemplateSyntaxError) as caught:
        compiled(f"{{% {tag} %}}x{{% endcache_aside %}}")
    assert fact in str(caught.value)


def test_the_end_is_missed():
    """Django's own words."""
    with pytest.raises(TemplateSyntaxError, match="Unclosed tag on line 1: 'cache_aside'"):
        compiled('{% cache_aside 300 "a" %}x')


@pytest.mark.parametrize(
    ("arguments", "error", "fact"),
    [
        ('ttl "a"', TemplateSyntaxError, "cache_aside 'a': ttl is 0"),
        ('missing "a"', TemplateSyntaxError, "there is no missing in this context"),
        ('300 "a" missing', TemplateSyntaxError, r"there is no missing in this context.*missing\|default:0"),
        ('300 "a" missing|upper', TemplateSyntaxError, "there is no missing in this context"),
        ('300 "a" product.missing', TemplateSyntaxError, "there is no product.missing"),
        ('300 "a" nothing.pk', TemplateSyntaxError, "there is no nothing.pk"),
        ('300 "a" stale_for=missing', TemplateSyntaxError, "there is no missing"),
        ('300 "a" thing', UncacheableCall, "builtins.object has no text.*its primary key"),
        ('300 "a" unsaved', UncacheableCall, "User is not saved"),
    ],
)
def test_values_that_tell_nothing_apart_are_refused(live, block, arguments, error, fact):
    """Django would take an empty text, and all pages that lack the variable would share one fragment."""
    with pytest.raises(error, match=fact):
        fragment(arguments, block, ttl=0, product={"pk": 7}, nothing=None, thing=object(), unsaved=User())
    assert block.calls == 0


def test_a_default_stands_for_what_is_missing(live, block):
    """Who says so may leave a variable out."""
    assert fragment('300 "a" missing|default:0', block) == "rendered 1"
    assert fragment('300 "a" missing|default:0', block, missing=5) == "rendered 2"


def test_an_unknown_alias_is_told(live, block):
    """As everywhere."""
    with pytest.raises(Exception, match="no alias 'nope'"):
        fragment('300 "a" alias="nope"', block)


# The visitor


PRIVATE = [
    ("{{ user.username }}", "user"),
    ("{{ request.user.username }}", "user"),
    ("{% if user.is_authenticated %}hello{% endif %}", "user"),
    ("{% if perms.shop.buy %}buy{% endif %}", "user"),
    ("{% csrf_token %}", "CSRF token"),
    ("{{ csrf_token }}", "CSRF token"),
    ("{% include form %}", "CSRF token"),
    ("{% if messages %}you have some{% endif %}", "messages"),
    ("{{ request.session.theme }}", "session"),
    ("{{ request.session.session_key }}", "session"),
    ("{% cache_aside 300 'inner' %}{{ user.username }}{% endcache_aside %}", "user"),
    ("{% cache_aside 300 'inner' user.pk %}mine{% endcache_aside %}", "user"),
    ("{% include other %}", "user"),
]


def read_all(request, context):
    """Everything of the visitor, as a page around the fragment may read it."""
    return [str(request.user.username), dict(request.session), [*request._messages], get_token(request)]


@pytest.mark.parametrize("before", [lambda *_: None, read_all], ids=["first", "read_before"])
@pytest.mark.parametrize(("content", "kind"), PRIVATE)
def test_what_shows_its_visitor_is_not_stored(live, visit, block, caplog, prefix, content, kind, before):
    """Also where the page around it has read all that before: what counts is what happens while it is rendered."""
    others = {"form": compiled("{% csrf_token %}"), "other": compiled("{{ user.username }}")}
    before(visit, None)
    text = f"{{% csrf_token %}}{{{{ user.username }}}}{{% cache_aside 300 'a' %}}{content}{{{{ block }}}}{{% endcache_aside %}}"

    pages = [render(text, visit, block=block, **others) for _ in range(2)]

    assert ["rendered 1" in pages[0], "rendered 2" in pages[1]] == [True, True]
    assert [key for key in keys(prefix) if key.startswith("fragment:a:")] == []
    assert "'a' shows its visitor's own" in caplog.text
    assert kind in caplog.text


def test_it_is_told_once(live, visit, block, caplog):
    """Not at each rendering."""
    [fragment('300 "a"', block, "{{ user }}", visit) for _ in range(3)]

    assert caplog.text.count("redis_integration.fragment_private") == 1
    assert "name the visitor (user.pk) in the tag" in caplog.text


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("user.pk", "{{ user.username }}"),
        ("user", "{{ request.user.username }}"),
        ("request.user.pk", "{{ user.username }}{% if perms.shop.buy %}buy{% endif %}"),
        ("request.session.theme", "{{ request.session.theme }}"),
        ("user.is_authenticated", "{% if user.is_authenticated %}hello{% endif %}"),
    ],
)
def test_a_visitor_in_the_key_may_be_shown(live, visit, block, value, content):
    """The entry is this visitor's."""
    texts = [fragment(f'300 "a" {value}', block, content + "{{ block }}", visit) for _ in range(2)]

    assert texts[0] == texts[1]
    assert block.calls == 1


def test_anonymous_visitors_share_an_entry_of_their_own(live, visit, block):
    """`user.pk` is None for all of them."""
    text = '300 "a" user.pk'
    assert fragment(text, block, "{{ user }} {{ block }}", visit).endswith("rendered 1")
    visit.user = SimpleLazyObject(lambda: type("Anonymous", (), {"pk": None, "__str__": lambda self: "nobody"})())

    assert [fragment(text, block, "{{ user }} {{ block }}", visit) for _ in range(2)] == ["nobody rendered 2"] * 2


@pytest.mark.parametrize("before", [lambda *_: None, read_all], ids=["first", "read_before"])
@pytest.mark.parametrize("content", ["{{ block }}", "{{ request.path }}{{ block }}", "{% include other %}{{ block }}"])
def test_what_is_everybodys_is_stored_for_visitors_with_a_session(live, visit, block, content, before):
    """The page around it may be as private as it likes."""
    before(visit, None)

    [fragment('300 "a"', block, content, visit, other=compiled("x")) for _ in range(2)]

    assert block.calls == 1


def test_nothing_lazy_is_loaded_for_a_fragment(live, visit, block):
    """Neither on a miss nor on a hit: the page stays anonymous."""
    [fragment('300 "a"', block, "{{ request.path }}", visit) for _ in range(2)]

    assert not visit.session.accessed
    assert "CSRF_COOKIE_NEEDS_UPDATE" not in visit.META


def test_the_request_is_as_it_was(live, visit):
    """What stood in for its parts is gone, and what the block did to them has happened."""
    user, session, messages = visit.user, visit.session, visit._messages

    fragment('300 "a"', Block(), "{{ request.session.theme }}{% csrf_token %}", visit)

    assert (visit.user, visit.session, visit._messages) == (user, session, messages)
    assert visit.user is user
    assert visit.session is session
    assert visit._messages is messages
    assert session.accessed
    assert visit.META["CSRF_COOKIE_NEEDS_UPDATE"]


def test_a_token_of_the_page_stays_issued(live, visit):
    """The fragment showed none, and the cookie is sent all the same."""
    get_token(visit)

    fragment('300 "a"', Block(), "x", visit)

    assert visit.META["CSRF_COOKIE_NEEDS_UPDATE"] is True


def test_a_request_in_a_plain_context_is_seen(live, visit, prefix):
    """A context without a request of its own may have a variable of that name, and a token."""
    template = Engine(libraries={"ours": "redis_integration.templatetags.redis_integration"}).from_string(
        "{% load ours %}{% cache_aside 300 'a' %}{{ request.user.username }}{{ csrf_token }}{% endcache_aside %}"
    )

    assert template.render(Context({"request": visit, "csrf_token": "secret"})) == "alicesecret"
    assert template.render(Context({"request": "no request"})) == ""
    assert keys(prefix) == ["fragment:a:en-us:America/Chicago"]


class RestRequest:
    """A request as Django REST framework makes it: around Django's own, with a user of its own."""

    def __init__(self, request):
        self._request = request
        self._user = User(pk=8, username="bob")

    @property
    def user(self):
        return self._user

    def __getattr__(self, name):
        return getattr(self._request, name)


@pytest.mark.parametrize(
    "content", ["{{ request.user.username }}", "{{ request.session.theme }}", "{{ user.username }}"]
)
def test_a_request_around_a_request_is_seen(live, visit, prefix, content):
    """What is read of either is noted."""
    text = fragment('300 "a"', Block(), content, RestRequest(visit))

    assert text in ("bob", "dark")
    assert keys(prefix) == []


def test_messages_that_are_added_are_seen(live, visit, prefix):
    """A tag that adds one does it for this visitor."""
    noisy = Block()
    noisy.__class__ = type("Noisy", (Block,), {"__str__": lambda self: str(add_message(visit, constants.INFO, "hi"))})

    fragment('300 "a"', noisy, "{{ block }}", visit)

    assert keys(prefix) == []
    assert visit._messages.added_new


@pytest.mark.django_db(transaction=True)
@pytest.mark.urls("tests.test_fragment")
def test_two_visitors_of_one_page_get_their_own(live, client, block):
    """Through Django's own middleware: what is everybody's is rendered once, what is each one's for each."""
    users = [User.objects.create_user(name) for name in ("alice", "bob")]
    Page.block = block

    pages = []
    client.force_login(users[0])
    pages.append(client.get("/page/").content.decode())
    client.force_login(users[1])
    pages.append(client.get("/page/").content.decode())
    client.force_login(users[0])
    pages.append(client.get("/page/").content.decode())

    assert pages == [f"{name}|{name}|rendered 1|True" for name in ("alice", "bob", "alice")]


class Page:
    """A page with three fragments, and whether the session was read by then."""

    block: Block

    @staticmethod
    def show(request):
        text = (
            "{% cache_aside 300 'a' %}{{ user.username }}{% endcache_aside %}|"
            "{% cache_aside 300 'b' user.pk %}{{ request.user.username }}{% endcache_aside %}|"
            "{% cache_aside 300 'c' %}{{ block }}{% endcache_aside %}|{{ request.session.accessed }}"
        )
        return HttpResponse(render(text, request, block=Page.block))


urlpatterns = [path("page/", Page.show)]


@needs_csp
def test_a_nonce_is_seen(live, visit, prefix):
    """Each response has its own."""
    from django.utils.csp import LazyNonce

    visit._csp_nonce = LazyNonce()

    fragment('300 "a"', Block(), "{{ nonce }}", visit, csp_nonce=visit._csp_nonce)
    assert keys(prefix) != []
    text = fragment('300 "b"', Block(), "{{ csp_nonce }}", visit, csp_nonce=visit._csp_nonce)

    assert text == str(visit._csp_nonce)
    assert [key for key in keys(prefix) if ":b:" in key] == []


def test_a_cached_page_sees_what_its_fragments_show(live, visit, block):
    """A view that shows a visitor's own by way of a fragment is that visitor's own."""
    page = compiled("{% cache_aside 300 'a' user.pk %}{{ user.username }}{% endcache_aside %}")

    @cache_aside_view(ttl=60, namespace="page")
    def view(request):
        return HttpResponse(page.render({}, request))

    first, second = view(visit), view(visit)

    assert first.content == second.content == b"alice"
    assert "stored" not in first.headers["Cache-Status"]
    assert "fwd=miss" in second.headers["Cache-Status"]


# Inheritance


LAYOUT = "{% cache_aside 300 'main' %}{% block main %}none {{ block_ }}{% endblock %}{% endcache_aside %}"


@pytest.fixture
def engine():
    templates = {
        "layout.html": LOAD + LAYOUT,
        "one.html": "{% extends 'layout.html' %}{% block main %}one {{ block_ }}{% endblock %}",
        "two.html": "{% extends 'layout.html' %}{% block main %}two {{ block_ }} {{ block.super }}{% endblock %}",
        "part.html": LOAD + "{% cache_aside 300 'part' x %}{{ x }} {{ block_ }}{% endcache_aside %}",
        "tree.html": LOAD + "{% cache_aside 300 'tree' %}({% include 'tree.html' with n=n.next %}){% endcache_aside %}",
        "deep.html": LOAD + "{% cache_aside 300 'deep' n %}{{ n }}{% if n %}{% include 'deep.html' with n=n|add:-1 %}"
        "{% endif %}{% endcache_aside %}",
        "same.html": LOAD + "{% cache_aside 300 'same' %}{{ n }}{% if n %}{% include 'same.html' with n=n|add:-1 %}"
        "{% endif %}{% endcache_aside %}",
    }
    return Engine(
        loaders=[("django.template.loaders.locmem.Loader", templates)],
        libraries={"redis_integration": "redis_integration.templatetags.redis_integration"},
    )


def test_a_block_in_it_is_filled_by_each_template(live, engine, block):
    """A fragment that others fill is kept for each of them."""
    names = ["layout.html", "one.html", "two.html"] * 2

    texts = [engine.get_template(name).render(Context({"block_": block})) for name in names]

    assert texts[:3] == ["none rendered 1", "one rendered 2", "two rendered 3 none rendered 4"]
    assert texts[3:] == texts[:3]


def test_included_templates_share_their_fragments(live, engine, block):
    """The name is the site's, not the template's."""
    text = (
        "{% include 'part.html' with x=1 %}|{% include 'part.html' with x=2 %}|{% include 'part.html' with x=1 only %}"
    )

    assert engine.from_string(text).render(Context({"block_": block})) == "1 rendered 1|2 rendered 2|1 rendered 1"


def test_fragments_within_fragments_of_one_name(live, engine):
    """A tree that includes itself waits for nobody, also where the name and values are the very same."""
    assert engine.get_template("deep.html").render(Context({"n": 3})) == "3210"
    assert engine.get_template("deep.html").render(Context({"n": 2})) == "210"
    assert engine.get_template("same.html").render(Context({"n": 2})) == "210"


# The policy


def test_errors_of_the_block_go_through(live, block):
    """The very object; nothing is stored."""
    block.error = ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        fragment('300 "a"', block)
    assert caught.value is block.error

    block.error = None
    assert fragment('300 "a"', block) == "rendered 2"


def test_a_stale_copy_answers_where_the_block_fails(live, block, prefix):
    """With stale_for."""
    fragment('300 "a" stale_for=600', block)
    expire(prefix)

    block.error = ValueError("broken")

    assert fragment('300 "a" stale_for=600', block) == "rendered 1"


def test_a_stale_copy_is_rendered_anew_by_who_comes(live, block, prefix):
    """At once, and by no other thread: a context belongs to the one that renders."""
    fragment('300 "a" stale_for=600', block)
    expire(prefix)

    assert fragment('300 "a" stale_for=600', block) == "rendered 2"


def test_one_visitors_own_does_not_end_everybodys_stale_copy(live, visit, block, prefix):
    """Who shows it is told it himself; the others have the copy still."""
    content = "{% if mine %}{{ user.username }} {% endif %}{{ block }}"
    fragment('300 "a" stale_for=600', block, content)
    expire(prefix)

    assert fragment('300 "a" stale_for=600', block, content, visit, mine=True, user=visit.user) == "alice rendered 2"

    block.error = ValueError("broken")
    assert fragment('300 "a" stale_for=600', block, content) == "rendered 1"


def expire(prefix):
    (key,) = keys(prefix)
    made = cache_aside(ttl=300, key=key.replace("%", "_"))(lambda: None)
    assert made.key_for() == f"{prefix}:{key}"
    made.expire()


def test_a_stampede_costs_one_rendering(live, block):
    """Threads that come at once wait for one of them."""
    template = compiled('{% cache_aside 300 "a" %}{{ block }}{% endcache_aside %}')

    with ThreadPoolExecutor(8) as threads:
        texts = [*threads.map(lambda _: template.render({"block": block}), range(40))]

    assert texts == ["rendered 1"] * 40


def test_private_fragments_wait_for_nobody(live, block):
    """Each visitor gets his own."""
    template = compiled('{% cache_aside 300 "a" %}{{ user.username }}{{ block }}{% endcache_aside %}')

    def one(number):
        request = RequestFactory().get("/")
        request.user = User(pk=number, username=f"user{number} ")
        return template.render({"block": block}, request)

    with ThreadPoolExecutor(8) as threads:
        texts = [*threads.map(one, range(40))]

    assert [text.partition(" ")[0] for text in texts] == [f"user{number}" for number in range(40)]


@pytest.mark.django_db(transaction=True)
def test_the_database_answers_while_redis_is_down(live_own, block):
    """One rendering, then the row; tags end it."""
    live_own.stop()

    assert [fragment('300 "a" tags="x"', block) for _ in range(3)] == ["rendered 1"] * 3

    invalidate(tags=["x"])
    assert fragment('300 "a" tags="x"', block) == "rendered 2"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("options", [{"FALLBACK": "durable"}])
def test_a_durable_fragment_outlives_redis(live_own, block):
    """It was stored in the database too."""
    fragment('300 "a" durable=True', block)
    live_own.stop()

    assert fragment('300 "a" durable=True', block) == "rendered 1"


# On an event loop


def on_a_loop(call):
    async def main():
        return call()

    return asyncio.run(main())


def test_async_views_have_hits(live, block):
    """Templates are rendered on the loop's own thread."""
    assert [on_a_loop(lambda: fragment('300 "a"', block)) for _ in range(2)] == ["rendered 1"] * 2


@pytest.mark.django_db(transaction=True)
def test_a_loop_without_redis_renders(live_own, block):
    """The database may not be asked there: each rendering is its own, and nobody gets an error."""
    live_own.stop()

    assert [on_a_loop(lambda: fragment('300 "a"', block)) for _ in range(2)] == ["rendered 1", "rendered 2"]


def test_a_loop_waits_for_nobody(live, block, prefix):
    """Who has the lease may be a task of this very loop: the fragment is rendered here too, and not stored."""
    get_redis().set(lease_key(f"{prefix}:fragment:a:en-us:America/Chicago"), "another's", px=60_000)

    assert on_a_loop(lambda: fragment('300 "a" lease_timeout=60', block)) == "rendered 1"
    assert keys(prefix) == []
