"""One row for all checkpoints of a shape: what was measured on one is known on the others, unless the user wants it anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from carlos_core.database.database import load_database
from tests.support import workflows
from tests.support.comfyui_host import Host, facts_of

LORA, NO_OP = "pencil_sketch.safetensors", "mystery_08.safetensors"
OTHER = "fine-tuned.safetensors"
FEW: dict[str, Any] = {"max_prompts": 4, "steps": 4}


@pytest.fixture(scope="module")
def fine_tuned(host: Host, base: Path, checkpoint: Path) -> Iterator[str]:
    """Another checkpoint of the mini-world's shapes: all weights of its U-Net a little smaller."""
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    tensors = {
        name: tensor * 0.999 if name.startswith("model.diffusion_model.") else tensor
        for name, tensor in load_file(checkpoint).items()
    }
    path = base / "models" / "checkpoints" / OTHER
    save_file(tensors, path, metadata)
    yield OTHER
    path.unlink()


def indexed(host: Host, on: str, lora: str, **settings: Any) -> dict[str, Any]:
    workflow = workflows.index(lora, "checkpoints", **{**FEW, **settings})
    workflow["checkpoint"]["inputs"]["ckpt_name"] = on
    return facts_of(host.run(workflow), "index")


def test_another_checkpoint_of_the_same_shape_measures_nothing_unless_told_to(host: Host, base: Path, fine_tuned: str) -> None:
    first = indexed(host, workflows.CHECKPOINT, LORA)
    assert (first["status"], first["fit"]) == ("indexed", {"layers": 17, "of": 17})
    assert first["model_key"].startswith("SD3-")
    row = load_database(base / "models" / "carlos" / "checkpoints.parquet").row(first["lora_id"])
    assert row is not None
    assert row.model_key == first["model_key"]

    known = indexed(host, fine_tuned, LORA)
    assert (known["status"], known["model_evaluations"], known["base_model_evaluations"]) == ("already indexed", 0, 0)
    assert known["protocol_id"] == first["protocol_id"]
    assert f"on another checkpoint of the same shape ({first['model_key']})" in known["notes"][0]

    workflow = workflows.index_library(LORA, "checkpoints", **{**FEW, "preset": "custom"})
    workflow["checkpoint"]["inputs"]["ckpt_name"] = fine_tuned
    assert facts_of(host.run(workflow), "index")["skipped"] == [LORA]

    own = indexed(host, fine_tuned, LORA, checkpoint="this one")
    assert (own["status"], own["model_key"]) == ("indexed", first["model_key"])
    assert own["protocol_id"] != first["protocol_id"]
    assert own["strength"] == pytest.approx(first["strength"], rel=0.2)
    assert own["strength"] != first["strength"]
    again = indexed(host, fine_tuned, LORA, checkpoint="this one")
    assert (again["status"], again["protocol_id"]) == ("already indexed", own["protocol_id"])


def test_a_lora_that_did_nothing_on_one_checkpoint_is_tried_on_another(host: Host, fine_tuned: str) -> None:
    assert "no measurable effect" in indexed(host, workflows.CHECKPOINT, NO_OP)["notes"]
    assert indexed(host, workflows.CHECKPOINT, NO_OP)["status"] == "already indexed"
    assert indexed(host, fine_tuned, NO_OP)["status"] == "indexed"
