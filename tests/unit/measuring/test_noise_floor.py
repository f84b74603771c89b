"""The host's noise: measured once, kept, and never taken from broken pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carlos_core.errors import BrokenPictureError
from carlos_core.generator import Environment, Generated, Job
from carlos_core.measuring.failures import Failure
from carlos_core.measuring.measure import sides_of
from carlos_core.measuring.noise_floor import NoiseFloor, noise_floor
from carlos_core.progress import OnProgress
from tests.support.bench import SHOTS, Bench, indexer_of
from tests.support.drawing_generator import EVALUATIONS, DrawingGenerator


class OnSomeDevice(DrawingGenerator):
    """A generator on a device, which adds noise of its own. noise: its size; nan: broken pictures."""

    def __init__(self, noise: float = 0.0, *, device: str = "a card") -> None:
        super().__init__()
        self.noise, self.device, self.unloaded = noise, device, 0
        self.chance = torch.Generator().manual_seed(0)

    @property
    def environment(self) -> Environment:
        return Environment("a host 1", "2", self.device, "float16", dynamic_vram=True)

    def unload(self) -> None:
        self.unloaded += 1

    def generate(self, jobs: Sequence[Job], on_progress: OnProgress | None = None) -> Generated:
        made = super().generate(jobs, on_progress)
        noise = self.noise * torch.randn(made.images.shape, generator=self.chance) if self.noise else 0.0
        return replace(made, images=made.images + noise)


def floor_of(bench: Bench, generator: OnSomeDevice) -> NoiseFloor:
    studio = bench.studio(generator)
    return noise_floor(studio, sides_of(studio, bench.lora(), bench.protocol(generator)), SHOTS)


def test_a_host_that_repeats_itself_has_no_noise_and_is_asked_once(bench: Bench) -> None:
    generator = OnSomeDevice()
    assert floor_of(bench, generator) == NoiseFloor(0.0, 0.0, 4 * EVALUATIONS)
    assert (len(generator.jobs), generator.unloaded) == (4, 1)
    again = OnSomeDevice()
    assert floor_of(bench, again) == NoiseFloor(0.0, 0.0)
    assert again.jobs == []
    other = OnSomeDevice(device="another card")
    assert floor_of(bench, other).model_evaluations > 0


def test_noise_is_the_mean_of_several_pictures_and_some_more(bench: Bench) -> None:
    generator = OnSomeDevice(0.05)
    floor = floor_of(bench, generator)
    assert len(generator.jobs) == 8 * 4
    assert 0.04 * 255 < floor.pixels < 0.07 * 255
    assert floor.features > 0
    assert f"below {floor.features:.2f}" in floor.note


def test_a_row_below_the_noise_has_no_effect_and_says_why(bench: Bench) -> None:
    nothing = bench.lora("nothing.safetensors", mix=0.0)
    row = indexer_of(bench, OnSomeDevice(0.05)).index(nothing).row
    assert row.noise_floor is not None
    assert 0 < row.strength <= row.noise_floor
    assert "no measurable effect" in row.notes
    assert row.n_images == 16
    assert row.measured_on is not None
    assert '"device": "a card"' in row.measured_on
    red = indexer_of(bench, OnSomeDevice(0.05)).index(bench.lora("red.safetensors", mix=0.9)).row
    assert "no measurable effect" not in red.notes


def test_broken_pictures_are_an_error_of_that_lora_and_nothing_is_kept(bench: Bench) -> None:
    generator = OnSomeDevice(float("nan"))
    with pytest.raises(BrokenPictureError):
        floor_of(bench, generator)
    assert not (Path(bench.folder) / "work" / "noise_floors.json").exists()
    lora = bench.lora()
    (failure,) = indexer_of(bench, generator).index_all([(lora.name, lora.path)], lambda name: None)
    assert isinstance(failure, Failure)
    assert "is broken (NaN)" in failure.reason
