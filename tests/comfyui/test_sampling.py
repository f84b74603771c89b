"""A model that wants few steps without guidance, in a real ComfyUI: measured as it wants, burnt, and as given.

The model is the mini-world with a LoRA that distils its guidance into it (`studies/few_step_lora.py`): at cfg 1 its pictures are
those of the mini-world at cfg 3, and at cfg 3 they burn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carlos_core.database.database import load_database
from carlos_core.vectors import cosine
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Failed, Host, facts_of

LORA = "pencil_sketch.safetensors"
FEW_STEPS = Path(__file__).resolve().parents[1] / "assets" / "few_steps" / "few_steps.safetensors"
SETTINGS = {"preset": "quick", "prompts": "miniworld-short"}
LIKE = 0.9
"""Likeness to the reference's direction that pictures which are right have with a dozen prompts, and burnt ones have not."""


@pytest.fixture(scope="module")
def distilled(comfyui: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    base = hosts.make_base_folder(tmp_path_factory.mktemp("distilled"))
    (base / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    (base / "models" / "loras" / FEW_STEPS.name).symlink_to(FEW_STEPS)
    with hosts.running(comfyui, base) as host:
        yield host


def workflow(name: str, *, own_cfg: float | None = None, **settings: Any) -> workflows.Workflow:
    """Index a LoRA on the distilled model. own_cfg: of a KSampler that samples the same model; None for none."""
    found = workflows.index(LORA, name, **SETTINGS, **settings)
    found["distilled"] = workflows.node(
        "LoraLoaderModelOnly", model=["checkpoint", 0], lora_name=FEW_STEPS.name, strength_model=1.0
    )
    found["index"]["inputs"]["model"] = ["distilled", 0]
    if own_cfg is not None:
        found |= workflows.render("a red house", 1, ["distilled", 0], ["checkpoint", 1], "own")
        found["own-sample"]["inputs"] |= {"cfg": own_cfg, "steps": 6}
    return found


def row_of(host: Host, name: str) -> dict[str, Any]:
    database = load_database(host.base / "models" / "carlos" / f"{name}.parquet")
    assert len(database) == 1
    row = database.row_at(0)
    return {"row": row, "protocol": database.protocols[str(row.protocol_id)], "notes": " ".join(row.notes)}


def likeness(row: Any) -> float:
    """Cosine with the direction that the reference measurement found on the model without the distillation."""
    reference = load_database(miniworld.MINIWORLD / "reference_metrics.parquet", encoder_id="any").to_dataframe()
    return cosine(row.direction, np.asarray(reference.set_index("file_name").direction[LORA]))


def test_a_workflow_that_samples_the_model_without_guidance_has_it_measured_with_few_steps(distilled: Host) -> None:
    outputs = distilled.run(workflow("automatic", own_cfg=1.0))
    facts = facts_of(outputs, "index")
    assert (facts["settings"]["sampling"], facts["settings"]["cfg"], facts["settings"]["steps"]) == ("few steps", 1.0, 4)
    assert "this workflow samples this model with cfg 1" in outputs["index"]["text"][0]
    found = row_of(distilled, "automatic")
    assert (found["protocol"]["sampling"], found["protocol"]["scheduler"]) == ("few steps", "simple")
    assert "do not suit" not in found["notes"]
    assert likeness(found["row"]) > LIKE

    # Another knob of the KSampler is no reason to measure again.
    again = facts_of(distilled.run(workflow("automatic", own_cfg=1.2)), "index")
    assert (again["status"], again["protocol_id"]) == ("already indexed", facts["protocol_id"])


def test_a_model_that_guidance_burns_is_stopped_at_before_a_lora_is_measured(distilled: Host) -> None:
    with pytest.raises(Failed, match="do not show their prompts: they are burnt: with few steps and cfg 1 .*'as given'"):
        distilled.run(workflow("burnt"))
    assert len(load_database(distilled.base / "models" / "carlos" / "burnt.parquet")) == 0


def test_what_is_asked_for_as_the_preset_says_is_measured_and_the_row_says_that_it_is_burnt(distilled: Host) -> None:
    facts = facts_of(distilled.run(workflow("preset", own_cfg=1.0, sampling="preset")), "index")
    assert (facts["settings"]["sampling"], facts["settings"]["cfg"]) == ("preset", 3.0)
    found = row_of(distilled, "preset")
    assert "do not suit: they are burnt" in found["notes"]
    assert likeness(found["row"]) < LIKE


def test_as_given_takes_the_nodes_own_numbers_with_the_presets_pictures(distilled: Host) -> None:
    own: dict[str, Any] = {"steps": 6, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    facts = facts_of(distilled.run(workflow("given", sampling="as given", **own)), "index")
    assert (facts["settings"]["sampling"], facts["settings"]["steps"]) == ("as given", 6)
    found = row_of(distilled, "given")
    assert (found["protocol"]["preset"], found["protocol"]["sampling"]) == ("quick", "as given")
    assert "do not suit" not in found["notes"]
    assert likeness(found["row"]) > LIKE


def test_an_ordinary_model_is_measured_as_ever_and_its_steps_are_chosen_on_it(distilled: Host) -> None:
    outputs = distilled.run(workflows.index(LORA, "ordinary", **SETTINGS))
    facts = facts_of(outputs, "index")
    settings = facts["settings"]
    assert (settings["sampling"], settings["cfg"], settings["steps"]) == ("preset", 3.0, 4)
    choice = settings["quick_steps"]
    # 16 pictures at 25 steps and at 4, a dozen with the LoRA at 25.
    assert choice["model_evaluations"] == 16 * 2 * (25 + 4) + 12 * 2 * 25
    assert (choice["steps"], choice["is_enough"], choice["lora"]) == (4, True, LORA)
    assert choice["agreements"]["4"] > 0.93
    assert choice["cosine"] > 0.9
    assert "quick takes 4 steps on this model" in outputs["index"]["text"][0]
    found = row_of(distilled, "ordinary")
    assert "sampling" not in found["protocol"]
    on = json.loads(found["row"].measured_on)
    assert on["host"].startswith("ComfyUI 0.")
    assert (on["device"], on["dynamic_vram"], found["row"].noise_floor) == ("cpu", False, 0.0)

    # What was found out is kept, and costs nothing where nothing is to be measured.
    known = facts_of(distilled.run(workflows.index(LORA, "ordinary", **SETTINGS, overwrite=False)), "index")
    assert (known["status"], known["settings"]["quick_steps"]) == ("already indexed", {**choice, "model_evaluations": 0})

    again = facts_of(distilled.run(workflows.index(LORA, "again", **SETTINGS)), "index")
    assert again["settings"]["quick_steps"] == {**choice, "model_evaluations": 0}
    assert (again["status"], again["base_model_evaluations"], again["other_model_evaluations"]) == ("indexed", 0, 0)
    assert (again["protocol_id"], again["strength"]) == (facts["protocol_id"], facts["strength"])
