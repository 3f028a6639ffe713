"""manage.py fill_shop: gives the demo something to sell."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from demo_project.shop.catalogue import fill_shop


class Command(BaseCommand):
    help = "Fills an empty shop with made-up products and reviews, the same every time. Leaves a filled one as it is."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--products", type=int, default=10_000, metavar="N")
        parser.add_argument("--reviews-per-product", type=int, default=20, metavar="M", help="on average")

    def handle(self, *args: Any, **options: Any) -> None:
        began = time.perf_counter()
        if fill_shop(products=options["products"], reviews_per_product=options["reviews_per_product"]):
            self.stdout.write(f"The shop is filled ({time.perf_counter() - began:.1f} s).")
        else:
            self.stdout.write("The shop has products already; nothing was changed.")
