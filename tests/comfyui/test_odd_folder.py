"""People's folders in a real ComfyUI: 300 LoRAs of many years and tools, 60 of them odd. All is said, and all else works."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from carlos_core.database.database import load_database
from carlos_core.foreign import printable
from tests.support import comfyui_host as hosts
from tests.support import miniworld, odd_folder, workflows
from tests.support.comfyui_host import Host, facts_of

FEW = {"preset": "custom", "prompts": "miniworld-index", "max_prompts": 2, "steps": 4, "cfg": 1.0, "batch_size": 1}
"""Two pictures of each LoRA, one after the other."""

BEFORE, AFTER = "pixel_art", "burning_flames"
"""What files that change during the run are, and what they become."""

LONG_AGO = 978_307_200
"""2001, in seconds since 1970."""

LIVE = [f"zz later/live {place}.safetensors" for place in range(4)]
"""Files that are written over while they are measured."""


class People:
    """A ComfyUI with such a folder, and the report of a first library run during which files changed."""

    def __init__(self, host: Host, first: Path, second: Path, checkpoint: Path) -> None:
        self.host, self.loras = host, first
        self.good = odd_folder.add_good(first, second)
        self.odd = odd_folder.add_odd(first, second, checkpoint)
        self.contents: dict[str, Path] = {}
        self.looks: dict[str, str] = {}
        later = first / "zz later"
        for place, name in enumerate(["changes", "cut", "vanishes", *(Path(name).stem for name in LIVE)]):
            path = self._keep(odd_folder.write_good(later / f"{name}.safetensors", BEFORE, 9700 + place), BEFORE)
            # The newest are measured first.
            os.utime(path, (LONG_AGO, LONG_AGO))
        self.database = host.base / "models" / "carlos" / "people.parquet"
        self.report = ""
        self.facts: dict[str, Any] = {}

    def run(self) -> None:
        """The first run. What changes in the folder does so when the server says where it is."""
        later, live = self.loras / "zz later", list(LIVE)
        with self.host.events() as (client_id, socket):
            prompt_id = self.host.submit(workflows.index_library("", "people", **FEW), client_id)
            is_first = True
            for kind, what in _events(socket, prompt_id):
                if kind == "progress" and is_first:
                    is_first = False
                    new = self._keep(odd_folder.write_good(self.loras.parent / "new.safetensors", AFTER, 9800), AFTER)
                    new.replace(later / "changes.safetensors")
                    (later / "cut.safetensors").write_bytes((later / "cut.safetensors").read_bytes()[:-5000])
                    (later / "vanishes.safetensors").unlink()
                    odd_folder.write_good(later / "appears.safetensors", AFTER, 9801)
                elif kind == "text" and live and live[0] in what:
                    name = live.pop(0)
                    new = self._keep(odd_folder.write_good(self.loras.parent / "new.safetensors", AFTER, 9810 + len(live)), AFTER)
                    # In place, as a download writes: who has the file open sees it cut and changed.
                    (self.loras / name).write_bytes(new.read_bytes())
            assert not live, "the run has said what it measures"
            outputs = self.host.outputs_of(self.host.wait(prompt_id, timeout_s=600))
        self.report, self.facts = outputs["index"]["text"][0], facts_of(outputs, "index")

    def said(self, facts: dict[str, Any]) -> list[tuple[str, str]]:
        """(file, sentence) of all that a report says of single files."""
        return [(each["file"], each["reason"]) for each in facts["failed"]] + [(e["file"], e["note"]) for e in facts["noted"]]

    @property
    def journals(self) -> dict[str, int]:
        """Sizes of the files that features of pictures are kept in."""
        cache = self.host.base / "user" / "carlos" / "cache"
        return {path.relative_to(cache).as_posix(): path.stat().st_size for path in cache.rglob("*.journal")}

    def _keep(self, path: Path, look: str) -> Path:
        """Remember a content and its look by its hash."""
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        kept = self.host.base / "contents" / f"{sha256}.safetensors"
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(content)
        self.contents[sha256], self.looks[sha256] = kept, look
        return path


def _events(socket: websocket.WebSocket, prompt_id: str) -> Iterator[tuple[str, str]]:
    """What the server tells of a run until it ends: ("progress", "") and ("text", a node's line)."""
    while True:
        message = socket.recv()
        if isinstance(message, bytes):
            yield "text", message.decode(errors="replace")
            continue
        event = json.loads(message)
        # Nodes before it look at the folder, too, and say how far they are.
        if event["type"] == "progress" and event["data"]["node"] == "index" and event["data"]["value"] > 0:
            yield "progress", ""
        elif event["type"] == "progress_text":
            yield "text", message
        if event["type"] == "executing" and event["data"]["node"] is None and event["data"].get("prompt_id") == prompt_id:
            return
        if event["type"] in ("execution_error", "execution_success"):
            return


@pytest.fixture(scope="module")
def people(comfyui: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    base = hosts.make_base_folder(tmp_path_factory.mktemp("people") / "base")
    (base / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    first, second = base / "models" / "loras", base.parent / "another drive" / "loras"
    shutil.rmtree(first)
    first.mkdir()
    second.mkdir(parents=True)
    paths = base.parent / "extra.yaml"
    paths.write_text(json.dumps({"drive": {"base_path": str(second.parent), "loras": "loras"}}))
    with hosts.running(comfyui, base, "--extra-model-paths-config", str(paths)) as running:
        made = People(running, first, second, checkpoint)
        made.run()
        yield made


def _names(facts: dict[str, Any]) -> set[str]:
    return {each["file"] for each in facts["indexed"]} | set(facts["skipped"])


def test_everything_odd_is_named_with_its_reason(people: People) -> None:
    assert len(people.odd) >= 60
    assert len({odd.kind for odd in people.odd}) >= 50
    said = people.said(people.facts)
    missing = [
        odd for odd in people.odd if not any(file in odd.file.split("|") and re.search(odd.says, words) for file, words in said)
    ]
    assert not missing, [each for each in said if each[0] in {odd.file for odd in missing}]
    lines = people.report.splitlines()
    for file, words in said:
        assert any(f"{begins}: {file}: {words}" in lines for begins in ("failed", "for other models", "noted"))


def test_every_good_lora_is_measured_and_nothing_is_said_of_it(people: People) -> None:
    assert len(people.good) == odd_folder.N_GOOD
    assert set(people.good) <= {each["file"] for each in people.facts["indexed"]}
    assert not {file for file, _words in people.said(people.facts)} & set(map(printable, people.good))
    # What failed is what is odd, and no file is both.
    failed = {each["file"] for each in people.facts["failed"]}
    assert failed <= {file for odd in people.odd for file in odd.file.split("|")} | {
        "zz later/cut.safetensors",
        "zz later/vanishes.safetensors",
        *LIVE,
    }
    assert not failed & _names(people.facts)
    rows = load_database(people.database)
    assert sorted(rows.column("file_name")) == sorted(each["file"] for each in people.facts["indexed"])


def test_a_file_that_changed_during_the_run_is_measured_as_it_then_was_or_listed(people: People) -> None:
    said = dict(people.said(people.facts))
    assert "is not there" in said["zz later/vanishes.safetensors"]
    assert "a part of it is missing" in said["zz later/cut.safetensors"]
    assert "zz later/changes.safetensors" in _names(people.facts)
    assert "zz later/appears.safetensors" not in _names(people.facts) | said.keys()
    for name in LIVE:
        assert name in _names(people.facts) or "changed" in said[name] or "missing" in said[name], said.get(name)


def test_no_row_has_the_hash_of_one_content_and_the_pictures_of_another(people: People) -> None:
    """The contents of the files that changed are measured again, each by itself and from new pictures."""
    folder = people.loras / "truth"
    folder.mkdir()
    for sha256, content in people.contents.items():
        content.rename(folder / f"{sha256}.safetensors")
    cache = people.host.base / "user" / "carlos" / "cache"
    cache.rename(cache.with_name("kept"))
    try:
        people.host.run(workflows.index_library("truth/*", "truth", **FEW))
    finally:
        shutil.rmtree(cache)
        cache.with_name("kept").rename(cache)
        shutil.rmtree(folder)
    found, truth = (
        load_database(people.database.with_name(f"{name}.parquet")).to_dataframe().set_index("sha256")
        for name in ("people", "truth")
    )
    assert set(truth.index) == set(people.contents)
    changed = found[found.file_name.str.startswith("zz later/")]
    assert "zz later/changes.safetensors" in set(changed.file_name)
    for sha256, row in changed.iterrows():
        assert miniworld.cosine(row.direction, truth.direction[sha256]) > 0.9999, row.file_name
    # The test can fail: the two looks are not alike.
    of = {
        original: [truth.direction[sha256] for sha256, what in people.looks.items() if what == original]
        for original in (BEFORE, AFTER)
    }
    assert miniworld.cosine(of[BEFORE][0], of[AFTER][0]) < 0.9


def test_a_second_run_makes_no_picture_and_says_the_same(people: People) -> None:
    journals = people.journals
    facts = facts_of(people.host.run(workflows.index_library("", "people", **FEW)), "index")
    new = {"zz later/appears.safetensors", *LIVE}
    assert {each["file"] for each in facts["indexed"]} <= new
    assert people.journals != journals
    journals = people.journals
    again = facts_of(people.host.run(workflows.index_library("", "people", **FEW)), "index")
    assert (again["indexed"], people.journals) == ([], journals)
    assert set(again["skipped"]) >= _names(people.facts)
    missing = [each for each in people.said(people.facts) if each not in people.said(again) and "zz later" not in each[0]]
    assert not missing


@pytest.mark.parametrize("look", ["pencil_sketch", "sepia_toned", "pink_hearts"])
def test_what_a_lora_does_finds_it_in_that_folder(people: People, look: str) -> None:
    label = miniworld.labels()[f"{look}.safetensors"]["label"]
    outputs = people.host.run(workflows.retrieve(label, "people", min_consistency=-1.0, top_k=3), timeout_s=60)
    matches = facts_of(outputs, "report")["matches"]
    assert [people.good[match["file"]] for match in matches] == [look] * 3
    assert all(match["installed"] for match in matches)
    # Two pictures say too little for Auto LoRA to be sure.
    workflow = workflows.auto_lora(label, "people.parquet", min_consistency=-1.0, min_confidence="any", mode="best one")
    auto = people.host.run(workflow, timeout_s=60)
    assert {people.good[lora["file"]] for lora in facts_of(auto, "report")["choice"]} == {look}


def test_every_good_lora_is_found_by_its_name(people: People) -> None:
    for name in people.good:
        if name.startswith("names/"):
            outputs = people.host.run(_shown("CarlosLorasByName", name=name, top_k=5), timeout_s=60)
            found = {match["file"]: match["installed"] for match in facts_of(outputs, "report")["matches"]}
            assert found.get(name), name


def test_copies_are_listed_and_links_are_none(people: People) -> None:
    facts = facts_of(people.host.run(_shown("CarlosDuplicateLoras", min_cosine=0.95), timeout_s=60), "report")
    copies = [names for names in facts["copies"] if "zz later" not in names[0]]
    assert copies == [["odd/copy.safetensors", "odd/plain.safetensors", "other root/plain 2.safetensors"]]
    # Each row is of one content, so that no group holds a copy or a link.
    in_groups = [lora["lora_id"] for group in facts["groups"] for lora in group]
    assert len(in_groups) == len(set(in_groups)) > odd_folder.N_GOOD / 2


def test_nothing_went_wrong_without_a_sentence(people: People) -> None:
    log = people.host.log.read_text(errors="replace")
    assert "Traceback" not in log
    assert "carlos" in log


def _shown(class_type: str, **inputs: Any) -> workflows.Workflow:
    found = workflows.node(class_type, database=["db", 0], **inputs)
    output = 0 if class_type == "CarlosDuplicateLoras" else 3
    return {
        "db": workflows.loader("people.parquet"),
        "find": found,
        "report": workflows.node("PreviewAny", source=["find", output]),
    }
