"""How far two pictures of the same settings are apart: what lies below that is the host's doing, not the LoRA's.

Most hosts make the same picture twice, to the bit. Some do not: 8-bit weights that are patched anew, kernels that add up in any
order, nodes of others that draw noise of their own.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..generator import OnDevice
from .kept_facts import NOISE_FLOORS, KeptFacts
from .plan import Shot
from .studio import Side, Studio, broken_picture

_MORE = 7
"""Pictures of each side that are compared if the first ones differ."""

_MARGIN = 3.0
"""Standard errors that are added to the mean distance."""


@dataclass(frozen=True)
class NoiseFloor:
    """How far the same picture, made twice, is from itself; all zero on a host that makes the same one."""

    features: float
    """Distance of the features, raw CLIP units: an upper limit for its mean. A strength below it shows no effect."""

    pixels: float
    """Mean difference of the pixels, of 255."""

    model_evaluations: int = 0
    """Forward passes that this took, all thrown away."""

    @property
    def note(self) -> str:
        """In words, for a row; empty if there is no noise."""
        if not self.features and not self.pixels:
            return ""
        return (
            f"the host makes other pictures the second time (mean difference {self.pixels:.2f} of 255): a strength below "
            f"{self.features:.2f} cannot be told from no effect"
        )


def noise_floor(studio: Studio, sides: tuple[Side, Side], shots: Sequence[Shot]) -> NoiseFloor:
    """The noise of a generator on this host and device: measured once, and kept.

    A picture without the LoRA is made twice, and one with it before and after its model was unloaded. Only if they differ, more
    of them are.

    Args:
        studio: its generator is an `OnDevice`.
        sides: without the LoRA and with it.
        shots: of the plan.

    Raises BrokenPictureError, and keeps nothing, if a picture is not finite.
    """
    generator = studio.generator
    assert isinstance(generator, OnDevice)
    kept = KeptFacts(studio.folder / NOISE_FLOORS)
    key = _key(studio)
    known = kept.get(key)
    if isinstance(known, dict) and all(_is_amount(known.get(name)) for name in ("features", "pixels")):
        return NoiseFloor(float(known["features"]), float(known["pixels"]))
    found = [*_differences(studio, sides, shots[0])]
    if any(features or pixels for features, pixels, _evaluations in found):
        for shot in shots[1 : 1 + _MORE]:
            found += _differences(studio, sides, shot)
    floor = _floor(found)
    kept.keep(key, {name: value for name, value in asdict(floor).items() if name != "model_evaluations"})
    return floor


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def _key(studio: Studio) -> str:
    generator = studio.generator
    assert isinstance(generator, OnDevice)
    facts = {"generator": generator.fingerprint, "encoder": studio.encoder.encoder_id, **asdict(generator.environment)}
    return json.dumps(facts, sort_keys=True)


def _differences(studio: Studio, sides: tuple[Side, Side], shot: Shot) -> Iterator[tuple[float, float, int]]:
    """For each side: the distance of the features of its picture made twice, that of the pixels, and the forward passes."""
    generator = studio.generator
    assert isinstance(generator, OnDevice)
    for side in sides:
        job = side.job(shot)
        first = generator.generate([job])
        if side.loras:
            generator.unload()
        again = generator.generate([job])
        if not (torch.isfinite(first.images).all() and torch.isfinite(again.images).all()):
            raise broken_picture(shot)
        pixels = float((first.images.float() - again.images.float()).abs().mean()) * 255
        features = studio.encoder.encode_images(torch.cat([first.images, again.images])) if pixels else torch.zeros(2, 1)
        evaluations = sum(made.model_evaluations + made.warm_up_evaluations for made in (first, again))
        yield float((features[0] - features[1]).norm()), pixels, evaluations


def _floor(found: Sequence[tuple[float, float, int]]) -> NoiseFloor:
    features, pixels, evaluations = zip(*found, strict=True)
    # A single shot, of two sides, says nothing of the spread: the larger distance is the limit.
    limit = max(features)
    if len(features) > 2:
        limit = statistics.fmean(features) + _MARGIN * statistics.stdev(features) / len(features) ** 0.5
    return NoiseFloor(limit, statistics.fmean(pixels), sum(evaluations))
