"""On a GPU: a model is the same after measuring, takes what a LoRA's header says, and gives the reference's directions."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.gpu.gpu_models import HAS_GPU, Model, Run

logger = logging.getLogger(__name__)

REFERENCE = ("burning_flames.safetensors", "pencil_sketch.safetensors", "pink_hearts.safetensors", "mystery_12.safetensors")


@pytest.fixture(params=["dynamic", "static"])
def found(request: pytest.FixtureRequest, run: Run, model: Model) -> dict[str, Any]:
    """All that `model_run.py` says of a model."""
    options = ["--static"] if request.param == "static" else []
    if model.has_meaning:
        options += ["--reference", *REFERENCE]
    printed = run("model_run.py", model.checkpoint, model.lora, model.size, *options)
    logger.info("\n%s", printed)
    facts: dict[str, Any] = {}
    for line in printed.splitlines():
        facts |= json.loads(line)
    return facts


def test_measuring_leaves_a_model_as_it_was_and_agrees_with_the_reference(found: dict[str, Any], model: Model) -> None:
    assert found["told"] == found["applied"]
    assert found["told"][0] == found["told"][1] > 0

    assert (len(found["fingerprints"]), len(found["keys"])) == (1, 1)
    assert found["effect"] > 0.001
    assert found["difference_afterwards"] == 0

    # The largest there is, on a card with room; on the CPU always 4.
    assert found["chosen_batch"] == (16 if HAS_GPU else 4)

    if model.has_meaning:
        assert sorted(found["cosines"]) == sorted(REFERENCE)
        # 12 prompts against the reference's full set: the bound that the CPU is held to.
        assert min(found["cosines"].values()) > 0.8
