"""Settings of the demo shop: made to be read and run on one machine, never deployed."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = "the demo's own, public, and worth nothing"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", "testserver"]

REDIS_INTEGRATION = {
    "default": {
        "URL": os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
        "KEY_PREFIX": "shop",
    },
}

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DEMO_DATABASE", BASE_DIR / "demo.sqlite3"),
        # IMMEDIATE: a transaction that begins by reading and then writes would fail with "database is locked" as soon
        # as another thread writes; this way it waits its turn, up to 5 seconds.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 5},
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "redis_integration",
    "demo_project.shop",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "demo_project.shop.badge.badge",  # outermost: it writes into each answer, the cached ones too
    "redis_integration.middleware.CacheAsideMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
SILENCED_SYSTEM_CHECKS = ["redis_integration.W010"]  # the badge adds no header that others should not get
ROOT_URLCONF = "demo_project.urls"
WSGI_APPLICATION = "demo_project.wsgi.application"
ASGI_APPLICATION = "demo_project.asgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

STATIC_URL = "static/"
USE_I18N = False
TIME_ZONE = "UTC"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{levelname} {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"redis_integration": {"handlers": ["console"], "level": "WARNING"}},
}
