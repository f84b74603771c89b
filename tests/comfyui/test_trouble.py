"""Hard times in a real ComfyUI: broken LoRAs, a full disk, too little memory. A clear message, and nothing corrupt."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from carlos_core.database.database import load_database
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Failed, Host, facts_of
from tests.support.miniworld import MINIWORLD

NAME = "red_balloons.safetensors"
PICTURES = 64
FEW_STEPS = {"prompts": "miniworld-index", "steps": 1, "cfg": 1.0}
"""For what does not depend on how good the pictures are: one evaluation each, of at most 64 prompts."""

_SMALL_DISKS = """
mount -t tmpfs -o size=8m tmpfs "$0/user/carlos" && mount -t tmpfs -o size=20m tmpfs "$0/models/carlos" &&
cp -r "$0/whole/." "$0/models/carlos" && exec "$@"
"""


def row_of(base: Path, database: str, lora_id: str) -> dict[str, Any]:
    return load_database(base / "models" / "carlos" / f"{database}.parquet").cells(lora_id)


def test_batch_size_and_repetition_do_not_change_the_direction(host: Host, base: Path) -> None:
    rows = {}
    for name, batch in (("one", 1), ("eight", 8), ("eight-again", 8)):
        shutil.rmtree(base / "user" / "carlos" / "cache", ignore_errors=True)
        settings = {"prompts": "miniworld-index", "max_prompts": 8, "steps": 2, "batch_size": batch}
        facts = facts_of(host.run(workflows.index(NAME, f"batch-{name}", **settings)), "index")
        assert facts["base_model_evaluations"] == facts["model_evaluations"] == 8 * 2 * 2
        rows[name] = row_of(base, f"batch-{name}", facts["lora_id"])
    one, eight, again = (rows[name]["direction"] for name in ("one", "eight", "eight-again"))
    assert miniworld.cosine(one.astype(np.float64), eight.astype(np.float64)) >= 0.9999
    assert rows["one"]["strength"] == pytest.approx(rows["eight"]["strength"], rel=1e-4)
    assert np.array_equal(eight, again)
    assert rows["eight"]["strength"] == rows["eight-again"]["strength"]


def test_a_library_run_goes_on_past_nan_pictures_and_a_lora_that_is_gone(host: Host, base: Path) -> None:
    folder = base / "models" / "loras" / "hard times"
    folder.mkdir()
    try:
        weights = load_file(MINIWORLD / "loras" / NAME)
        up = next(name for name in sorted(weights) if name.endswith("lora_up.weight"))
        # Finite, as a file must be, and too large for the model's sums.
        weights[up] = np.full(weights[up].shape, 3e38, np.float32)
        save_file(weights, folder / "a-nan.safetensors")
        for copy, original in (("b-good", "pixel_art"), ("c-gone", "sepia_toned"), ("d-good", "dark_vignette")):
            shutil.copy(MINIWORLD / "loras" / f"{original}.safetensors", folder / f"{copy}.safetensors")
        # The newest are measured first.
        for place, path in enumerate(sorted(folder.iterdir())):
            os.utime(path, (1e9 - place, 1e9 - place))
        workflow = workflows.index_library(
            "hard times/*", "hard-times", **FEW_STEPS, preset="custom", max_prompts=8, batch_size=4
        )
        with host.events() as (client_id, socket):
            prompt_id = host.submit(workflow, client_id)
            # The first LoRA's base side is being made.
            while not _is_progress(socket.recv()):
                pass
            (folder / "c-gone.safetensors").unlink()
            entry = host.wait(prompt_id, timeout_s=120)
    finally:
        shutil.rmtree(folder)
    assert entry["status"]["status_str"] == "success"
    facts = facts_of(entry["outputs"], "index")
    assert [Path(indexed["file"]).name for indexed in facts["indexed"]] == ["b-good.safetensors", "d-good.safetensors"]
    reasons = {Path(failure["file"]).name: failure["reason"] for failure in facts["failed"]}
    assert set(reasons) == {"a-nan.safetensors", "c-gone.safetensors"}
    assert re.search(
        r"picture of '.+' with seed 0 is broken \(NaN\)\. Run the model in higher precision", reasons["a-nan.safetensors"]
    )
    assert reasons["c-gone.safetensors"] == "The LoRA c-gone.safetensors is not there. Check that it was not moved or deleted."
    report = entry["outputs"]["index"]["text"][0]
    assert all(f"failed: hard times/{name}: {reason}" in report for name, reason in reasons.items())
    database = load_database(base / "models" / "carlos" / "hard-times.parquet")
    assert sorted(database.column("file_name")) == ["hard times/b-good.safetensors", "hard times/d-good.safetensors"]
    assert np.isfinite(database.ranking_arrays.directions.numpy()).all()


def test_a_reason_that_many_files_share_is_said_once_with_their_names(host: Host, base: Path) -> None:
    folder = base / "models" / "loras" / "alike"
    folder.mkdir()
    names = [f"alike/{place}.safetensors" for place in range(40)]
    try:
        for name in names:
            (folder.parent / name).write_bytes(b"\x80\x04pickle" + name.encode())
        for place in range(6):
            shutil.copy(MINIWORLD / "loras" / "mystery_04.safetensors", folder / f"misfit {place}.safetensors")
        shutil.copy(MINIWORLD / "loras" / "pixel_art.safetensors", folder / "good.safetensors")
        before = len(host.log.read_text(errors="replace"))
        workflow = workflows.index_library("alike/*", "alike", **FEW_STEPS, preset="custom", max_prompts=4)
        outputs = host.run(workflow)
    finally:
        shutil.rmtree(folder)
    facts, lines = facts_of(outputs, "index"), outputs["index"]["text"][0].splitlines()
    assert [indexed["file"] for indexed in facts["indexed"]] == ["alike/good.safetensors"]
    assert {failure["file"] for failure in facts["failed"]} >= set(names)
    pickles, misfits = facts["failed_alike"]
    assert sorted(pickles["files"]) == sorted(names)
    assert len(misfits["files"]) == 6
    failed = [place for place, line in enumerate(lines) if line.startswith(("failed: ", "for other models: "))]
    assert [lines[place] for place in failed] == [
        f"failed: 40 LoRAs alike: {pickles['reason']}",
        f"for other models: 6 LoRAs alike: {misfits['reason']}",
    ]
    assert facts["for_other_models"] == misfits["files"]
    assert lines[0] == "1 of 47 LoRAs are in the database: 1 measured, 0 known already, 6 for other models, 40 failed."
    assert lines[failed[0] + 1] == f"    they are: {', '.join(pickles['files'])}"
    log = host.log.read_text(errors="replace")[before:]
    assert log.count("is not a safetensors file but a pickle") == 2
    assert f"40 LoRAs could not be indexed: {pickles['reason']} They are: {', '.join(pickles['files'])}" in log


def test_everything_odd_in_a_folder_is_named_and_the_rest_is_measured_and_found(host: Host, base: Path) -> None:
    folder = base / "models" / "loras" / "odd"
    folder.mkdir()
    good = MINIWORLD / "loras" / "pixel_art.safetensors"
    try:
        (folder / "a-link.safetensors").symlink_to(base / "a drive that is off" / "x.safetensors")
        metadata = {"ss_tag_frequency": '{"1_a": {"snw": 1e999}}'}
        save_file(load_file(MINIWORLD / "loras" / "sepia_toned.safetensors"), folder / "b-endless.safetensors", metadata)
        wide = {
            name: np.concatenate([value] * 2, axis=1) if ".lora_down." in name else value
            for name, value in load_file(good).items()
        }
        save_file(wide, folder / "c-wide.safetensors")
        shutil.copy(good, folder / "d-id.safetensors")
        (folder / "d-id.civitai.info").write_text(json.dumps({"id": 2**63, "nsfwLevel": 2**31, "model": {"name": "half \ud83d"}}))
        shutil.copy(MINIWORLD / "loras" / "dark_vignette.safetensors", folder / "e-\udcff.safetensors")
        workflow = workflows.index_library("odd/*", "odd-files", **FEW_STEPS, preset="custom", max_prompts=4)
        facts = facts_of(host.run(workflow), "index")
        found = facts_of(host.run(workflows.retrieve("pixel art", "odd-files", min_consistency=-1.0)), "report")["matches"]
    finally:
        shutil.rmtree(folder)
    assert sorted(Path(indexed["file"]).name for indexed in facts["indexed"]) == ["b-endless.safetensors", "d-id.safetensors"]
    reasons = {Path(failure["file"]).name: failure["reason"] for failure in facts["failed"]}
    assert set(reasons) == {"a-link.safetensors", "c-wide.safetensors", "e-\\udcff.safetensors"}
    assert "is a link to a file that is not there" in reasons["a-link.safetensors"]
    assert "LoRA does not fit: 0 of" in reasons["c-wide.safetensors"]
    assert "other shapes" in reasons["c-wide.safetensors"]
    assert "is not valid text (UTF-8). Rename the file." in reasons["e-\\udcff.safetensors"]
    assert {match["file"] for match in found} == {"odd/b-endless.safetensors", "odd/d-id.safetensors"}
    log = host.log.read_text(errors="replace")
    assert "b-endless.safetensors: the counts of tags in its metadata cannot be read" in log
    assert "d-id.safetensors: in the sidecar d-id.civitai.info id is a number that makes no sense" in log


def _is_progress(message: str | bytes) -> bool:
    event = {} if isinstance(message, bytes) else json.loads(message)
    return event.get("type") == "progress" and event["data"]["node"] == "index" and event["data"]["value"] > 0


@pytest.fixture(scope="module")
def has_small_disks() -> bool:
    """Whether this machine lets us mount a file system that only ComfyUI sees."""
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        ).returncode
    )


@pytest.fixture(scope="module")
def poor(comfyui: Path, checkpoint: Path, has_small_disks: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI of its own, with little room in the user's folder and in that of the databases."""
    base = hosts.make_base_folder(tmp_path_factory.mktemp("poor") / "base")
    (base / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    (base / "user" / "carlos").mkdir()
    shutil.copytree(base / "models" / "carlos", base / "whole")
    under = ["unshare", "-rm", "sh", "-c", _SMALL_DISKS, str(base)] if has_small_disks else []
    # What was freed leaves the address space at once: otherwise the C library keeps it, in pieces, and they decide what fits.
    environment = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    with hosts.running(comfyui, base, under=under, environment=environment) as running:
        running.run(workflows.index(NAME, "poor", **FEW_STEPS, max_prompts=2, batch_size=2))
        yield running


def _seen_by(host: Host) -> Path:
    """The base folder as ComfyUI sees it, with the file systems that are mounted for it alone."""
    return Path(f"/proc/{host.process.pid}/root{host.base}")


@contextmanager
def _full(folder: Path, free_pages: int = 0) -> Iterator[None]:
    """Fill the file system of a folder up to some pages, and make room again afterwards."""
    page = resource.getpagesize()
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            free = os.statvfs(folder)
            for _ in range(free.f_bavail * free.f_frsize // page - free_pages):
                file.write(bytes(page))
        yield
    finally:
        filler.unlink()


def _records(cache: Path, dimension: int) -> int:
    """Pictures that are kept in the base side's journals."""
    sizes = []
    for journal in (cache / "base").glob("*.journal"):
        content = journal.read_bytes()
        sizes.append(len(content) - 12 - struct.unpack_from("<I", content, 8)[0])
    return sum(sizes) // (16 + 4 + 4 * dimension + 4)


def test_a_full_disk_stops_a_run_and_with_room_it_goes_on_from_there(poor: Host, has_small_disks: bool) -> None:
    if not has_small_disks:
        pytest.skip("A small file system cannot be mounted here (unshare -rm): the full disk is NOT tested.")
    seen = _seen_by(poor)
    path, cache = seen / "models" / "carlos" / "poor.parquet", seen / "user" / "carlos" / "cache"
    before, dimension = path.read_bytes(), load_database(path).dimension
    kept_before = _records(cache, dimension)
    workflow = workflows.index(NAME, "poor", **FEW_STEPS, first_seed=10, batch_size=4)
    # The features of 64 pictures take more than 4 pages; the first batch fits into the journal's last one.
    with _full(seen / "user" / "carlos", free_pages=2):
        with pytest.raises(Failed, match="Finished pictures cannot be kept .*No space left.* Free some disk space and run again"):
            poor.run(workflow)
        kept = _records(cache, dimension) - kept_before
        assert 0 < kept < PICTURES
        assert path.read_bytes() == before

    facts = facts_of(poor.run(workflow), "index")
    assert facts["status"] == "indexed"
    assert facts["n_images"] == PICTURES
    assert facts["base_model_evaluations"] == PICTURES - kept
    assert len(load_database(path)) == 1


def test_a_full_disk_under_the_database_leaves_the_old_file_whole(poor: Host, has_small_disks: bool) -> None:
    if not has_small_disks:
        pytest.skip("A small file system cannot be mounted here (unshare -rm): the full disk is NOT tested.")
    path = _seen_by(poor) / "models" / "carlos" / "poor.parquet"
    before, rows = path.read_bytes(), len(load_database(path))
    workflow = workflows.index("dark_vignette.safetensors", "poor", **FEW_STEPS, max_prompts=4)
    with _full(path.parent):
        with pytest.raises(Failed, match="poor.parquet could not be saved .*old file is untouched. Free some disk space"):
            poor.run(workflow)
        assert path.read_bytes() == before
        assert not list(path.parent.glob(".*.tmp"))
    # With room again the row is saved, and no picture is made for it.
    facts = facts_of(poor.run(workflow), "index")
    assert (facts["status"], facts["base_model_evaluations"]) == ("indexed", 0)
    assert len(load_database(path)) == rows + 1


@contextmanager
def _little_memory(host: Host, megabytes: int) -> Iterator[None]:
    """Let a running ComfyUI have only so much more address space than it has now."""
    has = int(re.findall(r"VmSize:\s+(\d+) kB", Path(f"/proc/{host.process.pid}/status").read_text())[0]) << 10
    _, hard = resource.prlimit(host.process.pid, resource.RLIMIT_AS)
    resource.prlimit(host.process.pid, resource.RLIMIT_AS, (has + (megabytes << 20), hard))
    try:
        yield
    finally:
        resource.prlimit(host.process.pid, resource.RLIMIT_AS, (hard, hard))


def test_too_little_memory_for_a_batch_halves_it_and_the_numbers_stay(poor: Host) -> None:
    settings = {**FEW_STEPS, "max_prompts": 64, "first_seed": 20}
    log_before = len(poor.log.read_text(errors="replace"))
    with _little_memory(poor, megabytes=400):
        halved = facts_of(poor.run(workflows.index(NAME, "halved", **settings, batch_size=64)), "index")
    log = poor.log.read_text(errors="replace")[log_before:]
    steps = [
        tuple(map(int, step)) for step in re.findall(r"out of memory with (\d+) pictures at a time, going on with (\d+)", log)
    ]
    assert steps[0] == (64, 32)
    assert all(half == batch // 2 for batch, half in steps)
    # What was too much once is not tried again.
    assert [batch for batch, _ in steps] == sorted({batch for batch, _ in steps}, reverse=True)
    assert halved["n_images"] == 64

    shutil.rmtree(_seen_by(poor) / "user" / "carlos" / "cache")
    free = facts_of(poor.run(workflows.index(NAME, "free", **settings, batch_size=4)), "index")
    directions = [_row_seen(poor, name, free["lora_id"])["direction"].astype(np.float64) for name in ("halved", "free")]
    assert miniworld.cosine(*directions) >= 0.9999
    assert halved["strength"] == pytest.approx(free["strength"], rel=1e-4)


def test_too_little_memory_for_one_picture_is_said_and_the_server_lives_on(poor: Host) -> None:
    # Pictures so large that not one of them fits.
    workflow = workflows.index(NAME, "too-large", **{**FEW_STEPS, "max_prompts": 1, "width": 1024, "height": 1024})
    with (
        _little_memory(poor, megabytes=200),
        pytest.raises(Failed, match="There is too little memory for one picture of 1024 x 1024. Choose a smaller width"),
    ):
        poor.run(workflow)
    assert facts_of(poor.run(workflows.index(NAME, "small", **FEW_STEPS, max_prompts=2, first_seed=30)), "index")["n_images"] == 2


def _row_seen(host: Host, database: str, lora_id: str) -> dict[str, Any]:
    return load_database(_seen_by(host) / "models" / "carlos" / f"{database}.parquet").cells(lora_id)
