from __future__ import annotations

from django.db import migrations, models

import redis_integration.models


class Migration(migrations.Migration):
    dependencies = [
        ("redis_integration", "0002_fallback_tags"),
    ]

    # Made anew: the rows are a cache.
    operations = [
        migrations.DeleteModel(name="FallbackTag"),
        migrations.DeleteModel(name="FallbackEntry"),
        migrations.CreateModel(
            name="FallbackEntry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", redis_integration.models.KeyField(max_length=255, unique=True)),
                (
                    "lease",
                    models.CharField(help_text="The name of the last lease, whether it is held or not.", max_length=16),
                ),
                ("leased", models.DateTimeField(help_text="When that lease was taken.")),
                ("held_until", models.DateTimeField(help_text="Until when nobody else may compute this entry.")),
                ("payload", models.BinaryField(help_text="The bytes of the entry, as they would stand in Redis.")),
                (
                    "started",
                    models.DateTimeField(help_text="When the computation of this copy began.", null=True),
                ),
                ("fresh_until", models.DateTimeField(null=True)),
                ("kept_until", models.DateTimeField(db_index=True)),
            ],
            options={
                "verbose_name": "fallback entry",
                "verbose_name_plural": "fallback entries",
            },
        ),
        migrations.CreateModel(
            name="FallbackTag",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("tag", redis_integration.models.KeyField(max_length=255, unique=True)),
                ("generation", models.BinaryField(max_length=8)),
                ("kept_until", models.DateTimeField(db_index=True)),
            ],
            options={
                "verbose_name": "fallback tag",
                "verbose_name_plural": "fallback tags",
            },
        ),
    ]
