"""What the whole suite shares."""

import pytest

import captures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not captures.complete():
        terminalreporter.write_line(
            "captures: only those in examples/captures were read; "
            "set TTBR_CAPTURES to the full set to check all of them"
        )
