"""Measuring a LoRA, with a generator that draws and a real CLIP: right numbers, nothing lost, nothing made twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from carlos_core.errors import GenerationError, IndexingError, LoraError
from carlos_core.generator import Job, LoraUse
from carlos_core.measuring.measure import sides_of
from carlos_core.progress import Progress
from tests.support.bench import SHOTS, Bench, assert_same_bits, naive_diffs
from tests.support.drawing_generator import EVALUATIONS, SIDE, STEPS, DrawingGenerator


@pytest.mark.parametrize(("trigger", "weight"), [("", 1.0), ("redword", 1.0), ("", 0.5)])
def test_a_measured_row_has_the_metrics_of_its_pictures(bench: Bench, trigger: str, weight: float) -> None:
    lora = bench.lora(trigger=trigger)
    record = bench.measure(lora, DrawingGenerator(), weight=weight).record
    diffs = naive_diffs(bench, lora, SHOTS, weight)
    norms = np.linalg.norm(diffs, axis=1)
    unit = diffs / norms[:, None]
    np.testing.assert_allclose(record.direction, diffs.mean(0), atol=1e-4 * norms.mean())
    assert record.strength == pytest.approx(norms.mean(), rel=1e-5)
    assert record.consistency == pytest.approx((unit @ unit.T)[np.triu_indices(18, k=1)].mean(), abs=1e-4)
    of_prompts = norms.reshape(2, 9).mean(0)
    assert record.strength_se == pytest.approx(of_prompts.std(ddof=1) / 3, rel=1e-4)
    assert (record.n_images, record.n_prompts) == (18, 9)


def test_a_row_says_what_was_measured_and_how(bench: Bench) -> None:
    generator, lora = DrawingGenerator(), bench.lora(trigger="redword")
    measurement = bench.measure(lora, generator)
    record = measurement.record
    assert (record.lora_id, record.sha256, record.file_name) == (lora.lora_id, lora.sha256, "red.safetensors")
    assert (record.metadata.trigger_words, record.encoder_id) == (("redword",), bench.encoder.encoder_id)
    assert record.protocol_id == measurement.protocol.protocol_id == bench.protocol(generator).protocol_id
    assert record.notes == ()
    assert str(record.indexed_at).endswith("+00:00")
    assert (measurement.fit.matched, measurement.fit.total) == (4, 4)


@pytest.mark.parametrize("batch_size", [1, 4, 8, 100])
def test_the_row_does_not_depend_on_the_batch_size(bench: Bench, batch_size: int) -> None:
    lora = bench.lora()
    one = bench.measure(lora, DrawingGenerator(), work="one", batch_size=1).record
    many = bench.measure(lora, DrawingGenerator(), work="many", batch_size=batch_size).record
    np.testing.assert_allclose(many.direction, one.direction, atol=1e-4)
    assert many.strength == pytest.approx(one.strength, rel=1e-5)
    assert many.consistency == pytest.approx(one.consistency, abs=1e-5)


def test_trigger_words_stand_on_the_lora_side_only(bench: Bench) -> None:
    generator, lora = DrawingGenerator(), bench.lora(trigger="redword, crimson")
    bench.measure(lora, generator)
    assert {job.triggers for job in generator.base_jobs} == {()}
    assert {job.triggers for job in generator.lora_jobs} == {("redword", "crimson")}
    assert [(job.prompt, job.seed) for job in generator.lora_jobs] == [(shot.prompt.text, shot.seed) for shot in SHOTS]
    assert [(job.prompt, job.seed) for job in generator.base_jobs] == [(shot.prompt.text, shot.seed) for shot in SHOTS]


def test_evaluations_are_those_of_the_lora_side_and_of_the_base_side_apart(bench: Bench) -> None:
    measurement = bench.measure(bench.lora(), DrawingGenerator())
    assert (measurement.model_evaluations, measurement.base_model_evaluations) == (18 * EVALUATIONS, 18 * EVALUATIONS)


def test_a_lora_without_effect_is_a_row_that_says_so(bench: Bench) -> None:
    record = bench.measure(bench.lora(mix=0.0), DrawingGenerator()).record
    assert (record.strength, record.consistency, record.alignment) == (0.0, None, None)
    assert not record.direction.any()
    assert "no measurable effect" in record.notes


def test_a_lora_that_fits_in_part_is_measured_with_a_note(bench: Bench) -> None:
    measurement = bench.measure(bench.lora(fitting=3), DrawingGenerator())
    assert measurement.record.strength > 0
    assert any("1 of 4 keys" in note for note in measurement.record.notes)


def test_a_lora_that_does_not_fit_is_refused_before_any_picture_is_made(bench: Bench) -> None:
    generator = DrawingGenerator()
    with pytest.raises(LoraError, match="does not fit"):
        bench.measure(bench.lora(fitting=0), generator)
    assert generator.jobs == []


def test_nothing_to_measure_on_is_an_error(bench: Bench) -> None:
    with pytest.raises(IndexingError, match="nothing to measure on"):
        bench.measure(bench.lora(), DrawingGenerator(), shots=())


@pytest.mark.parametrize("side", ["base", "lora"])
def test_a_broken_picture_stops_the_run_by_name_and_is_not_kept(bench: Bench, side: str) -> None:
    lora, generator = bench.lora(), DrawingGenerator(batch_size=4)
    shot = SHOTS[5]
    generator.broken = {(side, shot.prompt.text, shot.seed)}
    with pytest.raises(GenerationError) as caught:
        bench.measure(lora, generator)
    assert repr(shot.prompt.text) in caught.value.what
    assert f"seed {shot.seed} " in caught.value.what
    assert "precision" in caught.value.hint
    # In a model that is well again, the second batch is made as a whole; the first one was kept.
    well = DrawingGenerator(batch_size=4)
    repaired = bench.measure(lora, well)
    made = well.base_jobs if side == "base" else well.lora_jobs
    assert [(job.prompt, job.seed) for job in made] == [(shot.prompt.text, shot.seed) for shot in SHOTS[4:]]
    assert_same_bits(repaired, bench.measure(lora, DrawingGenerator(batch_size=4), work="healthy"))


def test_the_contact_sheet_shows_eight_pairs_without_above_and_with_below(bench: Bench) -> None:
    lora = bench.lora()
    sheet = bench.measure(lora, DrawingGenerator()).contact_sheet
    assert tuple(sheet.shape) == (1, 2 * SIDE + 4, 8 * SIDE + 7 * 4, 3)
    world = DrawingGenerator()
    for column, shot in enumerate(SHOTS[:8]):
        left = column * (SIDE + 4)
        for top, loras in ((0, ()), (SIDE + 4, (LoraUse(lora.path, 1.0),))):
            shown = sheet[0, top : top + SIDE, left : left + SIDE]
            picture = world.picture(Job(shot.prompt.text, shot.seed, loras))
            torch.testing.assert_close(shown, picture, rtol=0, atol=0.51 / 255)


def test_the_contact_sheet_can_be_had_again_without_making_pictures(bench: Bench) -> None:
    lora, generator = bench.lora(), DrawingGenerator()
    sheet = bench.measure(lora, generator).sheet
    assert sheet is not None
    protocol = bench.protocol(generator)
    here, elsewhere = bench.studio(generator), bench.studio(generator, "elsewhere")
    again = here.small_pictures(*sides_of(here, lora, protocol), SHOTS).sheet()
    assert again is not None
    assert torch.equal(again, sheet)
    assert elsewhere.small_pictures(*sides_of(elsewhere, lora, protocol), SHOTS).sheet() is None


def test_thumbnails_that_cannot_be_kept_do_not_matter(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    lora = bench.lora()
    good = bench.measure(lora, DrawingGenerator(), work="good")
    bench.measure(lora, DrawingGenerator(), work="bad", shots=SHOTS[:1])
    for thumbnails in (bench.folder / "bad").glob("*/*.thumbs"):
        for thumbnail in thumbnails.iterdir():
            thumbnail.unlink()
        thumbnails.rmdir()
        thumbnails.write_text("in the way")
    measurement = bench.measure(lora, DrawingGenerator(), work="bad", batch_size=1)
    assert_same_bits(measurement, bench.measure(lora, DrawingGenerator(), work="good again", batch_size=1))
    assert measurement.record.strength == pytest.approx(good.record.strength, rel=1e-5)
    assert "thumbnail" in caplog.text
    # One picture of the side without the LoRA could be kept in the end, and none with it.
    assert measurement.sheet is None
    assert measurement.contact_sheet.shape[0] == 1


def test_progress_grows_step_by_step_to_the_total(bench: Bench) -> None:
    seen: list[Progress] = []
    bench.measure(bench.lora(), DrawingGenerator(batch_size=4), on_progress=seen.append)
    done = [progress.done for progress in seen]
    assert {progress.total for progress in seen} == {2 * 18 * STEPS}
    assert done == sorted(done)
    assert done[-1] == 2 * 18 * STEPS
    assert max(np.diff([0, *done])) <= 4
    assert seen[-1].image is not None
    assert tuple(seen[-1].image.shape) == (SIDE, SIDE, 3)
