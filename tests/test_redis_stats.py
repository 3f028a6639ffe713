"""The command redis_stats: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import re
import time
from types import SimpleNamespace

import pytest
import redis
from django.core.management import CommandError, call_command

from redis_integration.management.commands import redis_stats
from tests.test_console import Terminal

pytestmark = pytest.mark.django_db
MODULE = "redis_integration.management.commands.redis_stats"


def say(*words, out=None, err=None):
    out = out or io.StringIO()
    call_command("redis_stats", *words, stdout=out, stderr=err or io.StringIO())
    return out.getvalue()


@pytest.fixture
def publish(live_own, prefix):
    """Adds counts to the hash of this minute, or of one so many minutes ago."""
    with redis.Redis(port=live_own.port) as client:

        def add(counts, ago=0):
            with client.pipeline() as pipeline:
                for field, count in counts.items():
                    pipeline.hincrby(f"{prefix}:##stats:{int(time.time() // 60) - ago}", field, count)
                pipeline.execute()

        yield add


@pytest.fixture
def busy(publish):
    """A minute of two functions and three workers."""
    page = {
        "redis": 9_700,
        "stale": 100,
        "fallback": 10,
        "joined": 50,
        "computed": 140,
        "saved": 14_400_000,
        "origin": 141,
    }
    price = {"redis": 1, "computed": 999, "refused": 2, "raised": 3, "saved": 20}
    publish({f"{field} shop.views.product_page": count for field, count in page.items()})
    publish({f"{field} shop.prices.price": count for field, count in price.items()})
    publish({"error slow": 3, "error busy": 1, "worker web-1:7": 6, "worker web-1:8": 6, "worker web-2:7": 5})


def test_table_adds_all_workers_up(busy, live_own):
    """By who answered; in 80 columns."""
    said = say()

    assert said == (
        f"default: 127.0.0.1:{live_own.port}/0, the last 10 minutes of 3 workers\n"
        "  CALLS     HIT  STALE  FALLBACK  JOINED  COMPUTED   SAVED  FUNCTION\n"
        " 10,000   98.1%   1.0%      0.1%    0.5%      1.4%   4h 0m  shop.views.product_page\n"
        "  1,000    0.1%      0         0       0     99.9%    20ms  shop.prices.price\n"
        " 11,000   89.2%   0.9%      0.1%    0.5%     10.4%   4h 0m  total\n"
        "Origins raised: shop.prices.price 3.\n"
        "Stores refused, since it was invalidated meanwhile: shop.prices.price 2.\n"
        "Redis failed: busy 1, slow 3.\n"
        "The last 10 s are not there yet.\n"
    )


@pytest.mark.parametrize("columns", [80, 140])
def test_table_fits_a_terminal(busy, monkeypatch, columns):
    """Only names are cut."""
    monkeypatch.setenv("COLUMNS", f"{columns}")
    table = say(out=Terminal()).splitlines()[1:5]

    assert max(map(len, table)) <= columns
    assert ("shop.views.product_page" in "".join(table)) is (columns == 140)


def test_silence_is_told(publish, live_own):
    """A minute in which nothing was published, between others."""
    assert "Nothing was published: no worker has used the cache" in say()

    publish({"redis shop.prices.price": 1})
    publish({"redis shop.prices.price": 1}, ago=4)

    gap = [time.strftime("%H:%M", time.localtime(time.time() - 60 * minutes)) for minutes in (3, 1)]
    assert f"Nothing was published at {gap[0]} to {gap[1]}: Redis was away, or nobody called." in say()


def test_away_redis_is_told_with_where_the_counts_are(publish, live_own):
    """They are not lost."""
    live_own.kill()

    with pytest.raises(CommandError, match=r"Is the server running.* the workers count meanwhile they keep"):
        say()


def test_json_is_one_document(busy):
    """With all that the table leaves out."""
    document = json.loads(say("--format", "json"))

    (alias,) = document["aliases"]
    assert (alias["alias"], alias["workers"], alias["errors"]) == ("default", 3, {"busy": 1, "slow": 3})
    page = alias["functions"][0]
    assert (page["name"], page["calls"], page["redis"], page["origin"]) == (
        "shop.views.product_page",
        10_000,
        9_700,
        141,
    )
    assert (page["saved"], page["hit_ratio"]) == (14_400.0, 0.981)
    assert len(alias["silent_minutes"]) == 9


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--min", "5"], ["--watch", "0"], ["--alias", "nope"]])
def test_slips_are_told(live_own, words):
    """No abbreviation, and no number without a meaning."""
    with pytest.raises(CommandError):
        say(*words)


def watch(monkeypatch, *acts, words=()):
    """What --watch prints while these are done in its pauses, before Ctrl-C."""
    left, out = [*acts], io.StringIO()

    def act(seconds):
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    clock = SimpleNamespace(**{name: getattr(time, name) for name in ("time", "monotonic", "strftime", "localtime")})
    clock.sleep = act
    monkeypatch.setattr(f"{MODULE}.time", clock)
    with pytest.raises(SystemExit) as ended:
        say("--watch", "2", *words, out=out)
    assert ended.value.code == 130
    return out.getvalue().splitlines()


def test_watch_shows_rates(publish, monkeypatch):
    """What was published since the line before; nothing is no rate of none."""
    publish({"redis shop.prices.price": 1000})

    heading, first, came, none = watch(
        monkeypatch, lambda: publish({"redis shop.prices.price": 30, "computed shop.prices.price": 10}), lambda: None
    )

    assert heading.split() == [column.heading for column in redis_stats.RATES]
    assert {*map(len, (heading, first, came, none))} <= {*range(81)}
    assert re.fullmatch(r"\d\d:\d\d:\d\d( +-){8}", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d +[\d,]+ +0 +40 +75\.0% +0 +0 +0 +25\.0%", came)
    assert re.fullmatch(r"\d\d:\d\d:\d\d +[\d,]+ +0 +0( +-){5}", none)


def test_watch_goes_on_through_an_outage(publish, live_own, monkeypatch):
    """A line without numbers, and why; what was counted meanwhile stands in the line after it."""
    publish({"redis shop.prices.price": 1000})

    lines = watch(
        monkeypatch,
        live_own.pause,
        live_own.resume,
        words=["--format", "json"],
    )

    first, away, back = map(json.loads, lines)
    assert away["failure"]
    assert (away["redis"], away["clients"]) == (None, None)
    assert (back["failure"], back["redis"]) == (None, 0)


def test_counts_are_shown_without_info(publish, live_own, settings, monkeypatch):
    """The server's own rates are not known then."""
    with redis.Redis(port=live_own.port) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">hunter2", "~*", "+@all", "-info")
    options = settings.REDIS_INTEGRATION["default"]
    url = f"redis://app:hunter2@127.0.0.1:{live_own.port}/0"
    settings.REDIS_INTEGRATION = {"default": {**options, "URL": url, "DISTRUST_RESTARTS": False}}

    _, _, came = watch(monkeypatch, lambda: publish({"redis shop.prices.price": 4}))

    assert re.fullmatch(r"\d\d:\d\d:\d\d( +-){2} +4 +100%( +0){4}", came)
