"""Reports: each line stays one, and the last is strict JSON that any program can read, whatever names hold."""

from __future__ import annotations

import importlib
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def report() -> Any:
    """The module in packages of its own: without ComfyUI the pack itself cannot be imported."""
    for name, folder in (("carlos_pack_alone", ROOT), ("carlos_pack_alone.nodes", ROOT / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules.setdefault(name, package)
    return importlib.import_module("carlos_pack_alone.nodes.common.report")


@pytest.mark.parametrize(
    "name", ["new\nline", "no text \udcff", "end\u2028of\u0085line", 'quo"te\\', "tab\t", "שלג 🧜🏽‍♀️", "\ud83d"]
)
def test_names_break_neither_lines_nor_json_nor_utf_8(report: Any, name: str) -> None:
    text, facts = report.report([f"failed: {name}", "end"], {"file": name, "nan": math.nan})
    assert text.encode("utf-8")
    lines = text.splitlines()
    assert lines[1:-1] == ["end", "", "The same for programs, as JSON:"]
    assert json.loads(lines[-1]) == {"file": name, "nan": None}
    assert facts == lines[-1] == report.facts_text({"file": name, "nan": math.nan})
