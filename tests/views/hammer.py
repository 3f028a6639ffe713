"""Two visitors who are logged in, and one who is not, ask for the same pages from 8 threads: nobody may get what is another's.

Usage: python -m tests.views.hammer REQUESTS [--unsafe]; TEST_DATABASE, TEST_REDIS and TEST_PREFIX are those of tests/servers/pages.py.
With --unsafe nothing that a view looks at counts. It prints a JSON object: requests, hits, how many pages were `crossed`, and errors.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random

from tests.servers import pages  # first of all: it makes the settings

THREADS = 8
PAGES = 5  # of each view


def switch_off() -> None:
    """Let everything be stored that has a page's form: then pages must cross, or this finds nothing."""
    for place in ("answers.why_private", "visits.why_private", "visits.why_not_final"):
        module, name = place.split(".")
        setattr(importlib.import_module(f"redis_integration.{module}"), name, lambda *args, **kwargs: None)
    setattr(importlib.import_module("redis_integration.sight").Sight, "why", None)  # noqa: B010


def ask(number: int, requests: int) -> Counter[str]:
    """One visitor's requests in one thread."""
    from django.contrib.auth.models import User
    from django.db import connections
    from django.test import Client

    name, random = pages.NAMES[number % len(pages.NAMES)], Random(number)
    counts: Counter[str] = Counter()
    client = Client(headers={"X-Name": name})
    client.force_login(User.objects.get(username=name))
    session = client.session
    session["name"] = name
    session.save()
    client.cookies["sessionid"] = session.session_key or ""
    client.cookies["name"] = name
    visitors = [(client, {name}), (client, {name}), (Client(), {"", pages.NOBODY})]
    for _ in range(requests):
        view, (visitor, names) = random.choice([*pages.hammered]), random.choice(visitors)
        response = visitor.get(f"/hammer/{view}/{random.randrange(PAGES)}/")
        owner = re.fullmatch("<(.*)>", response.content.decode())
        counts["errors"] += response.status_code != 200 or owner is None
        counts["crossed"] += owner is not None and owner[1] not in ({pages.NOBODY} if view == "everybodys" else names)
        counts["hits"] += "; hit" in response.headers.get("Cache-Status", "")
        counts["requests"] += 1
    connections.close_all()
    return counts


def main() -> None:
    if "--unsafe" in sys.argv:
        switch_off()
    with ThreadPoolExecutor(THREADS) as threads:
        every = [*threads.map(ask, range(THREADS), [int(sys.argv[1]) // THREADS] * THREADS)]
    print(json.dumps({key: sum(each[key] for each in every) for key in ("requests", "hits", "crossed", "errors")}))


if __name__ == "__main__":
    main()
