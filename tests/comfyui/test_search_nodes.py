"""The nodes that find LoRAs in other ways than by a sentence, in a real ComfyUI."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from carlos_core.database.database import MetricsDatabase
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Failed, Host, facts_of

DATABASE = "asking.parquet"
PAIR = "pencil_sketch.safetensors", "mystery_12.safetensors"


@pytest.fixture(scope="module")
def rows(base: Path) -> MetricsDatabase:
    """The mini-world's reference metrics as a database that ComfyUI lists."""
    return miniworld.reference_rows(base / "models" / "carlos" / DATABASE)


def asked(host: Host, node_id: str, **inputs: Any) -> list[dict[str, Any]]:
    """Matches of a node that finds LoRAs."""
    return facts_of(host.run(workflow_of(node_id, **inputs)), "report")["matches"]


def workflow_of(node_id: str, *, extra: workflows.Workflow | None = None, **inputs: Any) -> workflows.Workflow:
    return {
        "db": workflows.loader(DATABASE),
        **(extra or {}),
        "find": workflows.node(node_id, database=["db", 0], **{"top_k": 3, **inputs}),
        "report": workflows.node("PreviewAny", source=["find", 3]),
    }


def sentence(query: str, name: str) -> workflows.Workflow:
    found = workflows.retrieve(query)["find"]
    return {name: found}


def test_a_lora_of_the_list_is_most_like_its_duplicate(host: Host, rows: MetricsDatabase) -> None:
    by_file = asked(host, "CarlosSimilarLoras", lora_id="", lora_name="pixel_art.safetensors")
    assert by_file[0]["file"] == "mystery_01.safetensors"
    assert by_file[0]["score"] > 0.99
    assert by_file[0]["installed"]
    assert "pixel_art.safetensors" not in [match["file"] for match in by_file]
    lora_id = next(row["lora_id"] for row in rows.table.to_pylist() if row["file_name"] == "pixel_art.safetensors")
    # Nothing is known of these rows on CivitAI: they stay.
    assert asked(host, "CarlosSimilarLoras", lora_id=lora_id, max_nsfw_level=1, min_downloads=100) == by_file
    with pytest.raises(Failed, match="has no LoRA 'nobody'"):
        asked(host, "CarlosSimilarLoras", lora_id="nobody")
    with pytest.raises(Failed, match="not in (the )?list"):
        asked(host, "CarlosSimilarLoras", lora_id="", lora_name="../x.safetensors")


def test_a_sentence_is_ranked_as_a_whole_and_the_report_says_what_was_read_in_it(host: Host, rows: MetricsDatabase) -> None:
    query = "masterpiece, a wooden boat on a lake, snow falling, drawn in pencl, drawn in pencil, no hearts"
    outputs = host.run(workflows.retrieve(query, DATABASE))
    facts = facts_of(outputs, "report")
    directions = [rows.cells(match["lora_id"])["direction"] for match in facts["matches"]]
    scores = [miniworld.cosine(direction, miniworld.signature(query)) for direction in directions]
    assert scores
    assert [match["score"] for match in facts["matches"]] == pytest.approx(scores, abs=1e-4)
    reading = facts["reading"]
    files = {effect["text"]: rows.cells(effect["lora_id"])["file_name"] for effect in reading["effects"]}
    assert (files["snow falling"], files["drawn in pencil"]) == (PAIR[1], PAIR[0])
    assert (reading["forbidden"], reading["ignored"]) == (["hearts"], ["masterpiece"])
    assert "a wooden boat on a lake" in reading["content"]
    assert reading["did_you_mean"] == [{"word": "pencl", "meant": "pencil"}]
    lines = outputs["report"]["text"][0].splitlines()
    assert 'Did you mean "pencil" for "pencl"?' in lines
    assert "Not wanted: hearts." in lines
    assert f"snow falling (best: {PAIR[1]})" in next(line for line in lines if line.startswith("Effects: "))
    # A short phrase is ranked and nothing else, also where nothing fits it.
    nothing = facts_of(host.run(workflows.retrieve("drawn in pencl", DATABASE, max_strength=0.0)), "report")
    assert nothing["matches"] == []
    assert nothing["reading"] == {
        "effects": [],
        "forbidden": [],
        "content": [],
        "ignored": [],
        "did_you_mean": [{"word": "pencl", "meant": "pencil"}],
    }
    assert "reading" not in facts_of(host.run(workflow_of("CarlosLorasByName", name="pencil")), "report")


def test_names_and_ids_are_found(host: Host, rows: MetricsDatabase) -> None:
    found = asked(host, "CarlosLorasByName", name="SKETCH pencil")
    assert [match["file"] for match in found] == ["pencil_sketch.safetensors"]
    assert asked(host, "CarlosLorasByName", name="no such name") == []


def test_searches_are_combined_and_taken_away(host: Host, rows: MetricsDatabase) -> None:
    both = {**sentence("pencil sketch", "one"), **sentence("heavy snowfall", "two")}
    together = asked(host, "CarlosCombineSearches", extra=both, matches_1=["one", 0], matches_2=["two", 0])
    assert {match["file"] for match in together[:2]} == set(PAIR)
    compound = {**sentence("pencil sketch and heavy snowfall", "one"), **sentence("heavy snowfall", "two")}
    without = asked(host, "CarlosCombineSearches", extra=compound, matches_1=["one", 0], matches_2=["two", 0], weight_2=-1.0)
    assert without[0]["file"] == PAIR[0]
    with pytest.raises(Failed, match="No search has a weight above 0"):
        asked(host, "CarlosCombineSearches", extra=both, matches_1=["one", 0], weight_1=-1.0)


def test_duplicates_are_listed(host: Host, rows: MetricsDatabase) -> None:
    workflow = {
        "db": workflows.loader(DATABASE),
        "same": workflows.node("CarlosDuplicateLoras", database=["db", 0], min_cosine=0.95),
    }
    groups = facts_of(host.run(workflow), "same")["groups"]
    assert sorted(sorted(match["file"] for match in group) for group in groups) == [
        ["mystery_01.safetensors", "pixel_art.safetensors"],
        ["mystery_07.safetensors", "sepia_toned.safetensors"],
    ]


def test_pictures_find_the_lora_that_made_them(host: Host, base: Path, rows: MetricsDatabase) -> None:
    checkpoint = workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT)
    lora = workflows.load_found_lora()
    lora["inputs"]["lora_name"] = PAIR[0]
    rendered = {"checkpoint": checkpoint, "load": lora}
    rendered |= workflows.render("a white cat on the grass", 3, ["load", 0], ["load", 1], "with")
    rendered |= workflows.render("a white cat on the grass", 3, ["checkpoint", 0], ["checkpoint", 1], "without")
    alone = workflow_of("CarlosLorasLikeImage", extra=rendered, image=["with-decode", 0])
    outputs = host.run(alone)
    assert "Compared with" in outputs["report"]["text"][0]
    assert facts_of(outputs, "report")["matches"][0]["file"] == PAIR[0]
    pair = {"image": ["with-decode", 0], "image_without": ["without-decode", 0]}
    assert asked(host, "CarlosLorasLikeImage", extra=rendered, **pair)[0]["file"] == PAIR[0]
    with pytest.raises(Failed, match="changes nothing"):
        asked(host, "CarlosLorasLikeImage", extra=rendered, **(pair | {"image_without": ["with-decode", 0]}))


def test_an_uninstalled_match_blocks_the_name_only(host: Host, base: Path, rows: MetricsDatabase) -> None:
    file = base / "models" / "loras" / PAIR[0]
    shutil.move(file, base / PAIR[0])
    try:
        found = asked(host, "CarlosLorasByName", name="pencil sketch")
        assert [(match["file"], match["installed"]) for match in found] == [(PAIR[0], False)]
        assert asked(host, "CarlosLorasByName", name="pencil sketch", installed_only=True) == []
    finally:
        shutil.move(base / PAIR[0], file)
