"""What the host adds to pictures of its own accord is no effect of a LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import comfyui_host as hosts
from tests.support import miniworld

NOOP = next(iter(miniworld.labels("noop")))
ORDINARY = "pencil_sketch.safetensors"
EVALUATIONS = 8


@pytest.fixture(scope="module", params=[0.0, 0.3])
def found(
    request: pytest.FixtureRequest, comfyui: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("noise")
    script = Path(__file__).with_name("noise_run.py")
    ran = hosts.run_script(comfyui, script, checkpoint, work, request.param, NOOP, ORDINARY, timeout_s=900)
    rows = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    return {"amount": request.param, **{row["file"]: row for row in rows}}


def test_a_lora_without_effect_has_none_on_a_noisy_host(found: dict[str, Any]) -> None:
    noop, ordinary = found[NOOP], found[ORDINARY]
    assert "no measurable effect" in noop["notes"]
    assert "no measurable effect" not in ordinary["notes"]
    if not found["amount"]:
        assert (noop["strength"], noop["noise_floor"], ordinary["noise_floor"]) == (0.0, 0.0, 0.0)
        # A picture of each side twice, once for both LoRAs.
        assert (noop["other"], ordinary["other"]) == (4 * EVALUATIONS, 0)
        return
    assert 0 < noop["strength"] <= noop["noise_floor"] < ordinary["strength"]
    assert noop["noise_floor"] == ordinary["noise_floor"]
    # It shows at the first look.
    assert noop["n_images"] == 16
    for row in (noop, ordinary):
        assert any("cannot be told from no effect" in note for note in row["notes"])
    assert (noop["other"], ordinary["other"]) == (8 * 4 * EVALUATIONS, 0)
