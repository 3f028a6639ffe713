"""Cache-aside for Django on Redis: pages stay fast and correct when Redis is fast, slow, gone, and back again."""

from __future__ import annotations

from redis_integration.decorators import cache_aside
from redis_integration.exceptions import RedisIntegrationError, RedisUnavailable, UncacheableCall
from redis_integration.invalidation import ainvalidate, invalidate
from redis_integration.many import cache_aside_many
from redis_integration.model_tags import invalidates
from redis_integration.pools import aclose_pools, aget_redis, close_pools, get_redis
from redis_integration.undecorated import aget_or_compute, get_or_compute
from redis_integration.views import cache_aside_view

__all__ = [
    "RedisIntegrationError",
    "RedisUnavailable",
    "UncacheableCall",
    "aclose_pools",
    "aget_or_compute",
    "aget_redis",
    "ainvalidate",
    "cache_aside",
    "cache_aside_many",
    "cache_aside_view",
    "close_pools",
    "get_or_compute",
    "get_redis",
    "invalidate",
    "invalidates",
]
