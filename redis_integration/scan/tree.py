"""Keys summed up by what their names have in common. It asks nobody."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from redis_integration.scan.search import Found

# Branches of one; what comes later goes into OTHERS, so that a tree stays small however many keys there are.
MOST_BRANCHES = 200
ANY = b"*"
OTHERS = b"(all others)"  # no part of a name: what has a bracket is an id
# A part of a name that tells one thing from another of its kind: a number, a digest, a path, what was escaped.
_ID = re.compile(rb"[0-9]+|[0-9a-fA-F-]{8,}|(?=.*[0-9])[0-9A-Za-z_-]{12,}|.*[/%~@+'(].*|", re.DOTALL)


class Branch:
    """So many keys and bytes, of which so many never expire or are ours; `branches` by the next part of their names."""

    __slots__ = ("branches", "bytes", "keys", "never", "ours")

    def __init__(self) -> None:
        self.keys = self.bytes = self.never = self.ours = 0
        self.branches: dict[bytes, Branch] = {}

    def largest(self) -> list[tuple[bytes, Branch]]:
        """Its branches, those of the most bytes first."""
        return sorted(self.branches.items(), key=lambda item: (-item[1].bytes, item[0]))


class Tree:
    """The keys below `root`, to so many levels. A part of a name ends at the separator; what looks like an id becomes `*`."""

    def __init__(self, depth: int = 2, *, separator: str = ":", prefix: str = "") -> None:
        self.root = Branch()
        self._depth = depth
        self.separator = separator.encode()
        self._ours = prefix.encode() + b":"
        self._lease = b"{%b" % self._ours
        self._leases = self._lease + b"*}:lease"

    def add(self, page: Collection[Found]) -> None:
        """Sum up these keys, of which time to live and bytes were asked."""
        for found in page:
            branch, size, never = self.root, found.bytes or 0, found.ttl_ms is None
            is_ours = found.key.startswith((self._ours, self._lease))
            for part in (None, *self._parts(found.key)):
                if part is not None:
                    branch = self._branch(branch, part)
                branch.keys += 1
                branch.bytes += size
                branch.never += never
                branch.ours += is_ours

    def _parts(self, key: bytes) -> list[bytes]:
        if key.startswith(self._lease) and key.endswith(b"}:lease"):
            return [self._leases]
        separator = self.separator
        parts = key.split(separator, self._depth)
        if len(parts) == 1:
            return [ANY]
        last = len(parts) - 1
        # Of a name of 10 kB a tree shows the beginning.
        names = [_name(part[:100]) for part in parts[: self._depth]]
        return [name if at == last else name + separator for at, name in enumerate(names)]

    def _branch(self, parent: Branch, part: bytes) -> Branch:
        branch = parent.branches.get(part)
        if branch is None:
            if len(parent.branches) >= MOST_BRANCHES and part not in (self._ours, self._leases):
                part = OTHERS
            branch = parent.branches.setdefault(part, Branch())
        return branch


@lru_cache(maxsize=10_000)
def _name(part: bytes) -> bytes:
    name, equals, _ = part.partition(b"=")  # an argument: "pk=7"
    return name + b"=*" if equals else ANY if _ID.fullmatch(part) else part
