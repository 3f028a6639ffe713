from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="FallbackEntry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=255, unique=True)),
                ("payload", models.BinaryField(help_text="The bytes of the entry, as they would stand in Redis.")),
                (
                    "started",
                    models.DateTimeField(
                        help_text="When the computation of this entry began, by the database's clock."
                    ),
                ),
                ("fresh_until", models.DateTimeField(db_index=True)),
            ],
            options={
                "verbose_name": "fallback entry",
                "verbose_name_plural": "fallback entries",
            },
        ),
    ]
