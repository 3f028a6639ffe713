"""Finds keys of one Redis with SCAN, sums them up, deletes them, shows what is in them. The commands only print.

Each walk needs a Tally of its own, which tells how far it has come at every moment.
"""

from __future__ import annotations

from collections.abc import Iterator

from redis_integration.scan.changes import delete as delete
from redis_integration.scan.changes import expire as expire
from redis_integration.scan.changes import persist as persist
from redis_integration.scan.owners import owned_by as owned_by
from redis_integration.scan.search import Found as Found
from redis_integration.scan.search import Search as Search
from redis_integration.scan.search import Tally as Tally
from redis_integration.scan.tree import Tree as Tree
from redis_integration.scan.values import Value as Value
from redis_integration.scan.values import read_values as read_values
from redis_integration.scan.walk import Walk as Walk


def find(alias: str, search: Search, tally: Tally) -> Iterator[Found]:
    """The keys that are looked for, in no order; `Walk.found` has them page by page.

    One round trip for each SCAN; where something is asked of the keys, it goes with the next one. Raises RedisUnavailable.
    """
    for page in Walk(alias, search, tally).found():
        yield from page
