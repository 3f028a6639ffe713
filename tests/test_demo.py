"""The demo as a newcomer meets it: in processes of its own, with its own settings and a small shop."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# One worker fills the shop, for all of them.
pytestmark = pytest.mark.xdist_group("demo")

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--products", "60", "--reviews-per-product", "40")

VISIT = """
import json, sys
import django
django.setup()
from django.test import Client
client = Client()
def look(path, data=None):
    answer = client.get(path) if data is None else client.post(path, data)
    return {"status": answer.status_code, "cache": answer.headers.get("Cache-Status"), "body": answer.content.decode(),
            "length": int(answer.headers.get("Content-Length") or 0), "size": len(answer.content)}
print(json.dumps([look(*step) for step in json.loads(sys.argv[1])]))
"""
SUM = """
import hashlib
import django
django.setup()
from demo_project.shop.models import Category, Product, Review
rows = [list(model.objects.order_by("pk").values_list()) for model in (Category, Product, Review)]
print([len(table) for table in rows], hashlib.sha256(repr(rows).encode()).hexdigest())
"""
FORGETFUL = """
import sys
import django
django.setup()
from django.core.management import call_command
from demo_project.shop import views
views._forget = lambda pk: None
call_command("demo", "--once")
"""


class Shop:
    """A shop of its own in one folder, spoken to through subprocesses."""

    def __init__(self, folder, url=None):
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DJANGO_SETTINGS_MODULE")
            },
            **({"REDIS_URL": url} if url else {}),
            "DJANGO_SETTINGS_MODULE": "demo_project.settings",
            "DEMO_DATABASE": str(folder / "shop.sqlite3"),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
        }

    def run(self, *arguments, status=0):
        ran = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == status, ran.stdout + ran.stderr
        return ran

    def manage(self, *arguments, status=0):
        return self.run("manage.py", *arguments, status=status)

    def fill(self):
        self.manage("migrate", "--verbosity", "0")
        self.manage("fill_shop", *SMALL)

    def visit(self, *steps):
        """Each step is a path, or a path with what is posted there; one answer for each, from one process."""
        listed = [step if isinstance(step, tuple) else (step,) for step in steps]
        return json.loads(self.run("-c", VISIT, json.dumps(listed)).stdout)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A filled shop's folder, to be copied."""
    folder = tmp_path_factory.mktemp("filled")
    Shop(folder).fill()
    return folder


@pytest.fixture
def folder(filled, tmp_path):
    (tmp_path / "shop.sqlite3").write_bytes((filled / "shop.sqlite3").read_bytes())
    return tmp_path


@pytest.fixture
def shop(folder, own_server):
    return Shop(folder, own_server.url)


@pytest.fixture
def shop_without_redis(folder, own_server):
    own_server.kill()
    return Shop(folder, own_server.url)


def redis_cli(server, line):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(line + b"\r\n")
        return connection.recv(1000)


def price_on(answer):
    (price,) = re.findall(r'id="price" value="([\d.]+)"', answer["body"])
    return price


def badge_on(answer):
    (badge,) = re.findall(r'<span class="badge (\w+)">(.*?) · <b>[\d.]+ ms</b></span>', answer["body"])
    return badge


def test_same_numbers_make_the_same_shop(filled, tmp_path):
    """fill_shop makes up the same content every time."""
    again = Shop(tmp_path)
    again.fill()

    first, second = Shop(filled).run("-c", SUM).stdout, again.run("-c", SUM).stdout

    assert first == second
    assert first.startswith("[12, 60, 2400]")


def test_filled_shop_is_left_as_it_is(folder):
    """A second fill_shop changes nothing."""
    said = Shop(folder).manage("fill_shop", *SMALL).stdout

    assert "nothing was changed" in said


def test_migrations_match_the_models(folder):
    """The shop's migration is complete."""
    Shop(folder).manage("makemigrations", "--check", "--dry-run", "shop")


@pytest.mark.parametrize(
    "path",
    ["/", "/?category=3", "/?page=2", "/products/7/", "/products/7/edit/", "/api/products/7/", "/profiles/ada/"],
)
def test_page_answers(shop, path):
    """Every page answers with a running Redis, cold and warm."""
    cold, warm = shop.visit(path, path)

    assert (cold["status"], warm["status"]) == (200, 200)


@pytest.mark.parametrize("path", ["/", "/products/7/", "/products/7/edit/", "/api/products/7/", "/profiles/ada/"])
def test_page_answers_without_redis(shop_without_redis, path):
    """Every page answers while Redis is away."""
    first, second = shop_without_redis.visit(path, path)

    assert (first["status"], second["status"]) == (200, 200)


@pytest.mark.parametrize(
    "path",
    [
        "/?page=0",
        "/?page=99",
        "/?category=99",
        f"/?page={10**30}",
        "/products/9999/",
        "/products/9999/edit/",
        "/api/products/9999/",
    ],
)
def test_page_that_is_not_there_is_not_found(shop, path):
    """A number that names nothing is a 404, also from the JSON endpoint."""
    (answer,) = shop.visit(path)

    assert answer["status"] == 404


@pytest.mark.parametrize("path", ["/", "/products/7/"])
def test_badge_shows_the_tier(shop, path):
    """A page says that it was computed, and the next time that it came from Redis."""
    cold, warm = shop.visit(path, path)

    assert badge_on(cold) == ("computed", "computed, kept in Redis")
    assert badge_on(warm) == ("redis", "from Redis")
    assert warm["length"] == warm["size"]


def test_badge_shows_the_fallback_table(shop_without_redis):
    """Without Redis the second answer comes from the fallback table, and says so."""
    first, second = shop_without_redis.visit("/products/7/", "/products/7/")

    assert badge_on(first) == ("computed", "computed, kept in the fallback table")
    assert badge_on(second) == ("fallback", "from the fallback table")


def test_uncached_page_says_so(shop):
    """The edit page is not cached."""
    (answer,) = shop.visit("/products/7/edit/")

    assert badge_on(answer) == ("uncached", "not cached")


def test_edit_is_seen_at_once(shop):
    """An edit ends the cached page, list and JSON document of its product."""
    _, _, before, edit, page, document = shop.visit(
        "/",
        "/products/7/",
        "/api/products/7/",
        ("/products/7/edit/", {"name": "New Name", "price": "1234.50"}),
        "/products/7/",
        "/api/products/7/",
    )

    assert edit["status"] == 302
    assert price_on(page) == "1234.50"
    assert "New Name" in page["body"]
    assert json.loads(before["body"])["price"] != "1234.50"
    assert json.loads(document["body"])["price"] == "1234.50"


def test_edit_ends_the_first_page_of_the_list(shop):
    """After an edit the list is computed again."""
    _, warm, _, after = shop.visit("/", "/", ("/products/7/edit/", {"name": "New Name", "price": "1234.50"}), "/")

    assert badge_on(warm)[0] == "redis"
    assert badge_on(after)[0] == "computed"


def test_edit_with_a_wrong_price_changes_nothing(shop):
    """A price that is none is told on the form, and nothing is saved."""
    before, edit, after = shop.visit(
        "/products/7/", ("/products/7/edit/", {"name": "New Name", "price": "-1"}), "/products/7/"
    )

    assert edit["status"] == 200
    assert 'class="error"' in edit["body"]
    assert price_on(before) == price_on(after)
    assert badge_on(after)[0] == "redis"


def test_profile_is_kept_in_redis(shop):
    """The second visit finds the document and the hash that the first one made."""
    first, second = shop.visit("/profiles/ada/", "/profiles/ada/")

    assert "<dt>visits</dt><dd>1</dd>" in first["body"]
    assert "<dt>visits</dt><dd>2</dd>" in second["body"]


def test_profile_says_that_redis_is_away(shop_without_redis):
    """What is kept in Redis alone is away with it, and the page says so."""
    (answer,) = shop_without_redis.visit("/profiles/ada/")

    assert "Redis is away (ConnectionError)" in answer["body"]


def test_story_starts_a_server_and_holds(tmp_path):
    """`demo --once` fills a shop, starts its own Redis, tells the whole story and ends with status 0."""
    said = Shop(tmp_path).manage("demo", "--once", "--products", "200").stdout

    assert "200 products, 4,000 reviews, filled in" in said
    assert re.search(r"1 Nothing cached yet +[\d.]+  computed .* computed ", said)
    assert re.search(r"2 Warm, median of 20 +[\d.]+  redis .* redis ", said)
    assert re.search(r"3 Redis cut off +[\d.]+  computed .* computed ", said)
    assert re.search(r"  and again +[\d.]+  fallback .* fallback ", said)
    assert re.search(r"  believed again +[\d.]+  redis .* redis ", said)
    assert "none showed the old price after the edit" in said
    assert re.search(r"  for every process, \d+ invalidations that it has not confirmed", said)
    assert re.search(r"delete failed unnoticed: [1-9]\d* answers after the edit had the old price", said)
    assert "\x1b" not in said


def test_story_uses_redis_url_and_leaves_no_key(shop, own_server):
    """With REDIS_URL the demo keeps its keys under a prefix of their own, removes them, and touches no other."""
    redis_cli(own_server, b"SET shop:mine 1")

    said = shop.manage("demo", "--once").stdout

    assert re.search(r"REDIS_URL, keys under shop-demo-[0-9a-f]{8}:", said)
    assert redis_cli(own_server, b"DBSIZE") == b":1\r\n"


def test_story_that_does_not_hold_ends_with_status_1(shop):
    """Without its invalidation the shop shows old prices, and the demo says WRONG instead of passing over it."""
    said = shop.run("-c", FORGETFUL, status=1).stdout

    assert "WRONG: the product page showed the price" in said
    assert "none showed the old price" not in said


def test_redis_url_that_is_no_address_is_told(tmp_path):
    """A REDIS_URL that cannot be read is told by the system check, with an example."""
    said = Shop(tmp_path, "localhost:6379").manage("demo", "--once", status=1).stderr

    assert "redis_integration.E001" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "url, message",
    [
        ("rediss://localhost:1/0", "begins with rediss://"),
        ("redis://:hush@127.0.0.1:1/0", "does not answer"),
    ],
)
def test_redis_url_that_cannot_be_used_is_told(tmp_path, url, message):
    """A REDIS_URL that the demo cannot use is one line with the remedy, without the password."""
    said = Shop(tmp_path, url).manage("demo", "--once", status=1).stderr

    assert message in said
    assert "starts a server of its own" in said
    assert "Traceback" not in said
    assert "hush" not in said
