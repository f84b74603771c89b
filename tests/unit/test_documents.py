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


def test_pictures_of_help_pages_are_there_and_small() -> None:
    folder = ROOT / "web" / "docs"
    named = {
        picture for page in folder.glob("*.md") for picture in re.findall(r"!\[.+?\]\((.+?)\)", page.read_text(encoding="utf-8"))
    }
    assert named
    assert named == {path.relative_to(folder).as_posix() for path in (folder / "pictures").iterdir()}
    assert all((folder / picture).stat().st_size <= 150_000 for picture in named)


def test_widgets_of_auto_lora_are_saved_alike_in_templates_and_blueprint() -> None:
    """Values are saved by place: a file with inputs in another order would set the wrong ones."""
    saved = {}
    for path in [*(ROOT / "example_workflows").glob("*.json"), *(ROOT / "subgraphs").glob("*.json")]:
        graph = json.loads(path.read_text(encoding="utf-8"))
        inner = [node for subgraph in graph.get("definitions", {}).get("subgraphs", []) for node in subgraph["nodes"]]
        for node in [*graph["nodes"], *inner]:
            if node["type"] == "CarlosAutoLora":
                widgets = [entry["name"] for entry in node["inputs"] if "widget" in entry]
                saved[path.stem] = dict(zip(widgets, node["widgets_values"], strict=True))
    assert len(saved) >= 3
    first = saved["2_ask"]
    assert all(values == first for values in saved.values())


def test_the_section_that_ci_runs_has_two_blocks_of_commands_and_no_other() -> None:
    """What a command prints is no block there: CI takes the second block for the tests."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Two commands\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    assert section
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["sh", "sh"]
    assert blocks[0][1].splitlines()[-1] == "carlos demo"
    assert blocks[1][1].splitlines()[-1] == "pytest -n 2"
