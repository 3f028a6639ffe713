"""What may be looked for, and what a pattern reaches."""

from __future__ import annotations

import contextlib

import pytest

from redis_integration.management.commands.redis_scan import Command
from redis_integration.management.scan_options import read_search
from redis_integration.scan import Search
from redis_integration.scan.search import is_everything
from tests.scan.answers import find


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"pattern": ""}, "pattern is empty"),
        ({"pattern": "t:\0"}, "contains a NUL"),
        ({"pattern": "t:[ab"}, r"has a '\[' without its '\]'"),
        # Redis reads a range from 'a' to ']' here, and then no end of the class.
        ({"pattern": "t:[a-]"}, r"has a '\[' without its '\]'"),
        ({"pattern": "t:[^--]"}, r"has a '\[' without its '\]'"),
        ({"pattern": "t:\\"}, "ends in a backslash"),
        ({"pattern": "t:\x1b[31m["}, r"pattern t:\\x1b"),
        ({"pattern": "t:*", "types": ["json"]}, "Choose from string, list"),
        ({"pattern": "t:*", "limit": 0}, "limit is 0. Give 1 or more"),
        ({"pattern": "t:*", "limit": -5}, "limit is -5"),
        ({"pattern": "t:*", "no_ttl": True, "ttl_under": 5}, "has no time to live"),
        ({"pattern": "t:*", "max_rate": 0.5}, "rate is 0.5. Give at least 1"),
        ({"pattern": "t:*", "cursor": "12"}, "cursor 12 is none that an earlier walk has printed"),
        ({"pattern": "t:*", "count": 0}, "count is 0. Give 1 to 10000"),
        ({"pattern": "t:*", "count": 10_001}, "count is 10001"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(wrong, remedy):
    """The message says what is wrong and what to write."""
    with pytest.raises(ValueError, match=remedy):
        Search(**wrong)


@pytest.mark.parametrize("pattern", ["t:[^-]]", "t:[]", "t:[a-c]", r"t:\[", r"t:[\]]", "t:]", "t:é*", "t:\\\\"])
def test_a_pattern_that_redis_reads_as_written_is_accepted(pattern):
    """Closed classes and escaped brackets are no mistakes."""
    assert Search(pattern=pattern).pattern == pattern


def test_a_pattern_of_the_shell_need_not_be_utf8(client):
    """A byte that the shell handed over undecoded finds its key."""
    client.set(b"t:\xff", "x")

    assert [found.key for found in find("t:\udcff")] == [b"t:\xff"]


@pytest.mark.parametrize(
    ("pattern", "inside"),
    [
        ("shop:*", True),
        ("shop:product:1", True),
        ("shop:", True),
        ("shop*", False),
        ("shop?*", False),
        ("[s]hop:*", False),
        (r"\shop:*", False),
        ("shopping:*", False),
        ("*", False),
        ("{shop:*", False),
    ],
)
def test_inside_is_only_what_begins_with_the_prefix_as_text(settings, pattern, inside):
    """A glob before the colon may match keys of others."""
    settings.REDIS_INTEGRATION = {"default": {"URL": "redis://127.0.0.1:1", "KEY_PREFIX": "shop"}}
    options = vars(Command().create_parser("manage.py", "redis_scan").parse_args([pattern]))

    with contextlib.nullcontext() if inside else pytest.raises(ValueError, match="can match keys that are not ours"):
        read_search(options)


@pytest.mark.parametrize(
    ("pattern", "everything"),
    [
        ("shop:*", True),
        ("shop:", True),
        ("shop:?*", True),
        ("shop:[a-z]*", True),
        ("shop:[^a-z]**", True),
        ("*", True),
        ("[st]*", True),
        ("s*", True),
        ("shop*", True),
        ("*:*", True),
        ("?:*", True),
        ("shop:*:*", True),
        ("shop:s*", False),
        ("shopping*", False),
        ("s", False),
        ("shop:page:*", False),
        ("shop:*:lease", False),
        (r"shop:\**", False),
        ("session:*", False),
    ],
)
def test_everything_is_a_pattern_of_globs_alone(pattern, everything):
    """One literal character, past the prefix where it is there, names a part."""
    assert is_everything(pattern, "shop") is everything
