"""The demo's story, told line by line: the shop's own pages while Redis is up, cut off, and back. It prints nothing."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from django.core.management import call_command
from django.test import Client, RequestFactory
from django.urls import reverse

from demo_project.rival import Rival, meet_rival
from demo_project.shop import stats, views
from demo_project.shop.badge import answered_by
from demo_project.shop.catalogue import fill_shop
from demo_project.shop.models import Product, Review
from demo_project.stage import Stage, StageError
from redis_integration.conf import get_settings
from redis_integration.recovery import journal_status

WARM_ROUNDS = 20
BELIEF_TIMEOUT = 10.0  # seconds from Redis's return until it must be believed; it takes 1


class Line(NamedTuple):
    """A line to print. `kind` is title, head, row, text, good or wrong."""

    kind: str
    text: str


class Look(NamedTuple):
    """What a visitor saw of one page."""

    status: int
    ms: float
    tier: str
    price: Decimal | None


def prepare_shop(*, products: int) -> Iterator[str]:
    """Migrates, fills an empty shop, and says in words what it does and what is in the shop."""
    call_command("migrate", verbosity=0, interactive=False)
    filled = ""
    if not Product.objects.exists():
        yield f"empty; making up {products:,} products (10,000 take some 12 s)"
        began = time.perf_counter()
        fill_shop(products=products)
        filled = f", filled in {time.perf_counter() - began:.1f} s"
    yield f"{Product.objects.count():,} products, {Review.objects.count():,} reviews{filled}"


class Story:
    """`tell` yields the lines; afterwards `wrong` holds what did not hold."""

    def __init__(self, stage: Stage) -> None:
        best, _ = stats.top_rated(None, 1)
        if not best:
            raise StageError(f"No product has {stats.MIN_REVIEWS} reviews. Use --products 200 or more.")
        self.stage = stage
        self.product = best[0].product
        self.price = self.product.price
        self.paths = (reverse("products"), self.product.get_absolute_url())
        self.client = Client()
        self.rival: Rival
        self.rival_price = self.price
        self.rival_wrong = 0
        self.wrong: list[str] = []

    def tell(self) -> Iterator[Line]:
        """Ends with Redis back, and the product's price changed by 1."""
        # Another list and another product first: imports and templates are not what is measured.
        for path in ("/?page=2", reverse("product", args=[self._another().pk])):
            self.client.get(path)
        ours = get_settings()
        with meet_rival(self.product, url=ours.url, prefix=ours.key_prefix) as self.rival:
            yield from self._redis_up()
            yield from self._redis_cut_off()
            yield from self._edited_meanwhile()
            yield from self._redis_back()
        yield from self._outcome()

    def _redis_up(self) -> Iterator[Line]:
        page = f"{'ms':>7}  {'from':<8}{'price':>8}"
        yield Line("head", f"{'':<22}{'list page':>16}{'':11}{'product page':>14}{'':8}rival*")
        yield Line("head", f"{'':<22}{page}{page}{'price':>8}")
        yield self._row("1 Nothing cached yet", self._look_at_both("computed"))
        rounds = [self._look_at_both("redis") for _ in range(WARM_ROUNDS)]
        medians = [
            looks[-1]._replace(ms=statistics.median(look.ms for look in looks)) for looks in zip(*rounds, strict=True)
        ]
        yield self._row(f"2 Warm, median of {WARM_ROUNDS}", medians)

    def _redis_cut_off(self) -> Iterator[Line]:
        self.stage.proxy.cut()
        looks = self._look_at_both("computed")
        yield self._row("3 Redis cut off", looks)
        yield self._row("  and again", self._look_at_both("fallback"))

    def _edited_meanwhile(self) -> Iterator[Line]:
        # Up and down in turn, so that the shop is the same after every second demo.
        new_price = self.price + (1 if int(self.price) % 2 else -1)
        path = reverse("product-edit", args=[self.product.pk])
        answer = self.client.post(path, {"name": self.product.name, "price": str(new_price)})
        self._check(answer.status_code == 302, f"the edit answered {answer.status_code}")
        self.price = new_price
        self.rival.forget()
        yield self._row("4 Price edited", self._look_at_both("computed"))
        yield self._row("  and again", self._look_at_both("fallback"))
        keys = [view.key_for(RequestFactory().get(path)) for view, path in self._views()]
        kept = int(self.stage.redis.exists(*keys))
        self._check(kept == len(keys), f"Redis holds {kept} of {len(keys)} pages, so its return would prove nothing")
        waiting = journal_status().rows
        self._check(waiting > 0, "the journal is empty")
        yield Line("text", "  (Redis, out of reach, still holds all with the old price. The journal holds,")
        yield Line("text", f"  for every process, {waiting} invalidations that it has not confirmed.)")

    def _redis_back(self) -> Iterator[Line]:
        self.stage.proxy.heal()
        healed = time.monotonic()
        looks = self._look_at_both()
        yield self._row("5 Redis back", looks)
        while any(look.tier != "redis" for look in looks) and time.monotonic() < healed + BELIEF_TIMEOUT:
            time.sleep(0.02)
            looks = self._look_at_both()
        seconds = time.monotonic() - healed
        yield self._row("  believed again", self._look_at_both("redis"))
        left = journal_status().rows
        self._check(not left, f"the journal still holds {left} invalidations")
        yield Line(
            "text",
            f"  (Asked for {seconds:.1f} s until Redis answered again. The journal is empty.)",
        )

    def _outcome(self) -> Iterator[Line]:
        yield Line("text", "")
        for complaint in dict.fromkeys(self.wrong):
            yield Line("wrong", f"WRONG: {complaint}.")
        if not self.wrong:
            yield Line("good", "Every page answered 200, and none showed the old price after the edit.")
            yield Line("text", "What Redis did not confirm was repeated before Redis was believed again.")
        yield Line("text", "")
        yield Line("text", "* A cache that swallows errors: django-redis with IGNORE_EXCEPTIONS, same Redis.")
        yield Line(
            "text", f"  Its delete failed unnoticed: {self.rival_wrong} answers after the edit had the old price."
        )

    def _look_at_both(self, tier: str = "") -> list[Look]:
        looks = []
        for path, page in zip(self.paths, ("list page", "product page"), strict=True):
            look = self._look(path)
            looks.append(look)
            self._check(look.status == 200, f"the {page} answered {look.status}")
            self._check(look.price == self.price, f"the {page} showed the price {look.price}, not {self.price}")
            self._check(tier in ("", look.tier), f"the {page} was answered by {look.tier}, not by {tier}")
        self.rival_price = self.rival.price()
        self.rival_wrong += self.rival_price != self.price
        return looks

    def _look(self, path: str) -> Look:
        began = time.perf_counter()
        response = self.client.get(path)
        ms = (time.perf_counter() - began) * 1000
        price = re.search(rf'id="price(?:-{self.product.pk})?" value="([\d.]+)"', response.content.decode())
        tier = answered_by(response.headers.get("Cache-Status")).tier
        return Look(response.status_code, ms, tier, Decimal(price[1]) if price else None)

    def _views(self) -> list[tuple[Any, str]]:
        return list(zip((views.product_list, views.product_page), self.paths, strict=True))

    def _another(self) -> Product:
        return Product.objects.exclude(pk=self.product.pk).earliest("pk")

    def _check(self, holds: bool, complaint: str) -> None:
        if not holds:
            self.wrong.append(complaint)

    def _row(self, title: str, looks: list[Look]) -> Line:
        pages = "".join(f"{look.ms:7.1f}  {look.tier:<8}{look.price or '-':>8}" for look in looks)
        return Line("row", f"{title:<22}{pages}{self.rival_price:>8}")
