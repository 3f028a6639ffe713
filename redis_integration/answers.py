"""What a visitor gets of one cached view, and what this process remembers of pages that were not stored."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from redis_integration.caching import MOST_NOTED, Answer, Caching, Outcome
from redis_integration.conf import get_settings
from redis_integration.decorators import value_of
from redis_integration.explain import Explanation, explain_call
from redis_integration.flow import Flow, Pause
from redis_integration.headers import Advice, bypass_status, hit_status, say, status_of
from redis_integration.holds import Hold, Slot
from redis_integration.pages import MOST_LETTERS, PageMaker
from redis_integration.responses import why_bypassed, why_private
from redis_integration.sight import own_up
from redis_integration.visits import Page, Visit

logger = logging.getLogger("redis_integration")

Address = tuple[str, str]

# A page that was refused so often in a row is made without asking Redis for so many seconds; then it is tried again.
REFUSALS = 3
LEFT_ALONE = 1.0
# No browser sends these in a query. Encoded they have the same key, and a view may show the query as it is.
_raw = re.compile(r"""[\s<>"']""")
_NEVER = ("", 0, 0.0)
MOST_REFUSED = 5_000  # pages of a view of which it is known


class Pages:
    """The pages of one view, and what this process remembers of those that were not stored."""

    def __init__(self, caching: Caching, maker: PageMaker, advice: Advice) -> None:
        self.caching, self.maker, self.advice = caching, maker, advice
        # By path, query and whether it was known before: why, how often in a row, and until when Redis is left alone.
        self._refused: dict[tuple[str, str, bool], tuple[str, int, float]] = {}

    def is_enabled(self) -> bool:
        return get_settings(self.caching.alias).enabled

    def find(self, request: HttpRequest, args: Sequence[Any], kwargs: dict[str, Any]) -> Page | str:
        """What is asked for; or why this request passes by: no tier is asked."""
        if not isinstance(request, HttpRequest):
            raise TypeError(
                f"{self.caching.name} was not called with a request first. Decorate a view class as "
                "cache_aside_view(ttl=60)(MyView.as_view())."
            )
        if why := why_bypassed(request, self.maker.headers):
            self.log(logging.INFO, why)
            return why
        if self._refused:
            address, now = _address_of(request), monotonic()
            for is_known in (False, True):
                why, _, until = self._refused.get((*address, is_known), _NEVER)
                if until > now and (not is_known or request.method == "HEAD" or self.maker.why_known(request)):
                    return why
        if not self.maker.is_of_url(request, args, kwargs):
            self.log(logging.WARNING, why := "arguments that are not the URL's: name them by a function in vary_on")
            return why
        try:
            names, covered = self.maker.names(request, args, kwargs)
        except DisallowedHost:
            # Django answers this request with 400 wherever it needs the host; here it is only not cached.
            return "host not allowed"
        return Page(request, names, covered, self.advice, self.note)

    def visit(self, page: Page, call: Callable[[], Any], *, is_async: bool) -> Visit:
        """A call of the view; where it is known before why its answer will not be stored, this is told."""
        query = self.maker.query(page.request.META.get("QUERY_STRING", ""))
        if page.request.method == "HEAD":
            why: str | None = "method HEAD"
        else:
            why = "query not encoded" if _raw.search(query) else why_private(page.request, page.covered)
        return Visit(page, call, query=query, why=why, is_async=is_async)

    def note(self, request: HttpRequest, why: str | None, *, is_known: bool = False) -> None:
        """Remember why the answer was refused; or None, that it was not. Known before, it says nothing of other visitors."""
        address = _address_of(request)
        if why is None:
            for each in (False, True):
                self._refused.pop((*address, each), None)
            return
        self.log(logging.INFO if is_known else logging.WARNING, why)
        if sum(map(len, address)) > MOST_LETTERS:
            return
        if len(self._refused) >= MOST_REFUSED:
            self._refused.clear()
        times = self._refused.get((*address, is_known), _NEVER)[1] + 1
        until = monotonic() + LEFT_ALONE if times >= REFUSALS else 0.0
        self._refused[(*address, is_known)] = why, times, until

    def log(self, level: int, why: str) -> None:
        """Say it, once."""
        noted = self.caching.noted
        if why not in noted and len(noted) < MOST_NOTED:
            noted.add(why)
            logger.log(level, "redis_integration.page_not_stored %s: %s", self.caching.name, why)

    def hit(self, page: Page, value: Any) -> HttpResponseBase:
        """A plain hit. Raises the Http404 that it remembers."""
        if self._refused:
            self.note(page.request, None)
        return self._give(page, value, hit_status(value, page.names.key))

    def answer(self, visit: Visit, flow: Flow[Answer], answer: Any) -> Any:
        """What the visitor gets of a call that was no plain hit. Raises what the view has raised."""
        if isinstance(answer, Pause):
            self._keep(visit, Hold(flow, visit), answer.value)
        elif answer.source != "origin" or answer.outcome.error:
            return self._give(visit.page, value_of(answer), status_of(answer, visit.page.names.key))
        elif isinstance(visit.response, HttpResponseBase) or visit.error is not None:  # else Django says it better
            visit.conclude(visit.response, answer)
        if visit.error is None:
            return answer.value if isinstance(answer, Pause) else visit.response
        error, visit.error = visit.error, None
        return value_of(Answer(Outcome(error=[error]), "origin"))

    def _keep(self, visit: Visit, hold: Hold, answer: Any) -> None:
        if visit.slot is not None:
            visit.slot.keep(hold)
        else:
            answer.add_post_render_callback(hold.settle)

    def _give(self, page: Page, value: Any, status: str) -> HttpResponseBase:
        if page.covered.user is not None:
            own_up(page.request)
        if isinstance(value, HttpResponse):
            return self.advice.dress_hit(page.request, value, status)
        if (slot := Slot.of(page.request)) is not None:
            slot.status, slot.vary = status, self.advice.vary
        return value_of(Answer(Outcome(error=[value]), "redis"))  # type: ignore[no-any-return]

    def explain(
        self, request: Any, args: Sequence[Any], kwargs: dict[str, Any], *, is_async: bool
    ) -> Flow[Explanation]:
        """See `explain_call`; with what is in the key, and why the page was last not stored, as this process knows."""
        if not isinstance(request, HttpRequest):
            raise TypeError(
                f"{self.caching.name} is a view: call its explain() in Python, with a request and its arguments."
            )
        (names, _), bypassed = self.maker.names(request, args, kwargs), why_bypassed(request, self.maker.headers)
        told = yield from explain_call(self.caching, names, is_async=is_async, bypassed=bypassed)
        own_up(request)
        address = _address_of(request)
        refused = self._refused.get((*address, False)) or self._refused.get((*address, True), _NEVER)
        return replace(told, parts=self.maker.parts(request), refused=refused[0])


def _address_of(request: HttpRequest) -> Address:
    return request.path, request.META.get("QUERY_STRING", "")


def pass_by(response: Any, why: str) -> Any:
    if isinstance(response, HttpResponseBase):
        say(response, bypass_status(why))
    return response
