"""What cases of the public suite for HTTP caches (https://github.com/http-tests/cache-tests) get of a cached view.

cache_cases.json holds their ids and what is asked, said and expected in each, by the names of `Step`; docs/http.md tells the result.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from django.utils.http import http_date

from redis_integration import cache_aside_view

pytestmark = pytest.mark.django_db(transaction=True)

FOLDER = Path(__file__).parent
CASES = {case["id"]: case for case in json.loads((FOLDER / "cache_cases.json").read_text())}
PAGE = FOLDER.parent.parent / "docs" / "http.md"
NOW = 1_800_000_000
WISHED, ELSE = "as wished", "otherwise"


class Step(NamedTuple):
    """One request. `ask` and `say` are headers, in which a number is a date so many seconds from now."""

    method: str = "GET"
    ask: Any = ()
    body: str = ""
    query: str = ""
    say: Any = ()
    status: int = 200
    text: str | None = None
    expect: str = ""  # cached, not_cached
    expect_status: int | None = None
    expect_headers: Any = ()
    expect_missing: Any = ()
    expect_text: str | None = None
    ims: bool = False
    any_body: bool = False


def text_of(value):
    return http_date(NOW + value) if isinstance(value, (int, float)) else value


class Origin:
    """A view that says what the step says that is being played; how often it was asked."""

    def __init__(self):
        self.asked, self.step = 0, Step()

    def __call__(self, request):
        self.asked += 1
        body = f"body {self.asked}" if self.step.text is None else self.step.text
        response = HttpResponse(body, status=self.step.status)
        for name, value in self.step.say:
            text = text_of(value)
            is_more = name in response.headers and name.lower() != "content-type"
            response.headers[name] = f"{response.headers[name]}, {text}" if is_more else text
        return response


origin = Origin()


def url_of(case):
    """A view that varies on what its first answer says, as its author would have it."""

    def view(request):
        return origin(request)

    said = ",".join(value for name, value in case["requests"][0].get("say", ()) if name == "Vary")
    names = dict.fromkeys(name for name in re.split(r"[\s,]+", said) if name not in ("", "*"))
    cached = cache_aside_view(ttl=3600, namespace=case["id"], vary_on=[*names])
    return path(f"{case['id']}/", cached(view))


urlpatterns = [url_of(case) for case in CASES.values()]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """In a list, by how many seconds the time is later that Age counts: the suite waits for three between two requests."""
    late = [0.0]
    monkeypatch.setattr("redis_integration.headers.time", lambda: time() + late[0])
    return late


@pytest.fixture(autouse=True)
def site(settings, live):
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = ["redis_integration.middleware.CacheAsideMiddleware"]


def play(case, clock):
    """What of this case is not as the suite wishes: the facts, by request."""
    client, misses, stored = Client(), [], set()
    for number, fields in enumerate(case["requests"]):
        step = Step(**fields)
        origin.step, before, clock[0] = step, origin.asked, 3.0 * number
        query = f"?{step.query}" if step.query else ""
        headers = {name: text_of(value) for name, value in step.ask}
        response = client.generic(step.method, f"/{case['id']}/{query}", step.body, headers=headers)
        is_asked = origin.asked > before
        if step.expect and is_asked is (step.expect == "cached"):
            misses.append(f"{number}: the view was {'' if is_asked else 'not '}asked")
        misses += [f"{number}: {fact}" for fact in wrong_facts(step, response)]
        if is_asked:
            stored.add(response.content)
        elif not step.any_body and response.status_code == 200 and response.content not in stored:
            misses.append(f"{number}: another body")
    return misses


def wrong_facts(step, response):
    if step.expect_status and response.status_code != step.expect_status:
        yield f"status {response.status_code}"
    if step.expect_text is not None and response.content.decode() != step.expect_text:
        yield "text"
    for header in step.expect_headers:
        name, *wanted = [header] if isinstance(header, str) else header
        said = response.headers.get(name)
        if said is None or not is_as_wanted(said, wanted):
            yield f"{name}: {said}"
    for header in step.expect_missing:
        name, *unwanted = [header] if isinstance(header, str) else header
        if name in response.headers and (not unwanted or unwanted[0] in response.headers[name]):
            yield f"{name} is there"


def is_as_wanted(said, wanted):
    if len(wanted) == 2:  # a comparison
        return int(said) > wanted[1] if wanted[0] == ">" else said == wanted[1]
    return not wanted or said == text_of(wanted[0])


def results(clock):
    """For each case that was played: what is not as wished."""
    return {name: play(case, clock) for name, case in CASES.items()}


def table(found):
    """The table of docs/http.md, by suite."""
    counts = Counter((CASES[name]["suite"], ELSE if facts else WISHED) for name, facts in found.items())
    suites = dict.fromkeys(case["suite"] for case in CASES.values())
    rows = [f"| {suite} | {counts[suite, WISHED]} | {counts[suite, ELSE]} |" for suite in suites]
    return "\n".join(["| suite | as wished | otherwise |", "|---|---:|---:|", *rows])


def test_page_tells_what_the_cases_get(clock):
    """The table, and each case that gets something else, in the list below it."""
    found, page = results(clock), PAGE.read_text()

    assert table(found) in page, table(found)
    told = set(re.findall(r"`([a-zA-Z0-9_-]+)`", page.partition("## What is otherwise")[2]))
    missed = {name: facts for name, facts in found.items() if facts}
    assert {name for name in missed if not is_told(name, told)} == set(), missed


def is_told(name, told):
    """By its id, or by a pattern such as `status-…`."""
    return name in told or any(name.startswith(each[:-1]) for each in told if each.endswith("-"))
