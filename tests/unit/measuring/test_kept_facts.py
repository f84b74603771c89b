"""Small facts in a file: kept beside those of others, and never a reason to fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from carlos_core.measuring.kept_facts import KeptFacts

KEEPING = """
import sys
from pathlib import Path
from carlos_core.measuring.kept_facts import KeptFacts
sys.stdin.readline()
for k in range(60):
    KeptFacts(Path(sys.argv[1])).keep(f"{sys.argv[2]} {k}", k)
"""


def test_two_processes_that_keep_facts_at_once_keep_those_of_both(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    command = [sys.executable, "-c", KEEPING, str(path)]
    both = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True) for name in ("one", "other")]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert json.loads(path.read_text()) == {f"{name} {k}": k for name in ("one", "other") for k in range(60)}


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000])
def test_a_file_that_makes_no_sense_counts_as_missing_and_is_written_anew(tmp_path: Path, content: str) -> None:
    facts = KeptFacts(tmp_path / "facts.json")
    (tmp_path / "facts.json").write_text(content)
    assert facts.get("a") is None
    facts.keep("a", 1)
    assert facts.get("a") == 1


def test_a_file_that_cannot_be_read_or_written_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "facts.json").mkdir()
    facts = KeptFacts(tmp_path / "facts.json")
    facts.keep("a", 1)
    assert facts.get("a") is None
    assert "the next run finds out anew" in caplog.text
