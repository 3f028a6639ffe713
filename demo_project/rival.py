"""What most sites have: a cache that swallows the errors of Redis, its failed deletes among them. To be seen beside ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

from django_redis.cache import RedisCache  # type: ignore[import-untyped]

from demo_project.shop.models import Product

TTL = 3600  # seconds


class Rival:
    """The price of one product, kept by django-redis with IGNORE_EXCEPTIONS in the same Redis, behind the same proxy."""

    def __init__(self, cache: RedisCache, product: Product) -> None:
        self._cache = cache
        self._product = product
        self._key = f"price-{product.pk}"

    def price(self) -> Decimal:
        """From the cache, else from the database."""
        if (kept := self._cache.get(self._key)) is not None:
            return Decimal(kept)
        price = Product.objects.values_list("price", flat=True).get(pk=self._product.pk)
        self._cache.set(self._key, price, TTL)
        return price

    def forget(self) -> None:
        """What the shop does where it edits the product. Nobody is told that Redis was away."""
        self._cache.delete(self._key)


@contextmanager
def meet_rival(product: Product, *, url: str, prefix: str) -> Iterator[Rival]:
    """It has the timeouts of ours; with those of redis-py each call would take seconds."""
    options = {"IGNORE_EXCEPTIONS": True, "SOCKET_CONNECT_TIMEOUT": 0.25, "SOCKET_TIMEOUT": 0.25}
    cache = RedisCache(url, {"KEY_PREFIX": prefix, "OPTIONS": {**options, "CLOSE_CONNECTION": True}})
    try:
        yield Rival(cache, product)
    finally:
        cache.close()
