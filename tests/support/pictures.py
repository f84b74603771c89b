"""Pictures and pairs of them that tests can tell apart."""

from __future__ import annotations

import numpy as np
from PIL import Image

from carlos_core.drawing.pair import Pair
from carlos_core.measuring.telling_pairs import Candidate

SIDE = 64


def plain(colour: tuple[int, int, int], side: int = SIDE) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def noise(seed: int, side: int = 256) -> Image.Image:
    """The picture that takes most bytes."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def colour_of(picture: Image.Image) -> tuple[int, ...]:
    """Mean colour, rounded to tens: what is kept as JPEG is not the same to the last bit."""
    return tuple(int(10 * np.round(value / 10)) for value in np.asarray(picture).reshape(-1, 3).mean(axis=0))


def candidate(effect: float, topic: str = "a", *, seed: int = 0, prompt: str = "") -> Candidate:
    """A pair whose picture with the LoRA is as green as `effect` says."""
    pair = Pair(prompt or f"{topic} {effect:g}", seed, plain((200, 0, 0)), plain((0, round(effect), 0)))
    return Candidate(pair, topic, effect)
