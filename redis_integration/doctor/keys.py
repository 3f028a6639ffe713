"""Rules about a sample of the keys under KEY_PREFIX."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from django.core.checks import CheckMessage, Info, Warning

from redis_integration.doctor.readings import Reading
from redis_integration.doctor.rules import rule
from redis_integration.doctor.samples import Key
from redis_integration.entries import FORMAT
from redis_integration.text import escape_for_print, size

LARGE_STRING = 100_000  # bytes
LARGE_COLLECTION = 1_000_000  # bytes
# A stampede ahead: this many keys of one namespace, and this share of it, end within one minute, and not soon.
HERD, HERD_SHARE, SOON, MINUTE = 100, 0.3, 600.0, 60.0
MOST_NAMED = 3


def _named(names: Sequence[bytes]) -> str:
    shown = ", ".join(map(escape_for_print, names[:MOST_NAMED]))
    return f"{shown} and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else shown


@rule("D401", "keys")
def are_kept_for_ever(reading: Reading) -> Iterator[CheckMessage]:
    """Keys under KEY_PREFIX never expire.

    Whatever this package writes has a ttl; these were written by other code, with `get_redis()` perhaps. They stay until somebody deletes
    them, or maxmemory-policy does.
    """
    names = [key.name for key in reading.sample.keys if key.ttl is None]
    if names:
        yield Warning(
            f"{len(names):,} of {len(reading.sample.keys):,} keys never expire: {_named(names)}.",
            hint="Give them a ttl where they are written; `manage.py redis_scan` shows them all.",
        )


@rule("D402", "keys", "sizes")
def are_large_values(reading: Reading) -> Iterator[CheckMessage]:
    """Strings under KEY_PREFIX take more than 100,000 bytes.

    Each read sends all of it, and the server and its other clients wait meanwhile.
    """
    yield from _large(
        reading,
        [key for key in reading.sample.keys if key.type == "string" and (key.size or 0) > LARGE_STRING],
        "Cache less in one value, split it, or compress it: COMPRESS_OVER_BYTES.",
    )


@rule("D403", "keys", "sizes")
def are_large_collections(reading: Reading) -> Iterator[CheckMessage]:
    """Hashes, sets, lists or other collections under KEY_PREFIX take more than 1 MB.

    Commands that take all of them, DEL too, stop the server for some ms.
    """
    yield from _large(
        reading,
        [key for key in reading.sample.keys if key.type != "string" and (key.size or 0) > LARGE_COLLECTION],
        "Split them, read them in parts (HSCAN, SSCAN, ZSCAN), and delete them with UNLINK.",
    )


def _large(reading: Reading, keys: list[Key], hint: str) -> Iterator[CheckMessage]:
    keys.sort(key=lambda key: -(key.size or 0))
    if keys:
        yield Warning(
            f"{len(keys):,} of {len(reading.sample.keys):,} keys are large, the largest {size(keys[0].size or 0)}: "
            f"{_named([key.name for key in keys])}.",
            hint=hint,
        )


@rule("D404", "keys")
def end_together(reading: Reading) -> Iterator[CheckMessage]:
    """At least 100 keys, and 30 % of their namespace, end within the same minute, more than 10 minutes from now.

    Their pages are then all computed at once. Entries of this package end at random, up to a tenth of their ttl earlier.
    """
    ends: dict[bytes, list[float]] = defaultdict(list)
    for key in reading.sample.keys:
        ends[key.namespace].append(key.ttl or 0.0)
    for namespace, seconds in sorted(ends.items()):
        minutes = Counter(int(left // MINUTE) for left in seconds if left > SOON)
        minute, count = max(minutes.items(), key=lambda each: each[1], default=(0, 0))
        if count >= HERD and count > HERD_SHARE * len(seconds):
            yield Warning(
                f"{count:,} of {len(seconds):,} keys of {escape_for_print(namespace)} end within one minute, in {minute:,} minutes.",
                hint="Spread their ttls by some percent at random, as @cache_aside does.",
            )


@rule("D405", "keys", "heads")
def are_of_another_version(reading: Reading) -> Iterator[CheckMessage]:
    """Entries under KEY_PREFIX are of another format than this version of the package writes.

    During a deploy that is normal: to each version, the entries of the other are misses. Later it means that some process still
    runs the other one.
    """
    names = [name for name, head in reading.sample.heads.items() if b"" < head < b" " and head[0] != FORMAT]
    if names:
        yield Warning(
            f"{len(names):,} of {len(reading.sample.heads):,} entries are of another format than {FORMAT}: {_named(names)}.",
            hint="Restart the processes that still run another version of django-redis-integration.",
        )


@rule("D406", "keys", "heads")
def are_no_entries(reading: Reading) -> Iterator[CheckMessage]:
    """Keys under KEY_PREFIX are no entries of this package: of another type, or strings of something else.

    That is fine for what your own code writes with `get_redis()`. But a cached function whose key that is would never be stored.
    """
    names = [name for name, head in reading.sample.heads.items() if not b"" < head < b" "]
    others = [key.name for key in reading.sample.keys if key.type != "string" and b":#" not in key.name]
    if names or others:
        yield Info(
            f"{len(names):,} of {len(reading.sample.heads):,} strings that were looked at, and {len(others):,} keys of "
            f"other types, are no entries: {_named([*names, *others])}.",
            hint="If another program owns them, give one of the two another KEY_PREFIX.",
        )


@rule("D407", "info", "keys")
def have_neighbours(reading: Reading) -> Iterator[CheckMessage]:
    """Other databases, or keys under other prefixes, are on this server.

    Its memory, its eviction policy, a FLUSHALL and a slow command are everybody's.
    """
    here = f"db{reading.settings.address.rpartition('/')[2].rpartition('=')[2]}"
    databases = [name for name in reading.info if name[:2] == "db" and name[2:].isdigit() and name != here]
    if databases:
        yield Info(
            f"Other databases of this server have keys: {', '.join(sorted(databases))}.",
            hint="Give the cache a server of its own: eviction and FLUSHALL know no databases.",
        )
    others = reading.sample.others
    if others:
        yield Info(
            f"{others.total():,} of {reading.sample.walked:,} keys are not under KEY_PREFIX: "
            f"{_named([name for name, _ in others.most_common()])}.",
            hint="Give the cache a server, or at least a database of its own, if those are not yours.",
        )
