"""Whether pictures show their prompts, and what is done where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carlos_core.errors import UnsuitableSamplingError
from carlos_core.generator import Job
from carlos_core.measuring.base_check import ALL_ALIKE, BURNT, NOTHING_SHOWN, BaseCheck, Looks
from carlos_core.measuring.failures import Failure
from carlos_core.measuring.presets import TRIGGERS_ON_BOTH_SIDES
from carlos_core.measuring.studio import Studio
from tests.support.bench import Bench, indexer_of
from tests.support.drawing_generator import DrawingGenerator

CHANCE = np.random.default_rng(1)
TEXTS = CHANCE.normal(size=(16, 64))


class Sighted:
    """An encoder that sees in a picture of a prompt what its text says, as clearly as the picture's mean brightness says."""

    encoder_id, dimension = "sighted", 64

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._of(text) for text in texts])

    def encode_images(self, images: Tensor) -> Tensor:
        return torch.stack([image[0, 0, 0] * self._of(str(int(image[0, 0, 1]))) + image[0, 0, 2] for image in images])

    @staticmethod
    def _of(text: str) -> Tensor:
        seed = int(text) if text.isdigit() else Signed.number(text)
        return torch.randn(64, generator=torch.Generator().manual_seed(seed))


class Signed(DrawingGenerator):
    """Pictures that carry the number of their prompt, how clearly they show it, and what they show besides."""

    def __init__(
        self, model: str, clearness: float, *, besides: float = 0.0, is_other: bool = False, clips: bool = False
    ) -> None:
        super().__init__(model=model)
        self.clearness, self.besides, self.is_other, self.clips = clearness, besides, is_other, clips

    @staticmethod
    def number(text: str) -> int:
        return int.from_bytes(text.encode()[-8:], "big") % 100_000

    def picture(self, job: Job) -> Tensor:
        number = self.number(job.prompt + ("x" if self.is_other else ""))
        picture = torch.full((8, 8, 3), 1.0 if self.clips else 0.5)
        picture[0, 0] = torch.tensor([self.clearness, float(number), self.besides])
        return picture


def looked(bench: Bench, generator: Signed, few: Signed | None = None, *, is_strict: bool = False) -> Any:
    indexer = indexer_of(bench, DrawingGenerator())

    def studio(of: Signed) -> Studio:
        return Studio(of, Sighted(), bench.folder / "work", 4)

    check = BaseCheck(None if few is None else lambda: studio(few), is_strict=is_strict)
    here = studio(generator)
    return check.look(here, indexer.plan.shots)


def test_looks_are_those_of_matched_features() -> None:
    looks = Looks.of(TEXTS + 0.1 * CHANCE.normal(size=TEXTS.shape), TEXTS)
    assert looks.matched == 1
    assert looks.alignment > 0.97
    other = Looks.of(CHANCE.normal(size=TEXTS.shape), TEXTS)
    assert 0.3 < other.matched < 0.7
    assert abs(other.alignment) < 0.15
    assert Looks.of(np.ones_like(TEXTS), TEXTS).variety == 0
    assert Looks.of(5 + 0.1 * TEXTS, TEXTS).variety < 0.1


def test_pictures_that_show_their_prompts_are_right(bench: Bench) -> None:
    found = looked(bench, Signed("right", 1.0), is_strict=True)
    assert (found.problem, found.other_evaluations) == ("", 0)
    assert found.base_evaluations > 0
    assert looked(bench, Signed("right", 1.0), is_strict=True).base_evaluations == 0


def test_pictures_of_something_else_are_told(bench: Bench) -> None:
    assert looked(bench, Signed("other", 1.0, is_other=True)).problem == NOTHING_SHOWN


def test_pictures_that_are_all_alike_are_told(bench: Bench) -> None:
    assert looked(bench, Signed("alike", 0.05, besides=5.0)).problem == ALL_ALIKE


def test_clipped_pictures_are_compared_with_those_without_guidance(bench: Bench) -> None:
    right = Signed("few steps", 1.0)
    for_comparison = looked(bench, Signed("clipped, and right", 1.0, clips=True), right)
    assert (for_comparison.problem, for_comparison.other_evaluations > 0) == ("", True)


def test_burnt_pictures_are_an_error_that_says_what_to_do_and_is_kept(bench: Bench) -> None:
    class Burnt(Signed):
        """Half of what they show is something else."""

        def picture(self, job: Job) -> Tensor:
            picture = super().picture(job)
            picture[0, 0, 2] = 3.0 * ((self.number(job.prompt) % 7) - 3)
            return picture

    burnt, few = Burnt("burnt", 0.6, clips=True), Signed("few", 1.0)
    assert looked(bench, burnt, few).problem in (BURNT, NOTHING_SHOWN)
    made = len(burnt.jobs) + len(few.jobs)
    with pytest.raises(UnsuitableSamplingError, match="KSampler"):
        looked(bench, burnt, few, is_strict=True)
    assert len(burnt.jobs) + len(few.jobs) == made


def test_a_library_run_stops_at_unsuitable_pictures_and_not_at_bad_files(bench: Bench) -> None:
    lora, drawn = bench.lora(), DrawingGenerator()
    (bench.folder / "bad.safetensors").write_bytes(b"no LoRA")
    files = [("bad.safetensors", bench.folder / "bad.safetensors"), (lora.name, lora.path)]
    # What is drawn has nothing to do with the prompts.
    check = BaseCheck(None, is_strict=True)
    run = replace(indexer_of(bench, drawn), base_check=check).index_all(files, lambda name: None)
    assert isinstance(next(run), Failure)
    with pytest.raises(UnsuitableSamplingError):
        next(run)
    assert not any(job.loras for job in drawn.jobs)
    noted = replace(indexer_of(bench, drawn), base_check=BaseCheck(None, is_strict=False)).index(lora)
    assert any("do not suit" in note for note in noted.row.notes)


def test_words_of_a_lora_do_not_decide_what_pictures_look_like(bench: Bench) -> None:
    lora, drawn = bench.lora(trigger="a word of its own"), DrawingGenerator()
    indexer = indexer_of(bench, drawn)
    protocol = replace(indexer.protocol, trigger_rule=TRIGGERS_ON_BOTH_SIDES)
    replace(indexer, protocol=protocol, base_check=BaseCheck(None, is_strict=False)).index(lora)
    assert [job.triggers for job in drawn.jobs[:16]] == [()] * 16
