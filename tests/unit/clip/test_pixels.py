"""Our preprocessing of float pictures against CLIP's own, where PIL resizes 8-bit pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.pixels import PixelFormat, pixels_of
from tests.support import miniworld

PHOTOGRAPHS = miniworld.MINIWORLD.parent / "photographs"
FORMAT_224 = PixelFormat(224, miniworld.CLIP_MEAN, miniworld.CLIP_STD)
FORMAT_128 = PixelFormat(128, miniworld.CLIP_MEAN, miniworld.CLIP_STD)


def drawing(width: int, height: int) -> Image.Image:
    """Flat colours, thin lines, small text: what resizing treats worst."""
    picture = Image.new("RGB", (width, height), (250, 240, 200))
    draw = ImageDraw.Draw(picture)
    for k in range(0, max(width, height), 23):
        draw.line((k, 0, width - k, height), fill=(20, 20, (7 * k) % 256), width=1 + k % 3)
    draw.rectangle((width // 8, height // 8, width // 2, height // 3), fill=(200, 30, 30), outline=(0, 0, 0))
    draw.ellipse((width // 2, height // 2, width - 10, height - 10), fill=(30, 90, 200))
    for k in range(0, height, 31):
        draw.text((5 + k % 40, k), "the quick brown fox jumps over the lazy dog " * 3, fill=(0, 60, 0))
    return picture


def pictures() -> dict[str, Image.Image]:
    cat, rocket = (Image.open(PHOTOGRAPHS / name).convert("RGB") for name in ("cat.jpg", "rocket.jpg"))
    return {
        "photograph, landscape": cat,
        "photograph, portrait": rocket,
        "photograph, square": cat.crop((60, 0, 360, 300)),
        "photograph, enlarged": cat.crop((150, 80, 260, 170)),
        "photograph, large": rocket.resize((1020, 1281), Image.Resampling.LANCZOS),
        "drawing, landscape": drawing(900, 500),
        "drawing, portrait": drawing(480, 1000),
        "drawing, square": drawing(512, 512),
        "drawing, wide": drawing(1600, 300),
    }


def floats(picture: Image.Image) -> Tensor:
    """[1, H, W, 3] in [0, 1], as ComfyUI gives pictures."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)[None]


def clips_own(picture: Image.Image, size: int) -> Tensor:
    """[1, 3, size, size]: open_clip's transform, through PIL."""
    return open_clip.image_transform(size, is_train=False, mean=miniworld.CLIP_MEAN, std=miniworld.CLIP_STD)(picture)[None]


@torch.inference_mode()
def cosine_with_clips_own(model: Any, encoder: OpenClipEncoder, picture: Image.Image, size: int) -> float:
    features = encoder.encode_images(floats(picture))
    expected = model.encode_image(clips_own(picture, size))
    assert torch.allclose(features.norm(), expected.norm(), rtol=1e-2)
    return float(torch.cosine_similarity(features.double(), expected.double())[0])


@pytest.mark.parametrize("kind", pictures())
def test_features_of_the_mini_clip_are_those_of_clips_own_preprocessing(
    encoder: OpenClipEncoder, open_clip_model: Any, kind: str
) -> None:
    assert cosine_with_clips_own(open_clip_model, encoder, pictures()[kind], 128) >= 0.9999


@pytest.mark.parametrize("kind", pictures())
def test_features_at_the_published_encoders_size_are_those_of_clips_own_preprocessing(
    published: tuple[Any, OpenClipEncoder], kind: str
) -> None:
    assert cosine_with_clips_own(*published, pictures()[kind], 224) >= 0.9999


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (64, 64),
        (71, 71),
        (110, 165),
        (300, 223),
        (224, 224),
        (224, 500),
        (225, 224),
        (333, 1000),
        (440, 440),
        (568, 568),
        (760, 760),
    ],
)
def test_pixels_are_clips_own_at_every_size(width: int, height: int) -> None:
    picture = drawing(width, height)
    pixels = pixels_of(floats(picture), FORMAT_224)
    expected = clips_own(picture, 224)
    assert pixels.shape == expected.shape
    levels = (pixels - expected).abs() * torch.tensor(miniworld.CLIP_STD).view(3, 1, 1) * 255
    # PIL also rounds, and cuts what overshoots, between its two passes: half a level on average, more beside thin lines.
    assert float(levels.mean()) < 0.5
    assert float(levels.max()) < 32


def test_a_picture_of_the_right_size_is_only_normalised() -> None:
    picture = drawing(224, 224)
    torch.testing.assert_close(pixels_of(floats(picture), FORMAT_224), clips_own(picture, 224))


def test_a_picture_that_was_saved_with_8_bits_gives_the_same_pixels() -> None:
    generated = torch.rand(1, 200, 300, 3, generator=torch.Generator().manual_seed(1)) * 1.1 - 0.05
    saved = Image.fromarray((generated[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    torch.testing.assert_close(pixels_of(generated, FORMAT_128), pixels_of(floats(saved), FORMAT_128), rtol=0, atol=1e-6)


def test_an_alpha_channel_is_left_out() -> None:
    picture = floats(drawing(300, 200))
    with_alpha = torch.cat([picture, torch.zeros(1, 200, 300, 1)], dim=-1)
    assert torch.equal(pixels_of(with_alpha, FORMAT_128), pixels_of(picture, FORMAT_128))


@pytest.mark.parametrize(("width", "height"), [(128, 128), (300, 200)])
def test_a_broken_picture_is_noticed_in_its_features_and_in_no_others(encoder: OpenClipEncoder, width: int, height: int) -> None:
    picture = floats(drawing(width, height))
    broken = picture.clone()
    broken[0, height // 2, width // 2, 1] = torch.nan
    features = encoder.encode_images(torch.cat([picture, broken, torch.full_like(picture, torch.nan), picture]))
    assert torch.isnan(features).any(dim=1).tolist() == [False, True, True, False]
    torch.testing.assert_close(features[0], encoder.encode_images(picture)[0], rtol=1e-4, atol=1e-4)
