"""What a cached view says of itself in HTTP: Cache-Status, Age, Cache-Control, Vary, ETag, and 304 where nothing is new."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from time import time
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response, patch_vary_headers
from django.utils.http import parse_http_date_safe

from redis_integration.caching import Answer
from redis_integration.conf import get_django_setting
from redis_integration.responses import GONE, Covered

NAME = "redis_integration"
_PRIVATE = "private, "
_SAID = "_redis_integration_said"
# What a 304 says (RFC 9110, 15.4.5), and what is said of caches.
_KEPT = (
    "cache-control",
    "content-location",
    "date",
    "etag",
    "expires",
    "last-modified",
    "vary",
    "age",
    "cache-status",
)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What browsers are told about the pages of one view. Seconds; without `browser_ttl` they ask each time."""

    browser_ttl: int = 0
    stale_while_revalidate: int = 0
    stale_if_error: int = 0
    vary: tuple[str, ...] = ()

    def control(self, age: int = 0) -> str:
        """Cache-Control of a page of this age: a browser counts from when it was made, and this promise from now."""
        more = ((name, getattr(self, name)) for name in ("stale_while_revalidate", "stale_if_error"))
        rest = (f"{name.replace('_', '-')}={seconds}" for name, seconds in more if seconds)
        return ", ".join((f"max-age={self.browser_ttl + age if self.browser_ttl else 0}", *rest))

    def dress(self, response: HttpResponseBase, covered: Covered) -> None:
        """Add Vary, and Cache-Control where the view says nothing of its own. Not every cache between heeds Vary: Cookie."""
        is_private = covered.user is not None or covered.session or "authorization" in covered.headers
        told = "max-age=0" if response.status_code in GONE else self.control()  # it may be there in a second
        response.headers.setdefault("Cache-Control", f"{_PRIVATE if is_private else ''}{told}")
        self.dress_refused(response)

    def dress_refused(self, response: HttpResponseBase) -> None:
        """Add Vary: the page was asked for by these headers."""
        if self.vary:
            patch_vary_headers(response, self.vary)

    def dress_hit(self, request: HttpRequest, response: HttpResponse, status: str) -> HttpResponse:
        """Add Age and this status; where the visitor has this very page, make it a 304."""
        made_at, _ = response.times  # type: ignore[attr-defined]
        age = max(0, int(time() - made_at))
        if (
            self.browser_ttl
            and (told := response.headers.get("Cache-Control", "")).removeprefix(_PRIVATE) == self.control()
        ):
            response.headers["Cache-Control"] = told.replace(self.control(), self.control(age))
        fields = response.headers._store
        told = fields.get("age", ("", ""))[1]  # of a page that the view itself had from elsewhere
        fields["age"] = "Age", str(age + int(told) if told.isdecimal() and len(told) < 10 else age)
        say(response, status)
        asked = request.META.get("HTTP_IF_NONE_MATCH")
        if (asked or "HTTP_IF_MODIFIED_SINCE" in request.META) and _is_known(request, response, asked):
            response.status_code = 304
            response.headers._store = {name: fields[name] for name in _KEPT if name in fields}
            vars(response)["_container"] = [b""]  # as its setter does it, for a quarter of the time
        return response


def _is_known(request: HttpRequest, response: HttpResponse, asked: str | None) -> bool:
    etag = response.headers._store.get("etag", ("", None))[1]
    if asked is not None and asked == etag:  # as browsers ask; what follows takes 50 µs
        return response.status_code == 200
    changed = parse_http_date_safe(response.headers.get("Last-Modified", ""))
    answer = get_conditional_response(request, etag=etag, last_modified=changed, response=response)
    return answer is not None and answer.status_code == 304 != response.status_code


def add_etag(response: HttpResponse) -> str:
    """Give it a strong ETag of its body where it is a page and has none; the one that was added, or ""."""
    if response.status_code != 200 or "ETag" in response.headers:
        return ""
    etag = f'"{blake2b(response.content, digest_size=12).hexdigest()}"'
    response.headers["ETag"] = etag
    return etag


def drop_etag(response: HttpResponseBase, etag: str) -> None:
    """Take back what `add_etag` has added, also where a layer has weakened it: others may have changed the body."""
    if etag and response.status_code != 304 and response.headers.get("ETag") in (etag, f"W/{etag}"):
        del response.headers["ETag"]


def status_of(answer: Answer, key: str, why: str | None = None) -> str:
    """The member of Cache-Status (RFC 9211) for this answer."""
    _, fresh_until = getattr(answer.outcome.value, "times", (0.0, 0.0))
    left = f"; ttl={int(fresh_until - time())}" if fresh_until else ""
    if answer.source == "flight":
        said = f"fwd=miss; collapsed{left}"
    elif answer.source != "origin":
        said = f"hit{left}; detail={'stale' if answer.is_stale else answer.source}"
    elif answer.stored:
        said = f"fwd={'stale' if answer.is_stale else 'miss'}; stored; detail={answer.stored}"
    else:
        said = f"fwd=miss{_detail(why or answer.outcome.why_not_stored)}"
    return f"{NAME}; {said}" + (f"; key={_quoted(key)}" if get_django_setting("DEBUG") else "")


def hit_status(response: Any, key: str) -> str:
    """See `status_of`: of a plain hit."""
    left = int(response.times[1] - time())
    return f"{NAME}; hit; ttl={left}; detail=redis" + (f"; key={_quoted(key)}" if get_django_setting("DEBUG") else "")


@lru_cache(1000)
def bypass_status(why: str) -> str:
    """See `status_of`: of a request that no tier was asked for."""
    return f"{NAME}; fwd=method" if why.startswith("method") else f"{NAME}; fwd=bypass{_detail(why)}"


def _detail(why: str | None) -> str:
    return f"; detail={_quoted(why)}" if why else ""


def _quoted(text: str) -> str:
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'


def say(response: HttpResponseBase, status: str) -> None:
    """Add this member to Cache-Status, behind those of caches that are nearer to the origin, in place of ours."""
    # It is of ASCII without a newline: what a response does to be sure takes longer than the rest.
    fields = response.headers._store
    before = fields.get("cache-status")
    if before and (others := before[1].removesuffix(vars(response).get(_SAID, "")).removesuffix(", ")):
        fields["cache-status"] = "Cache-Status", f"{others}, {status}"
    else:
        fields["cache-status"] = "Cache-Status", status
    setattr(response, _SAID, status)  # a view may answer with one object each time
