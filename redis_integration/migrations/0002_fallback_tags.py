from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("redis_integration", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="FallbackTag",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=255)),
                ("tag", models.CharField(max_length=255)),
            ],
            options={
                "verbose_name": "fallback tag",
                "verbose_name_plural": "fallback tags",
                "constraints": [models.UniqueConstraint(fields=("tag", "key"), name="redis_integration_tag_key")],
            },
        ),
    ]
