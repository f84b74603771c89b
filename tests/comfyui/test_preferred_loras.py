"""LoRAs made for the loaded checkpoint come first in a real ComfyUI, where the workflow says which checkpoint that is.

The mini-world's one checkpoint is listed under several names; two of its LoRAs do the same and say that they are for others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carlos_core.database.database import MetricsDatabase
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Host, facts_of
from tests.support.rows import lora_id_of

DATABASE = "preferred.parquet"
QUERY = "sepia toned"
FOR_PONY, FOR_ILLUSTRIOUS = "sepia_toned.safetensors", "mystery_07.safetensors"
"""The second fits the query better, by a hundredth of what is about equal."""

PONY, NOOB, LABELLED = "ponyDiffusionV6XL.safetensors", "noobaiXL_vPred10.safetensors", "autumn mix.safetensors"


def label(file: Path, base_model: str) -> None:
    file.with_suffix(".civitai.info").write_text(json.dumps({"baseModel": base_model}))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    folder = hosts.make_base_folder(tmp_path_factory.mktemp("preferred-folder"))
    for name in (checkpoint.name, PONY, NOOB, LABELLED):
        (folder / "models" / "checkpoints" / name).symlink_to(checkpoint)
    label(folder / "models" / "checkpoints" / LABELLED, "Pony")
    label(folder / "models" / "loras" / FOR_PONY, "Pony")
    label(folder / "models" / "loras" / FOR_ILLUSTRIOUS, "Illustrious")
    return folder


@pytest.fixture(scope="module")
def rows(base: Path) -> MetricsDatabase:
    return miniworld.reference_rows(base / "models" / "carlos" / DATABASE)


@pytest.fixture(scope="module")
def host(comfyui: Path, base: Path, rows: MetricsDatabase) -> Iterator[Host]:
    with hosts.running(comfyui, base) as running:
        yield running


def run(host: Host, workflow: workflows.Workflow, checkpoint: str) -> tuple[dict[str, Any], str]:
    """The report's facts and its text, with the checkpoint under one of its names."""
    workflow["checkpoint"] = workflows.node("CheckpointLoaderSimple", ckpt_name=checkpoint)
    outputs = host.run(workflow)
    return facts_of(outputs, "report"), outputs["report"]["text"][0]


def chosen(facts: dict[str, Any]) -> list[str]:
    return [lora["file"] for lora in facts["choice"]]


@pytest.mark.parametrize(
    ("name", "line", "file"),
    [(PONY, "Pony", FOR_PONY), (LABELLED, "Pony", FOR_PONY), (NOOB, "NoobAI", FOR_ILLUSTRIOUS)],
)
def test_of_two_loras_that_do_the_same_the_one_for_the_checkpoint_is_applied(
    host: Host, rows: MetricsDatabase, name: str, line: str, file: str
) -> None:
    plain, _ = run(host, workflows.auto_lora(QUERY, DATABASE), workflows.CHECKPOINT)
    facts, text = run(host, workflows.auto_lora(QUERY, DATABASE), name)
    assert chosen(facts) == [file]
    preference = facts["preference"]
    assert (preference["line"], preference["known_by"]) == (line, name)
    assert preference["made_for"] == [lora_id_of(rows, file)]
    assert f"Made for {line} or what is nearest to it, as the checkpoint {name}: {file}." in text
    is_moved = file == FOR_PONY
    to = [{"lora_id": lora_id_of(rows, FOR_PONY), "to": [lora_id_of(rows, FOR_ILLUSTRIOUS)]}]
    assert preference["preferred"] == (to if is_moved else [])
    assert (f"{FOR_PONY} is therefore preferred to {FOR_ILLUSTRIOUS}" in text) == is_moved
    assert "preference" not in plain
    assert chosen(plain) == [FOR_ILLUSTRIOUS]
    assert facts["reason"] == plain["reason"]


def test_a_lora_behind_another_one_knows_the_checkpoint_too(host: Host, rows: MetricsDatabase) -> None:
    workflow = workflows.auto_lora(QUERY, DATABASE, mode="best one")
    workflow["lora"] = workflows.load_found_lora()
    workflow["lora"]["inputs"]["lora_name"] = "pencil_sketch.safetensors"
    workflow["auto"]["inputs"]["model"] = ["lora", 0]
    assert chosen(run(host, workflow, PONY)[0]) == [FOR_PONY]


def test_what_the_user_says_the_checkpoint_is_counts(host: Host, rows: MetricsDatabase) -> None:
    workflow = workflows.auto_lora(QUERY, DATABASE, base_model="Pony")
    facts, text = run(host, workflow, workflows.CHECKPOINT)
    assert chosen(facts) == [FOR_PONY]
    assert facts["preference"]["known_by"] == "base_model"
    assert f"Made for Pony or what is nearest to it, as chosen: {FOR_PONY}." in text


def test_a_lora_for_another_effect_is_not_taken_for_its_label(host: Host, rows: MetricsDatabase) -> None:
    facts, _ = run(host, workflows.auto_lora("snow falling", DATABASE), PONY)
    assert chosen(facts) == ["mystery_12.safetensors"]
    elephants, _ = run(host, workflows.auto_lora("a herd of elephants", DATABASE), PONY)
    assert chosen(elephants) == []


def test_the_retriever_prefers_in_the_calibrated_ranking_and_says_so_in_the_published_one(
    host: Host, rows: MetricsDatabase
) -> None:
    def found(checkpoint: str, ranking: str) -> tuple[list[tuple[str, float]], dict[str, Any], str]:
        workflow = workflows.retrieve(QUERY, DATABASE, ranking=ranking, model=["checkpoint", 0])
        workflow["db"] = workflows.loader(DATABASE)
        facts, text = run(host, workflow, checkpoint)
        return [(match["file"], match["score"]) for match in facts["matches"]], facts, text

    plain, facts, _ = found(workflows.CHECKPOINT, "calibrated")
    assert "preference" not in facts
    moved, facts, text = found(PONY, "calibrated")
    assert [file for file, _ in plain[:2]] == [FOR_ILLUSTRIOUS, FOR_PONY]
    assert moved == [plain[1], plain[0], *plain[2:]]
    assert [entry["lora_id"] for entry in facts["preference"]["preferred"]] == [lora_id_of(rows, FOR_PONY)]
    published, _, _ = found(workflows.CHECKPOINT, "published")
    same, facts, text = found(PONY, "published")
    assert same == published
    assert facts["preference"]["preferred"] == []
    assert facts["preference"]["made_for"] == [lora_id_of(rows, FOR_PONY)]
    assert f"as the checkpoint {PONY}: {FOR_PONY}." in text


@pytest.mark.parametrize(
    ("node_id", "inputs"),
    [
        ("CarlosSimilarLoras", {"lora_id": "", "lora_name": FOR_ILLUSTRIOUS}),
        ("CarlosLorasByName", {"name": "sepia"}),
    ],
)
def test_other_searches_say_what_was_made_for_the_checkpoint(
    host: Host, rows: MetricsDatabase, node_id: str, inputs: dict[str, Any]
) -> None:
    workflow = {
        "db": workflows.loader(DATABASE),
        "find": workflows.node(node_id, database=["db", 0], top_k=3, model=["checkpoint", 0], **inputs),
        "report": workflows.node("PreviewAny", source=["find", 3]),
    }
    facts, _ = run(host, workflow, PONY)
    assert facts["preference"]["made_for"] == [lora_id_of(rows, FOR_PONY)]
