"""LoRAs of odd shapes on ComfyUI's own code: what fits is what has an effect, and what does not is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import comfyui_host as hosts

KINDS = ("lora", "old diffusers", "loha", "lokr", "diff", "oft", "dora")


@pytest.fixture(scope="module")
def found(comfyui: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("fit")
    run = hosts.run_script(comfyui, Path(__file__).with_name("fit_run.py"), checkpoint, work)
    return {**json.loads((work / "found.json").read_text()), "log": run.stderr}


@pytest.mark.parametrize(
    "case",
    ["down twice as wide", "up twice as high", "other ranks", "dora, scale too wide", *(f"{kind}, too wide" for kind in KINDS)],
)
def test_a_lora_of_the_right_names_and_other_shapes_is_refused_with_the_counts(found: dict[str, Any], case: str) -> None:
    n = 51 if case[:4] in ("down", "up t", "othe", "dora") else {"loha": 68, "diff": 17}.get(case[:4], 34)
    error = found[case]["error"]
    assert f"0 of {n} keys in '{case}.safetensors' match this SD3 model; {n} have its names and other shapes." in error


@pytest.mark.parametrize("case", ["as it is", *KINDS])
def test_a_lora_of_any_kind_that_fits_is_counted_whole_and_has_an_effect(found: dict[str, Any], case: str) -> None:
    facts = found[case]
    assert facts["matched"] == facts["total"] > 0
    assert (facts["of_other_shape"], facts["warning"], facts["changes the picture"]) == (0, "", True)


def test_a_lora_that_fits_in_part_is_applied_and_says_so(found: dict[str, Any]) -> None:
    # 17 layers of three tensors, of which the 2nd, the 4th ... the 16th are of another width.
    facts = found["every second layer"]
    assert (facts["matched"], facts["total"], facts["of_other_shape"]) == (27, 51, 24)
    assert facts["changes the picture"]
    assert facts["warning"].startswith("24 of 51 keys do not match this SD3 model (24 have its names and other shapes)")


def test_half_a_layer_that_the_model_lacks_stops_nothing(found: dict[str, Any]) -> None:
    facts = found["half a layer that the model lacks"]
    assert facts["changes the picture"]
    assert facts["warning"].startswith(f"1 of {facts['total']} keys do not match this SD3 model and are without effect")
    fitting, of, of_other_shape = facts["layers"]
    assert (fitting, of_other_shape) == (of - 1, 0)


def test_layers_are_counted_from_the_header(found: dict[str, Any]) -> None:
    assert found["as it is"]["layers"] == [17, 17, 0]
    assert found["every second layer"]["layers"] == [9, 17, 8]


def test_layers_that_do_not_fit_are_not_an_error_line_each_in_the_log(found: dict[str, Any]) -> None:
    assert "ERROR lora" not in found["log"]
    assert "SHAPE MISMATCH" not in found["log"]


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("without downs", "is incomplete: it has no lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"),
        ("alpha of two values", "make no sense (lora_unet_joint_blocks_0_x_block_attn_qkv: a Tensor with 2 elements"),
    ],
)
def test_a_file_whose_tensors_do_not_belong_together_is_named(found: dict[str, Any], case: str, what: str) -> None:
    error = found[case]["error"]
    assert f"{case}.safetensors" in error
    assert what in error
    assert error.endswith("Download it again.")
