"""A request → the names of its page and what of the request is in them; and how long a page is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from itertools import repeat
from random import uniform
from typing import Any, NamedTuple
from urllib.parse import unquote_plus, unquote_to_bytes

from asgiref.sync import iscoroutinefunction
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone, translation
from django.utils.crypto import salted_hmac
from django.utils.encoding import repercent_broken_unicode

from redis_integration.arguments import NoText
from redis_integration.caching import Caching
from redis_integration.conf import get_django_setting, get_settings, get_view_variations
from redis_integration.entries import Entry
from redis_integration.exceptions import UncacheableCall
from redis_integration.keys import Names, escape, full_key, plain_text, view_key
from redis_integration.options import read_items
from redis_integration.responses import ADDRESS, GONE, Covered, user_text, why_private
from redis_integration.sight import looking, own_up
from redis_integration.tags import TagMaker, tag_key

# "Accept-Language", "cookie:theme", "user", or a function of the request that gives a text.
VaryOn = Iterable[str | Callable[[HttpRequest], Any]]
_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_secret_headers = ("authorization", "cookie", "proxy-authorization")  # they stand in a key as digests
# What a site is made of, beside the settings.
_of_site = ("HTTP_HOST", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PORT", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME")
# Keys and tags that are not made anew for each request: half of what a hit costs beside its round trip.
_known: dict[tuple[object, ...], tuple[str, str]] = {}
MOST_KNOWN = 5_000
MOST_LETTERS = 2_000  # of an address that is remembered: what visitors send must not fill the memory


@dataclass(frozen=True, kw_only=True, eq=False)
class PageCaching(Caching):
    """How the pages of one view are cached. `negative` is how many seconds a 404 or 410 is remembered; 0: it is not."""

    negative: float = 0.0

    @property
    def kept(self) -> float:
        return max(super().kept, self.negative)

    def decode(self, entry: Entry, key: str) -> Any:
        """The response, or the Http404; its `times` say when it was made and until when it is fresh, in unix seconds."""
        value = super().decode(entry, key)
        value.times = entry.created, entry.fresh_until
        return value

    def _seconds_for(self, value: Any) -> tuple[float, str | None]:
        if value.status not in GONE:
            return super()._seconds_for(value)
        return self.negative * uniform(0.9, 1.0), None if self.negative else f"status {value.status}"


class Part(NamedTuple):
    """One of `vary_on`: its name in the key, how its text is read, escaped, and the header that `Vary` names for it."""

    kind: str  # "user", "cookie", "header" or "function"
    label: str
    read: Callable[[HttpRequest], str | None]
    header: str = ""


class PageMaker:
    """The names of one view's pages; built when the view is decorated.

    The key holds scheme and host, path, query, language and time zone, and what `vary_on` names. A tag of the path, the same
    for all views, ends a page in all its variants. Raises TypeError and ValueError, when built, for options without meaning.
    """

    def __init__(
        self,
        namespace: str,
        tags: TagMaker,
        *,
        vary_on: VaryOn = (),
        query: Iterable[str] | None = None,
        ignore_query: Iterable[str] = (),
        alias: str = "default",
    ) -> None:
        self._namespace, self._alias = namespace, alias
        self._tags = tags if tags.has_any else None
        self._parts = [_part_of(each) for each in read_items("vary_on", vary_on)]
        names: dict[str, list[str]] = {}
        for part in self._parts:
            names.setdefault(part.kind, []).append(part.label)
        self._by_user, self._by_function = "user" in names, "function" in names
        self.headers = frozenset(names.get("header", ()))
        self._cookies = frozenset(label.removeprefix("cookie.") for label in names.get("cookie", ()))
        # What a response says that it varies on; what a function reads, only the view can know.
        self.vary = tuple(dict.fromkeys(part.header for part in self._parts if part.header))
        self._counts = _counter(query, ignore_query)
        self.pattern = namespace.replace("%", "%%") + ":%s" * (6 + len(self._parts))

    def names(self, request: HttpRequest, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Names, Covered]:
        """The names of the page that this call of the view makes, and what of the request is in them.

        Raises DisallowedHost, UncacheableCall, and what the user's functions raise.
        """
        varied = self._varied(request) if self._parts else ()
        key, page_tag = self._key_and_tag(request, varied)
        covered = self._covered._replace(user=user_text(request)) if self._by_user else self._covered
        if self._tags is None:
            return Names(key, (page_tag,)), covered
        tags = self._tags.names(get_settings(self._alias).key_prefix, (request, *args), kwargs)
        return Names(key, (page_tag, *tags)), covered

    def why_known(self, request: HttpRequest) -> str | None:
        """Why what this visitor gets will not be stored, as far as it is known before; where the user is in the key, nothing is."""
        return None if self._by_user else why_private(request, self._covered)

    async def prepare(self, request: HttpRequest) -> None:
        """Have the user fetched, where he is in the key: on an event loop, that must be awaited."""
        if self._by_user and hasattr(request, "auser"):
            with looking(request):
                await request.auser()

    def is_of_url(self, request: HttpRequest, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Whether the path tells this call's arguments; or a function in `vary_on` does."""
        match = request.resolver_match
        if match is None or self._by_function:
            return True
        return kwargs.items() <= match.kwargs.items() and (not args or tuple(args) == tuple(match.args))

    def key(self, request: HttpRequest) -> str:
        """The full key of the page of this request. Raises DisallowedHost."""
        key = self._key_and_tag(request, self._varied(request))[0]
        own_up(request)
        return key

    def tag(self, page: HttpRequest | str) -> str:
        """The full key of the tag of this page: of a request, or of a path as in a URL. Raises ValueError."""
        prefix = get_settings(self._alias).key_prefix
        if isinstance(page, HttpRequest):
            mount = page.META.get("SCRIPT_NAME", "").rstrip("/")
            # As reverse() says it, also where a proxy takes the mount out of what an ASGI server is asked for.
            return tag_key(prefix, f"page:{page.path if page.path.startswith(f'{mount}/') else mount + page.path}")
        if not isinstance(page, str) or not page.startswith("/"):
            raise ValueError(
                f"{page!r} is no page. Give a request, or a path that begins with '/', as reverse() gives it."
            )
        # As Django makes request.path of what a client sends.
        path = repercent_broken_unicode(unquote_to_bytes(re.split("[?#]", page)[0])).decode()
        return tag_key(prefix, f"page:{path}")

    def query(self, raw: str) -> str:
        """What counts of a raw query string, as it stands there: all that the view gets to see."""
        counts = self._counts
        if counts is None:
            return raw
        return "&".join(pair for pair in raw.split("&") if counts(unquote_plus(pair.partition("=")[0])))

    def parts(self, request: HttpRequest) -> tuple[tuple[str, str], ...]:
        """What is in the key, by name. Raises DisallowedHost."""
        by_language, by_time_zone = get_view_variations()
        return (
            ("site", f"{request.scheme}://{_site_of(request, _urlconf_of(request))}"),
            ("path", request.path),
            ("query", self.query(request.META.get("QUERY_STRING", ""))),
            *([("language", translation.get_language() or "")] if by_language else []),
            *([("time zone", timezone.get_current_timezone_name())] if by_time_zone else []),
            *((label, text) for label, _, text in (varied.partition("=") for varied in self._varied(request))),
        )

    @cached_property
    def _covered(self) -> Covered:
        by_session = get_django_setting("SESSION_COOKIE_NAME") in self._cookies or "cookie" in self.headers
        return ADDRESS._replace(headers=self.headers, cookies=self._cookies, session=by_session)

    def _varied(self, request: HttpRequest) -> tuple[str, ...]:
        with looking(request) if self._by_user else nullcontext():
            texts = [part.read(request) for part in self._parts]
        return tuple(
            part.label if text is None else f"{part.label}={text}"
            for part, text in zip(self._parts, texts, strict=True)
        )

    def _key_and_tag(self, request: HttpRequest, varied: tuple[str, ...]) -> tuple[str, str]:
        meta, (by_language, by_time_zone) = request.META, get_view_variations()
        scheme, query = request.scheme or "http", meta.get("QUERY_STRING", "")
        language = translation.get_language() if by_language else None
        time_zone = timezone.get_current_timezone_name() if by_time_zone else None
        urlconf = _urlconf_of(request)
        address = scheme, request.path, request.path_info, query, urlconf, *map(dict.get, repeat(meta), _of_site)
        asked = (self, language, time_zone, varied, *address)
        known = _known.get(asked)
        if known is not None:
            return known
        prefix = get_settings(self._alias).key_prefix
        rest = view_key(
            namespace=self._namespace,
            scheme=scheme,
            host=_site_of(request, urlconf),
            path=request.path,
            query=self.query(query),
            language=language,
            time_zone=time_zone,
            varied=varied,
        )
        made = full_key(prefix, rest), self.tag(request)
        # A host that a request decides by itself, or a list of hosts that changes, has to be asked each time.
        is_plain = type(get_django_setting("ALLOWED_HOSTS")) in (list, tuple)
        is_short = sum(map(len, filter(None, (*address, *varied)))) <= MOST_LETTERS
        if is_plain and is_short and type(request).get_host is HttpRequest.get_host:
            if len(_known) >= MOST_KNOWN:
                _known.clear()
            _known[asked] = made
        return made


@receiver(setting_changed, dispatch_uid="redis_integration.pages")
def _forget_known(**kwargs: Any) -> None:
    _known.clear()


def _urlconf_of(request: HttpRequest) -> str | None:
    urlconf = getattr(request, "urlconf", None)
    return urlconf if urlconf is None or type(urlconf) is str else f"{urlconf}"


def _site_of(request: HttpRequest, urlconf: str | None) -> str:
    """The host; and where a proxy or a layer has told this request of others than the usual ones: port, URLconf, path, mount."""
    port = request.META.get("HTTP_X_FORWARDED_PORT") if get_django_setting("USE_X_FORWARDED_PORT") else None
    rewritten = None if request.path.endswith(request.path_info) else request.path_info
    # Under ASGI the path need not begin with it, and one server believes a header of the visitor; reverse() writes it.
    told = {"port": port, "urls": urlconf, "to": rewritten, "mount": request.META.get("SCRIPT_NAME")}
    return " ".join((request.get_host(), *(f"{name}={escape(text)}" for name, text in told.items() if text)))


def _part_of(option: str | Callable[[HttpRequest], Any]) -> Part:
    if option == "user":
        return Part("user", "user", lambda request: escape(user_text(request)) or None, "Cookie")
    if isinstance(option, str):
        kind, separator, name = option.partition(":")
        if separator and kind == "cookie" and _token.fullmatch(name):
            return Part("cookie", f"cookie.{name}", partial(_cookie, name=name), "Cookie")
        if not separator and _token.fullmatch(option):
            name = option.replace("_", "-")  # as Django finds it
            return Part("header", name.lower(), partial(_header, name=name), name)
    elif callable(option) and (name := getattr(option, "__name__", "")) and not iscoroutinefunction(option):
        return Part("function", escape(name.strip("<>")), partial(_given, make=option))
    raise ValueError(f'vary_on holds {option!r}. Give "Accept-Language", "cookie:theme", "user", or a named function.')


def _given(request: HttpRequest, *, make: Callable[[HttpRequest], Any]) -> str | None:
    given = make(request)
    try:
        return None if given is None else plain_text(given)
    except NoText as error:
        name = getattr(make, "__name__", "")
        raise UncacheableCall(
            f"{name} of vary_on gave what makes no key: {error}. Return its name, or a number."
        ) from None


def _header(request: HttpRequest, *, name: str) -> str | None:
    text = request.headers.get(name)
    return None if text is None else _digest(text) if name.lower() in _secret_headers else escape(text)


def _cookie(request: HttpRequest, *, name: str) -> str | None:
    text = request.COOKIES.get(name)
    is_secret = name in (get_django_setting("SESSION_COOKIE_NAME"), get_django_setting("CSRF_COOKIE_NAME"))
    return None if text is None else _digest(text) if is_secret else escape(text)


def _digest(secret: str) -> str:
    return salted_hmac("redis_integration.pages", secret, algorithm="sha256").hexdigest()[:32]


def _counter(query: Iterable[str] | None, ignored: Iterable[str]) -> Callable[[str], bool] | None:
    """Whether a parameter of this name counts; None where all do."""
    patterns = read_items("ignore_query", ignored)
    listed = None if query is None else read_items("query", query)
    for name in [*patterns, *(listed or ())]:
        if not isinstance(name, str) or not name:
            raise TypeError(f'query and ignore_query hold names, such as "page" or "utm_*", and not {name!r}.')
    if listed is not None and patterns:
        raise ValueError("Give query= or ignore_query=, not both: what query= does not list is ignored.")
    if listed is not None:
        return frozenset(listed).__contains__
    return (lambda name: not any(fnmatchcase(name, pattern) for pattern in patterns)) if patterns else None
