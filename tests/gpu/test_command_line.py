"""`carlos` in a process of its own of ComfyUI: on the GPU, with its memory as ComfyUI's own program has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from carlos_core.database.database import load_database
from tests.gpu.command_line import CommandLine
from tests.gpu.gpu_models import HAS_GPU
from tests.support import miniworld

LORAS = ("pencil_sketch", "red_balloons")
DYNAMIC, STATIC = ("", "--disable-dynamic-vram") if HAS_GPU else ("--cpu", "--cpu")
INDEX = ("--preset", "quick", "--prompts", "miniworld-index", "--no-describe")
SNOW = "mystery_12.safetensors"
"""Whose effect is falling snow."""
MISFIT = next(iter(miniworld.labels("misfit")))


def measured_on(database: Path) -> list[dict[str, Any]]:
    return [json.loads(str(on)) for on in load_database(database).column("measured_on")]


def test_a_second_process_makes_no_picture(tmp_path: Path) -> None:
    """Also one that keeps the weights on the GPU, where the first moved them in and out; and the rows name the GPU."""
    carlos = CommandLine.with_loras(tmp_path / "base", LORAS)
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    first = carlos.result(DYNAMIC, "index-folder", "-d", one, *INDEX)
    again = carlos.result(DYNAMIC, "index-folder", "-d", one, *INDEX)
    elsewhere = carlos.result(STATIC, "index-folder", "-d", other, *INDEX)
    assert first["pictures_made"] > 0
    assert (again["pictures_made"], elsewhere["pictures_made"]) == (0, 0)
    assert len(measured_on(one)) == len(LORAS)
    for on in measured_on(one):
        assert (on["device"] != "cpu", on["dynamic_vram"]) == (HAS_GPU, HAS_GPU)
    if HAS_GPU:
        assert not any(on["dynamic_vram"] for on in measured_on(other))


def test_a_race_is_repeated_without_a_picture_and_finished_by_indexing(tmp_path: Path) -> None:
    carlos = CommandLine.with_loras(tmp_path / "base")
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    race = ("falling snow", "--index-prompts", "miniworld-index", "--prompts", "miniworld-signature", "--top-k", 1)
    first = carlos.result(DYNAMIC, "race", *race, "-d", one)
    again = carlos.result(STATIC, "race", *race, "-d", other)
    # It follows from the mini-world's ground truth, not from what was measured before.
    assert "snow" in miniworld.labels()[SNOW]["label"]
    assert [lora["file"] for lora in first["choice"]] == [SNOW]
    assert again["choice"] == [lora | {"model_evaluations": 0} for lora in first["choice"]]
    assert (first["model_evaluations"] > 0, again["model_evaluations"]) == (True, 0)
    finished = carlos.result(DYNAMIC, "index-folder", "-d", one, *INDEX)
    assert {lora["file"] for lora in finished["indexed"]} | {MISFIT} == set(miniworld.labels())
    assert finished["failed"] == []
    last = carlos.result(DYNAMIC, "race", *race, "-d", one)
    assert ([lora["file"] for lora in last["choice"]], last["model_evaluations"]) == ([SNOW], 0)
