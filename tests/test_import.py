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
