"""Rules about the server's clients and commands."""

from __future__ import annotations

import time
from collections.abc import Iterator

from django.core.checks import CheckMessage, Error, Info, Warning

from redis_integration.doctor.readings import Reading
from redis_integration.doctor.rules import rule

HOUR = 3600.0
SLOW = 10_000  # microseconds: what Redis puts into its SLOWLOG by default
HARSH = ("keys", "flushall", "flushdb")


@rule("D301", "info")
def has_rejected(reading: Reading) -> Iterator[CheckMessage]:
    """Connections were rejected since the server started: maxclients was reached.

    To a worker that is an outage.
    """
    count = reading.info.get("rejected_connections", 0)
    if count:
        yield Warning(
            f"{count:,} connections were rejected since the server started: maxclients is {reading.info.get('maxclients', 0):,}.",
            hint="Raise maxclients, lower MAX_CONNECTIONS, or find who leaves connections open: CLIENT LIST.",
        )


@rule("D302", "info")
def is_crowded(reading: Reading) -> Iterator[CheckMessage]:
    """The pools of all workers together may open more connections than maxclients allows, or 80 % of them are open.

    `--workers` says how many processes use this alias; without it those of the last hour count (redis_stats). Each has a pool of MAX_CONNECTIONS, and in async code one for each event loop.
    """
    limit, clients = reading.info.get("maxclients", 0), reading.info.get("connected_clients", 0)
    if not limit:
        return
    seen = reading.stats.workers if reading.stats else 0
    most, workers = reading.settings.max_connections, reading.workers or seen or 1
    if workers * most > limit:
        yield Error(
            f"{workers:,} workers may open {workers * most:,} connections, and maxclients is {limit:,}.",
            hint=f"Set MAX_CONNECTIONS to {limit * 8 // 10 // workers or 1} or less, or raise maxclients.",
        )
    if clients > 0.8 * limit:
        yield Warning(
            f"{clients:,} of {limit:,} connections are open (maxclients).",
            hint="Raise maxclients, or find who leaves connections open: CLIENT LIST.",
        )


@rule("D303", "info")
def is_asked_harshly(reading: Reading) -> Iterator[CheckMessage]:
    """Somebody has called KEYS, FLUSHALL or FLUSHDB since the server started.

    KEYS makes every client wait for a walk through all keys; FLUSHALL makes every page a miss at once.
    """
    calls = {name.upper(): reading.info.get(f"cmdstat_{name}", {}).get("calls", 0) for name in HARSH}
    said = ", ".join(f"{name} {count:,} times" for name, count in calls.items() if count)
    if said:
        yield Warning(
            f"Somebody has called {said} since the server started.",
            hint="Find the caller in MONITOR or ACL LOG, use redis_scan in its place, and take the right away: -@dangerous +info.",
        )


@rule("D304", "slowlog")
def has_slow_commands(reading: Reading) -> Iterator[CheckMessage]:
    """Commands of the last hour took 10 ms or longer (SLOWLOG), during which every other client waited.

    Arguments are not shown: they may be secret.
    """
    since = time.time() + reading.redis_ahead - HOUR
    slow: dict[str, list[int]] = {}
    for entry in reading.slow:
        if entry["start_time"] >= since and entry["duration"] >= SLOW:
            name = entry["command"].split(b" ", 1)[0].decode("ascii", "backslashreplace").upper()
            slow.setdefault(name, []).append(entry["duration"])
    if slow:
        said = ", ".join(
            f"{name} ({len(took):,}, up to {max(took) / 1000:.0f} ms)" for name, took in sorted(slow.items())
        )
        yield Warning(
            f"Commands were slow within the last hour: {said}.",
            hint="Split large keys, UNLINK in place of DEL, smaller batches, no KEYS; details: SLOWLOG GET.",
        )


@rule("D305", "info")
def is_young(reading: Reading) -> Iterator[CheckMessage]:
    """The server has started less than an hour ago: the cache may be cold, and what it has counted says little yet.

    With DISTRUST_RESTARTS, what it held before is not believed.
    """
    seconds = reading.info.get("uptime_in_seconds", HOUR)
    if seconds < HOUR:
        yield Info(
            f"It has started {int(seconds) // 60} minutes ago: the cache may be cold, its counts are young.",
            hint="Look again in an hour; if nobody restarted it, look why it did.",
        )


@rule("D306", "config")
def hangs_up(reading: Reading) -> Iterator[CheckMessage]:
    """The server closes connections that are idle for less time than HEALTH_CHECK_INTERVAL.

    Workers find out when they send: the call is repeated on a new connection, which costs it two round trips, and RETRIES = 0
    would make it a miss.
    """
    timeout, interval = int(reading.config.get("timeout") or 0), reading.settings.health_check_interval
    if timeout and (not interval or timeout <= interval):
        yield Warning(
            f"It closes connections after {timeout} s, and HEALTH_CHECK_INTERVAL is {interval:g} s.",
            hint=f"CONFIG SET timeout 0, or HEALTH_CHECK_INTERVAL below {timeout}.",
        )


@rule("D307", "info")
def stops_to_fork(reading: Reading) -> Iterator[CheckMessage]:
    """The last fork, for a snapshot or a replica, stopped the server for half of COMMAND_TIMEOUT or longer.

    Every such fork is a row of timeouts for all workers. It takes about 10 ms for each GB, more on some virtual machines.
    """
    took, limit = reading.info.get("latest_fork_usec", 0) / 1e6, reading.settings.command_timeout
    if took >= limit / 2:
        yield Warning(
            f"The last snapshot stopped it for {1000 * took:.0f} ms; COMMAND_TIMEOUT is {1000 * limit:g} ms.",
            hint='A cache needs no snapshot: CONFIG SET save ""; else switch transparent huge pages off, or use smaller servers.',
        )
