"""The addresses of the demo: the shop is the whole site."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("", include("demo_project.shop.urls"))]
