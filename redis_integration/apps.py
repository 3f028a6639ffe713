"""Registers the system checks. Reads no setting and opens no connection."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register


class RedisIntegrationConfig(AppConfig):
    name = "redis_integration"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = "Redis integration"

    def ready(self) -> None:
        from redis_integration.checks import check_deployment, check_settings

        register(check_settings, "redis_integration", Tags.caches)
        register(check_deployment, "redis_integration", Tags.caches, deploy=True)
