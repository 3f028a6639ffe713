from __future__ import annotations

import pytest
from django.utils import translation


@pytest.fixture(autouse=True)
def tried_each_time(monkeypatch):
    """What one test had refused is asked for by the next."""
    monkeypatch.setattr("redis_integration.answers.LEFT_ALONE", 0.0)


@pytest.fixture(autouse=True)
def no_language_left():
    """LocaleMiddleware leaves one to the thread, for the next request to change."""
    yield
    translation.deactivate()
