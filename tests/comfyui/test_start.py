"""The first minutes with a folder of LoRAs that nobody has measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import workflows
from tests.support.comfyui_host import Failed, Host, facts_of

PUBLISHED = "pixel_art"
"""A LoRA that a sidecar calls one of the published versions."""


@pytest.fixture
def n_files(base: Path) -> Iterator[int]:
    """How many LoRAs there are, with a sidecar beside one of them."""
    folder = base / "models" / "loras"
    sidecar = folder / f"{PUBLISHED}.metadata.json"
    sidecar.write_text(json.dumps({"civitai": {"id": 244808}}), encoding="utf-8")
    yield sum(1 for _ in folder.rglob("*.safetensors"))
    sidecar.unlink()


def speeds(base: Path) -> dict[str, Any]:
    kept = json.loads((base / "user" / "carlos" / "cache" / "speeds.json").read_text(encoding="utf-8"))
    return {key: value for key, value in kept.items() if key.startswith("one evaluation of ") and "1024 x 1024" in key}


def test_nothing_that_needs_no_clip_waits_for_it(host: Host, base: Path) -> None:
    outputs = host.run(workflows.auto_lora("snow falling", "bundled", prompts="default"))
    facts, (text,) = facts_of(outputs, "report"), outputs["report"]["text"]
    assert facts["choice"] == []
    start, (speed,) = facts["start"], speeds(base).values()
    assert start["measured"] == start["published"] == 0
    assert start["files"] > start["fitting"] > 0
    assert start["seconds_per_evaluation"] == speed
    assert start["race_seconds"] == pytest.approx(start["race_evaluations"] * speed)
    assert "Race LoRAs finds the one for a query in about " in text
    # It is tried once.
    host.forget()
    host.run(workflows.auto_lora("rain falling", "bundled", prompts="default"))
    assert list(speeds(base).values()) == [speed]
    # That it is tried is said only while it is.
    (base / "user" / "carlos" / "cache" / "speeds.json").unlink()
    host.forget()
    assert host.said(workflows.auto_lora("hail falling", "bundled", prompts="default"))["auto"] == ""
    asked = host.run(workflows.retrieve("snow falling", "", prompts="default", installed_only=True))
    assert facts_of(asked, "report")["start"]["fitting"] is None
    with pytest.raises(
        Failed, match=r"(?s)CLIP weights .* could not be fetched.*Of \d+ LoRA files in ComfyUI's list none is among"
    ):
        host.run(workflows.retrieve("snow falling", "", prompts="default"))


def test_an_empty_database_says_what_can_be_done_with_the_folder(host: Host, n_files: int) -> None:
    workflow = workflows.retrieve("snow falling", "start-empty")
    workflow["checkpoint"] = workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT)
    workflow["find"]["inputs"]["model"] = ["checkpoint", 0]
    outputs = host.run(workflow)
    start = facts_of(outputs, "report")["start"]
    # One of the mini-world's files has other shapes.
    assert (start["files"], start["fitting"], start["measured"], start["published"]) == (n_files, n_files - 1, 0, 1)
    assert f"{n_files - 1} are for this SD3 model by the shapes" in outputs["report"]["text"][0]
    assert f"Of {n_files} LoRA files in ComfyUI's list none is in this database" in outputs["db"]["text"][0]
