"""What the documents say of this repository is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = sorted(set(re.findall(r"`([a-z/_]+)::(\w+)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_claim_about_security_names_a_test_that_there_is(file: str, test: str) -> None:
    content = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
    assert re.search(rf"^(def {test}\(|{test} = )", content, re.MULTILINE)


def test_there_are_such_claims() -> None:
    assert len(NAMED) > 30


def test_templates_that_index_use_one_preset() -> None:
    presets = {}
    for path in (ROOT / "example_workflows").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            names = [entry["name"] for entry in node.get("inputs", []) if "widget" in entry]
            if "preset" in names:
                presets[path.stem, node["type"]] = node["widgets_values"][names.index("preset")]
    assert presets
    assert set(presets.values()) == {"quick"}, presets
