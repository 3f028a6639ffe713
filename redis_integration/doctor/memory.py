"""Rules about the server's memory."""

from __future__ import annotations

from collections.abc import Iterator

from django.core.checks import CheckMessage, Error, Info, Warning

from redis_integration.doctor.readings import Reading
from redis_integration.doctor.rules import rule
from redis_integration.text import size

MB = 1024 * 1024
SMALL = 5 * MB  # below it, what a server itself needs is more than what it holds


def _keys(info: dict[str, object]) -> tuple[int, int]:
    """How many keys there are in all databases, and how many of them expire."""
    databases = [each for name, each in info.items() if name[:2] == "db" and name[2:].isdigit()]
    return sum(each["keys"] for each in databases), sum(each["expires"] for each in databases)  # type: ignore[index]


@rule("D201", "info")
def is_unlimited(reading: Reading) -> Iterator[CheckMessage]:
    """maxmemory is 0: nothing bounds the cache but the memory of its machine.

    When that is used up the kernel swaps, or ends a process: mostly Redis.
    """
    if reading.info.get("maxmemory") == 0:
        total = reading.info.get("total_system_memory", 0)
        yield Warning(
            f"maxmemory is not set: the cache may take all {size(total)} of its machine; now {size(reading.info['used_memory'])}.",
            hint="CONFIG SET maxmemory to three quarters of what it may have, and maxmemory-policy allkeys-lru; both in redis.conf.",
        )


@rule("D202", "info")
def evicts_nothing(reading: Reading) -> Iterator[CheckMessage]:
    """maxmemory is set and maxmemory-policy is noeviction: at the limit nothing is stored any more.

    It is an error above 90 % of maxmemory. Reads and invalidations go on at the limit, stores are refused (OOM).
    """
    info = reading.info
    if info.get("maxmemory") and info.get("maxmemory_policy") == "noeviction":
        share = info["used_memory"] / info["maxmemory"]
        yield (Error if share > 0.9 else Warning)(
            f"noeviction at {share:.0%} of maxmemory ({size(info['maxmemory'])}).",
            hint="CONFIG SET maxmemory-policy allkeys-lru, and in redis.conf.",
        )


@rule("D203", "info")
def cannot_evict(reading: Reading) -> Iterator[CheckMessage]:
    """maxmemory-policy is volatile-…, and more than a fifth of all keys never expire: those are never evicted.

    All other keys live in what they leave, and where that is nothing, stores are refused (OOM).
    """
    keys, expiring = _keys(reading.info)
    policy = str(reading.info.get("maxmemory_policy"))
    if policy.startswith("volatile-") and keys and (keys - expiring) / keys > 0.2:
        yield Warning(
            f"maxmemory-policy is {policy}, and {keys - expiring:,} of {keys:,} keys never expire.",
            hint=f"Give them a ttl, or CONFIG SET maxmemory-policy {policy.replace('volatile-ttl', 'volatile-lru').replace('volatile', 'allkeys')}.",
        )


@rule("D204", "info")
def is_promised_too_much(reading: Reading) -> Iterator[CheckMessage]:
    """maxmemory is more than 80 % of the machine's memory.

    maxmemory counts neither the buffers of clients and replicas, nor fragmentation, nor the copies during a snapshot.
    """
    limit, total = reading.info.get("maxmemory", 0), reading.info.get("total_system_memory", 0)
    if total and limit > 0.8 * total:
        yield Warning(
            f"maxmemory is {size(limit)}, on a machine of {size(total)}: the kernel may end Redis first.",
            hint=f"CONFIG SET maxmemory {int(0.75 * total)}, and in redis.conf; or a larger machine.",
        )


@rule("D205", "info")
def evicts(reading: Reading) -> Iterator[CheckMessage]:
    """Keys are evicted while the doctor looks; a warning, where evicting could not keep pace at some time.

    A cache at its limit does evict. Whether it is too small, the hit ratio says: manage.py redis_stats.
    """
    evicted = reading.later.get("evicted_keys", 0) - reading.info.get("evicted_keys", 0)
    exceeded = reading.info.get("total_eviction_exceeded_time", 0)
    hint = "Give it more memory, shorten ttls, or compress: COMPRESS_OVER_BYTES."
    if exceeded and reading.info.get("maxmemory_policy") != "noeviction":
        yield Warning(f"It was over maxmemory for {exceeded / 1000:.1f} s, and evicted too slowly.", hint=hint)
    elif evicted > 0:
        yield Info(f"{evicted:,} keys were evicted during this look.", hint=hint)


@rule("D206", "info")
def is_fragmented(reading: Reading) -> Iterator[CheckMessage]:
    """Memory is lost between the keys: the allocator holds 1.4 times what they need, and 10 MB more.

    Nothing is said below 5 MB. The bounds are those of MEMORY DOCTOR, or a little above.
    """
    info = reading.info
    ratio, lost = info.get("allocator_frag_ratio", 1.0), info.get("allocator_frag_bytes", 0)
    if info.get("used_memory", 0) > SMALL and ratio > 1.4 and lost > 10 * MB:
        yield Warning(
            f"{size(lost)} are lost between the keys: the allocator holds {ratio:.1f} times what they need.",
            hint="CONFIG SET activedefrag yes; or restart it at a quiet time.",
        )


@rule("D207", "info")
def swaps(reading: Reading) -> Iterator[CheckMessage]:
    """Above 100 MB, a tenth of what it holds is not in memory: it is swapped out.

    Each touch of such a key waits for the disk, and all other clients with it.
    """
    used, resident = reading.info.get("used_memory", 0), reading.info.get("used_memory_rss", 0)
    if used > 100 * MB and resident < 0.9 * used:
        yield Error(
            f"Only {size(resident)} of {size(used)} are in memory: the rest is swapped out.",
            hint="Give the machine more memory, or lower maxmemory; and switch swapping off for Redis.",
        )
