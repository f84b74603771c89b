"""The main job in a real ComfyUI: index LoRAs, find them by what they do, apply them, see the picture change."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carlos_core.database.database import load_database
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Failed, Host, facts_of
from tests.support.miniworld import MINIWORLD

ORDINARY = miniworld.labels("ordinary")


@pytest.fixture(scope="module")
def indexed(host: Host) -> dict[str, dict[str, Any]]:
    """Facts of all ordinary LoRAs, indexed into the database "mini" on the short prompt set."""
    # Other tests may have made some of the pictures.
    host.run({"caches": workflows.node("CarlosCaches", clear="everything")})
    return {name: facts_of(host.run(workflows.index(name)), "index") for name in ORDINARY}


@pytest.fixture(scope="module")
def rankings(host: Host, indexed: dict[str, Any]) -> dict[str, list[str]]:
    """File name -> files found for the name of its effect, best first."""
    found = {}
    for name, facts in ORDINARY.items():
        outputs = host.run(workflows.retrieve(facts["label"], top_k=3))
        found[name] = [match["file"] for match in facts_of(outputs, "report")["matches"]]
    return found


def test_every_ordinary_lora_is_found_by_the_name_of_its_effect(rankings: dict[str, list[str]]) -> None:
    top_1 = [name for name, files in rankings.items() if files[0] == name]
    top_3 = [name for name, files in rankings.items() if name in files]
    missed = {name: files for name, files in rankings.items() if files[0] != name}
    assert (len(top_1), len(top_3)) == (len(ORDINARY), len(ORDINARY)), missed


def test_a_row_says_what_was_measured(indexed: dict[str, dict[str, Any]], base: Path) -> None:
    database = load_database(base / "models" / "carlos" / "mini.parquet")
    assert len(database) == len(ORDINARY)
    for name, facts in indexed.items():
        row = database.cells(facts["lora_id"])
        assert (row["file_name"], row["n_images"], row["n_prompts"]) == (name, 12, 12)
        assert row["protocol_id"] == facts["protocol_id"]
        assert list(row["trigger_words"] or []) == ORDINARY[name]["trigger_words"]
        # 12 pictures, 12 steps, cond and uncond.
        assert facts["model_evaluations"] == 12 * 12 * 2
        assert facts["status"] == "indexed"
    protocols = {facts["protocol_id"] for facts in indexed.values()}
    assert len(protocols) == 1
    assert database.protocols[protocols.pop()]["steps"] == 12


def test_the_base_side_is_made_once_for_all_loras(indexed: dict[str, dict[str, Any]]) -> None:
    assert [facts["base_model_evaluations"] for facts in indexed.values()] == [12 * 12 * 2] + [0] * (len(indexed) - 1)


def test_the_short_measurement_points_where_the_full_one_does(indexed: dict[str, dict[str, Any]], base: Path) -> None:
    reference = load_database(MINIWORLD / "reference_metrics.parquet", encoder_id="any").to_dataframe().set_index("file_name")
    rows = load_database(base / "models" / "carlos" / "mini.parquet").to_dataframe().set_index("file_name")
    cosines = {name: miniworld.cosine(rows.direction[name], reference.direction[name]) for name in indexed}
    assert min(cosines.values()) > 0.8, cosines


def test_indexing_again_does_nothing_unless_told_to(host: Host, indexed: dict[str, Any]) -> None:
    name = next(iter(ORDINARY))
    again = facts_of(host.run(workflows.index(name)), "index")
    assert (again["status"], again["model_evaluations"]) == ("already indexed", 0)
    assert again["strength"] == indexed[name]["strength"]
    renewed = facts_of(host.run(workflows.index(name, overwrite=True)), "index")
    assert (renewed["status"], renewed["model_evaluations"]) == ("indexed", 12 * 12 * 2)
    assert renewed["strength"] == pytest.approx(indexed[name]["strength"], rel=1e-6)
    assert renewed["lora_id"] == again["lora_id"] == indexed[name]["lora_id"]


def test_a_poorer_measurement_leaves_the_better_row_and_makes_no_picture(host: Host, indexed: dict[str, Any]) -> None:
    name = "pixel_art.safetensors"
    # Other steps: the model has another fingerprint, and is known to be the same checkpoint all the same.
    for checkpoint in ("any of its shape", "this one"):
        settings: dict[str, Any] = {"max_prompts": 4, "steps": 6, "checkpoint": checkpoint}
        outputs = host.run(workflows.index(name, **settings))
        kept = facts_of(outputs, "index")
        assert (kept["status"], kept["n_images"]) == ("already indexed", 12)
        assert (kept["model_evaluations"], kept["base_model_evaluations"]) == (0, 0)
        assert kept["strength"] == indexed[name]["strength"]
        better = "its row stays: 12 pairs of pictures by the preset 'custom' are better than 4 pairs by the preset 'custom'"
        assert f"{better}; overwrite replaces it" in outputs["index"]["text"][0].splitlines()


def test_a_row_that_is_replaced_is_said(host: Host) -> None:
    name = "pixel_art.safetensors"
    poor = facts_of(host.run(workflows.index(name, "replaced", max_prompts=4)), "index")
    assert poor["notes"] == []
    better = facts_of(host.run(workflows.index(name, "replaced", max_prompts=6)), "index")
    assert (better["status"], better["n_images"]) == ("indexed", 6)
    assert better["notes"][0].startswith("replaces its row of 20")
    assert better["notes"][0].endswith(": 4 pairs of pictures by the preset 'custom'")
    worse = facts_of(host.run(workflows.index(name, "replaced", max_prompts=4, overwrite=True)), "index")
    assert (worse["status"], worse["n_images"]) == ("indexed", 4)
    assert worse["notes"][0].endswith(": 6 pairs of pictures by the preset 'custom'")


def test_reports_name_their_database_and_give_their_facts_alone(host: Host, indexed: dict[str, Any]) -> None:
    rows, encoder = len(ORDINARY), f"{miniworld.encoder_id()}"
    named = {"file": "mini.parquet", "rows": rows, "encoder_id": encoder}
    line = f"database mini.parquet: {rows} LoRAs, encoder {encoder}"
    index = workflows.index("pixel_art.safetensors")
    library = workflows.index_library("pixel_art", preset="custom")
    duplicates = {
        "db": workflows.loader("empty", "mini"),
        "index": workflows.node("CarlosDuplicateLoras", database=["db", 0], min_cosine=0.9),
    }
    for workflow, output in ((index, 3), (library, 3), (duplicates, 1)):
        workflow["facts"] = workflows.node("PreviewAny", source=["index", output])
        outputs = host.run(workflow)
        lines = outputs["index"]["text"][0].splitlines()
        assert outputs["facts"]["text"] == [lines[-1]]
        assert json.loads(lines[-1])["database"] == named
        assert line in lines
    found = host.run(workflows.retrieve("pixel art"))["report"]["text"][0].splitlines()
    assert json.loads(found[-1])["database"] == named
    assert line in found


def test_the_model_is_unchanged_after_indexing(host: Host, indexed: dict[str, Any]) -> None:
    before = _picture(host, _base_render("before"))
    host.run(workflows.index("pencil_sketch.safetensors", overwrite=True, max_prompts=2))
    host.run(workflows.index("pencil_sketch.safetensors"))
    assert np.array_equal(before, _picture(host, _base_render("after")))


@pytest.mark.parametrize("name", ["pencil_sketch.safetensors", "pink_hearts.safetensors", "mystery_12.safetensors"])
def test_applying_the_best_match_moves_the_picture_that_way(host: Host, indexed: dict[str, Any], name: str) -> None:
    label = ORDINARY[name]["label"]
    without = _saved(host, _base_render("plain"))
    with_lora = _saved(host, _applied_render(label))
    moved = miniworld.features(with_lora) - miniworld.features(without)
    cosines = {other: miniworld.cosine(moved, miniworld.signature(facts["label"])) for other, facts in ORDINARY.items()}
    assert max(cosines, key=lambda other: cosines[other]) == name
    assert cosines[name] > 0.3


def test_the_name_wired_into_load_lora_renders_the_same_picture(host: Host, indexed: dict[str, Any]) -> None:
    query = "pixel art"
    applied = _picture(host, _applied_render(query, trigger=False))
    workflow = _found(query) | {"load": workflows.load_found_lora()}
    loaded = _picture(host, workflow | workflows.render("a small house", 7, ["load", 0], ["load", 1], "loaded"))
    assert np.array_equal(applied, loaded)
    assert not np.array_equal(applied, _picture(host, _base_render("unlike")))


def test_without_an_installed_match_the_branch_is_blocked_with_a_message(host: Host) -> None:
    query = "an oil painting of a house"
    workflow = workflows.retrieve("no such thing", create_as="nothing_here")
    outputs = host.run(workflow)
    facts = facts_of(outputs, "report")
    assert (facts["query"], facts["matches"]) == ("no such thing", [])
    blocked = workflow | {
        "checkpoint": workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT),
        "load": workflows.load_found_lora(),
    }
    outputs = host.run(blocked | workflows.render(query, 1, ["load", 0], ["load", 1], "blocked"))
    assert "blocked-save" not in outputs


def test_directions_agree_with_the_reference_measurement(host: Host, base: Path) -> None:
    """The protocol behind the reference metrics, for a LoRA with a trigger word and diffusers' key names."""
    name = "pink_hearts.safetensors"
    facts = facts_of(host.run(workflows.index(name, "reference", prompts="miniworld-index", seeds=4)), "index")
    row = load_database(base / "models" / "carlos" / "reference.parquet").cells(facts["lora_id"])
    reference = load_database(MINIWORLD / "reference_metrics.parquet", encoder_id="any").to_dataframe().set_index("file_name")
    assert facts["n_images"] == 256
    assert miniworld.cosine(row["direction"], reference.direction[name]) >= 0.9999
    assert facts["strength"] == pytest.approx(reference.strength[name], abs=0.01)
    assert facts["consistency"] == pytest.approx(reference.consistency[name], abs=0.002)


def test_special_loras_come_out_as_what_they_are(host: Host) -> None:
    nothing = facts_of(host.run(workflows.index("mystery_08.safetensors", "special")), "index")
    assert (nothing["strength"], nothing["consistency"]) == (0.0, None)
    assert nothing["notes"] == ["no measurable effect"]
    assert [(miss["why"], miss["limit"], miss["bound"]) for miss in nothing["not_found"]] == [
        ("changes nothing", "min_consistency", 0.041)
    ]
    outputs = host.run(workflows.index("mystery_02.safetensors", "special"))
    strong = facts_of(outputs, "index")
    assert strong["strength"] > 9.8
    assert [(miss["why"], miss["limit"], miss["bound"]) for miss in strong["not_found"]] == [("too strong", "max_strength", 9.8)]
    said = f"searches with the usual limits will not find it: too strong: strength {strong['strength']:.3f}, max_strength is 9.8"
    assert said in outputs["index"]["text"][0].splitlines()
    library = host.run(workflows.index_library("mystery_0[248]*", "special", preset="custom"))
    # What workflows used last comes first, which other tests decide.
    assert sorted((miss["file"], miss["why"]) for miss in facts_of(library, "index")["not_found"]) == [
        ("mystery_02.safetensors", "too strong"),
        ("mystery_08.safetensors", "changes nothing"),
    ]
    rows = [line.split() for line in library["index"]["text"][0].splitlines() if line.startswith("already indexed")]
    assert sorted(row[2] for row in rows) == ["mystery_02.safetensors", "mystery_08.safetensors"]
    with pytest.raises(Failed, match="0 of 18 keys in 'mystery_04.safetensors' match"):
        host.run(workflows.index("mystery_04.safetensors", "special"))


def test_a_library_run_says_first_what_it_did_and_what_can_be_done_next(host: Host) -> None:
    def run(**settings: Any) -> tuple[list[str], dict[str, Any], Image.Image]:
        workflow = workflows.index_library("mystery_0[1248]*", "library", preset="custom", max_prompts=2, **settings)
        workflow["sheets"] = workflows.node("SaveImage", images=["index", 2], filename_prefix="sheets")
        outputs = host.run(workflow)
        pictures = outputs["sheets"]["images"]
        shown = Image.open(host.output_file(pictures[0])).convert("RGB")
        lines = outputs["index"]["text"][0].splitlines()
        # One picture for each LoRA that is in the database, all of a size.
        assert len(pictures) == 3
        return lines, facts_of(outputs, "index"), shown

    misfit = "mystery_04.safetensors"
    lines, facts, sheet = run()
    place = lines.index("Details:")
    assert lines[0] == "3 of 4 LoRAs are in the database: 3 measured, 0 known already, 1 for other models, 0 failed."
    assert lines[1] == "Next: ask for what they do with Auto LoRA or LoRA Retriever, on this database."
    assert lines[3] == f"To measure those for other models, load a checkpoint of their kind: {misfit}."
    assert lines[4].startswith("status")
    (said,) = [line for line in lines if line.startswith("for other models: ")]
    assert said == f"for other models: {misfit}: LoRA does not fit: 0 of 6 layers match this SD3 model."
    assert not any(line.startswith("failed:") for line in lines)
    # Scripts find it where it was, and among those for other models.
    assert [failure["file"] for failure in facts["failed"]] == facts["for_other_models"] == [misfit]
    technical = [place for place, line in enumerate(lines) if line.startswith(("preset ", "128 x 128", "database library"))]
    assert len(technical) == 3
    assert min(technical) > place
    # The name stands above the pictures, in dark letters on white.
    line = np.asarray(sheet.crop((0, 0, sheet.width, 30)))
    assert (line.min(), line[:, -20:].min()) == (0, 255)
    assert sheet.height == 30 + 2 * 128 + 4
    # Nothing new: the pictures that were kept are shown again.
    again, facts, kept = run()
    assert again[0] == "3 of 4 LoRAs are in the database: 0 measured, 3 known already, 1 for other models, 0 failed."
    assert facts["indexed"] == []
    assert np.array_equal(np.asarray(kept), np.asarray(sheet))


def test_where_there_is_no_picture_to_show_one_says_so(host: Host) -> None:
    workflow = workflows.index_library("mystery_04", "library_of_none", preset="custom", max_prompts=2)
    workflow["sheets"] = workflows.node("SaveImage", images=["index", 2], filename_prefix="nothing")
    outputs = host.run(workflow)
    (picture,) = outputs["sheets"]["images"]
    shown = np.asarray(Image.open(host.output_file(picture)).convert("L"))
    assert shown.shape == (64, 512)
    assert (shown.min(), shown.max()) == (0, 255)
    said = "0 of 1 LoRA is in the database: 0 measured, 0 known already, 1 for other models"
    assert outputs["index"]["text"][0].startswith(said)


def test_the_report_of_one_lora_says_first_what_it_did_and_what_can_be_done_next(host: Host) -> None:
    def lines(name: str) -> list[str]:
        text = host.run(workflows.index(name, "one_by_one", max_prompts=2))["index"]["text"][0].splitlines()
        top = text[: text.index("Details:")]
        assert len(top) <= 5
        assert any(line.startswith("strength ") for line in text[len(top) :])
        return top

    top = lines("pixel_art.safetensors")
    assert top[0] == "pixel_art.safetensors: indexed"
    assert top[1].startswith("what it does: ")
    assert top[-1] == "Next: ask for what it does with Auto LoRA or LoRA Retriever, on this database."
    assert lines("mystery_08.safetensors")[-1].startswith("Next: if it should do something, index it with the checkpoint")
    top = lines("mystery_02.safetensors")
    assert top[-2].startswith("searches with the usual limits will not find it: too strong: strength ")
    assert top[-1] == "Next: to find it all the same, raise max_strength in Auto LoRA or LoRA Retriever."


def test_a_sidecar_gives_the_id_and_trigger_words_whose_brackets_are_literal(
    host: Host, base: Path, request: pytest.FixtureRequest
) -> None:
    folder = base / "models" / "loras" / "styles"
    folder.mkdir()
    request.addfinalizer(partial(shutil.rmtree, folder))
    shutil.copy(MINIWORLD / "loras" / "pencil_sketch.safetensors", folder / "known.safetensors")
    sidecar = {"id": 123456, "modelId": 77, "trainedWords": ["saber (fate)", "1girl"], "baseModel": "SD 3"}
    (folder / "known.civitai.info").write_text(json.dumps(sidecar))
    facts = facts_of(host.run(workflows.index("styles/known.safetensors", "sidecar", max_prompts=2)), "index")
    assert (facts["lora_id"], facts["file"]) == ("123456", "styles/known.safetensors")
    workflow = {
        "checkpoint": workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT),
        **workflows.retrieve("pencil", "sidecar", min_consistency=-1.0),
        "apply": workflows.node("CarlosApplyLoras", model=["checkpoint", 0], matches=["find", 0], max_loras=1, weight=0.8),
        "words": workflows.node("PreviewAny", source=["apply", 2]),
        "stack": workflows.node("PreviewAny", source=["apply", 3]),
    }
    outputs = host.run(workflow)
    assert outputs["words"]["text"] == [r"saber \(fate\), 1girl"]
    assert json.loads(outputs["stack"]["text"][0]) == [["styles/known.safetensors", 0.8, 0.8]]


def test_a_prompt_comes_out_with_the_trigger_words_behind_it_and_no_comma_where_there_are_none(
    host: Host, indexed: dict[str, Any]
) -> None:
    def prompts(query: str) -> list[str]:
        workflow = _found(query)
        both = {"model": ["checkpoint", 0], "clip": ["checkpoint", 1], "prompt": ["mine", 0]}
        workflow["mine"] = workflows.node("PrimitiveStringMultiline", value="a small house")
        workflow["apply"] = workflows.node("CarlosApplyLoras", matches=["find", 0], max_loras=1, weight=1.0, **both)
        auto = workflows.auto_lora(query, "mini.parquet", mode="best one")["auto"]
        workflow["auto"] = {**auto, "inputs": {**auto["inputs"], **both}}
        shown = {"of_apply": ["apply", 4], "of_auto": ["auto", 6]}
        workflow |= {name: workflows.node("PreviewAny", source=source) for name, source in shown.items()}
        outputs = host.run(workflow)
        return [outputs[name]["text"][0] for name in shown]

    assert prompts("pencil sketch") == ["a small house, plumivo"] * 2
    assert prompts("pixel art") == ["a small house"] * 2


def test_nodes_say_on_themselves_what_they_did(host: Host, base: Path) -> None:
    workflow = workflows.index("pencil_sketch.safetensors", "said", max_prompts=2)
    measured = host.said(workflow)["index"]
    assert re.fullmatch(r"done: pencil_sketch measured, strength \d+\.\d\d, consistency -?\d\.\d+", measured)
    again = workflows.index_library("pencil", "said", preset="custom", max_prompts=2)
    assert host.said(again)["index"] == "done: 1 known already"
    loaded = {
        "checkpoint": workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT),
        **workflows.retrieve("pencil", "said", min_consistency=-1.0),
        "apply": workflows.node("CarlosApplyLoras", model=["checkpoint", 0], matches=["find", 0], max_loras=1, weight=0.8),
        "words": workflows.node("PreviewAny", source=["apply", 2]),
        "caches": workflows.node("CarlosCaches", clear="nothing"),
    }
    said = host.said(loaded)
    assert said["apply"] == "pencil_sketch at 0.8"
    assert re.fullmatch(r"pictures and thumbnails: [\d.]+ MB, limit 10 GB; \d+ signatures?", said["caches"])


def test_load_lora_that_gets_no_name_says_why_and_what_goes_on_without_a_lora(host: Host) -> None:
    workflow = workflows.retrieve("no such thing", create_as="nothing_here_either")
    workflow["checkpoint"] = workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT)
    workflow["load"] = workflows.load_found_lora()
    workflow |= workflows.render("a house", 1, ["load", 0], ["load", 1], "blocked")
    with host.events() as (client_id, socket):
        host.submit(workflow, client_id)
        said = ""
        while not said:
            message = socket.recv()
            event: dict[str, Any] = json.loads(message) if isinstance(message, str) else {"type": "binary"}
            assert event["type"] != "execution_success"
            said = event["data"]["exception_message"] if event["type"] == "execution_error" else ""
    assert said.startswith("Execution Blocked: The database is empty: index some LoRAs first.")
    assert said.endswith("Apply Retrieved LoRAs, in place of Load LoRA, goes on without a LoRA then.")


def _found(query: str) -> workflows.Workflow:
    return {
        "checkpoint": workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT),
        **workflows.retrieve(query, top_k=1),
    }


def _applied_render(query: str, *, trigger: bool = True) -> workflows.Workflow:
    """A picture with the best match applied and, if wanted, its trigger words behind the prompt."""
    prompt: Any = ["prompt", 0] if trigger else "a small house"
    return {
        **_found(query),
        "apply": workflows.node(
            "CarlosApplyLoras", model=["checkpoint", 0], clip=["checkpoint", 1], matches=["find", 0], max_loras=1, weight=1.0
        ),
        "prompt": workflows.node("StringConcatenate", string_a="a small house", string_b=["apply", 2], delimiter=", "),
        **workflows.render(prompt, 7, ["apply", 0], ["apply", 1], "applied"),
    }


def _base_render(prefix: str) -> workflows.Workflow:
    return {
        "checkpoint": workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT),
        **workflows.render("a small house", 7, ["checkpoint", 0], ["checkpoint", 1], prefix),
    }


def _saved(host: Host, workflow: workflows.Workflow) -> Path:
    outputs = host.run(workflow)
    save = next(name for name in outputs if name.endswith("-save"))
    return host.output_file(outputs[save]["images"][0])


def _picture(host: Host, workflow: workflows.Workflow) -> np.ndarray:
    return np.asarray(Image.open(_saved(host, workflow)).convert("RGB"))
