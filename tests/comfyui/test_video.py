"""Models that make videos make pictures of one frame; those that need more than a text are refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carlos_core.comfy.families import check_makes_pictures, makes_videos
from carlos_core.errors import GenerationError
from tests.support import comfyui_host as hosts


def of_class(name: str) -> Any:
    return SimpleNamespace(model=SimpleNamespace(model_config=type(name, (), {})()))


def test_a_video_model_makes_a_picture_and_others_say_what_they_need(comfyui: Path) -> None:
    ran = hosts.run_script(comfyui, Path(__file__).with_name("video_run.py"))
    found = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("{")))
    assert found["shape"] == [2, 64, 64, 3]
    assert found["is_finite"]
    assert found["differ"] > 0.01
    # A picture is the same, whatever shares its batch.
    assert found["alone"] < 1e-5
    assert sorted(found["refused"]) == ["WAN21_Camera", "WAN21_I2V", "WAN21_Vace"]
    assert "makes no pictures from text alone: it begins with a picture" in found["refused"]["WAN21_I2V"]


@pytest.mark.parametrize(
    "name", ["SDXL", "Flux", "QwenImage", "ZImage", "HunyuanImage21", "WAN22_T2V", "LTXV", "CosmosT2IPredict2"]
)
def test_models_that_make_something_from_text_are_welcome(name: str) -> None:
    check_makes_pictures(of_class(name))
    assert makes_videos(of_class(name)) == (name in ("WAN22_T2V", "LTXV"))


@pytest.mark.parametrize(
    "name", ["WAN22_S2V", "FluxInpaint", "SVD_img2vid", "LTXAV", "StableAudio3", "Hunyuan3Dv2_1", "CogVideoX_I2V"]
)
def test_models_that_need_more_are_refused(name: str) -> None:
    with pytest.raises(GenerationError, match=f"A {name} model makes no pictures"):
        check_makes_pictures(of_class(name))
