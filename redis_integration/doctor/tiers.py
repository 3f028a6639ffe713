"""Rules about what this project keeps beside the server: fallback rows, clocks, aliases."""

from __future__ import annotations

from collections.abc import Iterator

from django.core.checks import CheckMessage, Error, Info, Warning

from redis_integration.conf import get_aliases, get_settings
from redis_integration.doctor.readings import Reading
from redis_integration.doctor.rules import rule
from redis_integration.pruning import MOST_WRITES
from redis_integration.text import duration

SKEW = 1.0  # seconds
LATE = 60.0  # seconds, in which every watch has tried many times
# Calls of an hour, from which on their hit ratio says something; and the ratio below which a cache is hardly one.
ENOUGH, FEW_HITS = 1_000, 0.2


@rule("D601", "database")
def has_no_table(reading: Reading) -> Iterator[CheckMessage]:
    """The tables of fallback and journal cannot be read: their database is away, or was not migrated.

    In an outage every call is then computed, and an invalidation that fails is known to its own process only.
    """
    if reading.database_error:
        name = reading.settings.database
        yield Error(
            f"The tables in the database {name!r} cannot be read: {reading.database_error.rstrip('.')}.",
            hint=f"manage.py migrate --database {name}; or set FALLBACK and JOURNAL to None, if neither is wanted.",
        )


@rule("D602", "database")
def is_not_pruned(reading: Reading) -> Iterator[CheckMessage]:
    """The fallback table has more rows than FALLBACK_ENTRIES, and what one process may add between two prunings.

    The watch of each worker prunes; where no worker runs, or threads do not, nobody does.
    """
    most = reading.settings.fallback_entries
    if reading.settings.fallback and (reading.rows or 0) > most + MOST_WRITES:
        yield Warning(
            f"The fallback table has {reading.rows:,} rows; FALLBACK_ENTRIES is {most:,}.",
            hint="manage.py redis_fallback prune, from cron too, if the workers run no threads.",
        )


@rule("D603")
def shares_keys(reading: Reading) -> Iterator[CheckMessage]:
    """Two aliases share server, database and KEY_PREFIX.

    Each has a breaker and pending names of its own, so that one may serve what the other has invalidated.
    """
    mine = reading.settings
    for alias in get_aliases():
        if alias == reading.alias:
            return  # told once, of the later one
        other = get_settings(alias)
        if (other.address, other.key_prefix) == (mine.address, mine.key_prefix):
            yield Warning(
                f"It shares server, database and KEY_PREFIX with {alias!r}.",
                hint="Give one of them another KEY_PREFIX, or use one alias.",
            )


@rule("D604", "time")
def clocks_differ(reading: Reading) -> Iterator[CheckMessage]:
    """The clock of Redis, or of the fallback table's database, differs by more than a second from this machine's.

    Freshness is counted by the clock of the machine that computes, ttls by that of Redis, rows by the database's: entries are fresh for too
    long, or too short.
    """
    for name, ahead in (("Redis", reading.redis_ahead), ("the database", reading.database_ahead)):
        if abs(ahead) > SKEW:
            yield Warning(
                f"The clock of {name} is {abs(ahead):,.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's.",
                hint="Run an NTP client (chrony, systemd-timesyncd) on all of them.",
            )


@rule("D605", "database")
def has_unsent_invalidations(reading: Reading) -> Iterator[CheckMessage]:
    """The journal holds invalidations that Redis has not confirmed: an error where Redis answers and they are older than a minute.

    The watch of each worker repeats them each second; until then their names are bypassed. Where no worker runs, nobody does.
    """
    journal = reading.journal
    if journal is None or not journal.rows:
        return
    age = journal.first[0].age.total_seconds() if journal.first else 0.0
    message = f"{journal.rows:,} invalidations wait in the journal, the oldest for {duration(1000 * age)}."
    if reading.failure is not None or age <= LATE:
        yield Info(message, hint="They are repeated when Redis is back; `manage.py redis_fallback status` shows them.")
    else:
        yield Error(
            message, hint="manage.py redis_fallback drain; then look why no worker's watch does (WATCH_INTERVAL)."
        )


@rule("D606", "stats")
def is_hardly_hit(reading: Reading) -> Iterator[CheckMessage]:
    """Of more than 1,000 calls of a function within the last hour, less than a fifth found an entry.

    Each miss costs three round trips more than no cache.
    """
    for line in reading.stats.lines if reading.stats else ():
        if line.calls > ENOUGH and (line.hit_ratio or 0.0) < FEW_HITS:
            yield Info(
                f"{line.name} was called {line.calls:,} times, and {line.hit_ratio:.0%} found an entry.",
                hint="Give it a longer ttl, fewer arguments in its key, or tags less often invalidated; or do not cache it.",
            )


@rule("D607", "stats", "ping")
def is_not_worth_it(reading: Reading) -> Iterator[CheckMessage]:
    """The origin of a function takes no longer than two round trips, on the average of more than 1,000 calls of the last hour.

    A hit costs one, a miss three.
    """
    for line in reading.stats.lines if reading.stats else ():
        if line.origin > ENOUGH and line.spent / line.origin < 2 * reading.ping(0.5):
            yield Info(
                f"{line.name} takes {1000 * line.spent / line.origin:.2f} ms to compute, and a round trip {1000 * reading.ping(0.5):.2f} ms.",
                hint="Do not cache it; or cache what calls it.",
            )
