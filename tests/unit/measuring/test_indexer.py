"""The indexer: adaptive measurements and whole libraries, into a database file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carlos_core.civitai.client import CivitaiClient
from carlos_core.civitai.lora import CivitaiLora
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.database.target import DatabaseFile
from carlos_core.errors import DatabaseError, IndexingError
from carlos_core.loras.lora_file import LoraFile, read_lora_file
from carlos_core.measuring.failures import Failure
from carlos_core.measuring.feature_store import FeatureStore
from carlos_core.measuring.indexer import AnyFolder, Indexer
from carlos_core.measuring.outcome import ALREADY_INDEXED, INDEXED, Outcome
from carlos_core.measuring.plan import Plan, own_seed
from carlos_core.measuring.presets import PRESETS
from carlos_core.measuring.stopping import StoppingRule
from carlos_core.prompts.prompt_set import default_index_prompts
from carlos_core.vectors import cosine
from tests.support.bench import MANY_PROMPTS, Bench, indexer_of
from tests.support.drawing_generator import EVALUATIONS, DrawingGenerator, lora_file
from tests.support.lora_files import sidecar


def all_of(indexer: Indexer, *files: Path) -> list[Outcome | Failure]:
    return list(indexer.index_all([(file.name, file) for file in files], lambda name: None))


def test_a_consistent_lora_is_known_long_before_the_plan_ends(bench: Bench) -> None:
    outcome = indexer_of(bench, DrawingGenerator()).index(bench.lora(mix=0.5))
    assert outcome.status == INDEXED
    row = outcome.row
    assert row.n_images is not None
    assert row.alignment is not None
    assert 16 <= row.n_images <= 40
    assert row.alignment >= 0.97
    assert outcome.model_evaluations == row.n_images * EVALUATIONS


def test_a_lora_without_effect_ends_at_the_first_look_and_says_so(bench: Bench) -> None:
    outcome = indexer_of(bench, DrawingGenerator()).index(bench.lora(mix=0.0))
    assert (outcome.row.strength, outcome.row.consistency, outcome.row.n_images) == (0.0, None, 16)
    assert "no measurable effect" in outcome.notes


def test_an_adaptive_row_is_the_same_at_every_batch_size_but_for_where_it_stops(bench: Bench) -> None:
    lora = bench.lora(mix=0.4)
    rows = []
    for batch in (1, 8):
        indexer = indexer_of(bench, DrawingGenerator(), batch_size=batch, work=f"work{batch}", overwrite=True)
        rows.append(indexer.index(lora).row)
    assert cosine(rows[0].direction, rows[1].direction) > 0.99


def test_topics_are_measured_by_the_way(bench: Bench) -> None:
    row = indexer_of(bench, DrawingGenerator()).index(bench.lora()).row
    assert [effect.topic for effect in row.topics] == ["a", "b", "c", "d"]
    images = [effect.n_images for effect in row.topics]
    assert sum(images) == row.n_images
    weighted = np.average([effect.vector.strength for effect in row.topics], weights=images)
    assert weighted == pytest.approx(row.strength, rel=1e-6)
    directions = np.average([effect.vector.direction for effect in row.topics], axis=0, weights=images)
    assert np.allclose(directions, row.direction, atol=1e-5)


def test_a_library_run_shares_the_base_side_and_goes_on_after_a_failure(bench: Bench) -> None:
    generator = DrawingGenerator()
    good = [lora_file(bench.folder / f"{name}.safetensors", tint) for name, tint in (("red", (1, 0, 0)), ("blue", (0, 0, 1)))]
    misfit = lora_file(bench.folder / "misfit.safetensors", fitting=0)
    broken = bench.folder / "broken.safetensors"
    broken.write_bytes(b"no safetensors")
    results = all_of(indexer_of(bench, generator), good[0], misfit, broken, good[1])
    assert [type(result) for result in results] == [Outcome, Failure, Failure, Outcome]
    assert {result.file for result in results if isinstance(result, Failure)} == {"misfit.safetensors", "broken.safetensors"}
    assert "0 of 4 keys" in next(result.reason for result in results if isinstance(result, Failure))
    first, second = (result for result in results if isinstance(result, Outcome))
    assert first.base_model_evaluations > 0
    made = {(job.prompt, job.seed) for job in generator.base_jobs}
    assert len(generator.base_jobs) == len(made)
    assert len(load_database(bench.folder / "db.parquet")) == 2
    assert second.base_model_evaluations == max(0, len(made) * EVALUATIONS - first.base_model_evaluations)


def test_a_lora_is_not_measured_again_on_another_checkpoint_of_the_same_shape(bench: Bench) -> None:
    lora = bench.lora()
    first = indexer_of(bench, DrawingGenerator(model="drawn-1", model_key="Drawn-16")).index(lora)
    assert first.row.model_key == "Drawn-16"

    other = DrawingGenerator(model="drawn-2", model_key="Drawn-16")
    known = indexer_of(bench, other).index(lora)
    assert (known.status, known.row.indexed_at, len(other.jobs)) == (ALREADY_INDEXED, first.row.indexed_at, 0)
    assert "on another checkpoint of the same shape (Drawn-16)" in known.notes[0]

    larger = DrawingGenerator(model="drawn-3", model_key="Drawn-32")
    assert indexer_of(bench, larger).index(lora).row.model_key == "Drawn-32"


def test_a_lora_is_measured_on_this_checkpoint_if_that_is_wanted(bench: Bench) -> None:
    lora = bench.lora()
    rows = [
        indexer_of(bench, DrawingGenerator(model=model, model_key="Drawn-16"), any_checkpoint=False).index(lora)
        for model in ("drawn-1", "drawn-2", "drawn-2")
    ]
    assert [row.status for row in rows] == [INDEXED, INDEXED, ALREADY_INDEXED]


def test_a_lora_without_effect_on_one_checkpoint_is_tried_on_another(bench: Bench) -> None:
    lora = bench.lora(mix=0.0)
    outcomes = [
        indexer_of(bench, DrawingGenerator(model=model, model_key="Drawn-16")).index(lora)
        for model in ("drawn-1", "drawn-1", "drawn-2")
    ]
    assert [outcome.status for outcome in outcomes] == [INDEXED, ALREADY_INDEXED, INDEXED]


def test_a_renamed_file_is_known_by_its_content(bench: Bench) -> None:
    generator = DrawingGenerator()
    old = lora_file(bench.folder / "old.safetensors")
    all_of(indexer_of(bench, generator), old)
    jobs = len(generator.jobs)
    new = old.rename(bench.folder / "new.safetensors")
    (result,) = all_of(indexer_of(bench, generator), new)
    assert isinstance(result, Outcome)
    assert result.status == ALREADY_INDEXED
    assert len(generator.jobs) == jobs
    assert load_database(bench.folder / "db.parquet").column("file_name") == ["new.safetensors"]


def test_copies_do_not_take_turns_as_a_rows_file(bench: Bench) -> None:
    files = [lora_file(bench.folder / "a.safetensors"), bench.folder / "b.safetensors"]
    # Copied: written again, the same metadata may come in another order.
    shutil.copy(*files)

    class Folder(AnyFolder):
        def at_hand(self, name: str) -> LoraFile | None:
            path = bench.folder / name
            return read_lora_file(path, name) if path.exists() else None

    indexer = indexer_of(bench, DrawingGenerator(), folder=Folder())

    def named_after(*run: Path) -> str:
        all_of(indexer, *run)
        database = indexer.target.read()
        assert len(database) == 1
        return str(database.column("file_name")[0])

    assert [named_after(*files), named_after(*files), named_after(files[1])] == ["a.safetensors"] * 3
    lora_file(files[0], (0.1, 0.9, 0.3))
    assert named_after(files[1]) == "b.safetensors"
    files[1].rename(bench.folder / "c.safetensors")
    assert named_after(bench.folder / "c.safetensors") == "c.safetensors"


def test_a_lora_deleted_mid_run_is_reported_and_the_rest_goes_on(bench: Bench) -> None:
    files = [lora_file(bench.folder / f"{name}.safetensors", (k, 0, 1)) for k, name in enumerate(("a", "b"))]
    names = [(file.name, file) for file in files]
    results = indexer_of(bench, DrawingGenerator()).index_all(iter(names), lambda name: None)
    files[0].unlink()
    kinds = [type(result) for result in results]
    assert kinds == [Failure, Outcome]


def test_quick_is_not_measured_again_after_standard_but_standard_is_after_quick(bench: Bench) -> None:
    generator, lora = DrawingGenerator(), bench.lora()
    assert indexer_of(bench, generator).index(lora).status == INDEXED
    assert indexer_of(bench, generator, preset="standard").index(lora).status == INDEXED
    known = indexer_of(bench, generator).index(lora)
    assert known.status == ALREADY_INDEXED
    assert "standard" in known.notes[0]


def test_halves_of_two_machines_merge_into_the_whole(bench: Bench) -> None:
    lora, shots = bench.lora(), Plan.of_preset(PRESETS["quick"], MANY_PROMPTS, EVALUATIONS).shots
    whole = bench.measure(lora, DrawingGenerator(), work="whole", shots=shots)
    for name, half in (("one", shots[0::2]), ("two", shots[1::2])):
        bench.measure(lora, DrawingGenerator(), work=name, shots=half)
    for side in ("base", "loras"):
        ours, theirs = (next((bench.folder / name / side).glob("*.journal")) for name in ("one", "two"))
        assert ours.name == theirs.name
        identity: dict[str, Any] = {"generator": "drawn-1", "encoder": bench.encoder.encoder_id}
        if side == "loras":
            identity |= {"lora": lora.sha256, "weight": 1.0}
        FeatureStore(ours.parent, identity, bench.encoder.dimension).merge(
            FeatureStore(theirs.parent, identity, bench.encoder.dimension)
        )
    generator = DrawingGenerator()
    merged = bench.measure(lora, generator, work="one", shots=shots)
    assert generator.jobs == []
    assert np.allclose(merged.record.direction, whole.record.direction, atol=1e-5)
    for name in ("strength", "consistency", "alignment", "strength_se"):
        assert getattr(merged.record, name) == pytest.approx(getattr(whole.record, name), abs=1e-5)


def test_journals_of_different_measurements_do_not_merge(tmp_path: Path) -> None:
    one, other = FeatureStore(tmp_path, {"lora": "a"}, 4), FeatureStore(tmp_path, {"lora": "b"}, 4)
    with pytest.raises(IndexingError, match="different measurements"):
        one.merge(other)


def test_quick_keeps_its_budget_whatever_a_picture_costs() -> None:
    for evaluations in (4, 8, 50):
        shots = Plan.of_preset(PRESETS["quick"], default_index_prompts(), evaluations).shots
        assert len(shots) * evaluations <= 224_000 / 250
    with pytest.raises(IndexingError, match="standard"):
        Plan.of_preset(PRESETS["quick"], default_index_prompts(), 1000)


def test_paper_takes_all_prompts_and_sixteen_seeds() -> None:
    shots = Plan.of_preset(PRESETS["paper"], default_index_prompts(), 50).shots
    assert len(set(shots)) == 4480
    assert len(shots) * 50 == 224_000
    assert {shot.prompt for shot in shots[:35]} == set(default_index_prompts().stratified()[:35])


def test_a_prompts_seeds_do_not_depend_on_its_place() -> None:
    shots = Plan.of_preset(PRESETS["standard"], MANY_PROMPTS, 8).shots
    assert all(own_seed(shot.prompt.text, 0) <= shot.seed < own_seed(shot.prompt.text, 16) for shot in shots)


@pytest.mark.parametrize("kind", ["bundled", "unsaved"])
def test_a_database_that_cannot_be_saved_is_refused(kind: str) -> None:
    database = MetricsDatabase.empty("some/encoder", 4)
    database.read_only = kind == "bundled"
    with pytest.raises(DatabaseError, match="read-only|no file to save to"):
        DatabaseFile.of(database)


def nobody() -> CivitaiClient:
    raise AssertionError("CivitAI need not be asked.")


WANTED = CivitaiLora(None, 5, nobody)


@pytest.mark.parametrize("is_id", [True, False])
def test_a_version_that_the_database_has_needs_no_file(bench: Bench, is_id: bool) -> None:
    lora = bench.lora()
    if is_id:
        lora.path.with_suffix(".civitai.info").write_text('{"id": 5}')
        lora = read_lora_file(lora.path)
    indexer = indexer_of(bench, DrawingGenerator())
    assert indexer.known_version(WANTED) is None
    measured = indexer.index(lora)
    if not is_id:
        # Found out later, as refreshing metadata does.
        indexer.target.change(lambda database: database.set_value(lora.lora_id, "version_id", 5))
    lora.path.unlink()
    known = indexer.known_version(WANTED)
    assert known is not None
    assert (known.status, known.lora.lora_id, known.lora.name) == (ALREADY_INDEXED, lora.lora_id, "red.safetensors")
    assert known.row.strength == measured.row.strength
    assert torch.equal(known.contact_sheet, measured.contact_sheet)
    assert replace(indexer, overwrite=True).known_version(WANTED) is None
    assert indexer_of(bench, DrawingGenerator(), protocol=replace(indexer.protocol, preset="paper")).known_version(WANTED) is None


def test_the_direction_is_known_as_far_as_the_full_protocol_goes(bench: Bench) -> None:
    """All pictures of a small plan say everything about that plan, and less about a larger one."""
    plan = replace(Plan.all(MANY_PROMPTS, max_prompts=16), rule=StoppingRule(target=0.9999))
    lora = bench.lora(mix=0.4)

    def alignment(n_full: int) -> float:
        row = indexer_of(bench, DrawingGenerator(), plan=replace(plan, n_full=n_full), overwrite=True).index(lora).row
        assert row.n_images == 16
        assert row.alignment is not None
        return row.alignment

    assert alignment(0) == pytest.approx(1.0, abs=1e-9)
    assert alignment(4480) < 0.9995


def test_adaptive_plans_give_early_prompts_a_second_seed_and_the_published_protocol_does_not() -> None:
    first = {name: Plan.of_preset(preset, default_index_prompts(), 8).shots[:42] for name, preset in PRESETS.items()}
    assert {name: len({shot.prompt for shot in shots}) for name, shots in first.items()} == {
        "race": 39,
        "quick": 39,
        "standard": 39,
        "paper": 42,
    }


def test_files_that_claim_one_version_are_both_measured_and_known_again(bench: Bench) -> None:
    """Two files of a version on CivitAI (a high and a low noise half, say), each with the same sidecar."""
    files = [lora_file(bench.folder / f"{name}.safetensors", tint) for name, tint in (("high", (1, 0, 0)), ("low", (0, 0, 1)))]
    for file in files:
        sidecar(file, id=77, modelId=7)
    first = all_of(indexer_of(bench, DrawingGenerator()), *files)
    assert all(isinstance(outcome, Outcome) for outcome in first)
    rows = [outcome.row for outcome in first if isinstance(outcome, Outcome)]
    assert [row.lora_id for row in rows] == ["77", f"sha256:{read_lora_file(files[1]).sha256[:16]}"]
    assert cosine(rows[0].direction, rows[1].direction) < 0.5
    again = all_of(indexer_of(bench, DrawingGenerator()), *reversed(files))
    assert [outcome.status for outcome in again if isinstance(outcome, Outcome)] == [ALREADY_INDEXED, ALREADY_INDEXED]
    assert [outcome.row.file_name for outcome in again if isinstance(outcome, Outcome)] == ["low.safetensors", "high.safetensors"]


def test_a_sidecar_that_comes_later_measures_nothing_again(bench: Bench) -> None:
    file = bench.lora().path
    (first,) = all_of(indexer_of(bench, DrawingGenerator()), file)
    sidecar(file, id=78)
    (again,) = all_of(indexer_of(bench, DrawingGenerator()), file)
    assert isinstance(first, Outcome)
    assert isinstance(again, Outcome)
    assert (again.status, again.row.lora_id) == (ALREADY_INDEXED, first.row.lora_id)


def test_other_words_in_a_sidecar_are_a_note_and_measure_nothing_again(bench: Bench) -> None:
    file = bench.lora().path
    sidecar(file, id=79, trainedWords=["snwx", "red, coat", "blue, coat"])
    (first,) = all_of(indexer_of(bench, DrawingGenerator()), file)
    assert isinstance(first, Outcome)
    assert first.row.metadata.trigger_words == ("snwx", "red, coat", "blue, coat")
    sidecar(file, id=79, trainedWords=["icy"])
    (again,) = all_of(indexer_of(bench, DrawingGenerator()), file)
    assert isinstance(again, Outcome)
    assert (again.status, again.row.metadata.trigger_words) == (ALREADY_INDEXED, first.row.metadata.trigger_words)
    assert "its row names the trigger words snwx, red, coat; its file and sidecars name icy now" in again.notes


@pytest.mark.parametrize(("preset", "words"), [("quick", ("snwx", "red, coat")), ("paper", ("snwx", "red, coat", "blue, coat"))])
def test_of_alternative_words_only_paper_takes_all(bench: Bench, preset: str, words: tuple[str, ...]) -> None:
    file = bench.lora().path
    sidecar(file, trainedWords=["snwx", "red, coat", "blue, coat"])
    assert replace(indexer_of(bench, DrawingGenerator()).protocol, preset=preset).trigger_words(read_lora_file(file)) == words
