"""What all tests share: how they are run side by side, and telling loudly when the real host was not there to test against."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# Read by torch when it is first imported, here and in the processes that tests start. Two runs side by side that take all cores
# each are many times slower than one after the other.
if (n_workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_workers)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Read when the hub's client is first imported: no test fetches a model, or finds one that its user has.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = str(Path(tempfile.gettempdir()) / "carlos-tests-have-no-hub")

_BROWSER = "tests/browser/"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """With `-n`: a file's tests stay together and in their order, and so do all that share a browser; the longest come first."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only where it is installed

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return _BROWSER if file.startswith(_BROWSER) else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


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
