from __future__ import annotations

from django.db import migrations, models
from django.db.models.functions import Now

import redis_integration.models


class Migration(migrations.Migration):
    dependencies = [
        ("redis_integration", "0003_fallback_leases"),
    ]

    operations = [
        migrations.CreateModel(
            name="PendingInvalidation",
            fields=[
                (
                    "id",
                    models.CharField(
                        help_text="Made by who adds it, so that it is known at once.",
                        max_length=32,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("alias", models.CharField(max_length=255)),
                ("name", redis_integration.models.KeyField(help_text="A full key, or a tag's.", max_length=255)),
                ("created", models.DateTimeField(db_default=Now())),
                ("tries", models.PositiveIntegerField(default=0, help_text="How often it was repeated in vain.")),
            ],
            options={
                "verbose_name": "pending invalidation",
                "verbose_name_plural": "pending invalidations",
            },
        ),
    ]
