"""What somebody is told whose LoRAs a database hardly knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from carlos_core.measuring.speed import ModelSpeed, Speed
from carlos_core.measuring.start import Costs, Files, Start


def start(files: Files, costs: Costs | None = None, *, is_bundled: bool = False) -> Start:
    return Start(files, 0, is_bundled, 740, "" if files.fitting is None else "SDXL", costs)


def test_two_sentences_say_what_there_is_and_what_more_would_cost() -> None:
    # 112 pairs of 8 evaluations each, of 211 LoRAs and once without.
    costs = Costs.of(211, 8, 0.2)
    # A race: two and a half times the first four pairs of all.
    assert (costs.race, costs.quick) == (2.5 * 212 * 4 * 8, 212 * 896)
    assert str(start(Files(300, 214, 3, 9), costs)) == (
        "Of 300 LoRA files in ComfyUI's list 214 are for this SDXL model by the shapes, 3 are in this database, and 9 are among "
        "the 740 published ones of 'bundled', by version id. Race LoRAs finds the one for a query in about 57 min here, "
        "without indexing them; Index Library (quick) measures the 211 in at most about 11 h, once for all queries; loading each "
        "LoRA, and a model that needs more than the fewest steps, add to both."
    )


def test_what_is_not_known_is_left_out() -> None:
    told = str(start(Files(300, None, 0, 0), is_bundled=True))
    assert told.startswith(
        "Of 300 LoRA files in ComfyUI's list none is among the 740 published ones of 'bundled', by version id. "
    )
    assert "with a MODEL wired in say how many fit" in told
    assert "about 17,200 model evaluations here" in str(start(Files(300, 214, 0, 0), Costs.of(214, 8, None)))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (Files(0, 0, 0, 0), "ComfyUI lists no LoRA that can be read. Put LoRAs into models/loras"),
        (Files(12, 0, 0, 0), "Load a checkpoint that they were made for"),
    ],
)
def test_where_no_lora_can_be_used_it_is_said_what_is_missing(files: Files, told: str) -> None:
    assert told in str(start(files))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (Files(0, None, 0, 0), "No LoRA is in ComfyUI's list: put some into models/loras."),
        (Files(12, 0, 0, 0), "No LoRA file is for this SDXL model."),
        (Files(1, None, 0, 0), "It knows none of 1 LoRA file here: run Index Library, or Race LoRAs."),
        (Files(12345, None, 100, 0), "It knows 100 of 12345 LoRA files here: run Index Library, or Race LoRAs."),
    ],
)
def test_what_it_comes_to_fits_into_two_short_lines(files: Files, told: str) -> None:
    assert start(files).in_short == told
    # Of 36 letters, in a node of the size that it is placed with.
    assert len(told) <= 72


def test_a_race_costs_no_more_than_its_budget_and_less_than_measuring_all() -> None:
    assert Costs.of(1000, 8, None).race == 20_000
    costs = Costs.of(5, 8, 0.5)
    assert (costs.race, costs.quick) == (6 * 80, 6 * 896)
    facts = start(Files(5, 5, 0, 0), costs).facts
    assert facts["race_seconds"] == pytest.approx(240.0)
    assert start(Files(5, None, 0, 0)).facts["quick_seconds"] is None


@pytest.mark.parametrize(
    ("files", "unknown"), [((300, 214, 21), True), ((300, 214, 22), False), ((1, None, 1), False), ((0, 0, 0), True)]
)
def test_a_folder_counts_as_unknown_below_a_tenth(files: tuple[int, int | None, int], unknown: bool) -> None:
    assert Files(*files, published=0).are_unknown == unknown


def test_pictures_of_one_checkpoint_say_how_long_another_of_its_shape_takes(tmp_path: Path) -> None:
    of_model = ModelSpeed(tmp_path, "SDXL-1a2b3c4d", (1024, 1024))
    of_model.keep(3.0)
    assert ModelSpeed(tmp_path, "SDXL-1a2b3c4d", (1024, 1024)).seconds_per_evaluation == 3.0
    speed = Speed(tmp_path, "one checkpoint", of_model, evaluations_per_picture=8)
    speed.add(64.0, 4)
    assert speed.seconds_per_picture == 16.0
    assert of_model.seconds_per_evaluation == 2.0
    assert ModelSpeed(tmp_path, "SDXL-1a2b3c4d", (512, 512)).seconds_per_evaluation is None
    assert ModelSpeed(tmp_path, "", (1024, 1024)).seconds_per_evaluation is None
