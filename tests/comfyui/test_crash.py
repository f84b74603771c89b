"""Kill -9 at random moments: nothing finished is lost, and the numbers are those of a run that was left alone.

CARLOS_KILLS and CARLOS_COMFYUI_KILLS set how many kills the bare engine and ComfyUI get.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from carlos_core.clip.weights import local_encoders
from carlos_core.database.database import MetricsDatabase, load_database
from tests.support import comfyui_host as hosts
from tests.support import workflows
from tests.support.miniworld import MINIWORLD

logger = logging.getLogger(__name__)

KILLS = int(os.environ.get("CARLOS_KILLS", "3"))
COMFYUI_KILLS = int(os.environ.get("CARLOS_COMFYUI_KILLS", "1"))
BATCH = 4
LORAS = 5
NOISE = 4
"""Pictures that tell what the host adds of its own accord."""

PICTURES = 24 * (LORAS + 1) + NOISE
AGAIN = BATCH + NOISE
"""Pictures that a kill may cost, at most."""


def _start(comfyui: Path, checkpoint: Path, work: Path) -> subprocess.Popen[bytes]:
    command = [hosts.comfyui_python(comfyui), Path(__file__).with_name("crash_run.py"), checkpoint, work, str(BATCH)]
    with (work / "log").open("ab") as log:
        environment = hosts.script_environment(comfyui)
        return subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, cwd=comfyui, env=environment
        )


def _prepare(work: Path) -> Path:
    work.mkdir()
    encoder = local_encoders([MINIWORLD])["mini_clip"]
    MetricsDatabase.empty(encoder.encoder_id, encoder.dimension).save_parquet(work / "db.parquet")
    return work


def _finish(process: subprocess.Popen[bytes], work: Path) -> None:
    assert process.wait(600) == 0, (work / "log").read_text()[-3000:]
    assert (work / "done").read_text() == "[]"


def _generated(work: Path) -> int:
    file = work / "generated"
    return sum(map(int, file.read_text().split())) if file.exists() else 0


@pytest.fixture(scope="module")
def left_alone(comfyui: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = _prepare(tmp_path_factory.mktemp("crash") / "left-alone")
    _finish(_start(comfyui, checkpoint, work), work)
    return work


def test_a_killed_engine_goes_on_and_ends_with_the_same_bits(
    comfyui: Path, checkpoint: Path, left_alone: Path, tmp_path: Path
) -> None:
    chance = random.Random(1)
    work = _prepare(tmp_path / "killed")
    kills = repeated = fresh = 0
    rows: set[str] = set()
    while kills < KILLS:
        process = _start(comfyui, checkpoint, work)
        # Start-up takes a few seconds; kill at a random moment after the first new batch, or while starting now and then.
        before, deadline = _generated(work), time.monotonic() + 120
        while process.poll() is None and chance.random() > 0.001 and _generated(work) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 6))
        process.send_signal(signal.SIGKILL)
        ended_by = process.wait()
        database = load_database(work / "db.parquet")
        known = set(database.column("lora_id"))
        assert rows <= known
        rows = known
        if ended_by != -signal.SIGKILL:
            # All was done before the kill: the next kills hit a run from the beginning.
            assert _generated(work) <= PICTURES + repeated * AGAIN
            fresh += 1
            work, rows, repeated = _prepare(tmp_path / f"killed-{fresh}"), set(), 0
            continue
        kills += 1
        repeated += 1
        logger.info("kill %d: %d rows, %d pictures generated", kills, len(known), _generated(work))
    _finish(_start(comfyui, checkpoint, work), work)
    assert _generated(work) <= PICTURES + repeated * AGAIN
    _assert_same_metrics(load_database(work / "db.parquet"), load_database(left_alone / "db.parquet"))


def test_a_killed_comfyui_goes_on_and_ends_with_the_same_bits(comfyui: Path, checkpoint: Path, tmp_path: Path) -> None:
    chance = random.Random(2)
    base = hosts.make_base_folder(tmp_path / "base")
    (base / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    settings = {"preset": "custom", "prompts": "miniworld-index", "steps": 3, "batch_size": BATCH, "max_prompts": 24}
    workflow = workflows.index_library("p*", "killed", **settings)
    for _ in range(COMFYUI_KILLS):
        with hosts.running(comfyui, base) as host:
            host.submit(workflow)
            time.sleep(chance.uniform(3, 8))
            host.process.send_signal(signal.SIGKILL)
            host.process.wait()
        database = base / "models" / "carlos" / "killed.parquet"
        assert not database.exists() or load_database(database) is not None
    with hosts.running(comfyui, base) as host:
        facts = hosts.facts_of(host.run(workflow), "index")
        assert facts["failed"] == []
        assert len(facts["indexed"]) + len(facts["skipped"]) == 4
    killed = load_database(base / "models" / "carlos" / "killed.parquet")
    (base / "user" / "carlos" / "cache").rename(tmp_path / "old-cache")
    with hosts.running(comfyui, base) as host:
        host.run(workflows.index_library("p*", "alone", **settings))
    _assert_same_metrics(killed, load_database(base / "models" / "carlos" / "alone.parquet"))


def _assert_same_metrics(one: MetricsDatabase, other: MetricsDatabase) -> None:
    assert sorted(one.column("lora_id")) == sorted(other.column("lora_id"))
    for lora_id in one.column("lora_id"):
        a, b = one.cells(lora_id), other.cells(lora_id)
        assert np.array_equal(a["direction"], b["direction"]), lora_id
        for name in ("strength", "consistency", "alignment", "strength_se", "consistency_se", "n_images", "protocol_id"):
            assert a[name] == b[name], (lora_id, name)
