"""Who goes on: at random, or along a trace of the model. It knows the stops of play.py by their names."""

from __future__ import annotations

import random

from tests.model.play import Choice, Play


def at_random(seed: int) -> Choice:
    """Choices that depend on nothing but the seed: an agent goes on for a while, then another one."""
    dice = random.Random(seed)
    keeps_on = dice.choice((0.0, 0.5, 0.8, 0.9))
    last = ""

    def choose(play: Play, options: list[str]) -> str:
        nonlocal last
        if last not in options or dice.random() >= keeps_on:
            last = dice.choice(options)
        return last

    return choose


# A step of the model, by how its telling begins: the stops of the code that are left with it.
LEAVES = {
    "connects": ("sends",),
    "the pool is told": ("has connected",),
    "GET": ("sends GET", "sends MGET", "has told the pool"),
    "begins a flight": ("has sent GET", "has sent MGET"),
    "joins": ("has sent GET", "has sent MGET"),
    "takes": ("has sent GET", "has sent MGET"),
    "lease script": ("sends LEASE", "has told the pool"),
    "refresh": ("sends LEASE",),
    "origin": ("calls the origin",),
    "bypasses": ("the origin returns",),
    "sends its fill": ("the origin returns",),
    "fill script": ("sends FILL", "has told the pool"),
    "returns": ("has sent FILL", "the origin returns"),
    "answers": ("has sent LEASE",),
    "lets its lease go": ("sends FILL",),
    "expire script": ("sends EXPIRE",),
    "UNLINK": ("sends UNLINK", "has told the pool"),
    "commits": ("writes",),
    "UPDATE": ("writes",),
    "BEGIN, REPEATABLE": ("takes its snapshot",),
    "COMMIT": ("commits",),
    "ROLLBACK": ("rolls back",),
}
# A fault of the model, by how its telling begins: what the conductor calls it.
FAULTS = {
    "has waited too long": ("impatient", "time"),
    "sends its lease script again": ("late",),
    "is cancelled, its": ("cancel-late",),
    "is cancelled": ("cancel ",),
    "UNLINK is lost": ("lost",),
    "evicts the entry": ("evict entry",),
    "evicts the lease": ("evict lease",),
    "evicts the tag": ("evict tag",),
    "saves": ("snapshot",),
    "restarts": ("restart",),
    "forgets": ("forget scripts",),
    "a script arrives": ("script arrives",),
    "P0": ("drain 0",),
    "P1": ("drain 1",),
}
# The same for the journal, whose play has other stops: see play_journal.py.
JOURNAL_LEAVES = {
    "computes": ("the origin returns",),
    "GET": ("sends GET", "sends MGET"),
    "lease script": ("sends LEASE",),
    "origin": ("calls the origin",),
    "fill script": ("sends FILL",),
    "INSERT, by itself": ("begins its transaction",),
    "INSERT of another": ("writes other",),
    "INSERT": ("INSERTs",),
    "commits": ("commits",),
    "UNLINK": ("sends UNLINK", "invalidates"),
    "takes what": ("sends probe",),  # in vain, and then
    "tries Redis": ("sends probe",),
    "SELECT": ("polls",),
    "learns": ("has SELECTed",),
    "DELETE the rows": ("deletes rows",),
    "DELETE": ("DELETEs",),
    "forgets them, and polls": ("has DELETEd",),
    "forgets them": ("closes",),
}
JOURNAL_FAULTS = {
    "UNLINK is lost": ("timeout",),
    "UNLINK, its reply": ("lost",),
    "INSERT fails": ("unwritten",),
    "INSERT, its reply": ("unheard",),
    "DELETE of the rows fails": ("unended",),
    "tries Redis: no answer": ("slow",),
    "cannot poll": ("busy",),
    "BEGIN": ("inside",),
    "cuts P0": ("cut",),
    "cuts all": ("cut all",),
    "Redis refuses": ("refuse",),
    "P0 is killed": ("kill",),
    "Redis saves": ("snapshot",),
    "Redis restarts": ("restart",),
    "heals": ("heal",),
    "starts": ("start",),
    "is forked": ("fork",),
}


def following(
    trace: tuple[str, ...],
    leaves: dict[str, tuple[str, ...]] = LEAVES,
    faults: dict[str, tuple[str, ...]] = FAULTS,
) -> Choice:
    """Choices that lead the code along a trace of the model; at its end, or where the code goes another way, any."""
    steps = [step.split(": ", 1) for step in trace]

    def choose(play: Play, options: list[str]) -> str:
        while steps:
            who, what = steps[0]
            if fault := _meant(faults, what):
                named = (who,) if len(who) == 1 else ()
                found = [option for option in options if option.startswith(fault) and option.endswith(named or "")]
                if found:
                    steps.pop(0)
                    return found[0]
            if what.startswith("tries") and f"idle {who}" in options:
                return f"idle {who}"
            stops = _meant(leaves, what)
            if who in options and (stops or fault):
                player = play.players[ord(who) - ord("A")]
                connects = player.has_to_connect()
                if what.startswith("DELETE") and player.label == "closes":
                    steps.pop(0)  # nothing that was written
                    continue
                is_there = player.label.startswith(stops or "?")
                if what.startswith("connects") and not connects:
                    steps.pop(0)
                    continue
                if is_there and (what.startswith("connects") or not (connects and player.label.startswith("sends"))):
                    steps.pop(0)
                return who
            steps.pop(0)
        return options[0]

    return choose


def _meant(words: dict[str, tuple[str, ...]], what: str) -> tuple[str, ...]:
    return next((meant for begins, meant in words.items() if what.startswith(begins)), ())
