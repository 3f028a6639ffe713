from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import redis_integration

@redis_integration.cache_aside(ttl=60, key="price:{pk}")
def price(pk): ...

@redis_integration.cache_aside_view(ttl=60)
def page(request): ...

client = redis_integration.invalidate
"""

CALLS = """
import asyncio, sys
import django
from django.conf import settings

settings.configure(
    REDIS_INTEGRATION={"default": {"URL": sys.argv[1], "CONNECT_TIMEOUT": 10, "COMMAND_TIMEOUT": 10, "DATABASE": None}}
)
django.setup()
from redis_integration import cache_aside, get_redis

@cache_aside(ttl=60, key="price:{pk}", tags=["all"])
def price(pk):
    return pk

@cache_aside(ttl=60, key="aprice:{pk}", tags=["all"], stale_for=60)
async def aprice(pk):
    return pk

async def call_all():
    return [await aprice(7), await aprice(7), await aprice.arefresh(7), await aprice.amany([7, 8]), await aprice.ainvalidate(7)]

before = {*sys.modules}
price(7), price(7), price.refresh(7), price.many([7, 8]), price.expire(7), price.invalidate(7), get_redis().get("x")
asyncio.run(call_all())
print(sorted({*sys.modules} - before))
"""


def test_decorating_needs_neither_settings_nor_models():
    """An app's __init__ may decorate before Django is set up."""
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}

    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert (finished.returncode, finished.stderr) == (0, "")


def test_calls_import_nothing(server):
    """A time limit that struck amid an import would leave its lock taken: no call of this process could connect again."""
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}

    finished = subprocess.run(
        [sys.executable, "-c", CALLS, server.url],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert (finished.stdout, finished.stderr) == ("[]\n", "")
