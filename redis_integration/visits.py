"""One call of a cached view that has to compute: what it may see, what is stored of it, and who has the last word on that.

Layers around the view speak after it: middleware, and decorators above. So the flow pauses behind the view until the slot of
the request says what became of the answer. Without a slot only a template is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase, ResponseHeaders

from redis_integration.caching import Answer, Outcome, aattempt, attempt
from redis_integration.conf import get_view_variations
from redis_integration.exceptions import UnstorableValue
from redis_integration.flow import Pause
from redis_integration.headers import NAME, Advice, add_etag, drop_etag, say, status_of
from redis_integration.holds import Slot
from redis_integration.keys import Names
from redis_integration.responses import (
    GONE,
    Covered,
    Prepared,
    response_codec,
    why_not_final,
    why_not_response,
    why_private,
)
from redis_integration.sight import Sight
from redis_integration.transactions import Commit, note_commit

# What Django answers with 4xx: meant for this visitor, and no failure of the view.
_REFUSALS = (PermissionDenied, SuspiciousOperation, BadRequest)


class Page(NamedTuple):
    """What is asked for. `note` is told why an answer was not stored, or None."""

    request: HttpRequest
    names: Names
    covered: Covered
    advice: Advice
    note: Callable[..., None]


class Visit:
    """One call of the view. `query` is what it sees of the request's; `why` says why its answer is not stored, if known before.

    Then `response` is what it has answered, or `error` the Http404 that it raised, or its like.
    """

    _sight: Sight

    def __init__(
        self, page: Page, call: Callable[[], Any], *, query: str, why: str | None = None, is_async: bool
    ) -> None:
        self.page, self.call, self.query, self.why, self.is_async = page, call, query, why, is_async
        self._is_known = why is not None
        self.slot = Slot.take(page.request) if why is None else None
        self.response: Any = None
        self.error: Exception | None = None
        self._etag = ""
        self._prepared: Prepared | None = None
        self._is_own = False  # no answer for all, by which everybody's stale page ends
        self._commit: Commit | None = None

    def compute(self) -> Outcome | Pause:
        """The outcome of the view; or a pause, where somebody else has the last word."""
        self._sight = Sight(self.page.request, self.page.covered, self.query)
        try:
            outcome = attempt(self.call)
        except BaseException:
            self._sight.widen()
            raise
        return self._take(outcome)

    async def acompute(self) -> Outcome | Pause:
        """See `compute`."""
        self._sight = Sight(self.page.request, self.page.covered, self.query)
        try:
            outcome = await aattempt(self.call)
        except BaseException:
            self._sight.widen()
            raise
        return self._take(outcome)

    def _take(self, outcome: Outcome) -> Outcome | Pause:
        answer = outcome.value
        if outcome.error:
            answer = outcome.error[0]
            if not isinstance(answer, (Http404, *_REFUSALS)):
                self._sight.widen()
                # An error may be a visitor's own too.
                return outcome._replace(why_not_stored=self.why or self._why_seen())
            self.error = outcome.error.pop()
        if not getattr(answer, "is_rendered", True):
            # The view's own callbacks come before it; those of layers above after it, as they come again for each hit.
            answer.add_post_render_callback(self._prepare)
            return self._pause(answer)
        self._prepare(answer)
        return self._pause(answer) if self.slot is not None and self.why is None else self._outcome()

    def _pause(self, answer: Any) -> Pause:
        self._commit = None if self.is_async else note_commit()
        return Pause(answer)

    def _outcome(self) -> Outcome:
        value = self._prepared if self.why is None else None
        return Outcome(value, why_not_stored=self.why, commit=self._commit, is_own=self._is_own)

    def _prepare(self, answer: Any) -> None:
        """Make what is stored of the view's own answer, before others change it."""
        self._sight.widen()
        if isinstance(answer, Exception):
            own = None if type(answer) is Http404 else f"{type(answer).__name__} raised"
        else:
            self.response, own = answer, why_not_response(answer, self.page.covered)
        seen, status = self._why_seen(), getattr(answer, "status_code", 404 if own is None else 400)
        self._is_own = seen is not None or (status >= 400 and status not in GONE)
        self.why = self.why or own or seen
        if self.why is None:
            try:
                self._prepared = self._prepared_of(answer)
            except UnstorableValue:
                self.why = "unstorable value"

    def _why_seen(self) -> str | None:
        return self._why_private() or self._sight.why

    def _why_private(self) -> str | None:
        has_looked = self._sight.has_looked
        return why_private(self.page.request, self.page.covered, self.response, has_looked=has_looked)

    def _prepared_of(self, answer: Any) -> Prepared:
        if isinstance(answer, Http404):
            return Prepared(404, response_codec.encode(answer))
        self._etag = add_etag(answer)
        own = answer.headers
        try:
            # The answer itself is told what it may be told to this visitor when that is known.
            answer.headers = ResponseHeaders({**own})
            if own.get("Cache-Status", "").startswith(f"{NAME};"):
                del answer.headers["Cache-Status"]  # of another cached view, whose page this one hands on
            self.page.advice.dress(answer, self.page.covered)
            return Prepared(answer.status_code, response_codec.encode(answer))
        finally:
            answer.headers = own

    def judge(self, response: HttpResponseBase) -> Outcome:
        """The outcome, now that all layers have left the answer so."""
        self._sight.widen()  # where it was never rendered
        if self.why is None and self._prepared is None:
            self.why = "not rendered"
        by_language, _ = get_view_variations()
        if self.why is None:
            self.why = self._why_private() or why_not_final(response, self.page.covered, by_language=by_language)
            self._is_own = self.why is not None
        return self._outcome()

    def conclude(self, response: HttpResponseBase | None, answer: Answer) -> None:
        """Say on the response what became of it; None where there is none yet."""
        why, key = self.why or answer.outcome.why_not_stored, self.page.names.key
        # Where there is a copy, one visitor's own answers do not take it from the others for a second either.
        is_nobody_elses = self._is_known or (answer.is_stale and self._is_own)
        self.page.note(self.page.request, why, is_known=is_nobody_elses)
        status = status_of(answer, key, why)
        if response is None:
            if self.slot is not None:
                self.slot.status = status
            return
        # What a layer has put in its place, a redirect to the login say, is not what browsers may keep.
        if answer.stored and self.response is not None and (response is self.response or response.status_code == 304):
            self.page.advice.dress(response, self.page.covered)
        else:
            drop_etag(response, self._etag)
            self.page.advice.dress_refused(response)
        say(response, status)
