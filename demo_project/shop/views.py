"""The pages of the shop: two cached, one JSON document cached as a coroutine function, the rest plain."""

from __future__ import annotations

from django import forms
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from redis.exceptions import RedisError

from demo_project.shop import stats
from demo_project.shop.models import Category, Product, Review
from demo_project.shop.profiles import profile_document, profile_hash
from redis_integration import cache_aside_view, invalidate

ProductForm = forms.modelform_factory(Product, fields=("name", "price"))


@cache_aside_view(ttl=60)
def product_list(request: HttpRequest) -> HttpResponse:
    chosen = request.GET.get("category", "")
    category = get_object_or_404(Category, pk=int(chosen)) if chosen.isdecimal() else None
    asked = request.GET.get("page", "1")
    page = int(asked) if asked.isdecimal() else 1
    rated, pages = stats.top_rated(category, page)
    if not 1 <= page <= pages:
        raise Http404("There is no such page.")
    totals = list(stats.category_totals())
    here = [total for total in totals if category is None or total["pk"] == category.pk]
    context = {
        "category": category,
        "rated": rated,
        "least": stats.MIN_REVIEWS,
        "page": page,
        "pages": pages,
        "totals": totals,
        "everything": sum(total["sold"] for total in totals),
        "products": sum(total["sold"] for total in here),
        "reviews": sum(total["reviewed"] for total in here),
        "bands": stats.price_bands(category),
    }
    return render(request, "shop/product_list.html", context)


@cache_aside_view(ttl=60)
def product_page(request: HttpRequest, pk: int) -> HttpResponse:
    product = get_object_or_404(Product.objects.select_related("category"), pk=pk)
    context = {
        "product": product,
        "stats": stats.product_stats(pk),
        "similar": stats.similar_products(product),
        "reviews": Review.objects.filter(product=product).order_by("-created", "-pk")[:6],
    }
    return render(request, "shop/product_page.html", context)


def product_edit(request: HttpRequest, pk: int) -> HttpResponse:
    product = get_object_or_404(Product.objects.select_related("category"), pk=pk)
    form = ProductForm(request.POST or None, instance=product)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            form.save()
            _forget(pk)
        return redirect("product", pk)
    return render(request, "shop/product_edit.html", {"product": product, "form": form})


async def product_api(request: HttpRequest, pk: int) -> JsonResponse:
    try:
        return JsonResponse(await stats.api_product(pk))
    except Product.DoesNotExist as exc:
        raise Http404("There is no such product.") from exc


def profile(request: HttpRequest, name: str) -> HttpResponse:
    # Plain redis-py has no fallback: what is kept in Redis alone is away with it, and the page says so.
    try:
        forms = {"document": profile_document(name), "hash": profile_hash(name)}
    except RedisError as exc:
        forms = {}
        away = type(exc).__name__
    else:
        away = ""
    return render(request, "shop/profile.html", {"name": name, "away": away, **forms})


def _forget(pk: int) -> None:
    # Called inside the transaction, sent after its commit. What else shows this product, the pages of similar ones, lives on
    # for its ttl, a minute at most.
    stats.product_stats.invalidate(pk)
    invalidate(keys=[stats.api_product.key_for(pk)])
    product_page.invalidate(reverse("product", args=[pk]))
    product_list.invalidate(reverse("products"))
