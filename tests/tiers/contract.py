"""The contract of a tier, run for each tier, sync and async."""

from __future__ import annotations

import asyncio
import time

import pytest

from redis_integration.entries import Entry
from redis_integration.flow import arun, run
from redis_integration.keys import Names


def arun_here(flow):
    return asyncio.run(arun(flow))


def entry(payload=b'"value"', *, created=None, ttl=60.0):
    created = time.time() if created is None else created
    return Entry(payload=payload, codec=1, created=created, fresh_until=created + ttl, took=0.5)


class TierContract:
    """Subclasses give the fixture `tier`, made for `is_async`, and `write`, the flow that stores an entry in it."""

    @pytest.fixture(params=[False, True], ids=["sync", "async"])
    def is_async(self, request):
        return request.param

    @pytest.fixture
    def drive(self, is_async):
        return arun_here if is_async else run

    def test_what_was_written_is_read(self, tier, drive, prefix):
        """An entry comes back whole, its times and its payload."""
        written = entry(b"\x00\xff")

        drive(self.write(tier, Names(f"{prefix}:a"), written))

        found = drive(tier.read(Names(f"{prefix}:a")))
        assert found._replace(took=0.5, life=written.life) == written

    def test_nothing_written_is_a_miss(self, tier, drive, prefix):
        """A key that was never written gives None, and no error."""
        assert drive(tier.read(Names(f"{prefix}:none"))) is None

    def test_later_write_replaces_the_earlier(self, tier, drive, prefix):
        """There is one entry for each key."""
        drive(self.write(tier, Names(f"{prefix}:a"), entry(b"1")))
        drive(self.write(tier, Names(f"{prefix}:a"), entry(b"2")))

        assert drive(tier.read(Names(f"{prefix}:a"))).payload == b"2"

    def test_deleted_entries_are_misses(self, tier, drive, prefix):
        """All given keys are ended, others are left."""
        keys = [f"{prefix}:{name}" for name in "abc"]
        drive(self.write(tier, Names(keys[0]), entry()))
        drive(self.write(tier, Names(keys[1]), entry()))
        drive(self.write(tier, Names(keys[2]), entry(b"kept")))

        drive(tier.delete(keys[:2]))

        assert [drive(tier.read(Names(key))) for key in keys[:2]] == [None, None]
        assert drive(tier.read(Names(keys[2]))).payload == b"kept"

    def test_expired_entry_is_a_miss(self, tier, drive, prefix):
        """An entry is not given after its time, or is known to be over."""
        drive(self.write(tier, Names(f"{prefix}:a"), entry(created=time.time() - 10.0, ttl=10.0)))

        found = drive(tier.read(Names(f"{prefix}:a")))

        assert found is None or not found.is_fresh(time.time())

    def test_deleted_tag_ends_its_entries(self, tier, drive, prefix):
        """All entries with the tag are no copies any more, others are left."""
        tagged, other = Names(f"{prefix}:a", (f"{prefix}:#t", f"{prefix}:#u")), Names(f"{prefix}:b", (f"{prefix}:#u",))
        drive(self.write(tier, tagged, entry()))
        drive(self.write(tier, other, entry(b"kept")))

        drive(tier.delete([f"{prefix}:#t"]))

        found = drive(tier.read(tagged))
        assert found is None or found.is_revoked
        assert not drive(tier.read(other)).is_revoked
