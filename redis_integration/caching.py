"""What the flow is told about one origin, and what it answers. Nothing here asks a tier."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from random import uniform
from typing import Any, NamedTuple
from weakref import WeakSet

from redis_integration import background
from redis_integration.codecs import Codec, json_codec, place, type_name
from redis_integration.compression import compress, expand
from redis_integration.conf import get_django_setting, get_settings
from redis_integration.counters import Counts
from redis_integration.entries import Entry
from redis_integration.equality import find_difference
from redis_integration.exceptions import UnreadableEntry, UnstorableValue
from redis_integration.pickles import pickle_codec
from redis_integration.policy import Reading, TierName
from redis_integration.tiers.fallback import FallbackTier
from redis_integration.tiers.redis import get_redis_tier
from redis_integration.transactions import Commit

logger = logging.getLogger("redis_integration")

MAX_TTL = 10 * 365 * 86_400  # seconds; Redis refuses what does not fit into its clock
DAY = 86_400.0
MOST_NOTED = 1000  # warnings of one origin that are not said again
ERROR = 255  # stands in an entry's header in place of its codec, where the entry remembers an error of the origin


class Outcome(NamedTuple):
    """What the origin gave: a value, or an error; and in words why the value may not be stored, if so."""

    value: Any = None
    # Empty, or one error; emptied when it is raised, since the frames of its traceback hold this.
    error: list[Exception] | tuple[()] = ()
    why_not_stored: str | None = None
    # Of one that was computed inside a transaction and is settled after it.
    commit: Commit | None = None
    # Whether what may not be stored is its caller's own, or says nothing of a copy, which stays.
    is_own: bool = False


class Answer(NamedTuple):
    """What a call gets, and from where: a tier's name, "origin", or the "flight" it had joined.

    `stored` is the tier it was written to; `is_stale` says that the copy was, be it the answer or not.
    """

    outcome: Outcome
    source: str
    stored: str | None = None
    is_foreign: bool = False
    is_stale: bool = False


class Tiers:
    """The tiers of one alias, sync or async, for one call; the fallback tier is made only when it is needed."""

    def __init__(self, alias: str, *, is_async: bool, durable: bool = False) -> None:
        self.alias = alias
        self.is_async = is_async
        self.durable = durable
        self.redis = get_redis_tier(alias, is_async=is_async)
        self.spawn = background.aspawn if is_async else background.spawn
        self.pause: Callable[[float], Any] = asyncio.sleep if is_async else time.sleep

    @cached_property
    def fallback(self) -> FallbackTier:
        seconds_open = self.redis.breaker.seconds_open
        return FallbackTier(get_settings(self.alias), seconds_open=seconds_open, durable=self.durable)


# What was decorated, for the system checks.
every_caching: WeakSet[Caching] = WeakSet()


@dataclass(frozen=True, kw_only=True, eq=False)
class Caching:
    """How the results of one origin are cached."""

    name: str
    ttl: float | Callable[[Any], float]  # seconds, or what gives them for a value
    codec: Codec
    lease_timeout: float  # seconds: how long one caller may compute while all others wait for it
    pattern: str = ""  # a %-pattern of its keys, behind the prefix
    alias: str = "default"
    stale_for: float = 0.0  # seconds: how long an entry is kept past its ttl
    in_background: bool = False  # whether a copy that is stale or due is answered before it is refreshed
    eager: float = 1.0  # the share of its ttl after which an entry is due
    error_ttl: float = 1.0  # seconds: how long after an error of the origin a copy is not refreshed again
    cache_if: Callable[[Any], bool] | None = None
    # Seconds for which an error of exactly this class is remembered.
    negative_ttl: Mapping[type[Exception], float] = field(default_factory=dict)
    durable: bool = False  # whether each computation is also stored in the database
    # What the log has been told already.
    noted: set[str] = field(default_factory=set)
    counts: Counts = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", Counts(self.alias, self.name))
        every_caching.add(self)

    @property
    def kept(self) -> float:
        """Seconds that an entry is kept at most; where the ttl is not known yet, a day, which the fill makes longer."""
        return (DAY if callable(self.ttl) else self.ttl) + self.stale_for

    @property
    def serves_stale(self) -> bool:
        """Whether a copy is answered where the origin raises; not by default, nor for views."""
        return self.stale_for > 0 or self.eager < 1

    def due_at(self, entry: Entry) -> float:
        """The unix time from which this entry is due, or stale."""
        return entry.created + self.eager * (entry.fresh_until - entry.created)

    def judge(self, entry: Entry | None, reading: Reading, tier: TierName, *, key: str) -> tuple[Reading, Any]:
        """The reading after this tier was asked, and the value if it held a copy. Raises the origin's error if that is one."""
        now = time.time()
        # Also where an earlier look had found one: it is gone since.
        none = reading._replace(found=None, is_stale=False, is_due=False), None
        if entry is None or entry.is_revoked or (entry.codec == ERROR and not entry.is_fresh(now)):
            return none
        try:
            value = self.decode(entry, key)
        except UnreadableEntry as error:
            # Of another codec, SECRET_KEY or version of a class, but ours: unlike a foreign value it may be replaced.
            self.note_unreadable(key, error)
            return none
        return reading._replace(found=tier, is_stale=not entry.is_fresh(now), is_due=now >= self.due_at(entry)), value

    def decode(self, entry: Entry, key: str) -> Any:
        """The value of this entry. Raises UnreadableEntry, and the origin's error where that is what it remembers."""
        payload = entry.payload
        if entry.flags:
            # Before its signature is checked, if it has one: unsigned bytes of other entries are decompressed too, and
            # whoever wrote them gets a bounded number of bytes out of it and nothing else.
            payload = expand(payload, entry.flags, get_settings(self.alias).max_entry_bytes)
        if entry.codec == ERROR and self.negative_ttl:
            error = self._error_of(payload)
            self.counts.note_copy("redis", entry.took, is_stale=False)
            raise error
        if entry.codec != self.codec.number:
            raise UnreadableEntry(f"It was written by codec {entry.codec}, not by {self.codec.name!r}.")
        return self.codec.decode(payload, key)

    def encode(self, outcome: Outcome, took: float, *, key: str) -> tuple[Outcome, Entry | None]:
        """The entry to store. Where the outcome says why not, there is none, or one that is only for who has joined."""
        if outcome.error:
            return outcome, self._remembered(outcome.error[0], took)
        if outcome.why_not_stored is not None:
            return outcome, None
        try:
            payload = self.codec.encode(outcome.value, key)
            if self.codec.verified == "always" or (self.codec.verified == "debug" and get_django_setting("DEBUG")):
                verify(self.codec, outcome.value, payload, key)
            payload, flags = self._press(payload)
        except UnstorableValue as error:
            self._note_unstorable(error, outcome.value, key)
            return outcome._replace(why_not_stored="unstorable value"), None
        seconds, why_not = self._seconds_for(outcome.value)
        # Freshness counts from the end: else a slow origin with a short ttl would never be cached.
        now = time.time()
        entry = Entry(payload, self.codec.number, created=now, fresh_until=now + seconds, took=took, flags=flags)
        return outcome._replace(why_not_stored=why_not), entry

    def _press(self, payload: bytes) -> tuple[bytes, int]:
        """The payload as it is to be stored, and how it is compressed. Raises UnstorableValue where it is too large."""
        settings = get_settings(self.alias)
        if len(payload) > settings.max_entry_bytes:
            raise UnstorableValue(
                f"Its {len(payload):,} bytes are more than MAX_ENTRY_BYTES ({settings.max_entry_bytes:,}).", "size"
            )
        if settings.compress_over_bytes is None or len(payload) <= settings.compress_over_bytes:
            return payload, 0
        return compress(payload, settings.compression)

    def _note_unstorable(self, error: UnstorableValue, value: Any, key: str) -> None:
        if error.about in self.noted:
            return
        remedy = ""
        if self.codec is json_codec and error.about != "size":
            with suppress(UnstorableValue):
                verify(pickle_codec, value, pickle_codec.encode(value, key), key)
                remedy = " codec='pickle' can store it."
        text = "redis_integration.value_unstorable %s returned a value that is not stored: %s%s"
        self.warn_once(error.about, text, self.name, error, remedy)

    def note_unreadable(self, key: str, error: Exception) -> None:
        """Say in the log, once, that there is no entry at this key that can be read."""
        self.warn_once(f"unreadable {key}", "redis_integration.entry_unreadable %s: %s", key, error)

    def warn_once(self, about: str, text: str, *args: object) -> None:
        """Say this in the log, unless something about the same was said before."""
        if about not in self.noted:
            if len(self.noted) >= MOST_NOTED:
                self.noted.clear()
            self.noted.add(about)
            logger.warning(text, *args)

    def _remembered(self, error: Exception, took: float) -> Entry | None:
        """The entry of an error whose class is listed: its place in the list would change with it, its name does not."""
        seconds = self.negative_ttl.get(type(error))
        if seconds is None:
            return None
        try:
            payload, now = json_codec.encode([_path(type(error)), *error.args]), time.time()
            self._error_of(payload)
            payload, flags = self._press(payload)
        except (UnstorableValue, UnreadableEntry) as why:
            logger.warning("redis_integration.error_unstorable %s raised what is not remembered: %s", self.name, why)
            return None
        return Entry(payload, ERROR, created=now, fresh_until=now + seconds * uniform(0.9, 1.0), took=took, flags=flags)

    def _error_of(self, payload: bytes) -> Exception:
        path, *arguments = json_codec.decode(payload)
        for kind in self.negative_ttl:
            if _path(kind) == path:
                try:
                    return kind(*arguments)
                except Exception as error:
                    raise UnreadableEntry(f"{path} cannot be made of its args: {error}") from error
        raise UnreadableEntry(f"It remembers {path}, which negative_ttl does not list.")

    def kept_of(self, entry: Entry) -> float:
        """Seconds for which this entry is kept; an error is never answered when it is stale."""
        return entry.fresh_until - entry.created + (0.0 if entry.codec == ERROR else self.stale_for)

    def _seconds_for(self, value: Any) -> tuple[float, str | None]:
        try:
            if self.cache_if is not None and not self.cache_if(value):
                return 0.0, "cache_if"
            seconds = float(self.ttl(value) if callable(self.ttl) else self.ttl)
            if not 0 < seconds <= MAX_TTL:
                return 0.0, f"a ttl of {seconds!r}"
        except Exception as error:  # the value is there all the same
            logger.warning("redis_integration.ttl_failed %s: %s: %s", self.name, type(error).__name__, error)
            return 0.0, "ttl or cache_if failed"
        # Up to a tenth shorter, so that what was filled together does not end together; never longer.
        return seconds * uniform(0.9, 1.0), None


def verify(codec: Codec, value: Any, payload: bytes, key: str) -> None:
    """Raise UnstorableValue, which names type and place, unless this payload brings the value back equal, types included."""
    try:
        difference = find_difference(value, codec.decode(payload, key))
    except (UnreadableEntry, RecursionError) as exc:
        name = type_name(value)
        raise UnstorableValue(f"The {codec.name} codec cannot bring {name} back: {exc}", name) from exc
    if difference:
        there, *steps = difference
        name = type_name(there)
        raise UnstorableValue(
            f"The {codec.name} codec cannot store {name} ({place(reversed(steps))}): it does not come back equal.", name
        )


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def attempt(origin: Callable[[], Any]) -> Outcome:
    """The outcome of calling this origin: an error of its own is a value here, so that no tier's error is taken for it."""
    try:
        return Outcome(origin())
    except Exception as error:
        return Outcome(error=[error])


async def aattempt(origin: Callable[[], Any]) -> Outcome:
    """See `attempt`."""
    try:
        return Outcome(await origin())
    except Exception as error:
        return Outcome(error=[error])
