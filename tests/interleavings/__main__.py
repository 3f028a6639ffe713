"""`python -m tests.interleavings` prints for each family how many orders there are, and how many of them end wrong."""

from __future__ import annotations

import os

import django
import pytest


def main():
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()

    from django.test import override_settings

    from demo_project.server import start_server
    from tests.interleavings.scheduler import injected

    with start_server() as server:
        options = {"URL": server.url, "KEY_PREFIX": "t", "COMMAND_TIMEOUT": 10}
        with override_settings(REDIS_INTEGRATION={"default": options}), injected():
            print(server.name)
            _print_rows()


def _print_rows():
    from tests.interleavings import families, variants
    from tests.interleavings.cast import count

    rows = [(variants.nothing_broken, family) for family in [*families.PLAIN, *families.OURS, *families.EXPIRED]]
    rows += [*families.STALE, *families.OLD_ANSWERS, *families.REPEATED]
    print(
        f"{'family':58} {'orders':>11} {'stale':>6} {'share':>7} {'old answers':>11} {'hits':>7} {'taken':>7}  variant"
    )
    for variant, family in rows:
        with pytest.MonkeyPatch.context() as patch:
            variant(patch)
            found = count(family)
        print(
            f"{family!s:58} {found.orders:11,} {found.stale:6,} {found.share:7.1%} {found.old_answers:11,} "
            f"{found.hits / found.orders:7.1%} {found.taken:7,}  {variant.__name__.replace('_', ' ')}",
            flush=True,
        )


if __name__ == "__main__":
    main()
