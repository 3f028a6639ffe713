"""The table of tests/views/table.py through Django's test client, with and without our middleware, sync and async handlers."""

from __future__ import annotations

import asyncio

import pytest
from django.test import Client
from django.test.client import AsyncClient

from tests.views.table import ROWS, STORED, calls

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "redis_integration.middleware.CacheAsideMiddleware"
DJANGOS = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]


@pytest.fixture(autouse=True)
def site(settings, live):
    settings.ROOT_URLCONF = "tests.views.table"
    settings.MIDDLEWARE = DJANGOS
    calls.clear()


@pytest.fixture
def heard(settings):
    settings.MIDDLEWARE = [OURS, *DJANGOS]


def visit(row, client):
    """A visitor's request of this row, and what Cache-Status says."""
    request = dict(row.request)
    method = request.pop("method", "get")
    response = getattr(client, method)(f"/{row.name}/", **request)
    return response, response.headers.get("Cache-Status", "")


def is_right(row, first, second, *, is_heard):
    """Whether the second visitor got the page of the first one if it was to be stored, and else his own, with the reason."""
    is_told = is_heard or not row.is_error
    assert calls[row.name] == (1 if row.why == STORED else 2)
    assert (row.why if is_told else "") in first[1]
    assert ("hit" in second[1]) is (row.why == STORED and is_told)
    return row.why != STORED or content(second[0]) == content(first[0])


def content(response):
    return response.status_code, response.getvalue()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_with_the_middleware_first(row, heard):
    """Every layer has spoken before a page is stored."""
    assert is_right(row, visit(row, Client()), visit(row, Client()), is_heard=True)


@pytest.mark.parametrize("row", [row for row in ROWS if row.around is None], ids=lambda row: row.name)
def test_without_the_middleware(row):
    """The state of the request and the view's own answer say the same."""
    assert is_right(row, visit(row, Client()), visit(row, Client()), is_heard=False)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_in_an_async_handler(row, heard):
    """The middleware on the event loop settles what a sync view has left in its thread."""
    assert is_right(row, asyncio.run(avisit(row)), asyncio.run(avisit(row)), is_heard=True)


async def avisit(row):
    request = dict(row.request)
    method = request.pop("method", "get")
    response = await getattr(AsyncClient(), method)(f"/{row.name}/", **request)
    return response, response.headers.get("Cache-Status", "")
