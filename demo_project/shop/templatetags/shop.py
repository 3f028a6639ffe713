"""How the shop writes prices, numbers and stars."""

from __future__ import annotations

from decimal import Decimal

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def euros(price: Decimal) -> str:
    return f"€{price:,.2f}"


@register.filter
def thousands(number: int) -> str:
    return f"{number:,}"


@register.filter
def stars(average: float | None) -> SafeString:
    """Five stars, filled up to the average by the style sheet."""
    average = average or 0.0
    text = '<span class="stars" style="--score:{}" role="img" aria-label="{} of 5 stars">★★★★★</span>'
    return format_html(text, f"{average:.2f}", f"{average:.1f}")
