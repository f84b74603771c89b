"""A few pairs of pictures, without and with the LoRA, to look at."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..drawing.tensors import DAMAGE, as_tensor, picture_of
from ..storage import write_atomically
from .feature_store import FeatureStore, picture_key
from .plan import Shot

logger = logging.getLogger(__name__)

PAIRS = 8
"""Of a contact sheet."""

MOST_THUMBNAILS = 16
"""Of one side of a measurement."""

_SIDE = 256
_GAP = 4


def worth_a_thumbnail(shots: Sequence[Shot]) -> list[Shot]:
    """The shots that a contact sheet shows, and further ones of other topics, from which a gallery chooses.

    They are the first ones and the first of each topic, in the order of the plan. What is taken of a part of a plan is also taken
    of the whole.
    """
    topics: set[str] = set()
    taken: list[Shot] = []
    for place, shot in enumerate(shots):
        if place < PAIRS or shot.prompt.topic not in topics:
            taken.append(shot)
        topics.add(shot.prompt.topic)
        if len(taken) == MOST_THUMBNAILS:
            break
    return taken


def keep_thumbnail(store: FeatureStore, text: str, seed: int, image: Tensor) -> None:
    """Keep a small copy of a picture beside its features. If it cannot be written, only the thumbnail is lost.

    Args:
        store: where the picture's features are.
        text: the picture's whole prompt, trigger words included.
        seed: the picture's seed.
        image: the picture, [H, W, 3] float in [0, 1].
    """
    path = _path(store, text, seed)
    try:
        picture = picture_of(_reduced(image))
        write_atomically(path, lambda file: picture.save(file, "PNG"), is_cache=True)
    except OSError as error:
        logger.warning("carlos: a thumbnail cannot be kept: %s", error)


@dataclass(frozen=True)
class SmallPictures:
    """Where the pictures of a contact sheet are: they are read when it is drawn."""

    columns: tuple[tuple[Path, Path], ...]
    """Without the LoRA, with it."""

    def sheet(self) -> Tensor | None:
        """Two rows of pictures, without the LoRA above and with it below: one column for each pair that is there.

        [1, H, W, 3] float in [0, 1]; None if there is nothing to show.
        """
        columns = []
        for above, below in self.columns:
            without = _read(above)
            with_lora = None if without is None else _read(below)
            if without is not None and with_lora is not None:
                columns.append((without, with_lora))
        if not columns:
            return None
        width = max(picture.width for column in columns for picture in column)
        height = max(picture.height for column in columns for picture in column)
        drawn = Image.new("RGB", (len(columns) * (width + _GAP) - _GAP, 2 * height + _GAP), "white")
        for x, column in enumerate(columns):
            for y, picture in enumerate(column):
                drawn.paste(picture, (x * (width + _GAP), y * (height + _GAP)))
        return as_tensor(drawn)


def of_contact_sheet(
    base: FeatureStore, lora: FeatureStore, pairs: Sequence[tuple[tuple[str, int], tuple[str, int]]]
) -> SmallPictures:
    """The pictures of a contact sheet. pairs: (text, seed) of the base side and of the LoRA side; only the first 8 are shown."""
    return SmallPictures(tuple((_path(base, *without), _path(lora, *with_lora)) for without, with_lora in pairs[:PAIRS]))


def has_thumbnail(store: FeatureStore, text: str, seed: int) -> bool:
    """Whether `keep_thumbnail` has kept a picture, and nobody has removed it."""
    return _path(store, text, seed).is_file()


def _reduced(image: Tensor) -> Tensor:
    """A picture whose longer side is at most `_SIDE`. A large one is reduced before it gets 8 bits, which is slow."""
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= _SIDE:
        return image
    size = (max(1, round(height * _SIDE / longest)), max(1, round(width * _SIDE / longest)))
    channels = image[..., :3].movedim(-1, 0)[None].float()
    return functional.interpolate(channels, size=size, mode="bicubic", antialias=True)[0].movedim(0, -1)


def thumbnail(store: FeatureStore, text: str, seed: int) -> Image.Image | None:
    """What was kept by `keep_thumbnail`; None if it is not there."""
    return _read(_path(store, text, seed))


def _path(store: FeatureStore, text: str, seed: int) -> Path:
    return store.thumbnails / f"{picture_key(text, seed).hex()}.png"


def _read(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        # After a power cut, for example: thumbnails are written without waiting for the disk.
        logger.warning("carlos: the thumbnail %s cannot be read: %s", path.name, error)
        return None
