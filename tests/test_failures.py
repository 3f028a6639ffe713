from __future__ import annotations

import asyncio
import inspect

import pytest
from redis import exceptions as errors
from redis._parsers import _RESP2Parser
from redis.connection import DefaultParser

from redis_integration.exceptions import Kind
from redis_integration.pools import aexchange, exchange, first_failure, get_pool, get_redis, translate
from redis_integration.pools.failures import ROWS, unwrap
from redis_integration.pools.life import LifeUnknown

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
SLOW = {"TimeoutError"}
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

    expected = {
        **dict.fromkeys(FULL, Kind.FULL),
        **dict.fromkeys(BUSY, Kind.BUSY),
        **dict.fromkeys(SLOW, Kind.SLOW),
        **dict.fromkeys(MISTAKES),
    }
    assert (failure and failure.kind) == expected.get(error_class.__name__, Kind.DOWN)
    assert failure is None or failure.remedy


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ResponseError("MISCONF Redis is configured to save RDB snapshots"), Kind.DOWN),
        (errors.ResponseError("NOREPLICAS Not enough good replicas to write."), Kind.DOWN),
        (errors.ResponseError("BUSY Redis is busy running a script."), Kind.DOWN),
        (LifeUnknown("INFO tells no run_id and master_replid"), Kind.DOWN),
        (errors.ResponseError("WRONGTYPE Operation against a key"), Kind.FOREIGN),
        (errors.ConnectionError("max number of clients reached"), Kind.DOWN),
        (ConnectionResetError(104, "Connection reset by peer"), Kind.DOWN),
        (TimeoutError(), Kind.SLOW),
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


SHA = "0" * 40
SCRIPT = "return redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000)"
IN_SCRIPT = f"Error running script (call to f_{SHA}): @user_script:1: @user_script: 1: "


@pytest.mark.parametrize(
    ("text", "error_class", "inner", "kind"),
    [
        (f"{IN_SCRIPT}-OOM command not allowed.", errors.OutOfMemoryError, "command not allowed.", Kind.FULL),
        (f"{IN_SCRIPT}-READONLY It is a replica.", errors.ReadOnlyError, "It is a replica.", Kind.DOWN),
        (f"{IN_SCRIPT}-MISCONF Errors\nwriting.", errors.ResponseError, "MISCONF Errors\nwriting.", Kind.DOWN),
        (f"{IN_SCRIPT}-NOREPLICAS Not enough.", errors.ResponseError, "NOREPLICAS Not enough.", Kind.DOWN),
        (
            f"Error running script (call to f_{SHA}): @user_script:3: WRONGTYPE Operation against a key",
            errors.ResponseError,
            "WRONGTYPE Operation against a key",
            Kind.FOREIGN,
        ),
    ],
)
def test_error_in_a_script_of_redis_6_2_is_the_error_of_its_command(text, error_class, inner, kind):
    """Redis 6.2 wraps what a script's command was refused with, and redis-py has no class for that."""
    wrapped = errors.ResponseError(text, status_code="ERR")

    assert (type(unwrap(wrapped)), str(unwrap(wrapped))) == (error_class, inner)
    assert translate(wrapped).kind is kind
    assert f": {inner.rstrip('.')}. " in str(translate(wrapped))


def test_other_errors_are_not_unwrapped():
    """What only looks like an error in a script is left as it is."""
    plain, foreign = errors.ResponseError("OOM"), ValueError(f"{IN_SCRIPT}-OOM")

    assert (unwrap(plain), unwrap(foreign)) == (plain, foreign)


@pytest.mark.parametrize(
    ("preparation", "kind", "remedy"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), Kind.FULL, "maxmemory"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), Kind.DOWN, "min-replicas-to-write"),
        (("REPLICAOF", "127.0.0.1", "1"), Kind.DOWN, "replica"),
        (("ACL", "SETUSER", "default", "-set"), Kind.DOWN, "ACL SETUSER"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_script_is_refused_as_its_command_is(live_own, prefix, preparation, kind, remedy):
    """On a real server, a SET and a script that sets are refused with the same kind and the same remedy."""
    get_redis().execute_command(*preparation)

    replies, _ = exchange("default", [("SET", prefix, 1), ("EVAL", SCRIPT, 1, prefix, 1)])
    failures = [first_failure("default", [reply]) for reply in replies]

    assert [failure.kind for failure in failures] == [kind, kind]
    assert failures[0].remedy == failures[1].remedy
    assert remedy in failures[0].remedy


def test_script_on_a_key_of_another_type_meets_a_foreign_key(live, prefix):
    """WRONGTYPE inside a script is a foreign key, as it is outside."""
    script = "return redis.call('GET', KEYS[1])"

    replies, _ = exchange("default", [("LPUSH", prefix, 1), ("EVAL", script, 1, prefix), ("UNLINK", prefix)])

    assert first_failure("default", replies).kind is Kind.FOREIGN


@pytest.mark.parametrize("parser", [DefaultParser, _RESP2Parser])
def test_unknown_script_is_told_by_its_class(live, monkeypatch, parser):
    """NOSCRIPT is a value of its own class, with hiredis and with the pure Python parser."""
    monkeypatch.setitem(get_pool().connection_kwargs, "parser_class", parser)

    replies, _ = exchange("default", [("EVALSHA", SHA, 0)])

    assert isinstance(replies[0], errors.NoScriptError)


def test_unknown_script_is_told_by_its_class_in_async_code(live):
    """See above."""
    replies, _ = asyncio.run(aexchange("default", [("EVALSHA", SHA, 0)]))

    assert isinstance(replies[0], errors.NoScriptError)
