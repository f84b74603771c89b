"""The scale sweep in a real ComfyUI: a LoRA that is too strong gets a weight that tames it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carlos_core.database.database import load_database
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Failed, Host, facts_of, not_offered

STRONG = next(iter(miniworld.labels("strong")))
ORDINARY = "pencil_sketch.safetensors"
SETTINGS = {"max_prompts": 4, "scale_sweep": True}


@pytest.fixture(scope="module")
def strong(host: Host) -> dict[str, Any]:
    return facts_of(host.run(workflows.index(STRONG, "strong", **SETTINGS)), "index")


def test_a_lora_that_is_too_strong_is_suggested_at_a_weight_well_below_1(strong: dict[str, Any], base: Path) -> None:
    curve = {point["weight"]: point["strength"] for point in strong["strength_curve"]}
    assert curve[1.0] == pytest.approx(strong["strength"], rel=1e-4)
    assert curve[1.0] > 9.8
    assert 0.25 <= strong["suggested_weight"] < 0.8
    # 4 prompts, 12 steps, cond and uncond; four weights besides 1, as it never is too weak.
    assert (strong["model_evaluations"], strong["sweep_evaluations"]) == (4 * 24, 4 * 4 * 24)
    row = load_database(base / "models" / "carlos" / "strong.parquet").cells(strong["lora_id"])
    assert row["suggested_weight"] == strong["suggested_weight"]


def test_an_ordinary_lora_that_was_indexed_before_is_only_swept(host: Host) -> None:
    before = facts_of(host.run(workflows.index(ORDINARY, "ordinary", max_prompts=4)), "index")
    assert "suggested_weight" not in before
    outputs = host.run(workflows.index(ORDINARY, "ordinary", **SETTINGS))
    after = facts_of(outputs, "index")
    assert (after["status"], after["model_evaluations"], after["strength"]) == ("already indexed", 0, before["strength"])
    assert 0.5 < after["suggested_weight"] <= 2.0
    assert "scale sweep:" in outputs["index"]["text"][0]


def test_the_suggested_weight_changes_the_picture_less(host: Host, strong: dict[str, Any]) -> None:
    checkpoint = {"checkpoint": workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT)}
    prompt, seed = "a small house", 7

    def picture(workflow: workflows.Workflow) -> tuple[np.ndarray, dict[str, Any]]:
        outputs = host.run(workflow)
        save = next(name for name in outputs if name.endswith("-save"))
        return miniworld.features(host.output_file(outputs[save]["images"][0])), outputs

    def applied(weights: str) -> tuple[np.ndarray, float]:
        find = workflows.retrieve("comic print", "strong", max_strength=100.0, min_consistency=-1.0)
        facts = {"model": ["checkpoint", 0], "clip": ["checkpoint", 1], "matches": ["find", 0], "max_loras": 1, "weight": 1.0}
        apply = {
            "apply": workflows.node("CarlosApplyLoras", **facts, weights=weights),
            "stack": workflows.node("PreviewAny", source=["apply", 3]),
        }
        render = workflows.render(prompt, seed, ["apply", 0], ["apply", 1], weights.replace(" ", "-"))
        features, outputs = picture({**checkpoint, **find, **apply, **render})
        return features, json.loads(outputs["stack"]["text"][0])[0][1]

    plain, _ = picture({**checkpoint, **workflows.render(prompt, seed, ["checkpoint", 0], ["checkpoint", 1], "plain")})
    given, given_weight = applied("as given")
    suggested, suggested_weight = applied("suggested")
    assert given_weight == 1.0
    assert suggested_weight == pytest.approx(strong["suggested_weight"])
    assert np.linalg.norm(suggested - plain) < 0.8 * np.linalg.norm(given - plain)
    with pytest.raises(Failed, match=not_offered("weights", "weight", "whatever")):
        applied("whatever")
