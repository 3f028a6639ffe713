"""The one table that turns errors of redis-py and of the network into the kinds of this package, each with a remedy.

It decides nothing: what a kind means for a call is the policy's business.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from redis import exceptions as errors
from redis.connection import DefaultParser

from redis_integration.exceptions import Kind, RedisUnavailable
from redis_integration.pools.life import LifeUnknown


class Row(NamedTuple):
    """One failure: the error's class and how its text begins, what it means, and what the operator does about it."""

    error: type[BaseException] | tuple[type[BaseException], ...]
    remedy: str
    begins: str = ""
    kind: Kind = Kind.DOWN
    # The connection is gone and nothing else is known: an idempotent command may be tried again on a new one.
    lost: bool = False
    # The server says what it is waiting for, which is seldom long.
    is_short: bool = False


_CREDENTIALS = "Check USERNAME and PASSWORD of this alias against the server's ACL."
_RULE = "Allow it: `ACL SETUSER <user> +<command> ~<KEY_PREFIX>:* ~{<KEY_PREFIX>:*`."
_INFO = "Allow it: `ACL SETUSER <user> +info`; or set DISTRUST_RESTARTS = False, which trusts the data of a restarted server."
_CLUSTER = "This is a node of a Redis Cluster, which URL does not speak to: use a standalone Redis or a proxy."
_WAIT = "It answers again when that is done; nothing to do unless it lasts."
_SLOW = "The network is slow or the server is blocked: see SLOWLOG GET and LATENCY DOCTOR."
_SERVER = "Is the server running, and is this its address?"
_OWNER = "Another program owns this key: give one of them a KEY_PREFIX."
_REFUSED = "The server does not know or refuses this command: is it Redis 6.2 or newer?"

# The first row that fits is the answer, so a class stands above its bases. Texts are those of Redis 6.2 to 8 and Valkey;
# redis-py has no class for MISCONF, NOREPLICAS, BUSY and WRONGTYPE.
ROWS: tuple[Row, ...] = (
    Row(errors.MaxConnectionsError, "Raise MAX_CONNECTIONS, or find what keeps connections.", kind=Kind.BUSY),
    Row(errors.ConnectionError, "Raise the server's maxclients.", begins="max number of clients", is_short=True),
    Row((errors.AuthenticationError, errors.AuthenticationWrongNumberOfArgsError), _CREDENTIALS),
    Row((errors.AuthorizationError, errors.ExternalAuthProviderError), _CREDENTIALS),
    Row(errors.NoPermissionError, _RULE),
    Row(errors.BusyLoadingError, f"It is loading its data. {_WAIT}", is_short=True),
    Row(errors.ReadOnlyError, "This is a replica: give URL the address of the primary.", lost=True),
    Row(errors.OutOfMemoryError, "Raise maxmemory, or set maxmemory-policy to allkeys-lru.", kind=Kind.FULL),
    Row(errors.MasterDownError, f"The replica lost its primary. {_WAIT}", is_short=True),
    Row(errors.TryAgainError, f"The cluster is moving slots. {_WAIT}", is_short=True),
    Row((errors.AskError, errors.ClusterCrossSlotError, errors.RedisClusterException), _CLUSTER),
    Row(errors.ClusterError, f"The cluster is not complete. {_WAIT}", is_short=True),
    Row(LifeUnknown, _INFO),
    Row(errors.ResponseError, "It cannot save to its disk and refuses writes: look at the disk.", begins="MISCONF"),
    Row(errors.ResponseError, "Too few replicas are connected (min-replicas-to-write).", begins="NOREPLICAS"),
    Row(errors.ResponseError, "A script runs too long: SCRIPT KILL ends it.", begins="BUSY", is_short=True),
    Row(errors.ResponseError, _OWNER, begins="WRONGTYPE", kind=Kind.FOREIGN),
    Row(errors.ResponseError, _RULE, begins="The user executing the script can't"),
    Row(errors.ResponseError, _RULE, begins="ACL failure in script"),
    Row(errors.ResponseError, "It evicts by LFU, and keeps no idle times.", begins="An LFU maxmemory policy"),
    Row(errors.ResponseError, _REFUSED),
    Row(errors.InvalidResponse, "What answers there is no Redis, or expects TLS: look at URL."),
    Row((errors.TimeoutError, TimeoutError), _SLOW, kind=Kind.SLOW),
    Row((errors.ConnectionError, ConnectionError), _SERVER, lost=True),
    Row(OSError, _SERVER),
    Row(errors.ChildDeadlockedError, "A forked child inherited a locked pool: fork before threads start."),
    Row(RuntimeError, "The connection belonged to another event loop.", begins="Event loop is closed", lost=True),
    Row(UnicodeDecodeError, _OWNER, kind=Kind.FOREIGN),
)


# Redis 6.2: "Error running script (call to f_<sha>): @user_script:1: @user_script: 1: -OOM command not allowed ...". From 7.0
# on, and in Valkey, the error begins as it does outside of scripts.
_IN_SCRIPT = re.compile(r"Error running script \(.*?\): @user_script:\d+: (?:@user_script: \d+: )?-?(.+)", re.DOTALL)


def unwrap(error: Any) -> Any:
    """The error a command met inside a script, as it would be outside of one; any other as it is."""
    found = isinstance(error, errors.ResponseError) and _IN_SCRIPT.match(str(error))
    return DefaultParser.parse_error(found[1]) if found else error  # type: ignore[no-untyped-call]


def translate(error: BaseException, address: str = "") -> RedisUnavailable | None:
    """The RedisUnavailable that says what this error means and what to do; None for a mistake in our own call, which must be seen.

    `address` is where the server should be, without credentials. Texts of redis-py never contain a password; those of
    its pipelines contain the command, so only tiers and commands of this package may pass theirs on.
    """
    error = unwrap(error)
    text = str(error)
    row = next((row for row in ROWS if isinstance(error, row.error) and text.startswith(row.begins)), None)
    if row is None:
        return None
    where = f" at {address}" if address else ""
    reason = f"Redis{where}: {text.rstrip('.') or type(error).__name__}."
    return RedisUnavailable(reason, kind=row.kind, remedy=row.remedy, lost=row.lost, is_short=row.is_short)
