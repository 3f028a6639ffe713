"""Every order of readers and writers, step by step, on a real server: none of ours ends stale, and what is broken shows."""

from __future__ import annotations

import pytest

from tests.interleavings import variants
from tests.interleavings.cast import Family, count
from tests.interleavings.families import EXPIRED, OLD_ANSWERS, OURS, PLAIN, REPEATED, STALE
from tests.interleavings.orders import walk
from tests.interleavings.scheduler import injected


def name_of(part):
    return getattr(part, "__name__", None) or str(part)


@pytest.fixture
def patch(live):
    """What else is to be replaced; it ends with the test, as the scheduler does."""
    with injected() as patch:
        yield patch


@pytest.mark.parametrize("family", OURS, ids=name_of)
def test_no_order_ends_stale_or_gives_an_old_answer(patch, family):
    """No later read gets an old version, nobody gets one that was invalidated before the call, and no lease is left."""
    tally = count(family)

    assert tally.wrong == (0, 0, 0, "")


@pytest.mark.parametrize("family", EXPIRED, ids=name_of)
def test_no_order_of_expiry_ends_stale(patch, family):
    """An expired entry is given to others meanwhile, and never stays."""
    tally = count(family)

    assert (tally.stale, tally.leases) == (0, 0)


@pytest.mark.parametrize(
    "family", [Family("read read"), Family("read read", homes="00"), Family("read read", "tag")], ids=name_of
)
def test_readers_alone_compute_once_and_end_with_a_hit(patch, family):
    """One origin call for all readers, in every order, and its result is stored: not storing would be an easy way to be right."""
    tally = count(family)

    assert (tally.repeated, tally.late, tally.hits) == (0, 0, tally.orders)


@pytest.mark.parametrize("family", PLAIN, ids=name_of)
def test_plain_get_and_set_end_stale_as_measured_elsewhere(patch, family):
    """The same scheduler finds what is known of GET, SET and DEL after the commit: 10.0, 12.5 and 11.4 %."""
    tally = count(family)

    assert (tally.orders, tally.stale) == PLAIN[family]
    assert 0.10 <= tally.share <= 0.125


@pytest.mark.parametrize(("variant", "family"), STALE, ids=name_of)
def test_broken_variant_ends_stale(patch, variant, family):
    """The same scheduler notices that this part of the protocol is missing: a later read gets an old version."""
    variant(patch)

    assert count(family).stale > 0


@pytest.mark.parametrize(("variant", "family"), OLD_ANSWERS, ids=name_of)
def test_broken_variant_gives_an_old_answer(patch, variant, family):
    """The same scheduler notices that this part is missing: a caller gets what was over before the call."""
    variant(patch)

    assert count(family).old_answers > 0


@pytest.mark.parametrize(("variant", "family"), REPEATED, ids=name_of)
def test_broken_variant_computes_twice(patch, variant, family):
    """The same scheduler notices that this part is missing: what was just stored is computed again."""
    variant(patch)

    assert count(family).repeated > 0


@pytest.mark.parametrize(
    ("variant", "family"),
    [
        (variants.nothing_broken, Family("read read write", "plain")),
        (variants.nothing_broken, Family("read read write", "tag")),
        (variants.nothing_broken, Family("read write", homes="00")),
        (variants.nothing_broken, Family("read read", homes="00")),
        (variants.nothing_broken, Family("read evict-tag evict-lease", "tag", "held", homes="012")),
        (variants.nothing_broken, Family("read write", "refresh", "filled", homes="01", impatient=True)),
        (variants.fill_does_not_check_the_lease, Family("read write write")),
    ],
    ids=name_of,
)
def test_orders_played_one_by_one_are_counted_alike(patch, variant, family):
    """To let orders that meet in a state go on as one changes no number."""
    variant(patch)

    apart, together = count(family, counting=walk), count(family)

    assert apart._replace(taken=0, example="") == together._replace(taken=0, example="")
