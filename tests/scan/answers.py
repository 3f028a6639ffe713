"""What tests of scan/ say often, and scripted answers of SCAN, for what a real server does seldom."""

from __future__ import annotations

from redis_integration import scan
from redis_integration.scan import Search, Tally, Walk
from redis_integration.scan.pace import Pace


def fill(client, *names):
    client.mset(dict.fromkeys(names, "x"))


def find(pattern="t:*", **options):
    return list(scan.find("default", Search(pattern=pattern, **options), Tally()))


def delete(pattern="t:*", *, tally=None, **options):
    return sum(scan.delete("default", Search(pattern=pattern, **options), tally or Tally()))


def calls(client, command):
    return client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def answer_scans(monkeypatch, *pages):
    """Lets SCAN answer these pages of keys, the cursor of all but the last being half way; an error is raised instead."""
    answers = iter([(b"0" if at == len(pages) else b"1", page) for at, page in enumerate(pages, 1)])
    speak = Pace.speak

    def scripted(pace, *commands):
        if commands[0][0] != "SCAN":
            return speak(pace, *commands)
        cursor, page = next(answers)
        if isinstance(page, BaseException):
            raise page
        return [[cursor, page]]

    monkeypatch.setattr(Pace, "speak", scripted)
    # No page comes before it is asked for.
    monkeypatch.setattr(Walk, "_next", property(lambda walk: None, lambda walk, it: None), raising=False)
