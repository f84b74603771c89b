"""Auto LoRA's choice in the metadata of pictures, and made again from there: the same LoRAs, weights and picture."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from safetensors.numpy import load_file, save_file

from carlos_core.database.database import MetricsDatabase
from carlos_core.records import LoraRecord
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Host, facts_of
from tests.support.miniworld import MINIWORLD
from tests.support.rows import lora_id_of

DATABASE = "choices.parquet"
SNOW, PENCIL = "mystery_12.safetensors", "pencil_sketch.safetensors"
BOTH = "snow falling, pencil sketch"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    folder = hosts.make_base_folder(tmp_path_factory.mktemp("choice-folder"))
    (folder / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    return folder


@pytest.fixture(scope="module")
def host(comfyui: Path, base: Path) -> Iterator[Host]:
    with hosts.running(comfyui, base) as running:
        yield running


@pytest.fixture
def rows(base: Path) -> MetricsDatabase:
    """The mini-world's reference metrics, saved anew for each test."""
    return miniworld.reference_rows(base / "models" / "carlos" / DATABASE)


class Run:
    """A finished workflow of `rendered`. cached: nodes that did not run. picture: what was saved."""

    def __init__(self, host: Host, entry: dict[str, Any], prefix: str = "auto") -> None:
        self.outputs = host.outputs_of(entry)
        self.cached = next(facts["nodes"] for kind, facts in entry["status"]["messages"] if kind == "execution_cached")
        self.picture = Image.open(host.output_file(self.outputs[f"{prefix}-save"]["images"][0]))

    @property
    def known(self) -> dict[str, Any]:
        """What the picture says about choices: node id -> {"query", "choice"}."""
        return json.loads(self.picture.info.get("carlos", "{}"))

    @property
    def facts(self) -> dict[str, Any]:
        return facts_of(self.outputs, "report")


def rendered(query: str = BOTH, *, seed: int = 3, **settings: Any) -> workflows.Workflow:
    workflow = workflows.auto_lora(query, DATABASE, **settings)
    return workflow | workflows.render("a house by a lake", seed, ["auto", 0], ["auto", 1], "auto")


def run(host: Host, workflow: workflows.Workflow, **further: Any) -> Run:
    return Run(host, host.wait(host.submit(workflow, **further)))


def saved_workflow(picture: Image.Image) -> workflows.Workflow:
    """The workflow in a picture, as a browser opens it: ComfyUI takes saved fingerprints of inputs for those of now."""
    saved = json.loads(picture.info["prompt"])
    return {name: {key: value for key, value in node.items() if key != "is_changed"} for name, node in saved.items()}


def files(choice: list[dict[str, Any]]) -> list[str]:
    return [lora["file"] for lora in choice]


def test_the_choice_is_in_the_picture_also_when_the_node_does_not_run_again(host: Host, rows: MetricsDatabase) -> None:
    first = run(host, rendered(seed=3))
    assert "auto" not in first.cached
    assert first.known == {"auto": {"query": BOTH, "choice": first.facts["choice"]}}
    assert files(first.facts["choice"]) == [SNOW, PENCIL]
    second = run(host, rendered(seed=4))
    assert "auto" in second.cached
    assert second.known == first.known
    assert np.asarray(second.picture).tobytes() != np.asarray(first.picture).tobytes()


def test_a_browser_sends_whole_numbers_and_a_workflow_of_its_own(host: Host, rows: MetricsDatabase) -> None:
    extra = {"extra_data": {"extra_pnginfo": {"workflow": {"nodes": [1, 2]}}}}
    settings: dict[str, Any] = {"strength_budget": 2, "min_consistency": 0, "max_strength": 9}
    first = run(host, rendered(seed=3, **settings), **copy.deepcopy(extra))
    second = run(host, rendered(seed=4, **settings), **copy.deepcopy(extra))
    assert "auto" in second.cached
    assert second.known == first.known != {}
    assert json.loads(second.picture.info["workflow"]) == {"nodes": [1, 2]}


def test_requests_that_are_not_as_they_should_be_are_answered_as_ever(host: Host, rows: MetricsDatabase) -> None:
    odd: list[Any] = [None, [], {"1": None}, {"1": {"class_type": "CarlosAutoLora"}}]
    for request in ({}, *({"prompt": prompt} for prompt in odd)):
        assert requests.post(f"{host.url}/prompt", json=request, timeout=60).status_code in (400, 500), request
    # Without extra_data of any use the workflow runs, and the node itself has nowhere to write.
    entry = host.wait(host.submit(rendered(seed=21), extra_data={"extra_pnginfo": None}))
    assert files(facts_of(host.outputs_of(entry), "report")["choice"]) == [SNOW, PENCIL]


def test_prompts_that_wait_while_the_node_runs_get_its_choice(host: Host, rows: MetricsDatabase) -> None:
    query = "pencil sketch, snow falling"
    waiting = [host.submit(rendered(query, seed=seed)) for seed in (5, 6, 7)]
    runs = [Run(host, host.wait(prompt_id)) for prompt_id in waiting]
    assert ["auto" in each.cached for each in runs] == [False, True, True]
    expected = {"auto": {"query": query, "choice": runs[0].facts["choice"]}}
    assert [each.known for each in runs] == [expected] * 3


def test_no_stale_choice_gets_into_a_picture(host: Host, base: Path, rows: MetricsDatabase) -> None:
    first = run(host, rendered(seed=3))
    other = run(host, rendered("drawn in pencil", seed=3))
    assert other.known == {"auto": {"query": "drawn in pencil", "choice": other.facts["choice"]}}
    assert files(other.facts["choice"]) == [PENCIL]
    rows.set_value(lora_id_of(rows, SNOW), "strength", 99.0)
    rows.save_parquet(base / "models" / "carlos" / DATABASE)
    waiting = [host.submit(rendered(seed=seed)) for seed in (8, 9)]
    for each in (Run(host, host.wait(prompt_id)) for prompt_id in waiting):
        assert each.known == {"auto": {"query": BOTH, "choice": each.facts["choice"]}}
        assert files(each.facts["choice"]) == [PENCIL]
    assert files(first.known["auto"]["choice"]) == [SNOW, PENCIL]


def test_a_lora_that_is_gone_is_chosen_no_more(host: Host, base: Path, rows: MetricsDatabase) -> None:
    assert files(run(host, rendered("drawn in pencil", seed=10)).known["auto"]["choice"]) == [PENCIL]
    file = base / "models" / "loras" / PENCIL
    file.rename(base / PENCIL)
    try:
        without = run(host, rendered("drawn in pencil", seed=11))
        assert "auto" not in without.cached
        assert without.known == {"auto": {"query": "drawn in pencil", "choice": []}}
    finally:
        (base / PENCIL).rename(file)


def test_two_nodes_in_one_workflow_each_leave_their_choice(host: Host, rows: MetricsDatabase) -> None:
    def workflow(seed: int) -> workflows.Workflow:
        nodes = workflows.auto_lora("drawn in pencil", DATABASE)
        then = workflows.auto_lora("snow falling", DATABASE, model=["auto", 0], clip=["auto", 1])
        nodes |= {"then": then["auto"], "stack": workflows.node("PreviewAny", source=["then", 3])}
        return nodes | workflows.render("a house by a lake", seed, ["then", 0], ["then", 1], "auto")

    first, second = run(host, workflow(3)), run(host, workflow(4))
    assert {"auto", "then"} <= set(second.cached)
    assert first.known == second.known
    assert {node: files(entry["choice"]) for node, entry in first.known.items()} == {"auto": [PENCIL], "then": [SNOW]}


def test_a_saved_workflow_run_again_gives_the_same_picture(host: Host, rows: MetricsDatabase) -> None:
    first = run(host, rendered(seed=12))
    saved = saved_workflow(first.picture)
    host.forget()
    again = run(host, saved)
    assert again.cached == []
    assert again.known == first.known
    np.testing.assert_array_equal(again.picture, first.picture)


def test_a_locked_choice_outlives_a_library_that_grows(host: Host, base: Path, rows: MetricsDatabase) -> None:
    first = run(host, rendered(seed=13))
    saved = saved_workflow(first.picture)
    grown = base / "models" / "loras" / "grown"
    grown.mkdir()
    try:
        add_ten_that_win(rows, grown)
        rows.save_parquet(base / "models" / "carlos" / DATABASE)
        unlocked = run(host, saved)
        assert [file.split("/")[0] for file in files(unlocked.facts["choice"])] == ["grown", "grown"]
        assert unlocked.known["auto"]["choice"] == unlocked.facts["choice"]
        locked = copy.deepcopy(saved)
        locked["auto"]["inputs"]["choice"] = json.dumps(first.known["auto"]["choice"])
        again = run(host, locked)
        assert again.facts["choice"] == first.facts["choice"]
        assert again.known == first.known
        np.testing.assert_array_equal(again.picture, first.picture)
        # The last line of the report does as well as the array; an empty array is a choice, too.
        locked["auto"]["inputs"]["choice"] = first.outputs["report"]["text"][0].splitlines()[-1]
        assert run(host, locked).facts["choice"] == first.facts["choice"]
        locked["auto"]["inputs"]["choice"] = " [] "
        assert run(host, locked).known["auto"]["choice"] == []
    finally:
        for file in grown.iterdir():
            file.unlink()
        grown.rmdir()


def test_a_locked_lora_is_found_by_its_content_under_another_name_and_without_its_row(
    host: Host, base: Path, rows: MetricsDatabase
) -> None:
    loras = base / "models" / "loras"
    # Indexing reads the file whole; a file that is renamed afterwards is known by its content.
    host.run(workflows.index(PENCIL, "hashes", max_prompts=2, steps=2))
    rows.set_value(lora_id_of(rows, PENCIL), "sha256", hashlib.sha256((loras / PENCIL).read_bytes()).hexdigest())
    rows.save_parquet(base / "models" / "carlos" / DATABASE)
    first = run(host, rendered("drawn in pencil", seed=14))
    locked = rendered("drawn in pencil", seed=14, choice=json.dumps(first.facts["choice"]))
    (loras / PENCIL).rename(loras / "graphite.safetensors")
    try:
        renamed = run(host, locked)
        assert files(renamed.facts["choice"]) == ["graphite.safetensors"]
        np.testing.assert_array_equal(renamed.picture, first.picture)
    finally:
        (loras / "graphite.safetensors").rename(loras / PENCIL)
    MetricsDatabase.empty(rows.check_encoder(), rows.dimension).save_parquet(base / "models" / "carlos" / DATABASE)
    np.testing.assert_array_equal(run(host, locked).picture, first.picture)


def test_asking_after_indexing_loads_the_encoder_once(host: Host, rows: MetricsDatabase) -> None:
    # ComfyUI complains, and collects all garbage, on each load after the indexer's model with a LoRA on it has gone.
    host.run(workflows.index(SNOW, "hashes", max_prompts=2, steps=2))
    complaints = host.log.read_text(errors="replace").count("Potential memory leak")
    query = ", ".join(f"a picture made in the year {year}" for year in range(1990, 2000))
    host.run(workflows.auto_lora(query, DATABASE))
    assert host.log.read_text(errors="replace").count("Potential memory leak") <= complaints + 3


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def add_ten_that_win(rows: MetricsDatabase, folder: Path) -> None:
    """Ten files and their rows, five for each effect of BOTH, whose directions do the same and more of what sets it apart."""
    effects = [unit(miniworld.signature(facts["label"])) for facts in miniworld.labels("ordinary").values()]
    for name, query in ((SNOW, "snow falling"), (PENCIL, "pencil sketch")):
        tensors = load_file(MINIWORLD / "loras" / name)
        own = next(row["direction"] for row in rows.table.to_pylist() if row["file_name"] == name)
        direction = unit(np.array(own)) + unit(unit(miniworld.signature(query)) - np.mean(effects, axis=0))
        for k in range(5):
            path = folder / f"{k}_{name}"
            save_file(tensors, path, {"copy": str(k)})
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.upsert(
                LoraRecord(
                    lora_id=f"sha256:{content[:16]}",
                    direction=direction.astype(np.float32),
                    strength=5.0 - k / 10,
                    consistency=0.5,
                    file_name=f"grown/{k}_{name}",
                    sha256=content,
                    encoder_id=rows.encoder_id,
                )
            )
