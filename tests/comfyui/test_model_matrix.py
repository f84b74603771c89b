"""LoRAs of every family against a model of every family: header, generator and arithmetic agree on what fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import comfyui_host as hosts

NEWER = {"Flux2", "Anima", "Krea2", "ZImage", "QwenImage"}
"""Families that the oldest ComfyUI we promise does not all know."""

_OF_FLUX = ("Flux", "Chroma", "QwenImage")
ALIKE = {(lora, model) for lora in _OF_FLUX for model in _OF_FLUX}
"""(LoRA, model) that share names and, in these narrow models of one block, half of the shapes: Chroma was made from Flux, and
Qwen-Image has Flux's names in diffusers' spelling. A search then goes by their labels, too."""


@pytest.fixture(scope="module")
def matrix(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("matrix")
    hosts.run_script(comfyui, Path(__file__).with_name("matrix_run.py"), work, timeout_s=1200)
    return json.loads((work / "matrix.json").read_text())


def cells(matrix: dict[str, Any]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Family of the LoRA, its layout, family of the model, and what was found."""
    return [(*name.split(": ")[0:1], *name.split(": ")[1].split(" on "), facts) for name, facts in matrix["cells"].items()]


def test_every_family_that_this_comfyui_knows_is_there(matrix: dict[str, Any]) -> None:
    assert set(matrix["absent"]) <= NEWER
    assert len(set(matrix["keys"].values())) == len(matrix["keys"]) >= 7
    assert all(key.partition("-")[0] == family for family, key in matrix["keys"].items())


def test_what_is_applied_is_what_changes(matrix: dict[str, Any]) -> None:
    assert [name for name, facts in matrix["cells"].items() if facts["patched"] != facts["changed"]] == []


def test_the_header_says_fits_where_something_changes_and_nowhere_else(matrix: dict[str, Any]) -> None:
    unlike = [name for name, facts in matrix["cells"].items() if (facts["layers"] > 0) != bool(facts["changed"])]
    assert unlike == []


def test_a_lora_fits_its_own_family_whole(matrix: dict[str, Any]) -> None:
    for lora, layout, model, facts in cells(matrix):
        # ComfyUI takes Lumina 2 for Z-Image in these spellings, whose keys and values are as wide as its queries.
        if lora == model and lora != "Lumina2":
            assert facts["layers"] == facts["of"] > 0, (lora, layout)
        if lora == model:
            assert facts["fits"], (lora, layout)


def test_a_lora_fits_no_other_family(matrix: dict[str, Any]) -> None:
    assert {(lora, model) for lora, _, model, facts in cells(matrix) if facts["fits"] and lora != model} <= ALIKE
