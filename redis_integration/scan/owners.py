"""Which keys are whose: what was decorated knows how its keys are made. It asks nobody."""

from __future__ import annotations

import re
from difflib import get_close_matches
from os.path import commonprefix

from redis_integration.caching import every_caching
from redis_integration.conf import get_settings
from redis_integration.keys import LEAST_HEAD, full_key
from redis_integration.text import escape_for_print


def owned_by(path: str, alias: str) -> tuple[str, re.Pattern[bytes]]:
    """A pattern for SCAN, and what the names match, of the entries that the decorated function of this path makes.

    `path` is module and qualified name; the module was imported. Raises ValueError where nothing of that name is decorated for
    this alias. Two functions whose keys look alike own each other's.
    """
    # The origin of a `get_or_compute` has no pattern: its keys are its caller's.
    known = {(caching.name, caching.pattern) for caching in every_caching if caching.alias == alias and caching.pattern}
    patterns = {pattern for name, pattern in known if name == path}
    if not patterns:
        nearest = get_close_matches(path, [name for name, _ in known], n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else "Name a function below @cache_aside as it is imported."
        raise ValueError(f"Nothing called {escape_for_print(path)} makes entries of {alias!r}. {hint}")
    prefix = get_settings(alias).key_prefix
    literals = [[part.replace("%%", "%") for part in pattern.split("%s")] for pattern in patterns]
    # No text of an argument has a ':'; a key that would be too long ends in a digest instead, so that its literal may be cut too.
    heads = [f"{prefix}:{parts[0]}"[:LEAST_HEAD] for parts in literals]
    names = [re.escape(full_key(prefix, parts[0])) for parts in literals if len(parts) == 1]
    for head, parts in zip(heads, literals, strict=True):
        if len(parts) > 1:
            whole = "[^:]*".join(map(re.escape, parts))
            names += [re.escape(f"{prefix}:") + whole, f"{re.escape(head)}.*~[0-9a-f]{{32}}"]
    return f"{commonprefix(heads)}*", re.compile("|".join(names).encode())
