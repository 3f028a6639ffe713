"""Imports point downward: the list below is the map of the package, lowest line last."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "redis_integration"

LAYERS = [
    [
        "__init__",
        "apps",
        "management.commands.redis_doctor",
        "management.commands.redis_explain",
        "management.commands.redis_fallback",
        "management.commands.redis_scan",
        "management.commands.redis_stats",
        "templatetags.redis_integration",
    ],
    ["doctor"],
    [
        "doctor.access",
        "doctor.connection",
        "doctor.keys",
        "doctor.load",
        "doctor.memory",
        "doctor.tiers",
    ],
    ["doctor.rules"],
    ["doctor.readings"],
    ["doctor.permissions", "doctor.samples"],
    ["management.listings"],
    ["management.records", "management.scan_options"],
    ["scan"],
    ["scan.changes", "scan.values"],
    ["checks", "views", "many", "undecorated", "admin", "management.console", "scan.walk"],
    ["answers"],
    ["decorators", "middleware", "model_tags", "scan.owners", "scan.pace", "scan.tree"],
    ["batches", "explain", "pages", "protocols", "scan.search", "visits"],
    ["cache_aside", "explanations", "holds", "invalidation", "options"],
    ["computation", "headers"],
    ["claims"],
    ["caching"],
    ["background", "watch"],
    ["pruning", "recovery", "stats"],
    ["flights", "origins", "tiers.redis", "tiers.fallback", "transactions"],
    ["journal"],
    ["statements"],
    ["tiers", "tiers.leases", "tiers.rows", "tiers.scripts"],
    ["pools"],
    ["pools.sync", "pools.asynchronous"],
    ["pools.slots", "sight"],
    ["pools.connections", "pools.failures"],
    ["pools.life", "pools.replies", "responses", "tags", "visitors"],
    ["keys", "pickles"],
    [
        "arguments",
        "router",
        "policy",
        "breaker",
        "entries",
        "codecs",
        "compression",
        "equality",
        "flow",
        "models",
        "noting",
        "budget",
    ],
    ["conf", "counters", "signals", "waiting"],
    ["exceptions", "text"],
]
LEVELS = {name: level for level, names in enumerate(reversed(LAYERS)) for name in names}


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def resolve(name):
    """The file that an imported dotted name stands in."""
    return name if name in LEVELS else name.rpartition(".")[0]


def imports_of(path):
    """The files of the package that this file imports; its imports are absolute, as ruff asks."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    ours = [(node.module + ".").split(".", 1)[1].rstrip(".") for node in nodes if is_ours(node.module)]
    names = [[alias.name for alias in node.names] for node in nodes if is_ours(node.module)]
    return {
        resolve(f"{module}.{name}".lstrip("."))
        for module, imported in zip(ours, names, strict=True)
        for name in imported
    } - {""}


def is_ours(module):
    return module == "redis_integration" or (module or "").startswith("redis_integration.")


FILES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if "migrations" not in path.parts and (path.read_text().strip() or path.parent == PACKAGE)
)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_downward(path):
    """A file imports only files of lower lines."""
    level = LEVELS[name_of(path)]

    assert {name: LEVELS[name] for name in imports_of(path) if LEVELS[name] >= level} == {}


def test_every_layered_file_exists():
    """The map shows nothing that is not there."""
    assert {name_of(path) for path in FILES} == set(LEVELS)


def test_imports_of_modules_and_of_names_are_seen():
    """The reader of imports finds both forms, also inside functions."""
    path = PACKAGE / "tiers" / "redis.py"

    assert {"pools", "breaker", "conf", "entries"} <= imports_of(path)
    assert "models" in imports_of(PACKAGE / "tiers" / "rows.py")
