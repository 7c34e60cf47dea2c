"""What the whole suite shares."""

from collections import Counter

import pytest

import captures


def pytest_configure() -> None:
    if not captures.directory().is_dir():
        raise pytest.UsageError(f"TTBR_CAPTURES: {captures.directory()} is no directory")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was left out and how to get it, one line for each reason."""
    if not captures.complete():
        terminalreporter.write_line(
            "captures: only those in examples/captures were read; "
            "set TTBR_CAPTURES to the full set to check all of them"
        )
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        if isinstance(report.longrepr, tuple):
            reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    for reason, count in reasons.most_common():
        if "install" in reason:
            terminalreporter.write_line(f"skipped: {count} tests, {reason}")
