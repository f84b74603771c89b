"""What is drawn where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from carlos_core.drawing import theme
from carlos_core.drawing.canvas import Box, Canvas, Ink
from carlos_core.drawing.tensors import as_tensor, picture_of


def pixels(canvas: Canvas) -> np.ndarray:
    return np.asarray(canvas.picture).astype(int)


def coloured(canvas: Canvas, colour: str) -> np.ndarray:
    """[H, W] bool, where a colour is."""
    return (pixels(canvas) == [int(colour[place : place + 2], 16) for place in (1, 3, 5)]).all(axis=2)


@pytest.mark.parametrize(("share", "filled"), [(-1.0, 0), (0.0, 0), (0.25, 25), (1.0, 100), (7.0, 100)])
def test_a_bar_is_filled_by_its_share(share: float, filled: int) -> None:
    canvas = Canvas(120, 20)
    canvas.bar(Box(10, 5, 100, 8), share)
    assert coloured(canvas, theme.ACCENT).sum() == filled * 8
    assert coloured(canvas, theme.TRACK).sum() == (100 - filled) * 8


def test_words_end_before_their_width_or_at_their_right_end() -> None:
    left, right = Canvas(400, 40), Canvas(400, 40)
    end = left.write((10, 5), "a name that is much too long for this place", Ink(20), 150)
    right.write_right((390, 5), "12.34", Ink(20), 150)
    inked = [np.flatnonzero((pixels(canvas) != pixels(Canvas(400, 40))).any(axis=(0, 2))) for canvas in (left, right)]
    assert 130 <= inked[0].max() <= end <= 160
    assert 380 <= inked[1].max() <= 390
    assert inked[1].min() > 300


def test_lines_stay_in_their_box() -> None:
    canvas = Canvas(300, 200)
    end = canvas.write_lines(Box(20, 30, 200, 80), "many words " * 40, Ink(20))
    inked = np.argwhere((pixels(canvas) != pixels(Canvas(300, 200))).any(axis=2))
    assert inked[:, 0].min() >= 30
    assert inked[:, 0].max() <= end <= 110
    assert inked[:, 1].max() <= 220


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (3, 3), (1, 900)])
def test_a_thumbnail_keeps_its_shape_in_the_middle_of_its_box(size: tuple[int, int]) -> None:
    canvas = Canvas(100, 100)
    canvas.thumbnail(Image.new("RGB", size, "#ff0000"), Box(10, 20, 60, 60))
    there = np.argwhere(coloured(canvas, "#ff0000"))
    (top, left), (bottom, right) = there.min(axis=0), there.max(axis=0)
    assert (top + bottom) / 2 == pytest.approx(49.5, abs=1)
    assert (left + right) / 2 == pytest.approx(39.5, abs=1)
    scale = 60 / max(size)
    assert (right - left + 1, bottom - top + 1) == tuple(max(1, round(side * scale)) for side in size)


def test_a_dot_is_round() -> None:
    canvas = Canvas(50, 50)
    canvas.dot((25, 25), 10, "#ff0000")
    assert (pixels(canvas)[..., 0] > 128).sum() == pytest.approx(np.pi * 100, rel=0.05)


def test_a_picture_becomes_a_tensor_and_comes_back() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    image = as_tensor(picture)
    assert image.shape == (1, 5, 7, 3)
    assert image.dtype == torch.float32
    assert picture_of(image[0]).tobytes() == picture.tobytes()
