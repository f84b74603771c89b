"""On a GPU: a picture is the same whether its model was just loaded, was given a LoRA, or has made pictures before."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.gpu.gpu_models import HAS_GPU, Model, Run

logger = logging.getLogger(__name__)


@pytest.mark.parametrize("weights", ["as stored", "scaled fp8", *(["fp8"] if HAS_GPU else [])])
@pytest.mark.parametrize("memory", ["dynamic", "static"])
def test_the_first_picture_after_loading_is_like_all_later_ones(
    run: Run, model: Model, memory: str, weights: str, tmp_path: Path
) -> None:
    checkpoint = model.checkpoint
    if weights == "scaled fp8":
        checkpoint = tmp_path / "scaled.safetensors"
        run("../comfyui/write_scaled_fp8.py", model.checkpoint, checkpoint, "comfy_quant")
    options = [*(["--static"] if memory == "static" else []), *(["--fp8"] if weights == "fp8" else [])]
    printed = run("first_picture_run.py", checkpoint, model.lora, model.size, *options)
    logger.info("\n%s", printed)
    _about, *found, floor = map(json.loads, printed.splitlines())
    assert len(found) == 4
    for facts in found:
        if facts["is_prepared"]:
            assert facts["after loading"] == facts["after reloading"] == facts.get("after the other side", 0) == 0
        if facts["side"] == "lora":
            assert facts["effect"] > 0
    assert floor["noise_floor"] == floor["pixels"] == 0
    assert floor["evaluations"] > 0
