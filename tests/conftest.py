"""What all tests share: telling loudly when the real host was not there to test against."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Skipped tests of the real host must be seen."""
    left_out = [report for report in terminalreporter.stats.get("skipped", []) if "comfyui" in report.keywords]
    if left_out:
        reasons = Counter(
            report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr) for report in left_out
        )
        terminalreporter.write_sep("!", "NOT ALL WAS TESTED IN A REAL COMFYUI", red=True, bold=True)
        for reason, n_tests in reasons.items():
            terminalreporter.write_line(f"{n_tests} tests were left out. {reason}")
