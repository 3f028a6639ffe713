"""Names summed up. On no server."""

from __future__ import annotations

import pytest

from redis_integration.scan import Found, Tree
from redis_integration.scan import tree as tree_module


def grown(*keys, **options):
    tree = Tree(**{"prefix": "shop", **options})
    tree.add([Found(key if isinstance(key, bytes) else key.encode(), ttl_ms=None, bytes=10) for key in keys])
    return tree


def shape(branch):
    """Names and numbers of keys, as far as there are branches."""
    return {name.decode(): shape(each) if each.branches else each.keys for name, each in branch.branches.items()}


def test_keys_are_summed_up_by_namespace():
    """Keys, bytes, and how many never expire, at each level."""
    tree = Tree(2, prefix="shop")

    tree.add([Found(b"shop:product:1", ttl_ms=5, bytes=100), Found(b"shop:product:2", ttl_ms=None, bytes=50)])
    tree.add([Found(b"shop:page:/p/1/", ttl_ms=5, bytes=1)])

    shop = tree.root.branches[b"shop:"]
    product = shop.branches[b"product:"]
    assert (tree.root.keys, tree.root.bytes, tree.root.never) == (3, 151, 1)
    assert (shop.keys, shop.bytes, shop.never) == (3, 151, 1)
    assert (product.keys, product.bytes, product.never) == (2, 150, 1)
    assert [name for name, _ in shop.largest()] == [b"product:", b"page:"]


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (1, {"shop:": 2, "*": 1}),
        (2, {"shop:": {"cart:": 1, "online": 1}, "*": 1}),
        (3, {"shop:": {"cart:": {"*:": 1}, "online": 1}, "*": 1}),
        (9, {"shop:": {"cart:": {"*:": {"lines": 1}}, "online": 1}, "*": 1}),
    ],
)
def test_depth_is_the_number_of_levels(depth, expected):
    """What lies deeper is in the last of them."""
    assert shape(grown("shop:cart:7:lines", "shop:online", "counter", depth=depth).root) == expected


@pytest.mark.parametrize(
    "part",
    [
        "7",
        "123e4567-e89b-12d3-a456-426614174000",
        "deadbeef",
        "h2g8f0k4m1n6p3q7",
        "/p/1/",
        "caf%C3%A9",
        "a@b",
        "bytes(00)",
        "1~x",
    ],
)
def test_an_id_becomes_a_star(part):
    """Numbers, digests, paths: what tells one of a kind from another."""
    assert shape(grown(f"shop:{part}").root) == {"shop:": {"*": 1}}


@pytest.mark.parametrize("part", ["product", "shop.prices.price", "v2", "leaderboard", "#products", "page-2"])
def test_a_name_stays(part):
    """What a programmer wrote."""
    assert shape(grown(f"shop:{part}").root) == {"shop:": {part: 1}}


def test_an_argument_keeps_its_name():
    """Keys of functions without key=."""
    assert shape(grown("shop:prices.price:pk=7:currency='EUR'", depth=4).root) == {
        "shop:": {"prices.price:": {"pk=*:": {"currency=*": 1}}}
    }


def test_leases_are_a_namespace_of_their_own():
    """They are ours, and begin with a brace."""
    tree = grown("{shop:product:1}:lease", "{shop:page:/}:lease", "{other:1}:lease")

    assert shape(tree.root) == {"{shop:*}:lease": 2, "{other:": {"1}:": 1}}
    assert [(each.keys, each.ours) for each in tree.root.branches.values()] == [(2, 2), (1, 0)]


def test_what_is_ours_is_known_whatever_separates_namespaces():
    """A branch may hold both."""
    root = grown("shop:page/1", "shop:page/2", "shopping/1", "s", "shop:price", separator="/").root

    assert {name: (each.keys, each.ours) for name, each in root.branches.items()} == {
        b"shop:page/": (2, 2),
        b"shopping/": (1, 0),
        b"*": (2, 1),
    }


def test_what_is_ours_has_its_branches_among_however_many(monkeypatch):
    """Also where it comes last."""
    monkeypatch.setattr(tree_module, "MOST_BRANCHES", 2)

    root = grown("a:1", "alone", "c:1", "shop:page:1", "{shop:page:1}:lease").root

    assert shape(root).keys() == {"a:", "*", "(all others)", "shop:", "{shop:*}:lease"}


def test_a_tree_stays_small(monkeypatch):
    """Names without an end go into one branch, and are counted."""
    monkeypatch.setattr(tree_module, "MOST_BRANCHES", 3)

    root = grown(*(f"shop:{name}" for name in "abcdefgh")).root

    assert shape(root) == {"shop:": {"a": 1, "b": 1, "c": 1, "(all others)": 5}}


def test_a_separator_may_be_another():
    """As other programs write their keys."""
    assert shape(grown("a/b/1", "a/c", separator="/").root) == {"a/": {"b/": 1, "c": 1}}


def test_a_long_name_is_cut_and_bytes_are_bytes():
    """10 kB of a name stay out of a tree; what is no UTF-8 is no error."""
    assert [*grown(b"shop:" + b"n" * 10_000).root.branches[b"shop:"].branches] == [b"n" * 100]
    assert [*grown(b"\xff\n:a").root.branches] == [b"\xff\n:"]
