"""The code with one rule switched off: a worker can run so, and then the checker must find something.

Where a setting switches it off, no edit is needed.
"""

from __future__ import annotations

# Rules that tests/model/edits.py drops.
DROPPED = {"no fence": "fill needs the lease", "no life": "an entry is of its life"}
LATER = "__import__('time').sleep(1)"
# For each: where, what stands there, and what stands there instead.
EDITED = {
    "no drain": [("recovery.repeat", "names = [*pending]", "names = []")],
    # Who drains takes his time, and who starts does: each would be done before most calls.
    "no barrier": [("recovery.recover", "drained =", f"tier.breaker.close(); {LATER}; drained =")],
    "no first poll": [
        ("journal.Journal.start_afresh", "self._add(UNPOLLED, EVERYTHING)", "pass"),
        ("watch.Watch._work", "run(self._beat(is_async=False))", f"{LATER}; run(self._beat(is_async=False))"),
    ],
}


def mutate(name: str) -> None:
    """Until this process ends. Raises AssertionError where the code has changed so that there is nothing to edit."""
    if name in DROPPED or name in EDITED:
        # An unmutated worker need not wait for these.
        import pytest

        from tests.model import edits

        if name in EDITED:
            edits.EDITS[name] = tuple(edits.Edit(*each) for each in EDITED[name])
        edits.drop(DROPPED.get(name, name), pytest.MonkeyPatch())
