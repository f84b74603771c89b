"""What was measured once is not measured again: in the same process, and in a new one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.gpu.gpu_models import HAS_GPU, Model, Run

logger = logging.getLogger(__name__)


@pytest.mark.parametrize("memory", ["dynamic", "static"])
def test_a_second_run_by_a_preset_makes_no_picture(run: Run, model: Model, memory: str, tmp_path: Path) -> None:
    options = ["--static"] if memory == "static" else []
    rows = []
    for _process in range(2):
        printed = run("index_run.py", model.checkpoint, model.lora, tmp_path, model.size, *options)
        about, *indexed = map(json.loads, printed.splitlines())
        rows += [{**about, **row} for row in indexed]
        logger.info("\n%s", printed)
    made, *later = [rows[place : place + 2] for place in range(0, len(rows), 2)]
    for row in made:
        # The base side's pictures may be made a little ahead.
        assert row["status"] == "indexed"
        assert row["pictures"] >= 2 * row["n_images"] > 0
    assert [row["pictures"] for run_ in later for row in run_] == [0] * 10
    for run_ in later:
        for first, again in zip(made, run_, strict=True):
            for fact in ("protocol_id", "fingerprint", "strength", "n_images"):
                assert again[fact] == first[fact]
    if HAS_GPU:
        assert {row["dynamic"] for row in rows} <= {memory == "dynamic", False}


def test_one_model_has_one_fingerprint_with_dynamic_vram_and_without(run: Run, model: Model, tmp_path: Path) -> None:
    printed = [
        run("index_run.py", model.checkpoint, model.lora, tmp_path, model.size, "--only-fingerprint", *options)
        for options in ([], ["--static"])
    ]
    about, fingerprints = zip(*(map(json.loads, text.splitlines()) for text in printed), strict=True)
    logger.info("%s %s", about, fingerprints)
    assert fingerprints[0] == fingerprints[1]
