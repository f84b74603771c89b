"""The order in which LoRAs are measured."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from carlos_core.loras.library import LibraryEntry
from carlos_core.loras.order_of_use import Uses, in_order_of_use, saved_workflows, used_in
from carlos_core.records import LoraMetadata

NAMES = ("styles/snow.safetensors", "rain.safetensors", "fog.safetensors")


def entry(path: Path, name: str, content: bytes, age: int, version_id: int | None = None) -> LibraryEntry:
    file = path / name.replace("/", "_")
    file.write_bytes(content)
    return LibraryEntry(name, file, len(content), -age, metadata=LoraMetadata(version_id=version_id))


def ordered(files: list[LibraryEntry], **uses: dict[str, int]) -> list[str]:
    return [file.name for file in in_order_of_use(files, Uses(**uses))]


def test_what_runs_comes_before_what_is_saved_and_that_before_what_is_new(tmp_path: Path) -> None:
    files = [entry(tmp_path, name, name.encode(), age) for age, name in enumerate(("new", "old", "older", "oldest"), start=1)]
    assert ordered(files) == ["new", "old", "older", "oldest"]
    assert ordered(files[::-1], running={"oldest": 1}, saved={"older": 7}) == ["oldest", "older", "new", "old"]


def test_files_between_which_the_order_would_decide_keep_that_of_the_list(tmp_path: Path) -> None:
    """The first of a version gets its id, and of two copies the first is measured."""
    files = [
        entry(tmp_path, "first of 7", b"a", 9, version_id=7),
        entry(tmp_path, "other", b"bbb", 5),
        entry(tmp_path, "second of 7", b"cc", 1, version_id=7),
        entry(tmp_path, "copy", b"bbb", 2),
        entry(tmp_path, "as long", b"ddd", 3),
    ]
    assert ordered(files) == ["first of 7", "second of 7", "other", "copy", "as long"]
    # Through a file that is both, three belong together.
    both = [*files, entry(tmp_path, "copy of 7", b"ddd", 1, version_id=7)]
    assert ordered(both, saved={"copy of 7": 1}) == ["first of 7", "second of 7", "as long", "copy of 7", "other", "copy"]


def test_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    pipes = [entry(tmp_path, f"{name}.safetensors", b"", 1) for name in "ab"]
    for pipe in pipes:
        pipe.path.unlink()
        os.mkfifo(pipe.path)
    found: list[list[str]] = []
    waiting = threading.Thread(target=lambda: found.append(ordered(pipes)), daemon=True)
    waiting.start()
    waiting.join(10)
    assert found == [["a.safetensors", "b.safetensors"]]


@pytest.mark.parametrize(
    ("workflow", "named"),
    [
        ({"4": {"class_type": "LoraLoader", "inputs": {"lora_name": "styles\\snow.safetensors"}}}, {NAMES[0]}),
        ({"nodes": [{"type": "LoraLoader", "widgets_values": ["rain.safetensors", 1, 1]}]}, {NAMES[1]}),
        ({"1": {"inputs": {"lora_1": {"on": True, "lora": "fog.safetensors"}}}}, {NAMES[2]}),
        ({"1": {"inputs": {"text": "a cat <lora:styles/snow:0.8>, <lora:rain>, <lora:gone:1>"}}}, {NAMES[0], NAMES[1]}),
        ({"1": {"inputs": {"text": "rain and fog"}}}, set()),
        ([None, 3, "<lora:" * 1000], set()),
    ],
)
def test_loras_are_found_wherever_a_workflow_names_them(workflow: Any, named: set[str]) -> None:
    assert used_in([workflow], NAMES).keys() == named


def test_saved_workflows_are_looked_at_within_limits(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    good = {"nodes": [{"widgets_values": ["rain.safetensors"]}]}
    (tmp_path / "sub" / "good.json").write_text(json.dumps(good))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "long.json").write_text(json.dumps([*["fog.safetensors"], "x" * (3 << 20)]))
    os.mkfifo(tmp_path / "pipe.json")
    os.symlink(tmp_path / "sub" / "good.json", tmp_path / "link.json")
    assert used_in(saved_workflows(tmp_path), NAMES) == {"rain.safetensors": 1}
    assert list(saved_workflows(tmp_path / "nowhere")) == []
