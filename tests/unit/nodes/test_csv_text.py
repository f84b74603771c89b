"""Tables for spreadsheets: whatever names hold, a row is one line and no cell is a formula."""

from __future__ import annotations

import csv
import importlib
import io
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def csv_text() -> Any:
    """The function, in packages of its own: without ComfyUI the pack itself cannot be imported."""
    for name, folder in (("carlos_pack_alone", ROOT), ("carlos_pack_alone.nodes", ROOT / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules.setdefault(name, package)
    return importlib.import_module("carlos_pack_alone.nodes.common.csv_text").csv_text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("+1", "'+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(1)", "'@SUM(1)"),
        (" =1", "' =1"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\t=1", "\\t=1"),
        ('a, "b"', 'a, "b"'),
        ("ぬりえ", "ぬりえ"),
    ],
)
def test_names_become_no_formulas_and_no_lines(csv_text: Any, name: str, shown: str) -> None:
    text = csv_text([["name", "n"], [name, 1]])
    assert list(csv.reader(io.StringIO(text))) == [["name", "n"], [shown, "1"]]
    assert len(text.splitlines()) == 2


def test_numbers_are_numbers_and_what_is_undefined_is_empty(csv_text: Any) -> None:
    assert csv_text([[-0.5, None, math.nan, math.inf, True]]) == "-0.5,,,,True\n"
