"""`carlos` with a real ComfyUI: its process, the same rows as the nodes', and what is left when it is ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from carlos_core.database.database import load_database
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows
from tests.support.miniworld import MINIWORLD

LORAS = ("pencil_sketch", "red_balloons", "sepia_toned", "pixel_art")
SETTINGS = {"preset": "custom", "prompts": "miniworld-short", "steps": 2, "cfg": 3.0, "scheduler": "simple", "max_prompts": 8}
MINI = [
    *("--checkpoint", "miniworld", "--encoder", "mini_clip", "--preset", "custom", "--prompts", "miniworld-short"),
    *("--steps", "2", "--cfg", "3", "--scheduler", "simple", "--max-prompts", "8", "--width", "128", "--height", "128"),
    *("--batch-size", "4", "--no-describe"),
]


@pytest.fixture(scope="module")
def own_base(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A base folder with a few LoRAs, one of which is for another model."""
    folder = hosts.make_base_folder(tmp_path_factory.mktemp("command line"))
    for lora in (folder / "models" / "loras").glob("*"):
        if lora.stem not in (*LORAS, "mystery_04"):
            lora.unlink()
    (folder / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    return folder


@pytest.fixture
def fresh_base(own_base: Path) -> Path:
    """The same without anything that was kept."""
    shutil.rmtree(own_base / "user" / "carlos", ignore_errors=True)
    for database in (own_base / "models" / "carlos").glob("*.parquet"):
        database.unlink()
    return own_base


@pytest.fixture(scope="module")
def whole(comfyui: Path, own_base: Path) -> dict[str, Any]:
    """What one run makes of the folder: the command's result, and "rows"."""
    path = own_base / "whole.parquet"
    result = carlos(comfyui, own_base, "index-folder", "-d", str(path), *MINI)["result"]
    return {**result, "rows": rows(path)}


def command(comfyui: Path, base: Path, *arguments: str) -> list[str]:
    options = ["--comfyui", str(comfyui), "--python", str(hosts.comfyui_python(comfyui))]
    options += ["--base-directory", str(base), "--comfyui-args", "--cpu"]
    return [sys.executable, "-m", "carlos_core.cli", *arguments, *options]


def carlos(comfyui: Path, base: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    """The envelope of a command with --json."""
    run = subprocess.run(
        command(comfyui, base, *arguments, "--json"), cwd=hosts.ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == status, f"{run.stdout[-2000:]}\n{run.stderr[-3000:]}"
    (line,) = run.stdout.splitlines()
    return json.loads(line)


def rows(path: Path) -> dict[str, tuple[Any, ...]]:
    """What was measured of each LoRA, by file: bits."""
    database = load_database(path)
    found = (database.row(lora_id) for lora_id in database.column("lora_id"))
    return {
        str(row.file_name): (row.lora_id, row.direction.tobytes(), row.strength, row.consistency, row.n_images, row.protocol_id)
        for row in found
        if row is not None
    }


def test_half_by_the_command_line_and_half_by_the_node_into_one_database(
    comfyui: Path, whole: dict[str, Any], fresh_base: Path
) -> None:
    own = fresh_base / "models" / "carlos" / "shared.parquet"
    first = carlos(comfyui, fresh_base, "index-folder", "-d", "shared", "--filter", "p*", *MINI)["result"]
    assert sorted(each["file"] for each in first["indexed"]) == ["pencil_sketch.safetensors", "pixel_art.safetensors"]
    half = rows(own)
    with hosts.running(comfyui, fresh_base) as host:
        library = workflows.index_library("", "", batch_size=4, **SETTINGS)
        library["db"]["inputs"]["database"] = "shared.parquet"
        facts = hosts.facts_of(host.run(library), "index")
    assert sorted(facts["skipped"]) == sorted(half)
    assert sorted(each["file"] for each in facts["indexed"]) == ["red_balloons.safetensors", "sepia_toned.safetensors"]
    assert all(each["base_model_evaluations"] == 0 for each in facts["indexed"]), "the pictures without a LoRA are shared"
    assert {each["protocol_id"] for each in facts["indexed"]} == {first["protocol_id"]}
    assert {name: rows(own)[name] for name in half} == half
    assert rows(own) == whole["rows"]


def test_two_shards_and_a_merge_equal_one_run(comfyui: Path, whole: dict[str, Any], fresh_base: Path, tmp_path: Path) -> None:
    parts, names = [tmp_path / "part1.parquet", tmp_path / "part2.parquet"], []
    for place, part in enumerate(parts, start=1):
        done = carlos(comfyui, fresh_base, "index-folder", "-d", str(part), "--shard", f"{place}/2", *MINI)["result"]
        names.append({each["file"] for each in (*done["indexed"], *done["for_other_models"])})
    assert not names[0] & names[1]
    assert names[0] | names[1] == {each["file"] for each in (*whole["indexed"], *whole["for_other_models"])}
    merged = [sys.executable, "-m", "carlos_core.cli", "merge", str(tmp_path / "all.parquet"), *map(str, parts)]
    subprocess.run(merged, cwd=hosts.ROOT, check=True, timeout=60)
    assert rows(tmp_path / "all.parquet") == whole["rows"]


@contextmanager
def heard_by_children(number: signal.Signals) -> Iterator[None]:
    """What runs in the background of a shell is started deaf to Ctrl-C, and its children are, too."""
    earlier = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, earlier)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_goes_on_where_it_was(
    comfyui: Path, whole: dict[str, Any], fresh_base: Path, tmp_path: Path, how: signal.Signals
) -> None:
    arguments = ["index-folder", "-d", str(tmp_path / "ended.parquet"), *MINI]
    errors = tmp_path / "stderr"
    with errors.open("wb") as sink:
        with heard_by_children(signal.SIGINT):
            process = subprocess.Popen(
                command(comfyui, fresh_base, *arguments, "--json"), cwd=hosts.ROOT, stdout=subprocess.PIPE, stderr=sink
            )
        wait_for(lambda: "measured: " in errors.read_text())
        child = children_of(process.pid)
        process.send_signal(how)
        out, _ = process.communicate(timeout=60)
    assert child
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in child))
    if how == signal.SIGINT:
        said = json.loads(out)
        assert (process.returncode, said["ok"], said["error"]["kind"]) == (130, False, "Interrupted")
        assert "kept" in said["error"]["what"]
    kept, made = len(rows(tmp_path / "ended.parquet")), pictures_kept(fresh_base)
    assert 0 < kept < len(LORAS)
    done = carlos(comfyui, fresh_base, *arguments)["result"]
    assert (len(done["skipped"]), len(done["indexed"])) == (kept, len(LORAS) - kept)
    assert made + done["pictures_made"] == whole["pictures_made"], "nothing that was kept is made again"
    assert rows(tmp_path / "ended.parquet") == whole["rows"]


def test_what_fits_and_what_goes_wrong(comfyui: Path, own_base: Path, tmp_path: Path) -> None:
    found = carlos(comfyui, own_base, "fits", "--checkpoint", "miniworld")["result"]
    assert {each["name"] for each in found["loras"] if not each["fits"]} == {"mystery_04.safetensors"}
    wrong = carlos(comfyui, own_base, "fits", "--checkpoint", "no_such", status=1)["error"]
    assert (wrong["what"], "miniworld.safetensors" in wrong["hint"]) == ("There is no checkpoint no_such.", True)
    broken = own_base / "models" / "loras" / "broken.safetensors"
    broken.write_bytes(b"no LoRA")
    try:
        files = ("broken.safetensors", "pixel_art.safetensors")
        done = carlos(comfyui, own_base, "index", *files, "-d", str(tmp_path / "some.parquet"), *MINI, status=4)["result"]
    finally:
        broken.unlink()
    assert [each["file"] for each in done["failed"]] == ["broken.safetensors"]
    assert [each["file"] for each in done["indexed"]] == ["pixel_art.safetensors"]


def test_an_agent_asks_by_the_api_workflow(comfyui: Path, own_base: Path) -> None:
    workflow = json.loads((hosts.ROOT / "docs" / "agents" / "choose_loras_api.json").read_text(encoding="utf-8"))
    database = own_base / "models" / "carlos" / "reference.parquet"
    miniworld.reference_rows(database)
    workflow["checkpoint"]["inputs"]["ckpt_name"] = workflows.CHECKPOINT
    workflow["database"]["inputs"]["database"] = database.name
    ask = workflow["choose"]["inputs"]
    ask["prompts"] = "miniworld-signature"
    with hosts.running(comfyui, own_base) as host:
        answers = []
        for query in ("pencil sketch, red balloons", "a queue at the post office"):
            ask["query"] = query
            answers.append(json.loads(host.run(workflow)["answer"]["text"][0]))
    chosen = [each["file"] for each in answers[0]["choice"]]
    assert sorted(chosen) == ["pencil_sketch.safetensors", "red_balloons.safetensors"]
    assert (answers[1]["choice"], bool(answers[1]["reason"])) == ([], True)
    said = carlos(
        comfyui,
        own_base,
        "choose",
        "pencil sketch, red balloons",
        "--mode",
        "composed",
        "-d",
        "reference",
        "--installed-only",
        *("--prompts", str(MINIWORLD / "prompts_signature.json")),
    )["result"]
    weights = {each["file"]: each["weight"] for each in answers[0]["choice"]}
    assert {each["file"]: each["weight"] for each in said["loras"]} == weights


def pictures_kept(base: Path) -> int:
    """How many pictures the cache holds, all of them together."""
    facts = subprocess.run(
        [sys.executable, "-m", "carlos_core.cli", "cache", "--json"],
        cwd=hosts.ROOT,
        env={**os.environ, "CARLOS_HOME": str(base / "user" / "carlos")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return sum(part["count"] for part in json.loads(facts.stdout)["result"]["parts"] if part["kind"] in ("base", "loras"))


def children_of(pid: int) -> Sequence[int]:
    """The processes that a process has started and that have not ended."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in listed.split()]


def wait_for(is_so: Callable[[], bool], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def test_a_race_finds_the_lora_for_a_sentence_without_measuring_all(comfyui: Path, fresh_base: Path) -> None:
    path = fresh_base / "raced.parquet"
    mini = ["--checkpoint", "miniworld", "--encoder", "mini_clip", "--width", "128", "--height", "128", "--top-k", "1"]
    mini += ["--index-prompts", "miniworld-index", "--prompts", "miniworld-signature"]
    mini += ["--sampling", "as given", "--steps", "4", "--cfg", "3", "--sampler", "euler", "--scheduler", "simple"]
    result = carlos(comfyui, fresh_base, "race", "pixel art", "-d", str(path), *mini)["result"]
    assert result["settings"]["sampling"] == "as given"
    assert [result["settings"][name] for name in ("steps", "cfg", "scheduler")] == [4, 3.0, "simple"]
    assert [each["file"] for each in result["choice"]] == ["pixel_art.safetensors"]
    assert result["left_out"] == {"does not fit": 1}
    assert result["candidates"] == len(LORAS)
    assert 0 < result["base_model_evaluations"] < result["model_evaluations"]
    assert rows(path).keys() == {f"{name}.safetensors" for name in LORAS}
