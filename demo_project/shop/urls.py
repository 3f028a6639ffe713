"""The pages of the shop."""

from __future__ import annotations

from django.urls import path

from demo_project.shop import views

urlpatterns = [
    path("", views.product_list, name="products"),
    path("products/<int:pk>/", views.product_page, name="product"),
    path("products/<int:pk>/edit/", views.product_edit, name="product-edit"),
    path("api/products/<int:pk>/", views.product_api, name="product-api"),
    # <slug> keeps colons and globs out of the profile's key
    path("profiles/<slug:name>/", views.profile, name="profile"),
]
