"""One reading of a server and of what lies beside it, in a few round trips. It judges nothing: the rules do.

What could not be read is named in `unknown`, with the rule of the ACL that would allow it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from ssl import cert_time_to_seconds
from typing import Any

from django.db.models import Count, Max
from django.db.models.functions import Coalesce, Now
from redis.exceptions import NoPermissionError, RedisError

from redis_integration import pools, stats
from redis_integration.conf import RedisSettings, get_settings
from redis_integration.doctor.permissions import Permissions, read_permissions
from redis_integration.doctor.samples import Sample, take_sample
from redis_integration.exceptions import RedisUnavailable
from redis_integration.keys import probe_key
from redis_integration.pools.slots import PING
from redis_integration.pools.sync import Pool
from redis_integration.recovery import JournalStatus, journal_status
from redis_integration.stats import Stats
from redis_integration.tiers.rows import rows_of
from redis_integration.tiers.scripts import PROBE

# Seconds. Who answers more slowly than workers wait is to be told about.
PATIENCE = 2.0
PINGS, PINGING = 100, 1.0  # round trips that are timed, and seconds after which no more are made
SAMPLE = 10_000  # keys that are walked
# What rules read of CONFIG; 6.2 takes one name a command.
OPTIONS = ("save", "appendonly", "min-replicas-to-write", "timeout", "protected-mode", "requirepass")
# What a rule may need, and what of an ACL allows it.
ALLOWED_BY = {
    "info": "+info",
    "config": "+config|get",
    "slowlog": "+slowlog|get",
    "ping": "+ping",
    "time": "+time",
    "keys": "+scan +type +pttl +dbsize",
    "sizes": "+memory|usage",
    "heads": "+getrange",
    "stats": "+hgetall",
    "permissions": "",
    "grants": "+acl|whoami +acl|dryrun",
    "tls": "",
}
GRANTS_ON_6 = "+acl|whoami +acl|getuser"  # where there is no DRYRUN


@dataclass(slots=True, kw_only=True)
class Reading:
    """What was found. Durations are in seconds, sizes in bytes; what is not known is empty, and stands in `unknown`."""

    alias: str
    settings: RedisSettings
    workers: int | None = None  # processes that use this alias, as far as the caller knows
    failure: RedisUnavailable | None = None  # of a connection as the application makes it
    refusal: RedisUnavailable | None = None  # of a small write and a small script
    info: dict[str, Any] = field(default_factory=dict)  # INFO all, as redis-py reads it
    later: dict[str, Any] = field(default_factory=dict)  # INFO stats, when all else was read
    config: dict[str, str] = field(default_factory=dict)
    slow: Sequence[dict[str, Any]] = ()  # SLOWLOG, as redis-py reads it
    pings: Sequence[float] = ()  # in ascending order
    redis_ahead: float = 0.0  # the server's clock against this process's
    database_ahead: float = 0.0
    rows: int | None = None  # of the fallback table
    journal: JournalStatus | None = None
    stats: Stats | None = None  # of the last hour
    database_error: str = ""
    certificate_ends: float | None = None  # unix seconds
    permissions: Permissions = Permissions()
    sample: Sample = field(default_factory=Sample)
    # A need, and what allows it (it begins with "+"), or in words why it is not known.
    unknown: dict[str, str] = field(default_factory=dict)

    def ping(self, share: float) -> float:
        """The round trip in which this share of all was answered; 0 where none was timed."""
        return self.pings[max(0, ceil(share * len(self.pings)) - 1)] if self.pings else 0.0

    @property
    def server(self) -> str:
        """Name and version; "" where INFO was refused."""
        name = "Valkey" if "valkey_version" in self.info else "Redis"
        version = self.info.get("valkey_version") or self.info.get("redis_version")
        return f"{name} {version}" if version else ""


def gather(alias: str, needs: Collection[str], *, workers: int | None = None, sample: int = SAMPLE) -> Reading:
    """What these needs ask for. At most 8 round trips, 100 PINGs, 2 for each 500 keys of the sample; 3 queries.

    Writes one key for a second, to see whether it may. Raises ImproperlyConfigured, and nothing for what does not answer.
    """
    reading = Reading(alias=alias, settings=get_settings(alias), workers=workers)
    if "database" in needs:
        _read_database(reading)
    reading.failure = _try_as_application(alias)
    pool = Pool(_patient(reading.settings))
    reading.unknown = dict.fromkeys(ALLOWED_BY, "")
    try:
        _read_server(reading, pool, needs, sample)
    except Exception as error:
        translated = pools.translate(error, reading.settings.address)
        if translated is None:
            raise
        reading.failure = reading.failure or translated
        reading.unknown = {need: why or translated.reason for need, why in reading.unknown.items()}
    finally:
        pool.disconnect()
    # What nobody asked for is not missed.
    reading.unknown = {need: why for need, why in reading.unknown.items() if why}
    return reading


def _try_as_application(alias: str) -> RedisUnavailable | None:
    """What keeps the application from reading."""
    try:
        replies, _ = pools.exchange(alias, [("GET", probe_key(get_settings(alias).key_prefix))])
    except RedisUnavailable as failure:
        return failure
    refusal = pools.first_failure(alias, replies)
    return refusal if isinstance(refusal, RedisUnavailable) else None


def _patient(settings: RedisSettings) -> RedisSettings:
    """The same server and user; a handshake that needs no permission, and time enough to say that it is slow."""
    return replace(
        settings,
        distrust_restarts=False,
        client_name="",
        command_timeout=max(settings.command_timeout, PATIENCE),
        connect_timeout=max(settings.connect_timeout, PATIENCE),
        max_connections=1,
        health_check_interval=0.0,
    )


def ask(pool: Pool, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """The replies as redis-py reads them, errors among them. One round trip."""
    with pool.client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return pipeline.execute(raise_on_error=False)


def _read_server(reading: Reading, pool: Pool, needs: Collection[str], sample: int) -> None:
    probe = probe_key(reading.settings.key_prefix)
    info, slow, *config, stored, ran, _ = ask(
        pool,
        [
            ("INFO", "all"),
            ("SLOWLOG GET", 128),
            *(("CONFIG GET", name) for name in OPTIONS),
            ("SET", probe, "", "PX", 1000),
            ("EVAL", PROBE.source, 1, probe),
            ("UNLINK", probe),
        ],
    )
    reading.info = _known(reading, "info", info) or {}
    reading.slow = _known(reading, "slowlog", slow) or ()
    for part in config:
        reading.config |= _known(reading, "config", part) or {}
    for reply in (stored, ran):
        if isinstance(reply, RedisError) and not isinstance(reply, NoPermissionError):
            reading.refusal = reading.refusal or pools.translate(reply, reading.settings.address)
    reading.certificate_ends = _known(reading, "tls", _read_certificate(pool))
    if {"permissions", "grants"} & {*needs}:
        reading.permissions = read_permissions(reading.settings, lambda commands: ask(pool, commands))
        _known(reading, "permissions", None)
        _known(reading, "grants", NoPermissionError() if reading.permissions.grants is None else None)
        if "grants" in reading.unknown and reading.info.get("redis_version", "").startswith("6."):
            reading.unknown["grants"] = GRANTS_ON_6
    if "stats" in needs:
        _read_stats(reading)
    if "time" in needs:
        _read_clock(reading, pool)
    if "ping" in needs:
        _time_pings(reading, pool)
    if sample and {"keys", "sizes", "heads"} & {*needs}:
        reading.sample, refused = take_sample(reading.settings.key_prefix, sample, lambda each: ask(pool, each))
        for need in ("keys", "sizes", "heads"):
            _known(reading, need, refused.get(need))
    (later,) = ask(pool, [("INFO", "stats")])
    reading.later = later if isinstance(later, dict) else {}


def _known(reading: Reading, need: str, reply: Any) -> Any:
    """The reply; None where it is an error, which is remembered."""
    if not isinstance(reply, RedisError):
        reading.unknown.pop(need, None)
        return reply
    is_refused = isinstance(reply, NoPermissionError)
    reading.unknown[need] = ALLOWED_BY[need] if is_refused else str(reply)
    return None


def _time_pings(reading: Reading, pool: Pool) -> None:
    pings: list[float] = []
    give_up = time.monotonic() + PINGING
    while len(pings) < PINGS and time.monotonic() < give_up:
        begun = time.perf_counter()
        (reply,), _ = pool.exchange(PING, 1)
        pings.append(time.perf_counter() - begun)
        if _known(reading, "ping", reply) is None:
            return
    reading.pings = sorted(pings)


def _read_clock(reading: Reading, pool: Pool) -> None:
    before = time.time()
    reply = _known(reading, "time", ask(pool, [("TIME",)])[0])
    if reply is not None:
        seconds, microseconds = reply
        reading.redis_ahead = _ahead(seconds + microseconds / 1e6, before)


def _ahead(theirs: float, before: float) -> float:
    """How much their clock is ahead of ours, at least: it was read at some moment between `before` and now."""
    return theirs - min(max(theirs, before), time.time())


def _read_certificate(pool: Pool) -> float | None:
    connection = pool.take()
    try:
        # Empty where it is not verified; a socket without TLS has none.
        peer: Any = getattr(connection._sock, "getpeercert", dict)()
    finally:
        pool.give(connection)
    if not peer:
        return None
    return float(cert_time_to_seconds(peer["notAfter"]))


def _read_stats(reading: Reading) -> None:
    try:
        reading.stats = _known(reading, "stats", stats.read(reading.alias, minutes=stats.MINUTES))
    except RedisUnavailable as failure:
        is_refused = "permissions" in failure.reason
        reading.unknown["stats"] = ALLOWED_BY["stats"] if is_refused else failure.reason


def _read_database(reading: Reading) -> None:
    settings = reading.settings
    if settings.database is None or (settings.fallback is None and settings.journal is None):
        return
    before = time.time()
    try:
        found = rows_of(settings.database).aggregate(rows=Count("pk"), now=Coalesce(Max(Now()), Now()))
        reading.database_ahead = _ahead(found["now"].timestamp(), before)
        reading.journal = journal_status(reading.alias) if settings.journal is not None else None
    except Exception as error:  # not only the database's own: no such driver, a test that forbids it
        reading.database_error = f"{type(error).__name__}: {error}"
        return
    reading.rows = found["rows"]
