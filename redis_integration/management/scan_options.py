"""The options of redis_scan: what they are, which contradict each other, and the search that they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis_integration import scan
from redis_integration.caching import MAX_TTL
from redis_integration.conf import get_settings
from redis_integration.management.console import argument, import_path
from redis_integration.scan.search import DEFAULT_COUNT, TYPES, is_everything
from redis_integration.text import escape_for_print, read_duration, read_size

CHANGES = ("delete", "expire", "persist")
MOST_SHOWN = 20  # of an order, and branches of one level of a tree
MOST_VALUES = 10
_ORDERS = ("bytes", "ttl", "idle", "length", "name")
_FORMATS = ("table", "json", "jsonl", "csv", "keys")
_FORMATS_OF = {"tree": ("table", "json"), "value": ("table", "json", "jsonl")}
_BOUNDS = ("no_ttl", "ttl_under", "ttl_over", "idle_over", "bytes_over", "tag", "count", "max_rate", "max_seconds")
_seconds, _bytes = argument(read_duration), argument(read_size)
Options = dict[str, Any]


def add_options(add_group: Callable[[str], Any]) -> None:
    """Add them all, in groups."""
    add = add_group("which keys").add_argument
    add("pattern", nargs="?", help="glob: * ? [a-z], \\ before a literal one; default {KEY_PREFIX}:*")
    add("--alias", default="default", help="alias in REDIS_INTEGRATION; default: default")
    add("--any-prefix", action="store_true", help="allow a pattern outside KEY_PREFIX")
    add("--type", action="append", default=[], choices=TYPES, help="only keys of this type; may be repeated")
    add("--no-ttl", action="store_true", help="only keys that never expire")
    add("--ttl-under", type=_seconds, metavar="TIME", help="only keys that expire sooner (90, 10m, 7d)")
    add("--ttl-over", type=_seconds, metavar="TIME", help="only keys that expire later")
    add("--idle-over", type=_seconds, metavar="TIME", help="only keys that were not used for longer")
    add("--bytes-over", type=_bytes, metavar="SIZE", help="only keys of more memory (512, 100k, 1m)")
    add("--tag", metavar="TAG", help="only entries that have this tag now")
    add("--owner", metavar="PATH", help="only entries of this function: shop.prices.price")
    add = add_group("what to see").add_argument
    add("--limit", "--at-most", type=int, metavar="N", help="stop after N keys")
    add("--top", type=int, metavar="N", help=f"the N first by --sort, or of each level of a tree; default {MOST_SHOWN}")
    add("--sort", choices=_ORDERS, help="largest, longest, or first by name; without --top the first 20")
    add("--tree", action="store_true", help="keys and bytes by namespace, ids collapsed to *")
    add("--depth", type=int, default=2, metavar="N", help="levels of the tree; default 2")
    add("--separator", default=":", metavar="TEXT", help="what ends a namespace; default :")
    add(
        "--value",
        action="store_true",
        help=f"what is in the keys, {MOST_VALUES} of them without --limit; never unpickled",
    )
    add("--format", choices=_FORMATS, default="table", help="for programs; default table")
    add("--print0", action="store_true", help="with --format keys: names as they are, for xargs -0")
    add = add_group("what to change; nothing without --yes").add_argument
    add("--delete", action="store_true", help="delete them; an entry of ours is invalidated")
    add("--expire", type=_seconds, metavar="TIME", help="give them so long to live")
    add("--persist", action="store_true", help="let them never expire")
    add("--yes", action="store_true", help="do it, which nothing brings back")
    add("--everything", action="store_true", help="with --yes: allow a pattern that is only globs")
    add = add_group("how gently").add_argument
    add("--count", type=int, metavar="N", default=DEFAULT_COUNT, help="largest COUNT of one SCAN; default 1000")
    add("--max-rate", type=float, metavar="N", help="walk at most N keys a second")
    add("--max-seconds", type=_seconds, metavar="TIME", help="stop then, and print where to go on")
    add("--cursor", default="", metavar="TOKEN", help="go on where an earlier walk stopped")


def change_of(options: Options) -> str | None:
    """What is to be changed, if anything. Raises ValueError for options that contradict each other."""
    if options["expire"] is not None and not 0 < options["expire"] <= MAX_TTL:
        raise ValueError(
            f"--expire is {options['expire']:g} seconds. Give more than 0 and at most {MAX_TTL}; or --delete."
        )
    changes = [name for name in CHANGES if options[name]]
    change = changes[0] if changes else None
    views = [name for name in ("tree", "value", "sort", "top") if options[name]]
    view = next((name for name in ("tree", "value") if options[name]), None)
    formats = _FORMATS_OF[view] if view else _FORMATS
    if len(changes) > 1:
        raise ValueError("Choose one of --delete, --expire and --persist.")
    if (options["yes"] or options["everything"]) and not change:
        raise ValueError(
            "--yes and --everything belong to --delete, --expire or --persist. Add one, or leave them out."
        )
    if change and (views or options["format"] != "table"):
        raise ValueError(f"--{change} shows no --{(*views, 'format')[0]}. Look first, then change.")
    if view == "tree" and (options["value"] or options["sort"]):
        raise ValueError("--tree sorts by bytes and shows no keys. Leave --value and --sort out.")
    if options["format"] not in formats:
        raise ValueError(f"--{view} cannot be shown as {options['format']}. Choose --format {' or '.join(formats)}.")
    if options["print0"] and options["format"] != "keys":
        raise ValueError("--print0 is for names alone. Add --format keys.")
    for name in ("top", "depth"):
        if options[name] is not None and options[name] < 1:
            raise ValueError(f"--{name} is {options[name]}. Give 1 or more.")
    if options["depth"] > 100:
        raise ValueError(f"--depth is {options['depth']}. Give at most 100.")
    for name in ("separator", "tag"):
        if options[name] == "":
            raise ValueError(f"--{name} is empty. Give one, or leave it out.")
    return change


def read_search(options: Options) -> scan.Search:
    """The search that they mean. Raises ValueError where it makes no sense, or would reach more than was said."""
    alias, pattern, names = options["alias"], options["pattern"], None
    prefix, is_ordered = get_settings(alias).key_prefix, options["sort"] or options["top"]
    if options["owner"] is not None:
        import_path(options["owner"])
        start, names = scan.owned_by(options["owner"], alias)
        pattern = start if pattern is None else pattern
    bounds = {name: options[name] for name in _BOUNDS}
    if options["persist"] and options["ttl_over"] is None:
        bounds["ttl_over"] = 0  # what never expires is left alone, and not counted
    search = scan.Search(
        pattern=f"{prefix}:*" if pattern is None else pattern,
        names=names,
        types=options["type"],
        facts=_facts(options),
        limit=MOST_VALUES if options["value"] and not is_ordered and options["limit"] is None else options["limit"],
        cursor=options["cursor"],
        **bounds,
    )
    if not options["any_prefix"] and not search.pattern.startswith(f"{prefix}:"):
        raise ValueError(
            f"The pattern {escape_for_print(search.pattern)} can match keys that are not ours: it does not begin with "
            f"'{prefix}:'. Add --any-prefix if you mean them too."
        )
    if options["yes"] and is_broad(search, prefix) and not options["everything"]:
        raise ValueError(
            f"The pattern {escape_for_print(search.pattern)} names no part of the keys, so all of them would be changed. "
            "Name a part, such as a namespace, or add --everything."
        )
    return search


def is_broad(search: scan.Search, prefix: str) -> bool:
    """Whether it names no part of the keys: neither by its pattern, nor by a function or a tag whose entries they are."""
    return is_everything(search.pattern, prefix) and search.names is None and search.tag is None


def _facts(options: Options) -> set[str]:
    sorted_by = {options["sort"]} - {None, "name"} or ({"bytes"} if options["top"] else set())
    if options["yes"] or options["format"] == "keys":
        return sorted_by
    facts = {"ttl", "bytes"} if options["tree"] else {"type", "ttl", "bytes"}
    return facts | sorted_by | ({"idle"} if options["idle_over"] is not None else set())
