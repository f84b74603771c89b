"""What all tests share: telling loudly when the real host was not there to test against."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Skipped tests of the real host must be seen."""
    left_out = [report for report in terminalreporter.stats.get("skipped", []) if "comfyui" in report.keywords]
    if left_out:
        reason = left_out[0].longrepr[2] if isinstance(left_out[0].longrepr, tuple) else str(left_out[0].longrepr)
        terminalreporter.write_sep("!", "REAL COMFYUI WAS NOT TESTED", red=True, bold=True)
        terminalreporter.write_line(f"{len(left_out)} tests were left out. {reason}")
