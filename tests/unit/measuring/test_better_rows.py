"""A poorer measurement never takes the place of a better one unasked, and what happens to a row is said."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from carlos_core.database.database import MetricsDatabase
from carlos_core.loras.lora_file import LoraFile
from carlos_core.measuring.base_check import UNSUITABLE
from carlos_core.measuring.outcome import ALREADY_INDEXED, INDEXED, Outcome
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.protocol import Covering, Protocol, ThisModel
from carlos_core.progress import Progress
from carlos_core.records import NO_EFFECT, LoraMetadata, LoraRecord, MeasuredRow, checkpoint_of
from tests.support.bench import MANY_PROMPTS, Bench, indexer_of
from tests.support.drawing_generator import DrawingGenerator

SETTINGS = {"model": "f00d", "steps": 25, "scheduler": "normal"}
QUICK = Protocol("quick", "abcd", "own", 1.0, "lora side", SETTINGS)
CUSTOM = replace(QUICK, preset="custom", prompts_hash="other")
HERE = ThisModel("SDXL-1")


def better(
    measured: Protocol, n_images: int, wanted: Protocol, most: int, model: ThisModel = HERE, **row: Any
) -> Covering | None:
    found = MeasuredRow("a", "a.safetensors", measured.protocol_id, "SDXL-1", n_images, 5.0, (), has_curve=False)
    return wanted.better(found._replace(**row), {measured.protocol_id: measured.described()}, most, model)


def test_beside_custom_the_row_with_more_pairs_is_better() -> None:
    assert better(QUICK, 32, CUSTOM, 8) == Covering("quick", is_better=True)
    assert better(CUSTOM, 113, QUICK, 112) == Covering("custom", is_better=True)
    assert better(CUSTOM, 9, replace(CUSTOM, lora_weight=0.5), 8) == Covering("custom", is_better=True)
    for same_or_more in (32, 33):
        assert better(QUICK, 32, CUSTOM, same_or_more) is None


def test_of_presets_the_fuller_one_is_better_whatever_its_settings_and_pairs() -> None:
    presets = ("race", "quick", "standard", "paper")
    for k, measured in enumerate(presets):
        for other, wanted in enumerate(presets):
            theirs = replace(QUICK, preset=measured, prompts_hash="others")
            found = better(theirs, 20, replace(QUICK, preset=wanted), 4480)
            assert (found is not None) == (k > other), (measured, wanted)


def test_rows_of_another_model_or_of_pictures_that_do_not_suit_are_not_compared() -> None:
    other = replace(QUICK, generator=SETTINGS | {"model": "another"})
    assert better(other, 32, CUSTOM, 8) == Covering("quick", is_other_checkpoint=True, is_better=True)
    assert better(other, 32, CUSTOM, 8, ThisModel()) is None
    assert better(other, 32, CUSTOM, 8, ThisModel("Flux-1")) is None
    assert better(other, 32, CUSTOM, 8, notes=(NO_EFFECT,)) is None
    assert better(QUICK, 32, CUSTOM, 8, notes=(f"{UNSUITABLE}: burnt",)) is None
    published = {"published": {"model": "SDXL", "images": 4480}}
    row = MeasuredRow("a", None, "published", None, 4480, 5.0, (), has_curve=False)
    assert CUSTOM.better(row, published, 8, HERE) is None


def test_fingerprints_that_differ_by_their_noise_levels_are_of_one_checkpoint_if_rows_say_so() -> None:
    few = replace(QUICK, generator={"model": "beef", "steps": 4, "scheduler": "simple"})
    here, row = ThisModel("", "c0ffee"), {"checkpoint": "c0ffee", "notes": (NO_EFFECT,)}
    assert better(few, 32, CUSTOM, 8, here, **row) == Covering("quick", is_better=True)
    assert better(few, 32, CUSTOM, 8, here, **{**row, "checkpoint": "dead"}) is None
    assert better(few, 32, CUSTOM, 8, here, notes=(NO_EFFECT,)) is None


@pytest.mark.parametrize(
    ("measured_on", "checkpoint"),
    [('{"checkpoint": "c0ffee"}', "c0ffee"), ('{"checkpoint": 1}', ""), ("{}", ""), ("[]", ""), ("{", ""), (None, "")],
)
def test_a_row_names_its_checkpoint_if_it_knows_it(measured_on: str | None, checkpoint: str) -> None:
    assert checkpoint_of(measured_on) == checkpoint


def by_custom(bench: Bench, generator: DrawingGenerator, lora: LoraFile, n: int, **changes: Any) -> Outcome:
    plan = Plan.all(MANY_PROMPTS, max_prompts=n)
    return indexer_of(bench, generator, preset="custom", plan=plan, **changes).index(lora)


def test_a_few_pairs_by_custom_do_not_replace_those_of_quick_and_nothing_is_made_for_them(bench: Bench) -> None:
    generator, lora = DrawingGenerator(), bench.lora()
    first = indexer_of(bench, generator).index(lora)
    made, told = len(generator.jobs), []
    plan = Plan.all(MANY_PROMPTS, max_prompts=8)
    indexer = indexer_of(bench, generator, preset="custom", plan=plan)
    kept = indexer.index(lora, lambda progress: told.append(progress.note))
    assert (kept.status, kept.row.n_images, len(generator.jobs)) == (ALREADY_INDEXED, first.row.n_images, made)
    says = (
        f"its row stays: {first.row.n_images} pairs of pictures by the preset 'quick' are better than 8 pairs by the preset "
        "'custom'; overwrite replaces it"
    )
    assert says in kept.notes
    assert told == [says]

    replaced = by_custom(bench, generator, lora, 8, overwrite=True)
    assert (replaced.status, replaced.row.n_images) == (INDEXED, 8)
    assert replaced.notes[0].startswith("replaces its row of 20")
    assert replaced.notes[0].endswith(f": {first.row.n_images} pairs of pictures by the preset 'quick'")
    assert not any("replaces" in note for note in replaced.row.notes)


def test_a_preset_that_replaces_a_custom_row_takes_at_least_as_many_pairs(bench: Bench) -> None:
    generator, lora = DrawingGenerator(), bench.lora()
    alone = indexer_of(bench, DrawingGenerator(), work="alone").index(lora).row.n_images or 0
    by_custom(bench, generator, lora, alone + 8, overwrite=True)
    replaced = indexer_of(bench, generator).index(lora)
    assert replaced.status == INDEXED
    assert (replaced.row.n_images or 0) >= alone + 8 > alone
    assert "by the preset 'custom'" in replaced.notes[0]


def test_a_fuller_row_says_that_it_stays_and_how_to_replace_it(bench: Bench) -> None:
    generator, lora = DrawingGenerator(), bench.lora()
    indexer_of(bench, generator, preset="standard").index(lora)
    kept = indexer_of(bench, generator).index(lora)
    assert kept.change is not None
    assert "by the preset 'standard' are better than the preset 'quick'; overwrite replaces it" in str(kept.change)
    again = indexer_of(bench, generator, preset="standard").index(lora)
    assert (again.status, again.change) == (ALREADY_INDEXED, None)


def test_a_published_row_that_is_replaced_is_named(bench: Bench) -> None:
    lora = bench.lora()
    lora = replace(lora, metadata=LoraMetadata(version_id=5))
    indexer = indexer_of(bench, DrawingGenerator())
    direction = bench.encoder.encode_texts(["x"])[0].numpy()
    published = LoraRecord(
        lora_id="5", direction=direction, strength=1.0, consistency=0.5, n_images=4480, protocol_id="published"
    )

    def put(database: MetricsDatabase) -> None:
        database.upsert(published, {"source": "carlos 0.0.3", "images": 4480})

    indexer.target.change(put)
    outcome = indexer.index(lora)
    assert outcome.status == INDEXED
    assert outcome.notes[0] == "replaces its row: 4480 pairs of pictures from carlos 0.0.3"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_better_row_that_comes_while_a_lora_is_measured_stays(bench: Bench, overwrite: bool) -> None:
    lora, elsewhere = bench.lora(), Bench(bench.folder / "elsewhere", bench.encoder)
    elsewhere.folder.mkdir()
    indexer = indexer_of(elsewhere, DrawingGenerator(), preset="standard")
    better_one, protocol = indexer.index(lora).row, indexer.protocol
    here = indexer_of(bench, DrawingGenerator(), work="here", overwrite=overwrite)

    def put(database: MetricsDatabase) -> None:
        database.upsert(better_one, protocol.described())

    def meanwhile(_progress: Progress) -> None:
        if here.target.read().row(lora.lora_id) is None:
            here.target.change(put)

    outcome = here.index(lora, meanwhile)
    (row,) = [here.target.read().row_at(place) for place in range(len(here.target.read()))]
    assert outcome.model_evaluations > 0
    stays = row.protocol_id == better_one.protocol_id
    assert (outcome.status, stays) == ((INDEXED, False) if overwrite else (ALREADY_INDEXED, True))
    said = "replaces its row" if overwrite else "by the preset 'standard' are better than the preset 'quick'"
    assert said in str(outcome.change)


def test_time_left_counts_the_pairs_that_a_custom_row_asks_for(bench: Bench) -> None:
    generator, lora = DrawingGenerator(), bench.lora()
    alone = indexer_of(bench, DrawingGenerator(), work="alone").index(lora).row.n_images or 0
    by_custom(bench, generator, lora, alone + 8, overwrite=True)
    told: list[str] = []
    indexer_of(bench, generator, work="anew").index(lora, lambda progress: told.append(progress.note))
    likely = [re.search(r"about (\d+) will do|of (?:at most )?(\d+) pictures", note) for note in told]
    assert min(int(found[1] or found[2]) for found in likely if found is not None) >= 2 * (alone + 8)
