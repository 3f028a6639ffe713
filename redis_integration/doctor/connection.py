"""Rules about the way to the server, and what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from django.core.checks import CheckMessage, Error, Info, Warning

from redis_integration.doctor.readings import Reading
from redis_integration.doctor.rules import rule

SLOW = 0.002  # seconds; within one data centre a round trip takes 0.2 to 1 ms
# What the server told somebody since it started. NOPERM is not among them: the doctor earns some itself, and D501 asks.
REFUSALS = {
    "OOM": "It was full: give it a maxmemory-policy that evicts, or more memory.",
    "READONLY": "It was a replica: URL, or who fails over, led to the wrong server.",
    "MISCONF": "It could not save to its disk: look at the disk, or set stop-writes-on-bgsave-error no.",
    "NOREPLICAS": "Too few replicas were connected: look at them, or lower min-replicas-to-write.",
    "WRONGPASS": "Somebody has a wrong password: look for it in ACL LOG.",
    "NOAUTH": "Somebody gave no password: look for it in CLIENT LIST.",
    "BUSY": "A script ran too long: look for it in SLOWLOG GET.",
}


@rule("D101")
def cannot_be_used(reading: Reading) -> Iterator[CheckMessage]:
    """The application cannot use this Redis: no connection, no answer in time, a refused password, a missing permission.

    The doctor connects once as a worker does, with its credentials, timeouts and handshake. While this stands, the breaker of every
    worker is open: reads come from the fallback table or the origin, and invalidations wait.
    """
    if reading.failure is not None:
        yield Error(reading.failure.reason, hint=reading.failure.remedy or None)


@rule("D102", "ping")
def is_slow(reading: Reading) -> Iterator[CheckMessage]:
    """A round trip takes too long: the median is above 2 ms, or one in a hundred takes a fifth of COMMAND_TIMEOUT.

    Measured now, by up to 100 PINGs on one connection. A hit costs one round trip, a miss three. It is an error where one in a
    hundred takes longer than COMMAND_TIMEOUT, since two timeouts in a row open the breaker.
    """
    limit = reading.settings.command_timeout
    median, worst = reading.ping(0.5), reading.ping(0.99)
    if median <= SLOW and worst <= limit / 5:
        return
    inside = reading.info.get("latency_percentiles_usec_ping", {}).get("p99")
    share = f" Of this the server itself needs {inside / 1000:.1f} ms; the rest is the way there." if inside else ""
    yield (Error if worst > limit else Warning)(
        f"A round trip takes {1000 * median:.1f} ms, one in a hundred {1000 * worst:.1f} ms; "
        f"COMMAND_TIMEOUT is {1000 * limit:g} ms.",
        hint=f"Put application and Redis into one zone; look for slow commands (D304) and swapping.{share}",
    )


@rule("D103")
def refuses_writes(reading: Reading) -> Iterator[CheckMessage]:
    """The server refuses a small write or a small script, which the doctor tries: it is full, read-only, or its disk is.

    A server that refuses writes answers reads happily, and is not believed: it would refuse every invalidation too. Only where it is
    full the reads go on, since an invalidation needs no memory.
    """
    # What a replica says to it is D105.
    if reading.refusal is not None and reading.info.get("role") != "slave":
        yield Error(reading.refusal.reason, hint=reading.refusal.remedy)


@rule("D104", "info")
def is_old(reading: Reading) -> Iterator[CheckMessage]:
    """The server is older than Redis 6.2, the oldest that this package is tested with.

    Before 6.0 there are no ACLs, and no invalidation messages.
    """
    version = tuple(int(part) for part in re.findall(r"\d+", reading.info.get("redis_version", "99"))[:2])
    if version < (6, 2):
        yield (Error if version < (6, 0) else Warning)(
            f"{reading.server} is older than 6.2.", hint="Upgrade: to Redis 7 or later, or Valkey."
        )


def _is_no_primary(reading: Reading) -> bool:
    info = reading.info
    return info.get("role") == "slave" or bool(info.get("cluster_enabled")) or info.get("redis_mode") == "sentinel"


@rule("D105", "info")
def is_no_primary(reading: Reading) -> Iterator[CheckMessage]:
    """URL leads to a replica, to a node of a cluster, or to a Sentinel, and not to a primary of its own.

    A replica is read-only, and lags behind. A node of a cluster answers for a part of the keys only.
    """
    info = reading.info
    if not _is_no_primary(reading):
        return
    if info.get("redis_mode") == "sentinel":
        yield Error("It is a Sentinel, which holds no keys.", hint="Give URL the address of the primary it watches.")
    elif info.get("cluster_enabled"):
        yield Error(
            "It is a node of a Redis Cluster, to which URL does not speak.", hint="Use a standalone Redis, or a proxy."
        )
    else:
        primary, lost = f"{info.get('master_host')}:{info.get('master_port')}", info.get("master_link_status") != "up"
        yield Error(
            f"It is a replica of {primary}{', and has lost it' if lost else ''}.",
            hint=f"Give URL the address of the primary{', and look why it is gone' if lost else f', {primary}'}.",
        )


@rule("D106", "info")
def cannot_save(reading: Reading) -> Iterator[CheckMessage]:
    """The last snapshot, or the last write of the append-only file, has failed.

    By default Redis then refuses every write (MISCONF), and nothing is cached.
    """
    states = {"rdb_last_bgsave_status": "The last snapshot", "aof_last_write_status": "The last write to the AOF"}
    for name, what in states.items():
        if reading.info.get(name, "ok") != "ok":
            yield Error(
                f"{what} has failed.",
                hint="Free space on its disk and check the rights on `dir`; or switch persistence off: "
                'CONFIG SET save "", CONFIG SET appendonly no.',
            )


@rule("D107", "info")
def has_refused(reading: Reading) -> Iterator[CheckMessage]:
    """The server has refused commands since it started: it was full, read-only, busy, or a password was wrong.

    It counts what it told all its clients (INFO errorstats, Redis 6.2 and later); CONFIG RESETSTAT begins anew.
    """
    for name, remedy in REFUSALS.items():
        count = reading.info.get(f"errorstat_{name}", {}).get("count", 0)
        if count:
            yield Warning(f"{name} was answered {count:,} times since the server started.", hint=remedy)


@rule("D108", "config")
def brings_back_old_keys(reading: Reading) -> Iterator[CheckMessage]:
    """The server saves to its disk, and DISTRUST_RESTARTS is False: a restart brings back what was invalidated.

    A snapshot is older than the last invalidations, and an AOF may lack its last second.
    """
    saves = reading.config.get("save") or reading.config.get("appendonly") == "yes"
    if saves and not reading.settings.distrust_restarts:
        yield Warning(
            "It saves to its disk and DISTRUST_RESTARTS is False: after a restart, old entries are believed.",
            hint='Set DISTRUST_RESTARTS to True, or switch persistence off: CONFIG SET save "", CONFIG SET appendonly no.',
        )


@rule("D109", "info", "config")
def may_lose_writes(reading: Reading) -> Iterator[CheckMessage]:
    """There are replicas, and min-replicas-to-write is 0: a primary that was deposed goes on confirming invalidations.

    Those are lost when it comes back as a replica. With 1 it refuses them, and they are repeated on the new primary.
    """
    if reading.info.get("connected_slaves") and reading.config.get("min-replicas-to-write") == "0":
        yield Info(
            "It has replicas, and confirms writes without them: those of a deposed primary are lost.",
            hint="CONFIG SET min-replicas-to-write 1, and in redis.conf.",
        )
