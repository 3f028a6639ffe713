"""What the application's user may do, tried without doing it: by ACL DRYRUN, else by commands that change nothing.

The list of what this package sends stands here, once; a test runs the package with a user who has no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError, RedisError

from redis_integration.conf import RedisSettings
from redis_integration.keys import probe_key
from redis_integration.pools.slots import connection_arguments
from redis_integration.tiers.leases import lease_key
from redis_integration.tiers.scripts import PROBE

Command = Sequence[Any]
Ask = Callable[[Sequence[Command]], list[Any]]

# What can end or lay bare a whole server, and nothing here needs. They are only asked about, never sent.
DANGEROUS: dict[str, Command] = {
    "FLUSHALL": ("FLUSHALL",),
    "KEYS": ("KEYS", "*"),
    "CONFIG SET": ("CONFIG", "SET", "maxmemory", "0"),
    "DEBUG": ("DEBUG", "SLEEP", "0"),
    "SHUTDOWN": ("SHUTDOWN",),
}
FOREIGN_KEYS = "the keys of others"


class Permissions(NamedTuple):
    """`lacks` are rules of an ACL that the application needs, `line` is the smallest ACL that would do.

    `grants` is what the user may and needs not; None where nobody may ask.
    """

    user: str = ""
    lacks: tuple[str, ...] = ()
    grants: tuple[str, ...] | None = None
    line: str = ""


def needed(settings: RedisSettings) -> dict[str, Command]:
    """What this package sends, by the rule that allows it: each in a form that changes nothing."""
    key = probe_key(settings.key_prefix)
    commands: dict[str, Command] = {
        "+get": ("GET", key),
        "+mget": ("MGET", key, key),
        "+set": ("SET", key, "", "XX", "PX", 1),
        "+unlink": ("UNLINK", key),
        "+pttl": ("PTTL", key),
        "+pexpire": ("PEXPIRE", key, 1000),
        "+getrange": ("GETRANGE", key, 0, 0),
        "+setrange": ("SETRANGE", key, 0, ""),
        "+eval": ("EVAL", PROBE.source, 1, key),
        "+evalsha": ("EVALSHA", PROBE.sha, 1, key),
        "+hincrby": ("HINCRBY", key, "none", "no number"),
        "+client|setname": ("CLIENT", "SETNAME", settings.client_name),
    }
    if settings.health_check_interval:
        commands["+ping"] = ("PING",)
    if settings.distrust_restarts:
        commands["+info"] = ("INFO", "server")
    if number := connection_arguments(settings).get("db"):
        commands["+select"] = ("SELECT", number)
    return commands


def patterns(settings: RedisSettings) -> dict[str, Command]:
    """The patterns of keys, by the rule that allows them."""
    key = probe_key(settings.key_prefix)
    return {f"~{settings.key_prefix}:*": ("GET", key), f"~{{{settings.key_prefix}:*": ("GET", lease_key(key))}


def acl_line(settings: RedisSettings, user: str) -> str:
    """The smallest ACL that would do; passwords stay. No user gets it who could be somebody else's."""
    name = f"{settings.key_prefix} on >PASSWORD" if user == "default" else user
    rules = *patterns(settings), "resetchannels", "-@all", *needed(settings)
    return f"ACL SETUSER {name} resetkeys {' '.join(rules)}"


def read_permissions(settings: RedisSettings, ask: Ask) -> Permissions:
    """What the user lacks, and has too much. At most 3 round trips."""
    wanted = {**needed(settings), **patterns(settings)}
    foreign = ("GET", f"not-{settings.key_prefix}")
    whoami, *_ = ask([("ACL WHOAMI",)])
    user = "" if isinstance(whoami, RedisError) else whoami
    if user:
        asked = [*wanted.values(), *DANGEROUS.values(), foreign]
        replies = ask([("ACL DRYRUN", user, *command) for command in asked])
        if not isinstance(replies[0], RedisError):
            lacks = _lacking(wanted, replies)
            allowed = [reply == b"OK" for reply in replies[len(wanted) :]]
            names = [*DANGEROUS, FOREIGN_KEYS]
            grants = tuple(name for name, is_allowed in zip(names, allowed, strict=True) if is_allowed)
            return Permissions(user, lacks, grants, acl_line(settings, user))
    *tried, rules = ask([*wanted.values(), ("ACL GETUSER", user or "default")])
    name = user or connection_arguments(settings).get("username") or "default"
    return Permissions(name, _lacking(wanted, tried), _grants_of(rules), acl_line(settings, name))


def _lacking(wanted: dict[str, Command], replies: Sequence[Any]) -> tuple[str, ...]:
    """The rules whose command is refused. A command that may be sent, and only not for this key, is not missing."""
    lacks = []
    for rule, reply in zip(wanted, replies, strict=False):
        is_refusal = isinstance(reply, (NoPermissionError, bytes)) and b"permissions" in str(reply).encode()
        if is_refusal and (rule.startswith("~") or "to run the" in str(reply)):
            lacks.append(rule)
    return tuple(lacks)


def _grants_of(rules: Any) -> tuple[str, ...] | None:
    """What Redis 6 tells of a user."""
    if not isinstance(rules, dict):
        return None
    is_all = "+@all" in rules["categories"] and "-@dangerous" not in rules["categories"]
    is_open = bool({b"*", "~*"} & {*rules["keys"]})  # bytes in Redis 6
    return (*(DANGEROUS if is_all else ()), *((FOREIGN_KEYS,) if is_open else ()))
