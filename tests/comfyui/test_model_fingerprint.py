"""One model, one fingerprint, on ComfyUI's own code: whatever is attached to it, and whatever was made with it before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import comfyui_host as hosts

UNKNOWN = ("wrapper of who knows what", "wrapper of who knows what else")


@pytest.fixture(scope="module")
def found(comfyui: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("fingerprints")
    hosts.run_script(comfyui, Path(__file__).with_name("fingerprint_run.py"), checkpoint, work, timeout_s=600)
    return json.loads((work / "found.json").read_text())


def test_a_model_made_alike_has_the_same_fingerprint_before_and_after_a_picture(found: dict[str, Any]) -> None:
    unlike = {name: facts["prints"] for name, facts in found.items() if name not in UNKNOWN and len(set(facts["prints"])) > 1}
    assert unlike == {}


def test_whatever_is_attached_makes_another_model(found: dict[str, Any]) -> None:
    """Nothing that such a model makes may be taken for the plain model's, or for that of another LoRA, strength or setting."""
    prints = {name: facts["prints"][0] for name, facts in found.items()}
    assert len(set(prints.values())) == len(prints) >= 14


def test_a_model_is_itself_while_another_with_things_attached_is_loaded(found: dict[str, Any]) -> None:
    assert {facts["plain meanwhile"] for facts in found.values()} == {found["plain"]["prints"][0]}


def test_what_cannot_be_described_is_never_taken_for_the_same(found: dict[str, Any]) -> None:
    prints = [one for name in UNKNOWN for one in found[name]["prints"]]
    assert len(set(prints)) == len(prints) == 6
