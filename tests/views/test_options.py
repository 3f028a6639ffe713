from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from django.core.exceptions import PermissionDenied, SynchronousOnlyOperation
from django.http import Http404, HttpResponse
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views import View

from redis_integration import cache_aside_view
from tests.views.table import plain

pytestmark = pytest.mark.django_db(transaction=True)


async def awaited(request):
    return HttpResponse("page")


class AsyncPage(View):
    async def get(self, request):
        return HttpResponse("page")


def cached(view=plain, **options):
    return cache_aside_view(**{"ttl": 60, "namespace": "options", **options})(view)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"vary_on": "user"}, TypeError, "Give a list of items"),
        ({"vary_on": ["cookie:"]}, ValueError, "vary_on holds 'cookie:'"),
        ({"vary_on": ["cookie:a;b"]}, ValueError, "vary_on holds"),
        ({"vary_on": ["header:Accept"]}, ValueError, "vary_on holds"),
        ({"vary_on": ["Accept Language"]}, ValueError, "vary_on holds"),
        ({"vary_on": [7]}, ValueError, "vary_on holds 7"),
        ({"query": "page"}, TypeError, "Give a list of items"),
        ({"query": [7]}, TypeError, 'such as "page"'),
        ({"query": ["page"], "ignore_query": ["utm_*"]}, ValueError, "not both"),
        ({"ignore_query": [""]}, TypeError, 'such as "page"'),
        ({"ttl": 0}, ValueError, "ttl is 0"),
        ({"ttl": lambda response: 5}, TypeError, "ttl is"),
        ({"negative_ttl": {404: 5}}, TypeError, "negative_ttl is"),
        ({"browser_ttl": -1}, ValueError, "browser_ttl is -1"),
        ({"stale_if_error": "x"}, TypeError, "stale_if_error is"),
        ({"eager": 2}, ValueError, "eager is 2"),
        ({"durable": 1}, TypeError, "durable is 1"),
    ],
)
def test_option_without_meaning_is_refused_at_decoration(options, error, text):
    """The message names the option."""
    with pytest.raises(error, match=text):
        cached(**options)


def test_method_decorator_is_refused_with_the_way_to_write_it():
    """It would decorate anew for each request."""
    with pytest.raises(TypeError, match=r"cache_aside_view\(ttl=60\)\(MyView.as_view\(\)\)"):

        @method_decorator(cache_aside_view(ttl=60), name="dispatch")
        class Page(View):
            pass


@pytest.mark.parametrize("view", [awaited, AsyncPage.as_view()], ids=["function", "class"])
def test_async_view_has_the_async_twins_only(live, view):
    """Purge, expire and explain are awaited, and the page is a hit in between."""
    page, request = cached(view), RequestFactory().get("/x/")

    async def story():
        statuses = [(await page(request)).headers["Cache-Status"], (await page(request)).headers["Cache-Status"]]
        told = await page.aexplain(request)
        await page.ainvalidate("/x/")
        statuses.append((await page(request)).headers["Cache-Status"])
        await page.aexpire(request)
        return statuses, told

    (first, second, third), told = asyncio.run(story())

    assert ("stored" in first, "hit" in second, "stored" in third) == (True, True, True)
    assert (told.answer, told.key) == ("redis", page.key_for(request))
    assert not hasattr(page, "invalidate")


def test_purging_a_sync_view_on_an_event_loop_is_refused():
    """It would block the loop."""

    async def purge():
        cached().invalidate("/x/")

    with pytest.raises(SynchronousOnlyOperation, match="ainvalidate"):
        asyncio.run(purge())


def test_user_in_the_key_of_an_async_view_is_awaited(live, rf):
    """request.auser() is, and request.user would touch the database on the loop."""
    page, request = cached(awaited, vary_on=["user"]), rf.get("/x/")
    asked = []

    async def auser():
        asked.append(True)

    request.auser = auser

    response = asyncio.run(page(request))

    assert asked == [True]
    assert response.headers["Vary"] == "Cookie"


def test_view_outside_the_cache_is_itself(live, settings):
    """With ENABLED off it is called, and nothing is said."""
    settings.REDIS_INTEGRATION = {"default": {**settings.REDIS_INTEGRATION["default"], "ENABLED": False}}

    assert "Cache-Status" not in cached()(RequestFactory().get("/x/")).headers


def test_stale_page_answers_where_the_view_raises(live, rf):
    """As a function's: the copy that is kept."""
    fails = []

    def view(request):
        if fails:
            raise RuntimeError
        return HttpResponse("page")

    page = cached(view, stale_for=60)
    page(rf.get("/x/"))
    page.expire(rf.get("/x/"))
    fails.append(True)

    response = page(rf.get("/x/"))

    assert response.content == b"page"
    assert "hit" in response.headers["Cache-Status"]
    assert "detail=stale" in response.headers["Cache-Status"]


def test_visitor_with_a_session_gets_a_stale_page_and_leaves_its_refresh_to_others(live, rf):
    """What he computes could not be stored."""
    page = cached(stale_for=60)
    first = page(rf.get("/x/"))
    page.expire(rf.get("/x/"))
    request = rf.get("/x/")
    request.user = object()  # not lazy: who is there is known before

    assert page(request).content == first.content
    assert "fwd=stale; stored" in page(rf.get("/x/")).headers["Cache-Status"]


def test_answer_for_one_visitor_ends_nobodys_stale_page(live, rf, monkeypatch):
    """Nor does an illness that is answered and not raised; but what the view says of the page itself does."""
    monkeypatch.setattr("redis_integration.answers.LEFT_ALONE", 60.0)
    given = []

    def view(request):
        answer = given[-1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    page = cached(view, stale_for=60)
    own = cached(
        lambda request: HttpResponse(request.COOKIES.get("theme") if request.is_mine else "page"), stale_for=60
    )

    def is_kept(answer, times=1):
        given.append(HttpResponse("page"))
        page(rf.get("/x/"))
        page.expire(rf.get("/x/"))
        given.append(answer)
        for _ in range(times):
            with suppress(PermissionDenied, Http404):
                page(rf.get("/x/"))
        given.append(RuntimeError())
        try:
            return "detail=stale" in page(rf.get("/x/")).headers["Cache-Status"]
        except RuntimeError:
            return False

    answers = [HttpResponse(status=each) for each in (503, 403, 429)] + [PermissionDenied()]
    assert [is_kept(each, times=4) for each in answers] == [True] * 4  # and no second without Redis for all
    gone = [HttpResponse(status=404), HttpResponse(status=302), HttpResponse(headers={"Cache-Control": "private"})]
    assert [*map(is_kept, [*gone, Http404()])] == [False] * 4
    for is_mine in (False, True):
        request = rf.get("/y/")
        request.is_mine = is_mine
        assert ("stored" in own(request).headers["Cache-Status"]) is not is_mine
        own.expire(rf.get("/y/"))
    request.user = object()  # known before not to be stored: he gets the copy that there is
    assert "detail=stale" in own(request).headers["Cache-Status"]
