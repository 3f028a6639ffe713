"""The code without one of the journal's rules; see edits.py."""

from __future__ import annotations

import threading
from collections.abc import Callable

from django.db import connections

from tests.model.edits import Edit

_POLL, _REPEAT, _RECOVER = "journal.Journal.poll", "recovery.repeat", "recovery.recover"
_SETTLE = "    yield from _surely(partial(tier.journal.settle, batch, delete=not rows.is_unended([*batch])))"

JOURNAL_EDITS: dict[str, tuple[Edit, ...]] = {
    "what is not confirmed is journalled": (
        Edit("journal.Journal.write", "while self.database", "while False and self.database"),
    ),
    "polled before it is believed": (
        Edit("journal.Journal.start_afresh", "if self.database", "if False and self.database"),
    ),
    "a child polls anew": (Edit("journal._start_afresh", "journal.start_afresh()", "pass"),),
    "what is not written stays pending": (
        Edit(_POLL, "{*self._written.copy()}, self", "{mark for each in self.pending.values() for mark in each}, self"),
    ),
    "a poll drops what was written before it": (
        Edit(_POLL, "gone = written.difference", "gone = {*self._written}.difference"),
    ),
    "pending is kept per row": (
        Edit(
            "journal.Journal.settle",
            "self._forget(marks)",
            "self._forget({mark: name for name in drained for mark in [*self.pending.get(name, ())]})",
        ),
    ),
    "a row for each invalidation": (
        Edit("journal.Journal.remember", "_make_id()", "(_make_id(), name.encode().hex()[-32:])[1]"),
        Edit("journal.Journal.remember", "self._forget(older)", "older.pop(mark, None), self._forget(older)"),
    ),
    "the newest mark speaks for those before it": (
        Edit("journal.Journal.remember", "for name in names", "for name in set(names).difference(self.pending)"),
    ),
    "rows of the journal are deleted by id": (
        Edit(
            "journal.Journal.settle",
            "self.delete(",
            "self.rows().filter(name__in=[*drained])._raw_delete(self.database); (",
        ),
    ),
    "the breaker closes after the poll": (
        Edit(_RECOVER, "drained = yield from drain(tier)", "tier.breaker.close(); drained = yield from drain(tier)"),
    ),
    "what was not polled closes nothing": (
        Edit(
            "recovery._poll",
            "return bool((yield from _surely(tier.journal.poll)))",
            "yield from _surely(tier.journal.poll); return True",
        ),
    ),
    "a beat polls whatever Redis says": (Edit(_RECOVER, "if tier.breaker.is_closed:", "if False:"),),
    "an old snapshot drops nothing": (Edit(_POLL, "elif sees_all:", "else:"),),
    "an old snapshot closes nothing": (Edit(_POLL, "return sees_all", "return True"),),
    "an old snapshot is no first look": (
        Edit(_POLL, "if sees_all:\n        self._forget({UNPOLLED", "if True:\n        self._forget({UNPOLLED"),
    ),
    "written outside any transaction": (Edit("statements.ask", "if locks and not", "if False and not"),),
    "UNLINK before DELETE": (
        Edit(
            _REPEAT,
            "yield from tier.unlink([*batch])",
            "yield from _surely(partial(tier.journal.delete, [m for each in batch.values() for m in each])); yield from tier.unlink([*batch])",
        ),
    ),
    "a drain revokes the lease": (
        Edit(_REPEAT, "yield from tier.unlink([*batch])", 'yield from tier._speak(("UNLINK", *batch))'),
    ),
    "a drain ends rows": (Edit(_REPEAT, "yield from rows.delete([*batch])", "pass"),),
    "rows end before DELETE": (
        Edit(_REPEAT, "yield from rows.delete([*batch])", "pass"),
        Edit(_REPEAT, _SETTLE, f"{_SETTLE}; yield from rows.delete([*batch])"),
    ),
    "a flood ends with a poll": (
        Edit("journal.Journal.settle", "self._forget(marks)", "self._forget(marks | {FLOODED: EVERYTHING})"),
    ),
    "a flood outlives a poll that began before it": (
        Edit(
            _POLL, "self._add(FLOODED, EVERYTHING)\n                self._sheds += 1", "self._add(FLOODED, EVERYTHING)"
        ),
    ),
    "what was shed outlives a poll that began before it": (Edit("journal.Journal._shed", "self._sheds += 1", "pass"),),
    "a call that ended no rows leaves its own": (
        Edit("invalidation._end", "is_over = is_confirmed and", "is_over = is_confirmed or"),
    ),
    "a drain that ended no rows leaves theirs": (Edit(_REPEAT, "delete=not rows.is_unended([*batch])", "delete=True"),),
    "a call ends when its row is there": (
        Edit(
            "journal.Journal._first_unwritten",
            "return dict(islice(self._unwritten.items(), BATCH))",
            "return {mark: self._unwritten.pop(mark) for mark in [*islice(self._unwritten, BATCH)]}",
        ),
    ),
    "the row comes with the commit": (Edit("invalidation.end_entries", "if journal.is_always:", "if False:"),),
    "the row is committed with the data": (
        Edit(
            "journal.Journal.record",
            "self._insert({mark: rows[mark] for mark in batch})",
            '__import__("tests.model.journal_edits").model.journal_edits.apart(partial(self._insert, {mark: rows[mark] for mark in batch}))',
        ),
    ),
}


def apart(query: Callable[[], None]) -> None:
    """Run this query on another connection, which commits it at once."""

    def run() -> None:
        try:
            query()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
