"""Auto LoRA in a real ComfyUI: what it applies, what it leaves alone, what it fetches, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carlos_core.database.database import MetricsDatabase
from tests.support import civitai_server, miniworld, workflows
from tests.support import comfyui_host as hosts
from tests.support.civitai_server import KEY, CivitaiServer
from tests.support.comfyui_host import Failed, Host, facts_of, not_offered
from tests.support.miniworld import MINIWORLD
from tests.support.rows import lora_id_of

DATABASE = "auto.parquet"
SNOW, PENCIL = "mystery_12.safetensors", "pencil_sketch.safetensors"
BOTH = "snow falling, pencil sketch"
PROMPT = "a house by a lake"


@pytest.fixture(scope="module")
def civitai() -> Iterator[CivitaiServer]:
    with civitai_server.serving() as server:
        # The row's file is the second one of its version.
        names = {"Another.safetensors": PENCIL, "Snow fall.safetensors": SNOW}
        files = {name: (MINIWORLD / "loras" / lora).read_bytes() for name, lora in names.items()}
        server.add(5, files, trainedWords=["snw"], model={"name": "Snow", "type": "LORA"})
        yield server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    folder = hosts.make_base_folder(tmp_path_factory.mktemp("auto-folder"))
    (folder / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    return folder


@pytest.fixture(scope="module")
def host(comfyui: Path, base: Path, civitai: CivitaiServer) -> Iterator[Host]:
    environment = {"CARLOS_CIVITAI_URL": civitai.url, "CIVITAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1,localhost"}
    with hosts.running(comfyui, base, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def rows(base: Path) -> MetricsDatabase:
    """The mini-world's reference metrics as a database that ComfyUI lists."""
    return miniworld.reference_rows(base / "models" / "carlos" / DATABASE)


def changed(rows: MetricsDatabase, base: Path, name: str, file: str, **facts: Any) -> None:
    """A database `name` in which the row of a file says other things."""
    database = MetricsDatabase(rows.table, encoder_id=rows.encoder_id)
    for column, value in facts.items():
        database.set_value(lora_id_of(rows, file), column, value)
    database.save_parquet(base / "models" / "carlos" / name)


def asked(host: Host, query: str, database: str = DATABASE, **settings: Any) -> dict[str, Any]:
    """The facts of Auto LoRA's report."""
    return facts_of(host.run(workflows.auto_lora(query, database, **settings)), "report")


def weights(facts: dict[str, Any]) -> dict[str, float]:
    return {lora["file"]: lora["weight"] for lora in facts["choice"]}


def picture(host: Host, outputs: dict[str, Any], prefix: str) -> Image.Image:
    return Image.open(host.output_file(outputs[f"{prefix}-save"]["images"][0]))


def test_both_effects_are_applied_as_two_loaders_would_apply_them(host: Host, rows: MetricsDatabase) -> None:
    workflow = workflows.auto_lora(BOTH, DATABASE, keep_content=0.0)
    workflow |= workflows.render(PROMPT, 3, ["auto", 0], ["auto", 1], "auto")
    workflow["words"] = workflows.node("PreviewAny", source=["auto", 2])
    outputs = host.run(workflow)
    facts = facts_of(outputs, "report")
    chosen = weights(facts)
    assert (facts["query"], list(chosen)) == (BOTH, [SNOW, PENCIL])
    assert sum(chosen.values()) == pytest.approx(2.0, abs=2e-3)
    assert all(0.25 < weight <= 1.5 for weight in chosen.values())
    for lora in facts["choice"]:
        row = rows.cells(lora["lora_id"])
        assert row["file_name"] == lora["file"]
        assert lora["score"] == pytest.approx(miniworld.cosine(row["direction"], miniworld.signature(BOTH)), abs=1e-4)
    # The rows name no trigger words; the file of the pencil sketch does.
    assert outputs["words"]["text"] == ["plumivo"]
    text = outputs["report"]["text"][0]
    assert all(word in text for word in ("clear", "snow falling", "pencil sketch", SNOW, PENCIL))
    chain: workflows.Workflow = {"checkpoint": workflow["checkpoint"]}
    previous = "checkpoint"
    for place, (file, weight) in enumerate(chosen.items()):
        of_previous = {"model": [previous, 0], "clip": [previous, 1]}
        strengths = {"strength_model": weight, "strength_clip": weight}
        chain[f"load-{place}"] = workflows.node("LoraLoader", lora_name=file, **of_previous, **strengths)
        previous = f"load-{place}"
    chain |= workflows.render(PROMPT, 3, [previous, 0], [previous, 1], "chain")
    ours, theirs = np.asarray(picture(host, outputs, "auto")), np.asarray(picture(host, host.run(chain), "chain"))
    np.testing.assert_array_equal(ours, theirs)


def test_a_lora_whose_layers_do_not_fit_is_not_chosen(host: Host, base: Path, rows: MetricsDatabase) -> None:
    """Two files do the same; the better one is replaced with one that fits no layer."""
    first = next(iter(weights(asked(host, "sepia toned"))))
    place, kept = base / "models" / "loras" / first, base / "kept"
    place.rename(kept)
    try:
        shutil.copy(MINIWORLD / "loras" / "mystery_04.safetensors", place)
        workflow = workflows.auto_lora("sepia toned", DATABASE)
        outputs = host.run(workflow)
        facts = facts_of(outputs, "report")
        (second,) = weights(facts)
        assert {first, second} == {"sepia_toned.safetensors", "mystery_07.safetensors"}
        assert facts["left_out"] == {"does not fit": 2}
        assert "2 LoRAs of the database are left out: their layers do not fit this SD3 model." in facts["notes"]
        # The other is the mini-world's own misfit. LoRA Retriever leaves them out, too, if it is given the model.
        listed = workflows.retrieve("sepia toned", DATABASE)
        listed["checkpoint"] = workflow["checkpoint"]
        assert first in {match["file"] for match in facts_of(host.run(listed), "report")["matches"]}
        listed["find"]["inputs"]["model"] = ["checkpoint", 0]
        found = facts_of(host.run(listed), "report")
        assert found["left_out"] == {"does not fit": 2}
        assert (found["matches"][0]["file"], first in {match["file"] for match in found["matches"]}) == (second, False)
        # Where there is no other, nothing fits.
        (base / "models" / "loras" / second).rename(base / "kept too")
        facts = facts_of(host.run(workflow), "report")
        assert (facts["choice"], facts["left_out"]) == ([], {"does not fit": 2})
    finally:
        kept.replace(place)
        if (base / "kept too").exists():
            (base / "kept too").rename(base / "models" / "loras" / second)


def test_a_file_that_has_the_name_of_a_measured_one_and_another_content_is_not_taken(
    host: Host, base: Path, rows: MetricsDatabase
) -> None:
    """A database from elsewhere names a file that is here; nobody has read the file whole yet."""
    loras, there = base / "models" / "loras", rows.cells(lora_id_of(rows, PENCIL))["sha256"]
    impostor = loras / "impostor.safetensors"
    shutil.copy(MINIWORLD / "loras" / SNOW, impostor)
    try:
        changed(rows, base, "elsewhere.parquet", PENCIL, file_name=impostor.name, sha256="0f" * 32, version_id=None)
        facts = asked(host, "pencil sketch", "elsewhere.parquet")
        assert there != "0f" * 32
        assert weights(facts) == {}
        assert facts["notes"][-1] == "impostor.safetensors has its name but is another LoRA now"
        retriever = workflows.retrieve("pencil sketch", top_k=3)
        retriever["db"] = workflows.loader("elsewhere.parquet")
        report = host.run(retriever)["report"]["text"][0]
        assert "impostor.safetensors has its name but is another LoRA now" in report
    finally:
        impostor.unlink()


def test_a_locked_choice_is_applied_by_file_where_file_and_row_disagree(host: Host, base: Path, rows: MetricsDatabase) -> None:
    row = lora_id_of(rows, PENCIL)
    locked = [{"lora_id": row, "file": SNOW, "weight": 0.8}]
    facts = asked(host, "anything", choice=json.dumps(locked))
    assert weights(facts) == {SNOW: 0.8}
    (note,) = facts["notes"]
    assert note == f"{SNOW} is applied as the choice names it, but it is not known to be the LoRA {row} of {DATABASE}"
    # A file that is somewhere else by now is found by its row, and nothing is to be said.
    gone = [{"lora_id": row, "file": "old/place.safetensors", "weight": 0.8}]
    facts = asked(host, "anything", choice=json.dumps(gone))
    assert (weights(facts), facts["notes"]) == ({PENCIL: 0.8}, [])


def test_without_a_clip_the_model_alone_gets_the_loras(host: Host, rows: MetricsDatabase) -> None:
    workflow = workflows.auto_lora("drawn in pencil", DATABASE)
    del workflow["auto"]["inputs"]["clip"]
    assert weights(facts_of(host.run(workflow), "report")) == {PENCIL: 1.0}


def test_what_nothing_fits_leaves_the_picture_alone_and_says_why(host: Host, rows: MetricsDatabase) -> None:
    workflow = workflows.auto_lora("a herd of elephants", DATABASE)
    workflow |= workflows.render(PROMPT, 3, ["auto", 0], ["auto", 1], "nothing")
    workflow |= workflows.render(PROMPT, 3, ["checkpoint", 0], ["checkpoint", 1], "plain")
    outputs = host.run(workflow)
    facts = facts_of(outputs, "report")
    assert facts["choice"] == []
    assert facts["reason"].startswith("Nothing fits 'a herd of elephants'")
    assert facts["reason"] in outputs["report"]["text"][0].splitlines()[0]
    # All are measured: only other words can help.
    assert facts["next"] == outputs["report"]["text"][0].splitlines()[1]
    assert facts["next"].startswith("Next: ask in other words, or for another effect; every LoRA in models/loras that fits this")
    np.testing.assert_array_equal(picture(host, outputs, "nothing"), picture(host, outputs, "plain"))


def test_what_nothing_fits_is_named_and_not_held_against_the_rest(host: Host, rows: MetricsDatabase) -> None:
    outputs = host.run(workflows.auto_lora("a herd of elephants, pencil sketch", DATABASE))
    assert weights(facts_of(outputs, "report")) == {PENCIL: 1.0}
    assert facts_of(outputs, "report")["reading"]["content"] == ["a herd of elephants"]
    nearest = "pale_pastel_colours.safetensors, no better than chance"
    assert f"Nothing fits 'a herd of elephants' (nearest: {nearest})." in facts_of(outputs, "report")["reason"]
    assert "Content, or nothing fits it: a herd of elephants." in outputs["report"]["text"][0].splitlines()


def test_what_fits_and_is_left_out_is_named_with_the_reason(host: Host, rows: MetricsDatabase) -> None:
    workflow = workflows.auto_lora("pencil sketch, snow falling, burning flames", DATABASE)
    workflow["facts"] = workflows.node("PreviewAny", source=["auto", 5])
    outputs = host.run(workflow)
    facts, lines = facts_of(outputs, "report"), outputs["report"]["text"][0].splitlines()
    assert outputs["facts"]["text"] == [lines[-1]]
    assert len(facts["choice"]) == 2
    (left,) = {PENCIL, SNOW, "burning_flames.safetensors"} - {lora["file"] for lora in facts["choice"]}
    (note,) = [note for note in facts["notes"] if note.startswith(f"{left} fits ")]
    assert note.endswith("is not applied, because max_loras is 2.")
    assert note in lines
    assert len(asked(host, "pencil sketch, snow falling, burning flames", max_loras=3)["choice"]) == 3
    # What fits the model is counted, too, where nothing is chosen by hand.
    assert {"model": len(rows) - 1}.items() <= {each["name"]: each["left"] for each in facts["filters"]}.items()
    assert any("have layers that fit this SD3 model" in line for line in lines)


def test_a_name_in_a_query_is_no_effect_and_the_report_says_where_names_are_found(host: Host, rows: MetricsDatabase) -> None:
    facts = asked(host, "mystery_12.safetensors")
    assert facts["choice"] == []
    assert facts["notes"][0] == "Names are not searched here: LoRAs by Name finds 'mystery_12'."
    assert not any("Names are" in note for note in asked(host, "pencil sketch")["notes"])


def test_for_the_name_of_a_file_no_other_lora_is_applied(host: Host, base: Path, rows: MetricsDatabase) -> None:
    loras = base / "models" / "loras"
    shutil.copy(loras / PENCIL, loras / "heavy_snow_v2.safetensors")
    few = MetricsDatabase(rows.table.filter([name != PENCIL for name in rows.column("file_name")]), encoder_id=rows.encoder_id)
    few.save_parquet(base / "models" / "carlos" / "without_pencil.parquet")
    try:
        facts = asked(host, "heavy_snow_v2", "without_pencil.parquet", min_confidence="weak")
        both = asked(host, "heavy_snow_v2, burning flames", "without_pencil.parquet", min_confidence="weak")
        nothing = asked(host, "a herd of elephants", "without_pencil.parquet")
    finally:
        (loras / "heavy_snow_v2.safetensors").unlink()
    assert (facts["choice"], facts["reason"].startswith("The query is only a LoRA's name")) == ([], True)
    assert "Names are not searched here, and 'heavy_snow_v2' is not measured: index it first." in facts["notes"]
    assert set(weights(both)) == {"burning_flames.safetensors"}
    assert "Left out of the query, as names of LoRAs: 'heavy_snow_v2'." in both["notes"]
    # The file and its copy are measured nowhere.
    more = "measure the 2 LoRAs in models/loras that are not in this database yet (Index Library)"
    race = "or race them for this query (Race LoRAs, or race_unindexed of Auto LoRA)"
    assert nothing["next"] == f"Next: ask in other words, {more}, {race}."


def test_a_base_model_that_leaves_none_is_named_and_no_name_is_blamed(host: Host, base: Path, rows: MetricsDatabase) -> None:
    labelled = MetricsDatabase(rows.table, encoder_id=rows.encoder_id)
    for lora_id in labelled.column("lora_id"):
        labelled.set_value(lora_id, "base_model", "SD 3")
    labelled.save_parquet(base / "models" / "carlos" / "of_sd_3.parquet")
    facts = asked(host, "pencil sketch", "of_sd_3.parquet", base_model="SDXL")
    assert facts["next"] == "Next: set base_model to auto or SD 3."
    assert not any("Names are not" in note for note in facts["notes"])
    assert asked(host, "pencil sketch", max_strength=0.1)["next"] == "Next: raise max_strength."


def test_a_new_prompt_chooses_and_loads_nothing_again(host: Host, rows: MetricsDatabase) -> None:
    def run(prompt: str) -> tuple[str, set[str]]:
        workflow = workflows.auto_lora(BOTH, DATABASE)
        workflow["prompt"] = workflows.node("CarlosPromptWithTriggers", prompt=prompt, trigger_words=["auto", 2])
        workflow["shown"] = workflows.node("PreviewAny", source=["prompt", 0])
        entry = host.wait(host.submit(workflow))
        cached = {node for kind, said in entry["status"]["messages"] if kind == "execution_cached" for node in said["nodes"]}
        return host.outputs_of(entry)["shown"]["text"][0], cached

    assert run(PROMPT)[0].startswith(f"{PROMPT}, ")
    text, cached = run("a mountain")
    assert text.startswith("a mountain, ")
    assert {"auto", "checkpoint"} <= cached
    assert "prompt" not in cached


def test_what_may_be_misspelt_is_asked_about_where_nothing_fits(host: Host, rows: MetricsDatabase) -> None:
    outputs = host.run(workflows.auto_lora("a house in pencl", DATABASE, max_strength=0.1))
    facts = facts_of(outputs, "report")
    assert (facts["choice"], facts["reading"]["did_you_mean"]) == ([], [{"word": "pencl", "meant": "pencil"}])
    assert 'Did you mean "pencil" for "pencl"?' in outputs["report"]["text"][0].splitlines()


def test_what_is_not_wanted_is_not_chosen(host: Host, rows: MetricsDatabase) -> None:
    query = {"query": "pencil sketch in falling snow", "min_confidence": "weak"}
    assert set(weights(asked(host, **query))) == {PENCIL, SNOW}
    assert set(weights(asked(host, **query, negative_query="snow falling"))) == {PENCIL}
    with pytest.raises(Failed, match=r"negative_query \('snow falling'\), is all that was looked for"):
        asked(host, "snow falling", negative_query="snow falling")
    assert (
        "What is in the way is negative_query ('snow falling')"
        in asked(host, "snowstorm", negative_query="snow falling")["reason"]
    )


def test_a_lora_that_will_hardly_be_seen_is_applied_with_a_word_about_it(host: Host, rows: MetricsDatabase) -> None:
    outputs = host.run(workflows.auto_lora("warm golden tint", DATABASE, min_confidence="any", mode="best one"))
    facts = facts_of(outputs, "report")
    assert weights(facts) == {"mystery_11.safetensors": 1.0}
    (note,) = [note for note in facts["notes"] if "hardly be seen" in note]
    said = "mystery_11.safetensors may hardly be seen: its strength is 0.58, and the median of this database is 5.22."
    assert note == f'{said} Emphasise it in the query, as in "(snow:1.5)", or raise its weight in a copy of the choice.'
    assert note in outputs["report"]["text"][0].splitlines()
    listed = workflows.retrieve("warm golden tint")
    listed["db"] = workflows.loader(DATABASE)
    # Where it is applied with a weight of one's own, that is the way.
    assert f"{said} Raise its weight, or take another LoRA." in host.run(listed)["report"]["text"][0].splitlines()
    assert not any("hardly be seen" in note for note in asked(host, "pencil sketch")["notes"])
    # Reduced for the prompt's sake.
    notes = asked(host, "snow falling, pencil sketch, burning flames, pixel art", max_loras=4, keep_content=1.0)["notes"]
    assert any("may hardly be seen: at the weight that is left to it" in note for note in notes)
    assert not any("hardly be seen" in note for note in asked(host, BOTH, keep_content=0.0)["notes"])


def test_each_mode_and_limit_does_what_it_says(host: Host, rows: MetricsDatabase) -> None:
    assert len(asked(host, BOTH, mode="best one")["choice"]) == 1
    assert weights(asked(host, BOTH, mode="top k equal", keep_content=0.0)) == {SNOW: 1.0, PENCIL: 1.0}
    assert sum(weights(asked(host, BOTH, strength_budget=0.5)).values()) == pytest.approx(0.5, abs=2e-3)
    assert len(asked(host, BOTH, max_loras=1)["choice"]) == 1
    assert asked(host, "drawn in pencil", max_strength=0.1)["choice"] == []
    assert "loosen the limits" in asked(host, "drawn in pencil", max_strength=0.1)["reason"]
    assert weights(asked(host, "drawn in pencil", ranking="published", min_confidence="any", mode="best one")) == {PENCIL: 1.0}


def test_two_loras_together_change_pictures_no_more_than_one_unless_effect_comes_first(host: Host, rows: MetricsDatabase) -> None:
    """Also in a workflow that was saved before there was such an input."""
    as_before, saved = asked(host, BOTH, keep_content=0.0), asked(host, BOTH)
    full, found = weights(as_before), weights(saved)
    strongest = max(rows.cells(lora_id_of(rows, file))["strength"] for file in (SNOW, PENCIL))
    assert saved["keep_content"]["change"] == pytest.approx(strongest, rel=2e-3)
    assert 1.2 < sum(found.values()) < 1.7
    assert found[SNOW] / found[PENCIL] == pytest.approx(full[SNOW] / full[PENCIL], rel=5e-3)
    (note,) = [note for note in saved["notes"] if "reduced" in note]
    assert f"Weights reduced from 2.00 to {sum(found.values()):.2f}" in note
    assert as_before["keep_content"]["weights_before"] == pytest.approx(sum(full.values()))
    assert not any("reduced" in note for note in as_before["notes"])
    assert weights(asked(host, "drawn in pencil")) == {PENCIL: 1.0}
    # Half of what the strongest changes alone, for one LoRA, too.
    assert weights(asked(host, "drawn in pencil", keep_content=1.0)) == {PENCIL: 0.5}
    with pytest.raises(Failed):
        asked(host, BOTH, keep_content=1.5)


def test_a_picture_that_is_expected_to_break_is_foretold(host: Host, base: Path, rows: MetricsDatabase) -> None:
    changed(rows, base, "strong.parquet", PENCIL, suggested_weight=1.5)
    facts = asked(host, BOTH, "strong.parquet", strength_budget=2.5, keep_content=0.0)
    assert facts["keep_content"]["may_break"]
    assert any("may show little of its prompt" in note for note in facts["notes"])
    kept = asked(host, BOTH, "strong.parquet", strength_budget=2.5)
    assert (kept["keep_content"]["may_break"], any("little of its prompt" in note for note in kept["notes"])) == (False, False)


def test_suggested_weights_come_from_the_rows(host: Host, base: Path, rows: MetricsDatabase) -> None:
    changed(rows, base, "swept.parquet", PENCIL, suggested_weight=0.6)
    assert weights(asked(host, "drawn in pencil", "swept.parquet")) == {PENCIL: 0.6}
    assert weights(asked(host, "drawn in pencil", "swept.parquet", weight="1.0")) == {PENCIL: 1.0}


def test_what_a_file_fits_counts_for_more_than_its_label_unless_a_family_is_chosen(
    host: Host, base: Path, rows: MetricsDatabase
) -> None:
    # The mini-world's model has the layers of SD 3.
    changed(rows, base, "families.parquet", PENCIL, base_model="SDXL 1.0")
    assert asked(host, "drawn in pencil", "families.parquet", base_model="SD 3")["choice"] == []
    for base_model in ("auto", "any", "SDXL"):
        assert weights(asked(host, "drawn in pencil", "families.parquet", base_model=base_model)) == {PENCIL: 1.0}
    changed(rows, base, "families.parquet", PENCIL, base_model="SD 3.5 Medium")
    assert weights(asked(host, "drawn in pencil", "families.parquet")) == {PENCIL: 1.0}


def test_pictures_of_a_higher_level_are_left_out(host: Host, base: Path, rows: MetricsDatabase) -> None:
    changed(rows, base, "levels.parquet", PENCIL, nsfw_level=1 + 4)
    assert asked(host, "drawn in pencil", "levels.parquet", max_nsfw_level=2)["choice"] == []
    assert weights(asked(host, "drawn in pencil", "levels.parquet", max_nsfw_level=4)) == {PENCIL: 1.0}


def test_what_is_another_file_on_civitai_by_now_is_not_fetched(
    host: Host, base: Path, rows: MetricsDatabase, civitai: CivitaiServer
) -> None:
    changed(rows, base, "exchanged.parquet", SNOW, version_id=5, model_id=7, sha256="0" * 64)
    loras, n = base / "models" / "loras", len(civitai.of("storage"))
    shutil.move(loras / SNOW, base / SNOW)
    try:
        with pytest.raises(Failed, match="Version 5 has other files now than the one that was measured"):
            asked(host, "snow falling", "exchanged.parquet", allow_download=True)
    finally:
        shutil.move(base / SNOW, loras / SNOW)
    assert len(civitai.of("storage")) == n


def test_what_is_not_installed_is_fetched_only_if_that_is_allowed(
    host: Host, base: Path, rows: MetricsDatabase, civitai: CivitaiServer
) -> None:
    content = (MINIWORLD / "loras" / SNOW).read_bytes()
    changed(rows, base, "civitai.parquet", SNOW, version_id=5, model_id=7, sha256=hashlib.sha256(content).hexdigest())
    loras, before = base / "models" / "loras", len(civitai.requests)
    shutil.move(loras / SNOW, base / SNOW)
    try:
        facts = asked(host, "snow falling", "civitai.parquet")
        assert (facts["choice"], len(civitai.requests)) == ([], before)
        # What is at hand is applied without any request.
        assert weights(asked(host, "drawn in pencil", "civitai.parquet", allow_download=True)) == {PENCIL: 1.0}
        assert len(civitai.requests) == before
        workflow = workflows.auto_lora("snow falling", "civitai.parquet", allow_download=True)
        workflow |= workflows.render(PROMPT, 3, ["auto", 0], ["auto", 1], "fetched")
        workflow["words"] = workflows.node("PreviewAny", source=["auto", 2])
        outputs = host.run(workflow)
        assert weights(facts_of(outputs, "report")) == {"Snow fall.safetensors": 1.0}
        assert (loras / "Snow fall.safetensors").read_bytes() == (base / SNOW).read_bytes()
        assert outputs["words"]["text"] == ["snw"]
        shutil.move(base / SNOW, loras / SNOW)
        lora = workflows.load_found_lora()
        lora["inputs"]["lora_name"] = SNOW
        by_hand = {"checkpoint": workflow["checkpoint"], "load": lora}
        by_hand |= workflows.render(PROMPT, 3, ["load", 0], ["load", 1], "by-hand")
        np.testing.assert_array_equal(picture(host, outputs, "fetched"), picture(host, host.run(by_hand), "by-hand"))
        n = len(civitai.requests)
        assert len(asked(host, "snow falling", "civitai.parquet", allow_download=False)["choice"]) == 1
        assert len(civitai.requests) == n
    finally:
        if (base / SNOW).exists():
            shutil.move(base / SNOW, loras / SNOW)
        for file in loras.glob("Snow fall.*"):
            file.unlink()


@pytest.mark.parametrize(
    ("name", "noun"),
    [
        ("mode", "mode"),
        ("weight", "weight"),
        ("base_model", "base model"),
        ("min_confidence", "confidence"),
        ("prompts", "prompt set"),
        ("ranking", "ranking"),
    ],
)
def test_choices_that_are_not_offered_are_refused(host: Host, rows: MetricsDatabase, name: str, noun: str) -> None:
    with pytest.raises(Failed, match=not_offered(name, noun)):
        asked(host, "drawn in pencil", **{name: "../x"})


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("pencil sketch", "choice is not JSON"),
        ("[" * 100_000, "choice is not JSON"),
        ('"pencil"', "not a list of LoRAs"),
        ("{}", "not a list of LoRAs"),
        ("[1]", "not a list of LoRAs"),
        ('[{"file": "pencil_sketch.safetensors"}]', "not a list of LoRAs"),
        ('[{"weight": 1}]', "not a list of LoRAs"),
        ('[{"file": 5, "weight": 1}]', "not a list of LoRAs"),
        ('[{"file": "pencil_sketch.safetensors", "weight": "1"}]', "not a list of LoRAs"),
        ('[{"file": "pencil_sketch.safetensors", "weight": true}]', "not a list of LoRAs"),
        ('[{"file": "pencil_sketch.safetensors", "weight": NaN}]', "not a list of LoRAs"),
        ('[{"file": "pencil_sketch.safetensors", "weight": -Infinity}]', "not a list of LoRAs"),
        ('[{"file": "pencil_sketch.safetensors", "weight": 1' + 400 * "0" + "}]", "not a list of LoRAs"),
        (json.dumps([{"file": PENCIL, "weight": 1}] * 51), "not a list of LoRAs"),
        ('[{"file": "../x", "weight": 1}]', r"'?\.\./x'? of the choice is not installed"),
        ('[{"file": "no such.safetensors", "weight": 1}]', "no such.safetensors'? of the choice is not installed"),
        ('[{"lora_id": "nobody", "weight": 1}]', "nobody'? of the choice is not installed"),
    ],
)
def test_a_choice_that_is_none_is_refused_in_clear_words(host: Host, rows: MetricsDatabase, choice: str, says: str) -> None:
    with pytest.raises(Failed, match=says):
        asked(host, "drawn in pencil", choice=choice)
