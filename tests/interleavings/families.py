"""Which families of orders are counted, and which variant of the protocol must show in which."""

from __future__ import annotations

from tests.interleavings import variants
from tests.interleavings.cast import Family

# The usual way, and what was measured of it elsewhere: orders, and how many of them end stale.
PLAIN = {
    Family("read write", "plain"): (10, 1),
    Family("read read write", "plain"): (560, 70),
    Family("read write write", "plain"): (210, 24),
}

_SHAPES = ["read write", "read read write", "read write write", "refresh write", "read refresh write"]
_BEGINNINGS = [("key", "empty"), ("key", "filled"), ("tag", "empty"), ("tag", "tag"), ("tag", "filled")]

OURS = [
    *(Family(shape, *beginning) for shape in _SHAPES for beginning in _BEGINNINGS),
    # An expired entry is there.
    Family("read read write", "key", "stale"),
    # Writers that refresh.
    Family("read write", "refresh"),
    Family("read read write", "refresh"),
    Family("read write write", "refresh", "filled"),
    # Redis loses a key.
    Family("read read write evict-lease"),
    Family("read write evict-lease", "refresh", "filled"),
    Family("read read write evict-tag", "tag", "tag"),
    # Readers that wait in vain.
    Family("read read write", impatient=True),
    Family("read read write", "tag", impatient=True),
    # Readers of one process, the writer elsewhere; then all of one process.
    Family("read read write", homes="001"),
    Family("read read write", "tag", homes="001"),
    Family("read read write", "key", "stale", homes="001"),
    Family("read read write", "tag", "held", homes="001", impatient=True),
    Family("read read write", homes="000"),
    Family("read write", "refresh", homes="00"),
    Family("write write", "refresh", "filled", homes="00"),
]

# Who reads while an expired entry is computed anew is given the expired one: that is what expire() is for.
EXPIRED = [
    Family("read write", "expiry"),
    Family("read write", "expiry", "filled"),
    Family("read read write", "expiry"),
]

STALE = [
    (variants.nothing_broken, Family("read write-early")),
    (variants.nothing_broken, Family("read read write-early")),
    (variants.fill_does_not_check_the_lease, Family("read write")),
    (variants.fill_does_not_check_the_lease, Family("read read write")),
    (variants.fill_does_not_check_the_lease, Family("read write write")),
    (variants.fill_creates_the_generation, Family("read write", "tag")),
    (variants.fill_creates_the_generation, Family("read read write", "tag")),
    (variants.fill_creates_the_generation, Family("read write write", "tag", "tag")),
    (variants.generation_is_read_after_the_origin, Family("read write", "tag")),
    (variants.generation_is_read_after_the_origin, Family("read write write", "tag", "tag")),
    (variants.invalidation_leaves_the_lease, Family("read write")),
    (variants.invalidation_leaves_the_lease, Family("read read write")),
    (variants.expiry_leaves_the_lease, Family("read write", "expiry")),
    (variants.refused_refresh_ends_nothing, Family("read write evict-lease", "refresh", "filled")),
]

OLD_ANSWERS = [
    (variants.refresh_waits_for_the_lease, Family("read write", "refresh")),
    (variants.refresh_joins_what_began_before, Family("read write", "refresh", homes="00")),
    (variants.refused_fill_counts_as_accepted, Family("read read write", homes="001")),
    (variants.fill_does_not_check_the_generation, Family("read read write", "tag", "tag", homes="001")),
    (variants.flight_is_joined_until_it_lands, Family("read read write", homes="001")),
    (
        variants.flight_without_lease_is_joined_at_any_time,
        Family("read read write", "tag", "held", homes="001", impatient=True),
    ),
]

REPEATED = [(variants.lease_does_not_look_for_the_entry, Family("read read"))]
