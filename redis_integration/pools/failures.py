"""
The one table that turns errors of redis-py and of the network into the kinds of this package, each with a remedy.

It decides nothing: what a kind means for a call is the policy's business.
"""

from __future__ import annotations

from typing import NamedTuple

from redis import exceptions as errors

from redis_integration.exceptions import Kind, RedisUnavailable


class Row(NamedTuple):
    """One error: its class and how its text begins, what it means, and what the operator does about it."""

    error: type[BaseException]
    begins: str
    kind: Kind
    remedy: str
    # The connection is gone and nothing else is known: an idempotent command may be tried again on a new one.
    lost: bool = False


_CREDENTIALS = "Check USERNAME and PASSWORD of this alias against the server's ACL."
_RULE = "Allow it: `ACL SETUSER <user> +<command> ~<KEY_PREFIX>:*`."
_PRIMARY = "This is a replica: give URL the address of the primary."
_CLUSTER = "This is a node of a Redis Cluster, which URL does not speak to: use a standalone Redis or a proxy."
_WAIT = "It answers again when that is done; nothing to do unless it lasts."
_SLOW = "The network is slow or the server is blocked: see SLOWLOG GET and LATENCY DOCTOR."
_SERVER = "Is the server running, and is this its address?"

# The first row that fits is the answer, so a class stands above its bases. Texts are those of Redis 6.2 to 8 and Valkey;
# redis-py has no class for MISCONF, NOREPLICAS, BUSY and WRONGTYPE.
ROWS: tuple[Row, ...] = (
    Row(errors.MaxConnectionsError, "", Kind.BUSY, "Raise MAX_CONNECTIONS, or find what keeps connections."),
    Row(errors.ConnectionError, "max number of clients", Kind.DOWN, "Raise the server's maxclients."),
    Row(errors.AuthenticationWrongNumberOfArgsError, "", Kind.DOWN, _CREDENTIALS),
    Row(errors.AuthenticationError, "", Kind.DOWN, _CREDENTIALS),
    Row(errors.AuthorizationError, "", Kind.DOWN, _CREDENTIALS),
    Row(errors.ExternalAuthProviderError, "", Kind.DOWN, _CREDENTIALS),
    Row(errors.NoPermissionError, "", Kind.DOWN, _RULE),
    Row(errors.BusyLoadingError, "", Kind.DOWN, "It is loading its data. " + _WAIT),
    Row(errors.ReadOnlyError, "", Kind.DOWN, _PRIMARY),
    Row(errors.OutOfMemoryError, "", Kind.FULL, "Raise maxmemory, or set maxmemory-policy to allkeys-lru."),
    Row(errors.MasterDownError, "", Kind.DOWN, "The replica lost its primary. " + _WAIT),
    Row(errors.TryAgainError, "", Kind.DOWN, "The cluster is moving slots. " + _WAIT),
    Row(errors.AskError, "", Kind.DOWN, _CLUSTER),
    Row(errors.ClusterCrossSlotError, "", Kind.DOWN, _CLUSTER),
    Row(errors.ClusterError, "", Kind.DOWN, "The cluster is not complete. " + _WAIT),
    Row(errors.RedisClusterException, "", Kind.DOWN, _CLUSTER),
    Row(errors.ResponseError, "MISCONF", Kind.DOWN, "It cannot save to its disk and refuses writes: look at the disk."),
    Row(errors.ResponseError, "NOREPLICAS", Kind.DOWN, "Too few replicas are connected (min-replicas-to-write)."),
    Row(errors.ResponseError, "BUSY", Kind.DOWN, "A script runs too long: SCRIPT KILL ends it."),
    Row(
        errors.ResponseError, "WRONGTYPE", Kind.FOREIGN, "Another program owns this key: give one of them a KEY_PREFIX."
    ),
    Row(
        errors.ResponseError,
        "",
        Kind.DOWN,
        "The server does not know or refuses this command: is it Redis 6.2 or newer?",
    ),
    Row(errors.InvalidResponse, "", Kind.DOWN, "What answers there is no Redis, or expects TLS: look at URL."),
    Row(errors.TimeoutError, "", Kind.DOWN, _SLOW),
    Row(errors.ConnectionError, "", Kind.DOWN, _SERVER, lost=True),
    Row(TimeoutError, "", Kind.DOWN, _SLOW),
    Row(ConnectionError, "", Kind.DOWN, _SERVER, lost=True),
    Row(OSError, "", Kind.DOWN, _SERVER),
    Row(
        errors.ChildDeadlockedError, "", Kind.DOWN, "A forked child inherited a locked pool: fork before threads start."
    ),
    Row(RuntimeError, "Event loop is closed", Kind.DOWN, "The connection belonged to another event loop.", lost=True),
    Row(UnicodeDecodeError, "", Kind.FOREIGN, "Another program wrote this: give one of them a KEY_PREFIX."),
)


def find_row(error: BaseException) -> Row | None:
    """The row of this error; None for a mistake in our own call (a `DataError`, say), which must be seen."""
    text = str(error)
    for row in ROWS:
        if isinstance(error, row.error) and text.startswith(row.begins):
            return row
    return None


def translate(error: BaseException, address: str = "") -> RedisUnavailable | None:
    """
    The RedisUnavailable that says what this error means and what to do; None where it is no failure of Redis.

    `address` is where the server should be, without credentials. Texts of redis-py never contain a password; those of
    its pipelines contain the command, so only tiers and commands of this package may pass theirs on.
    """
    row = find_row(error)
    if row is None:
        return None
    where = f" at {address}" if address else ""
    reason = f"Redis{where}: {str(error).rstrip('.') or type(error).__name__}."
    return RedisUnavailable(reason, kind=row.kind, remedy=row.remedy, lost=row.lost)
