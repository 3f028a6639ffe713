"""The checker on histories made by hand: what it finds, what it excuses, and what it does not."""

from __future__ import annotations

from math import inf

import pytest

from tests.history.checker import COULD_NOT_KNOW, CUT_OFF, ROW_LEFT, Bounds, judge
from tests.history.records import History, Life, Read, Recorder, Span, Write, load, path_of

READER, WRITER, LATER = Life(0, 0), Life(1, 0), Life(0, 1)
BOUNDS = Bounds(watch_interval=1.0, fallback_ttl=10.0, grace=0.5)
KEY = 7
ACKNOWLEDGED = 10.0  # when version 2 was


def write(version=2, end=ACKNOWLEDGED, **changes):
    made = Write(WRITER, end - 0.1 if end < inf else 9.9, end, KEY, version, f"stamp {version}")
    return made._replace(**changes)


def read(start, version=1, **changes):
    return Read(READER, start, start + 0.01, KEY, version, f"stamp {version}")._replace(**changes)


def history(*reads, writes=None, **changes):
    """Of a reader and a writer that ran from the begin; both versions were committed."""
    made = History(reads=[*reads], writes=[write()] if writes is None else writes)
    made.began = {READER: 0.0, WRITER: 0.0, LATER: 11.0}
    made.committed = {(KEY, 1): "stamp 1", (KEY, 2): "stamp 2", (KEY, 3): "stamp 3"}
    vars(made).update(changes)
    return made


def found(history, bounds=BOUNDS):
    return [finding.what for finding in judge(history, bounds).findings]


def excused(history, bounds=BOUNDS):
    return dict(judge(history, bounds).excused)


def test_answer_of_the_newest_version_is_well():
    """And of one that is newer than what is acknowledged."""
    assert found(history(read(10.1, version=2), read(9.95, version=2))) == []


def test_answer_older_than_an_acknowledged_version_is_stale():
    """However short a time ago it was acknowledged."""
    verdict = judge(history(read(10.001)), BOUNDS)

    assert [finding.what for finding in verdict.findings] == ["stale"]
    assert "version 2 was acknowledged at 10.000" in verdict.findings[0].text
    assert "1 × stale" in str(verdict)


def test_answer_of_a_call_that_began_before_is_well():
    """It may end long afterwards."""
    assert found(history(read(9.99, end=20.0))) == []


def test_invalidation_that_has_not_returned_binds_nobody():
    """The write is committed."""
    assert found(history(read(10.1), writes=[write(end=inf)])) == []


# Who could not know


@pytest.mark.parametrize(("start", "is_excused"), [(10.1, True), (11.49, True), (11.51, False)])
def test_other_process_has_an_interval_to_learn_what_redis_did_not_confirm(start, is_excused):
    """And the time of a beat."""
    made = history(read(start), writes=[write(confirmed=False)])

    assert (found(made) == []) == is_excused
    assert ([*excused(made)] == [COULD_NOT_KNOW]) == is_excused


def test_own_process_knows_at_once():
    """What was not confirmed is pending in it."""
    assert found(history(read(10.001, life=WRITER), writes=[write(confirmed=False)])) == ["stale"]


def test_process_that_began_later_has_polled():
    """Before it first believed Redis."""
    late = history(read(11.2, life=LATER), writes=[write(confirmed=False)])

    assert found(late) == ["stale"]


def test_process_that_has_come_back_since_has_polled():
    """Before its breaker closed."""
    outage = Span(8.0, 10.6, life=READER)

    assert found(history(read(10.7), writes=[write(confirmed=False)], outages=[outage])) == ["stale"]
    assert found(history(read(10.7), writes=[write(confirmed=False)], outages=[outage._replace(end=10.4)])) == []


def test_rows_are_ended_by_what_redis_did_not_confirm():
    """Who reads them has no excuse."""
    outage = Span(9.0, 15.0, life=READER)

    assert found(history(read(10.2), writes=[write(confirmed=False)], outages=[outage])) == ["stale"]


def test_row_that_the_database_did_not_end_may_be_answered_until_the_watch_has_ended_it():
    """By others, and only in place of Redis."""
    left = write(confirmed=False, ends_rows=False)
    outage = Span(9.0, 15.0, life=READER)

    assert [*excused(history(read(10.2), writes=[left], outages=[outage]))] == [ROW_LEFT]
    assert found(history(read(11.6), writes=[left], outages=[outage])) == ["stale"]
    assert found(history(read(10.2, life=WRITER), writes=[left], outages=[outage._replace(life=WRITER)])) == ["stale"]


def test_stall_of_the_reader_is_added_to_its_interval():
    """Of no other process, and only what lies between."""
    late = read(12.0)
    stall = Span(9.0, 10.6, life=READER)

    assert found(history(late, writes=[write(confirmed=False)], stalls=[stall])) == []
    assert found(history(late, writes=[write(confirmed=False)], stalls=[stall._replace(life=WRITER)])) == ["stale"]
    assert found(history(late, writes=[write(confirmed=False)], stalls=[stall._replace(end=10.4)])) == ["stale"]


# Who is cut off


@pytest.mark.parametrize(("start", "is_excused"), [(10.1, True), (19.9, True), (20.1, False)])
def test_who_is_cut_off_may_answer_rows_for_their_time(start, is_excused):
    """What Redis confirmed to others does not reach them."""
    made = history(read(start), outages=[Span(5.0, 30.0, life=READER)])

    assert (found(made) == []) == is_excused
    assert ([*excused(made)] == [CUT_OFF]) == is_excused


@pytest.mark.parametrize(
    "outage",
    [Span(10.5, 30.0, life=READER), Span(5.0, 10.4, life=READER), Span(5.0, 30.0, life=WRITER)],
    ids=["began later", "was over", "another's"],
)
def test_outage_excuses_only_who_was_in_it_all_the_time(outage):
    """A row of a later outage began after the invalidation."""
    assert found(history(read(11.0), outages=[outage])) == ["stale"]


def test_nobody_is_excused_for_rows_that_every_invalidation_ends():
    """FALLBACK = "durable"."""
    made = history(read(10.1), outages=[Span(5.0, 30.0, life=READER)])

    assert found(made, BOUNDS._replace(fallback_ttl=0.0)) == ["stale"]


def test_own_invalidation_is_never_unknown():
    """Also to a process that is cut off."""
    made = history(read(10.1, life=WRITER), outages=[Span(5.0, 30.0, life=WRITER)])

    assert found(made) == ["stale"]


def test_excuse_of_one_version_is_none_for_another():
    """A newer one that Redis did not confirm does not hide an older one that it did."""
    writes = [write(2, end=9.0), write(3, end=10.0, confirmed=False)]

    assert found(history(read(10.1, version=1), writes=writes)) == ["stale"]
    assert found(history(read(10.1, version=2), writes=writes)) == []


# Deaths


def death(how="by key in atomic", **changes):
    """The writer is killed at 12 with its invalidation on the way."""
    return history(writes=[write(end=inf, confirmed=False, how=how)], killed={WRITER: 12.0}, **changes)


def test_journal_always_outlives_its_process():
    """From its death on, as if it had acknowledged what it had committed."""
    always = BOUNDS._replace(is_always=True)

    assert found(death(reads=[read(11.9), read(13.4)]), always) == []
    assert found(death(reads=[read(13.6)]), always) == ["stale"]
    assert found(death(reads=[read(13.6)]), BOUNDS) == []


def test_death_before_the_invalidation_was_asked_for_binds_nobody():
    """It is not in the transaction of the change; nor is there anything to invalidate without a commit."""
    always = BOUNDS._replace(is_always=True)

    assert found(death(how="by key", reads=[read(13.6)]), always) == []
    assert found(death(reads=[read(13.6)], committed={(KEY, 1): "stamp 1"}), always) == []


# The rest


def test_old_answer_at_the_end_is_lost_whatever_the_circumstances():
    """All is healed by then."""
    made = history(read(10.1, how="final"), writes=[write(confirmed=False)], outages=[Span(5.0, 30.0, life=READER)])

    assert found(made) == ["lost"]


def test_value_of_another_key_is_foreign():
    """Whatever its version."""
    assert found(history(read(10.1, version=2, answered_key=8))) == ["foreign"]


def test_what_nobody_committed_is_never_answered():
    """Neither a version that is not there, nor one that another has written."""
    assert found(history(read(10.1, version=4), read(10.1, version=2, stamp="rolled back"))) == ["uncommitted"] * 2


def test_error_of_an_act_and_what_did_not_settle_are_findings():
    """No failure of the cache reaches a view."""
    assert found(history(errors=["worker 1: RedisUnavailable"], unsettled=["worker 1: 3 rows"])) == [
        "raised",
        "unsettled",
    ]


def test_what_workers_recorded_becomes_a_history(tmp_path):
    """Also where the last line was cut short by a death."""
    recorder = Recorder(path_of(tmp_path, READER))
    recorder.note("began", at=1.0)
    recorder.note("read", how="get", start=2.0, end=2.1, key=KEY, version=1, stamp="", answered_key=None)
    recorder.note("written", stamp="a", start=3.0, how="by tag", made=[[7, 2], [17, 2]])
    recorder.note("acknowledged", stamp="a", end=3.1, confirmed=False, ends_rows=True)
    recorder.note("written", stamp="b", start=4.0, how="by key", made=[[7, 3]])
    recorder.note("lost", at=5.0, is_open=True, reason="refused")
    recorder.note("back", at=6.0, is_open=False)
    recorder.note("lost", at=7.0, is_open=True, reason="frozen")
    recorder.close()
    with path_of(tmp_path, READER).open("a") as file:
        file.write('{"what": "acknowledged", "stam')

    made = load(tmp_path)

    assert made.began == {READER: 1.0}
    assert made.reads == [Read(READER, 2.0, 2.1, KEY, 1, "")]
    assert made.writes == [
        Write(READER, 3.0, 3.1, 7, 2, "a", "by tag", False),
        Write(READER, 3.0, 3.1, 17, 2, "a", "by tag", False),
        Write(READER, 4.0, inf, 7, 3, "b", "by key", False, False),
    ]
    assert made.outages == [Span(5.0, 6.0, "refused", READER), Span(7.0, inf, "frozen", READER)]
