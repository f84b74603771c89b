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


FAMILIES = {
    **dict.fromkeys(("SD15", "SD15_instructpix2pix"), "SD 1.5"),
    **dict.fromkeys(("SD20", "SD21UnclipL", "SD21UnclipH"), "SD 2"),
    **dict.fromkeys(("SDXL", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B", "SDXL_instructpix2pix"), "SDXL"),
    **dict.fromkeys(("ZImage", "ZImagePixelSpace"), "Z-Image"),
    **dict.fromkeys(("Flux", "FluxInpaint", "FluxSchnell"), "Flux"),
    **dict.fromkeys(("Chroma", "ChromaRadiance"), "Chroma"),
    **{"Lumina2": "Lumina 2", "Anima": "Anima", "Flux2": "Flux.2", "Krea2": "Krea 2", "QwenImage": "Qwen-Image", "SD3": "SD 3"},
    **dict.fromkeys(("LTXV", "LTXAV"), "LTXV"),
    **{"HiDream": "HiDream", "ErnieImage": "Ernie-Image", "AuraFlow": "AuraFlow"},
    **dict.fromkeys(("Kandinsky5", "Kandinsky5Image"), "Kandinsky 5"),
    **dict.fromkeys(("PixArtAlpha", "PixArtSigma"), "PixArt"),
    **dict.fromkeys(("CosmosT2V", "CosmosI2V", "CosmosT2IPredict2", "CosmosI2VPredict2"), "Cosmos"),
}
"""ComfyUI's class -> the family that people call it by. All that begin with WAN and Hunyuan's video and image models come to it;
every other class is none of ours: some are derived from one of these."""


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


def test_every_class_of_models_is_called_by_its_family_and_no_other_is(matrix: dict[str, Any]) -> None:
    families = matrix["families"]
    begins = {"WAN": "Wan", "HunyuanVideo": "Hunyuan Video", "HunyuanImage": "Hunyuan Video"}
    expected = {
        name: FAMILIES.get(name) or next((family for start, family in begins.items() if name.startswith(start)), None)
        for name in families
    }
    assert families == expected
    assert {"SD15", "SDXL", "SD3", "Flux", "Lumina2", "WAN21_T2V", "LotusD", "SD_X4Upscaler", "HunyuanDiT"} <= families.keys()


@pytest.mark.parametrize(("family", "other"), [("SDXL", "ZImage"), ("ZImage", "SDXL")])
def test_of_a_library_for_two_families_each_model_is_offered_its_half_and_told_of_the_other(
    matrix: dict[str, Any], family: str, other: str
) -> None:
    if {family, other} & set(matrix["absent"]):
        pytest.skip(f"This ComfyUI does not know {family} or {other}.")
    library, files = matrix["library"][family], matrix["files"]
    assert (library["offered"], library["n"]) == ([family], files[family])
    assert library["left_out"] == {"does not fit": files[other]}
    assert library["notes"] == [
        f"{files[other]} LoRAs of the database are left out: their layers do not fit this {family} model."
    ]


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
