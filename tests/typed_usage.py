"""Usage that type checkers must accept, and usage they must refuse; checked by mypy, never run."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import assert_type

import redis
import redis.asyncio
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.generic import TemplateView

from redis_integration import (
    aget_or_compute,
    aget_redis,
    ainvalidate,
    cache_aside,
    cache_aside_many,
    cache_aside_view,
    get_or_compute,
    get_redis,
    invalidate,
    invalidates,
)
from redis_integration.explanations import Explanation


@cache_aside(ttl=300, key="price:{pk}", tags=["product:{pk}"], lease_timeout=timedelta(seconds=5))
def price(pk: int, currency: str = "EUR") -> Decimal:
    return Decimal(pk)


@cache_aside(ttl=timedelta(seconds=30), tags=lambda currency: [f"currency:{currency}"])
async def rates(currency: str) -> dict[str, Decimal]:
    return {currency: Decimal(1)}


@cache_aside_many(ttl=60, key="price:{pks}")
def prices(pks: list[int]) -> list[Decimal]:
    return [Decimal(pk) for pk in pks]


@cache_aside_view(ttl=60, tags=["pages", "page:{pk}"])
def page(request: HttpRequest, pk: int) -> HttpResponse:
    return HttpResponse()


urlpatterns = [
    path("", page),
    path("about/", cache_aside_view(ttl=60)(TemplateView.as_view(template_name="about.html"))),
]


def sync_usage(request: HttpRequest) -> None:
    assert_type(price(7), Decimal)
    assert_type(price(pk=7, currency="USD"), Decimal)
    assert_type(price.refresh(7), Decimal)
    assert_type(price.key_for(7), str)
    price.invalidate(pk=7)
    price.expire(7)
    assert_type(price.explain(7, currency="USD"), Explanation)
    assert_type(page.explain(request, 7), Explanation)
    assert_type(prices.explain(7), Explanation)
    price.explain("seven")  # type: ignore[arg-type]
    price("seven")  # type: ignore[arg-type]
    price.invalidate()  # type: ignore[call-arg]
    price.ainvalidate(7)  # type: ignore[attr-defined]
    cache_aside()  # type: ignore[call-arg]
    page.invalidate(request)
    page.invalidate("/7/")
    page.expire(request)
    page.invalidate(7)  # type: ignore[arg-type]
    invalidate(tags=["product:7"])
    invalidates(User, tags=lambda user: [f"user:{user.pk}"])
    invalidates(User, tags=["users"])
    invalidate(keys=[price.key_for(7)])
    assert_type(get_redis(), redis.Redis)
    assert_type(get_or_compute("total:2024", lambda: price(7), ttl=60, tags=["totals"], stale_for=60), Decimal)
    get_or_compute(("search", "words"), list[int], ttl=len, negative_ttl={User.DoesNotExist: 5}, codec="pickle")
    get_or_compute("a", lambda: 1, ttl=60, codec="yaml")  # type: ignore[arg-type]
    get_or_compute("a", lambda: 1, ttl=60, stale=60)  # type: ignore[call-arg]
    get_or_compute("a", lambda: 1)  # type: ignore[call-arg]
    get_or_compute(7, lambda: 1, ttl=60)  # type: ignore[arg-type]
    invalidate(keys=[get_or_compute.key_for("total:2024")])
    assert_type(get_or_compute.explain("total:2024", tags=["totals"]), Explanation)


async def async_usage() -> None:
    assert_type(await rates("EUR"), dict[str, Decimal])
    assert_type(await rates.arefresh("EUR"), dict[str, Decimal])
    await rates.ainvalidate("EUR")
    await rates.aexpire("EUR")
    assert_type(await rates.aexplain("EUR"), Explanation)
    await ainvalidate(keys=[rates.key_for("EUR")])
    assert_type(await aget_or_compute("a", lambda: rates("EUR"), ttl=timedelta(seconds=30)), dict[str, Decimal])
    await aget_or_compute("a", lambda: 1, ttl=60)  # type: ignore[arg-type,return-value]
    assert_type(await aget_or_compute.aexplain(("a", 7)), Explanation)
    rates.invalidate("EUR")  # type: ignore[attr-defined]
    assert_type(aget_redis("default"), redis.asyncio.Redis)
