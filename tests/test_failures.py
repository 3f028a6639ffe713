from __future__ import annotations

import inspect

import pytest
from redis import exceptions as errors

from redis_integration.exceptions import Kind
from redis_integration.pools import translate
from redis_integration.pools.failures import ROWS

# Mistakes in a call of ours or of a plain client's user: no failure of Redis, so they are seen.
MISTAKES = {
    "DataError",
    "IncorrectPolicyType",
    "LockError",
    "LockNotOwnedError",
    "PubSubError",
    "RedisError",
    "WatchError",
}
FULL = {"OutOfMemoryError"}
BUSY = {"MaxConnectionsError"}
CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, Exception) and found.__module__ == errors.__name__
]


def make(error_class):
    if issubclass(error_class, errors.AskError):
        return error_class("1234 127.0.0.1:7000")
    return error_class("a text of no meaning")


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda error_class: error_class.__name__)
def test_every_class_of_redis_py_has_its_kind(error_class):
    """Whatever redis-py can raise is a failure with a remedy, or known to be a mistake."""
    failure = translate(make(error_class))

    expected = {**dict.fromkeys(FULL, Kind.FULL), **dict.fromkeys(BUSY, Kind.BUSY), **dict.fromkeys(MISTAKES)}
    assert (failure and failure.kind) == expected.get(error_class.__name__, Kind.DOWN)
    assert failure is None or failure.remedy


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ResponseError("MISCONF Redis is configured to save RDB snapshots"), Kind.DOWN),
        (errors.ResponseError("NOREPLICAS Not enough good replicas to write."), Kind.DOWN),
        (errors.ResponseError("BUSY Redis is busy running a script."), Kind.DOWN),
        (errors.ResponseError("WRONGTYPE Operation against a key"), Kind.FOREIGN),
        (errors.ConnectionError("max number of clients reached"), Kind.DOWN),
        (ConnectionResetError(104, "Connection reset by peer"), Kind.DOWN),
        (TimeoutError(), Kind.DOWN),
        (OSError("Buffer is closed."), Kind.DOWN),
        (RuntimeError("Event loop is closed"), Kind.DOWN),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), Kind.FOREIGN),
    ],
)
def test_texts_and_errors_beside_redis_py_have_their_kind(error, kind):
    """What redis-py has no class for, and what it lets through, is known by its text."""
    assert translate(error).kind is kind


def test_other_errors_are_not_taken_for_failures_of_redis():
    """A RuntimeError of anyone else's is not swallowed."""
    assert translate(RuntimeError("dictionary changed size during iteration")) is None


def test_only_lost_connections_are_worth_a_new_one():
    """A timeout or a refusal is not tried again within a call."""
    assert translate(errors.ConnectionError("Connection closed by server.")).lost
    assert not translate(errors.TimeoutError("Timeout reading from socket")).lost
    assert not translate(errors.AuthenticationError("invalid username-password pair")).lost


def classes(row):
    return row.error if isinstance(row.error, tuple) else (row.error,)


def test_every_row_can_be_reached():
    """No class stands below a base of it in a row that always fits first."""
    hidden = [
        (error.__name__, below.begins)
        for index, below in enumerate(ROWS)
        for error in classes(below)
        for above in ROWS[:index]
        if issubclass(error, above.error) and below.begins.startswith(above.begins)
    ]

    assert hidden == []


def test_message_states_the_fact_then_the_remedy():
    """The text for the operator names the address, the fact and the remedy, in this order."""
    text = str(translate(errors.ReadOnlyError("You can't write against a read only replica."), "cache:6379/0"))

    assert text.startswith("Redis at cache:6379/0: You can't write against a read only replica.")
    assert text.endswith("give URL the address of the primary.")
