"""The nodes that find LoRAs in other ways than by a sentence, in a real ComfyUI."""

from __future__ import annotations

import json
import re
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


def test_where_no_lora_is_like_the_one_that_is_asked_for_the_report_says_so(host: Host, rows: MetricsDatabase) -> None:
    def report(name: str, **further: Any) -> str:
        return host.run(workflow_of("CarlosSimilarLoras", lora_id="", lora_name=name, **further))["report"]["text"][0]

    assert "No LoRA is much like it: the nearest has a cosine of 0." in report("mystery_12.safetensors")
    assert "No LoRA is much like it" not in report("pixel_art.safetensors")
    # Only what is alike enough is passed on.
    assert "No LoRA is passed on. No LoRA is much like it: the nearest, " in report("mystery_12.safetensors", min_cosine=0.5)
    some = report("pixel_art.safetensors", min_cosine=0.5)
    assert {row[0] for row in _columns(some, "alike enough")} == {"yes", "no"}
    with pytest.raises(Failed, match="No LoRA is chosen"):
        report("by lora_id")


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


def test_what_is_not_sure_enough_is_listed_and_not_passed_on(host: Host, rows: MetricsDatabase) -> None:
    def run(query: str, **settings: Any) -> tuple[str, dict[str, Any], list[Any]]:
        workflow = workflows.retrieve(query, DATABASE, **settings)
        checkpoint = workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT)
        apply = workflows.node(
            "CarlosApplyLoras", model=["checkpoint", 0], matches=["find", 0], max_loras=2, weight=1.0, clip=["checkpoint", 1]
        )
        shown = {
            name: workflows.node("PreviewAny", source=source) for name, source in (("stack", ["apply", 3]), ("f", ["find", 4]))
        }
        outputs = host.run({**workflow, "checkpoint": checkpoint, "apply": apply, **shown})
        text = outputs["report"]["text"][0]
        assert outputs["f"]["text"] == [text.splitlines()[-1]]
        return text, facts_of(outputs, "report"), [outputs["stack"]["text"][0], outputs["score"]["text"][0]]

    unsure, likely = {"ranking": "calibrated"}, {"ranking": "calibrated", "min_confidence": "likely"}
    text, facts, (stack, score) = run("a herd of elephants", **likely)
    assert (stack, float(score), len(facts["matches"])) == ("[]", 0.0, 5)
    assert [match["installed"] for match in facts["matches"]] == [True] * 5
    assert [match["sure_enough"] for match in facts["matches"]] == [False] * 5
    assert "No LoRA is passed on. Nothing fits 'a herd of elephants'" in text
    assert _columns(text, "sure enough", "installed") == [["no", "yes"]] * 5
    # Without it, and in workflows that were saved before, the best is taken as ever.
    text, facts, (stack, score) = run("a herd of elephants", **unsure)
    assert facts["matches"][0]["file"] in stack
    assert float(score) == pytest.approx(facts["matches"][0]["score"])
    assert not any("sure_enough" in match for match in facts["matches"])
    assert _columns(text, "installed") == [["yes"]] * 5
    assert "sure enough" not in text
    # Of a query of two effects, the LoRAs that Auto LoRA would take, and no other.
    query = "pixel art, burning flames"
    text, facts, (stack, _) = run(query, **likely)
    chosen = [lora["file"] for lora in facts_of(host.run(workflows.auto_lora(query, DATABASE)), "report")["choice"]]
    sure = [match["file"] for match in facts["matches"] if "sure_enough" not in match]
    assert set(chosen) <= set(sure) <= {*chosen, "pixel_art.safetensors", "mystery_01.safetensors"}
    assert len(chosen) == 2
    said = _columns(text, "LoRA", "sure enough")
    assert [row[0] for row in said if row[1] == "yes"] == sure
    assert text.splitlines()[2].split()[:3] == ["rank", "LoRA", "score"]
    with pytest.raises(Failed, match="not in (the )?list|confidence"):
        run("drawn in pencil", min_confidence="very")


def _columns(text: str, *names: str) -> list[list[str]]:
    """The cells of some columns of a report's table, line by line."""
    lines = text.splitlines()
    (top,) = [place for place, line in enumerate(lines) if line.startswith("rank")]
    n_rows = len(json.loads(lines[-1])["matches"])
    header, *rows = (re.split(r"\s{2,}", line.strip()) for line in lines[top : top + 1 + n_rows])
    places = [header.index(name) for name in names]
    return [[row[place] for place in places] for row in rows]


def test_each_limit_is_counted_and_a_name_is_sent_where_names_are_found(host: Host, base: Path, rows: MetricsDatabase) -> None:
    labelled = MetricsDatabase(rows.table, encoder_id=rows.encoder_id)
    for lora_id in labelled.column("lora_id"):
        labelled.set_value(lora_id, "base_model", "SD 3")
    labelled.save_parquet(base / "models" / "carlos" / "labelled.parquet")
    outputs = host.run(workflows.retrieve("drawn in pencil", "labelled.parquet", base_model="SDXL", installed_only=True))
    n = len(labelled)
    told = f"{n} are installed; of these 0 are for SDXL or do not say for what (left out: {n} for SD 3)."
    assert told in outputs["report"]["text"][0]
    filters = facts_of(outputs, "report")["filters"]
    assert [(each["name"], each["left"]) for each in filters] == [("installed", n), ("base_model", 0)]
    outputs = host.run(workflows.retrieve("mystery_12", DATABASE))
    assert "Names are not searched here: LoRAs by Name finds 'mystery_12'." in outputs["report"]["text"][0].splitlines()
    assert "Names are not" not in host.run(workflows.retrieve("pencil sketch", DATABASE))["report"]["text"][0]
    shutil.copy(base / "models" / "loras" / PAIR[0], base / "models" / "loras" / "not_measured_v2.safetensors")
    few = MetricsDatabase(rows.table.filter([name != PAIR[0] for name in rows.column("file_name")]), encoder_id=rows.encoder_id)
    few.save_parquet(base / "models" / "carlos" / "few.parquet")
    try:
        text = host.run(workflows.retrieve("not_measured_v2, never_heard_of.safetensors", "few.parquet"))["report"]["text"][0]
    finally:
        (base / "models" / "loras" / "not_measured_v2.safetensors").unlink()
    assert "Names are not searched here, and 'not_measured_v2' is not measured: index it first." in text.splitlines()
    assert "Names are not searched here; no LoRA is called 'never_heard_of'." in text.splitlines()


def test_a_lora_for_another_model_is_called_that_and_nobody_is_sent_to_index_it(
    host: Host, base: Path, rows: MetricsDatabase
) -> None:
    misfit, loras = "mystery_04.safetensors", base / "models" / "loras"
    checkpoint = {"checkpoint": workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT)}
    model = {"model": ["checkpoint", 0]}
    few = MetricsDatabase(rows.table.filter([name != misfit for name in rows.column("file_name")]), encoder_id=rows.encoder_id)
    few.save_parquet(base / "models" / "carlos" / "without_misfit.parquet")
    says = "does not fit: 0 of 6 layers match this SD3 model."
    asked = workflows.retrieve("mystery_04", "without_misfit.parquet") | checkpoint
    lines = host.run(asked)["report"]["text"][0].splitlines()
    assert "Names are not searched here, and 'mystery_04' is not measured: index it first." in lines
    asked["find"]["inputs"] |= model
    lines = host.run(asked)["report"]["text"][0].splitlines()
    assert f"'mystery_04' {says}" in lines
    assert not any("index it first" in line for line in lines)
    lines = host.run(workflows.auto_lora("mystery_04", "without_misfit.parquet"))["report"]["text"][0].splitlines()
    assert f"'mystery_04' {says}" in lines
    assert not any("index it first" in line for line in lines)
    # By name, what is measured and does not fit is not said to be unknown.
    by_name = workflow_of("CarlosLorasByName", extra=checkpoint, name="mystery_04", **model)
    text = host.run(by_name)["report"]["text"][0]
    assert f"{misfit} is called so and left out: only what has layers that fit this SD3 model is listed." in text
    similar = workflow_of("CarlosSimilarLoras", extra=checkpoint, lora_id="", lora_name="other.safetensors", **model)
    similar["db"] = workflows.loader("without_misfit.parquet")
    similar["find"]["inputs"]["lora_name"] = misfit
    assert (loras / misfit).exists()
    with pytest.raises(Failed, match=f"{misfit} {says}"):
        host.run(similar)
    del similar["find"]["inputs"]["model"]
    with pytest.raises(Failed, match="Index it with LoRA Indexer first"):
        host.run(similar)


def test_names_and_ids_are_found(host: Host, rows: MetricsDatabase) -> None:
    found = asked(host, "CarlosLorasByName", name="SKETCH pencil")
    assert [match["file"] for match in found] == ["pencil_sketch.safetensors"]
    assert asked(host, "CarlosLorasByName", name="no such name") == []
    # No weight helps a LoRA that does nothing.
    text = host.run(workflow_of("CarlosLorasByName", name="mystery_08"))["report"]["text"][0]
    assert "mystery_08.safetensors changes nothing: its strength is 0.00. Take another LoRA." in text.splitlines()
    lora_id = str(next(row["lora_id"] for row in rows.table.to_pylist() if row["file_name"] == PAIR[0]))
    assert [match["file"] for match in asked(host, "CarlosLorasByName", name=lora_id)] == [PAIR[0]]
    assert PAIR[0] not in [match["file"] for match in asked(host, "CarlosLorasByName", name=lora_id[1:], top_k=100)]


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
        outputs = host.run(workflows.retrieve("drawn in pencil", DATABASE, min_confidence="likely"))
        lines = outputs["report"]["text"][0].splitlines()
        reason = f"What fits surely enough is not installed: {PAIR[0]}. Put it into models/loras."
        assert lines[1].startswith(f"No LoRA is passed on. {reason}")
        assert any(line.startswith("Switch installed_only on") for line in lines)
        # Of two effects, the one whose LoRA is installed is passed on, though the list has room for one.
        outputs = host.run(workflows.retrieve("drawn in pencil, snow falling", DATABASE, min_confidence="likely", top_k=1))
        (match,) = facts_of(outputs, "report")["matches"]
        assert (match["file"], match["installed"], "sure_enough" in match) == (PAIR[1], True, False)
    finally:
        shutil.move(base / PAIR[0], file)
