"""What the pages say in numbers: SQL aggregates over every review, two of them cached as functions."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple, TypedDict

from django.db.models import Avg, Count, F, Func, Max, Min, Q, QuerySet

from demo_project.shop.models import Category, Product, Review
from redis_integration import cache_aside

PAGE_SIZE = 12
MIN_REVIEWS = 20  # below this an average says more about luck than about the product
BAND_EDGES = (Decimal(25), Decimal(75), Decimal(200))  # euros


class Rated(NamedTuple):
    """A product with what its reviews add up to, and its price band: 1 for the cheapest."""

    product: Product
    average: float
    reviews: int
    band: int


class Share(NamedTuple):
    """One bar of a chart. `percent` is of the longest bar."""

    label: str
    products: int
    percent: float


class ProductStats(TypedDict):
    """`histogram` is (stars, reviews, percent of the longest bar), five stars first."""

    average: float
    count: int
    histogram: list[tuple[int, int, float]]
    category_average: float
    rank: int
    ranked: int
    cheapest: Decimal
    dearest: Decimal
    cheaper_percent: int


@cache_aside(ttl=300, key="product-stats:{pk}")
def product_stats(pk: int) -> ProductStats:
    """Raises Product.DoesNotExist."""
    product = Product.objects.get(pk=pk)
    stars = dict(Review.objects.filter(product=product).values_list("stars").annotate(Count("pk")))
    count = sum(stars.values())
    average = sum(number * given for number, given in stars.items()) / count if count else 0.0
    rivals = Review.objects.filter(product__category=product.category_id)
    averages = [row["average"] for row in _ranking(rivals)]
    shelf = Product.objects.filter(category=product.category_id).aggregate(
        cheapest=Min("price"), dearest=Max("price"), all=Count("pk"), cheaper=Count("pk", Q(price__lt=product.price))
    )
    return {
        "average": average,
        "count": count,
        "histogram": [(n, stars.get(n, 0), _percent(stars.get(n, 0), max(stars.values()))) for n in range(5, 0, -1)]
        if count
        else [],
        "category_average": rivals.aggregate(average=Avg("stars"))["average"] or 0.0,
        "rank": 1 + sum(other > average for other in averages),
        "ranked": len(averages),
        "cheapest": shelf["cheapest"],
        "dearest": shelf["dearest"],
        "cheaper_percent": round(_percent(shelf["cheaper"], shelf["all"])),
    }


@cache_aside(ttl=30, key="api-product:{pk}")
async def api_product(pk: int) -> dict[str, Any]:
    """What the API says of a product. Raises Product.DoesNotExist."""
    product = await Product.objects.select_related("category").aget(pk=pk)
    reviews = await Review.objects.filter(product=product).aaggregate(average=Avg("stars"), count=Count("pk"))
    return {
        "id": product.pk,
        "name": product.name,
        "category": product.category.name,
        "price": product.price,
        "stars": round(reviews["average"] or 0.0, 2),
        "reviews": reviews["count"],
    }


def top_rated(category: Category | None, page: int) -> tuple[list[Rated], int]:
    """One page of the best products, best first, and how many pages there are. A page that is not there is empty."""
    reviews = Review.objects.all() if category is None else Review.objects.filter(product__category=category)
    ranking = _ranking(reviews).filter(count__gte=MIN_REVIEWS).order_by("-average", "-count", "product")
    pages = max(1, -(-ranking.count() // PAGE_SIZE))
    if not 1 <= page <= pages:
        return [], pages
    return _rated(ranking[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]), pages


def similar_products(product: Product) -> list[Rated]:
    """The four of its category whose prices are nearest."""
    others = Product.objects.filter(category=product.category_id).exclude(pk=product.pk)
    distance = Func(F("price") - product.price, function="ABS")
    nearest = list(others.order_by(distance, "pk").values_list("pk", flat=True)[:4])
    return _rated(_ranking(Review.objects.filter(product__in=nearest)).order_by("-average", "product"))


def category_totals() -> QuerySet[Any, Any]:
    """Every category with the number of its products (sold), of their reviews (reviewed), and the average of these."""
    return (
        Category.objects.values("pk", "name")
        .annotate(
            sold=Count("products", distinct=True),
            reviewed=Count("products__reviews"),
            average=Avg("products__reviews__stars"),
        )
        .order_by("name")
    )


def price_bands(category: Category | None) -> list[Share]:
    """How many products there are in each price band."""
    products = Product.objects.all() if category is None else Product.objects.filter(category=category)
    low, middle, high = BAND_EDGES
    counts = products.aggregate(
        a=Count("pk", Q(price__lt=low)),
        b=Count("pk", Q(price__gte=low, price__lt=middle)),
        c=Count("pk", Q(price__gte=middle, price__lt=high)),
        d=Count("pk", Q(price__gte=high)),
    )
    labels = (f"under €{low}", f"€{low} to €{middle}", f"€{middle} to €{high}", f"€{high} and up")
    longest = max(counts.values())
    return [Share(label, count, _percent(count, longest)) for label, count in zip(labels, counts.values(), strict=True)]


def _ranking(reviews: QuerySet[Review]) -> QuerySet[Any, Any]:
    return reviews.values("product").annotate(average=Avg("stars"), count=Count("pk"))


def _rated(ranking: QuerySet[Any, Any]) -> list[Rated]:
    rows = list(ranking)
    products = Product.objects.select_related("category").in_bulk([row["product"] for row in rows])
    return [
        Rated(product, row["average"], row["count"], band=1 + sum(product.price >= edge for edge in BAND_EDGES))
        for row in rows
        for product in [products[row["product"]]]
    ]


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0
