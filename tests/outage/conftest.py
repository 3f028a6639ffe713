"""Prints how long each call of test_rows.py took to answer, where OUTAGE_TIMES is set: a table, and nobody's assertion."""

from __future__ import annotations

import os
import re

TITLE = ("", "first call, ms", "second", "third")


def pytest_terminal_summary(terminalreporter):
    if not os.environ.get("OUTAGE_TIMES"):
        return
    took = {
        re.sub(r".*\[(.+)\]", r"\1", report.nodeid): dict(report.user_properties)["milliseconds"]
        for report in terminalreporter.getreports("passed")
        if "milliseconds" in dict(report.user_properties)
    }
    terminalreporter.section("time to answer")
    rows = [TITLE, *((name, *(f"{each:,.1f}" for each in took[name])) for name in sorted(took))]
    for name, *cells in rows:
        terminalreporter.write_line(f"{name:<40}" + "".join(f"{cell:>16}" for cell in cells))
