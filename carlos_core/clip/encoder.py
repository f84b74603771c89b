"""CLIP encoders: pictures and texts -> raw features in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import EncoderError
from ..memory import in_parts, is_out_of_memory
from .pixels import PixelFormat, pixels_of
from .text_tower import TextTower

DEFAULT_ENCODER_ID = "ViT-B-32-quickgelu/openai"
"""The encoder of the published rows."""

_IMAGE_BATCH = 64
_TEXT_BATCH = 64


class Encoder(Protocol):
    """Pictures and texts -> features [N, D] float32 on the CPU, raw (not normalised). `encoder_id` names their space."""

    encoder_id: str
    dimension: int

    def encode_images(self, images: Tensor) -> Tensor: ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor: ...


class OpenClipEncoder:
    """An open_clip model. A subclass that manages memory overrides `_ready`, which says where the model is now."""

    def __init__(self, model: Any, tokenizer: Any, encoder_id: str, pixel_format: PixelFormat, dimension: int) -> None:
        """Take over a model, which stays on its device.

        Args:
            model: an open_clip model with its weights; it is set to evaluation and needs no gradients afterwards.
            tokenizer: texts -> token ids [N, context], padded.
            encoder_id: name of the features' space.
            pixel_format: what the image tower expects.
            dimension: length of a feature.
        """
        self.encoder_id = encoder_id
        self.dimension = dimension
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._pixel_format = pixel_format
        self._tower = TextTower(model) if TextTower.supports(model) else None

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """Features of pictures: [B, D] float32 on the CPU, not normalised. images: [B, H, W, C >= 3], values in [0, 1].

        Raises EncoderError for another shape, and if there is too little memory for one picture.
        """
        if images.ndim != 4 or images.shape[-1] < 3:
            raise EncoderError(f"Pictures have shape {list(images.shape)}.", "Pass [B, H, W, 3] with values in [0, 1].")
        device = self._ready()

        def features_of(part: Tensor) -> Tensor:
            features: Tensor = self._model.encode_image(pixels_of(part.to(device), self._pixel_format)).float()
            return features

        try:
            return in_parts(features_of, images, _IMAGE_BATCH)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise EncoderError("There is too little memory for CLIP to look at a picture.", "Close other programs.") from error

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Features of texts: [N, D] float32 on the CPU, not normalised. Texts longer than the context are cut, as in CLIP."""
        device = self._ready()
        ids = self._padded_ids(texts)
        if self._tower is not None:
            return self._tower.encode(_trimmed(ids)).float().cpu()
        parts = [self._model.encode_text(part.to(device)).float().cpu() for part in torch.split(ids, _TEXT_BATCH)]
        return torch.cat(parts)

    @property
    def text_tower(self) -> TextTower | None:
        """The tower that can continue from prefixes, ready to run; None if the model is built otherwise."""
        self._ready()
        return self._tower

    @property
    def keeps_prefixes(self) -> bool:
        """Whether prefixes are worth keeping: on a GPU they are quickly made again, and memory is scarce."""
        return self._ready().type == "cpu"

    @property
    def reads_word_by_word(self) -> bool:
        """Whether the tokens of a plain text are those of its words, one after the other: so it is with CLIP's own tokenizer."""
        return type(self._tokenizer).__name__ == "SimpleTokenizer" and self._tokenizer.reduction_fn is None

    def token_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, from the start-of-text to the end-of-text token."""
        return _trimmed(self._padded_ids(texts))

    def _padded_ids(self, texts: Sequence[str]) -> Tensor:
        return self._tokenizer(list(texts))

    def _ready(self) -> torch.device:
        """Make sure that the model can run, and say on which device."""
        return next(self._model.parameters()).device


def _trimmed(ids: Tensor) -> list[tuple[int, ...]]:
    """[N, context] -> ids up to the end-of-text token, which has the highest number of all tokens."""
    ends = ids.argmax(dim=-1).tolist()
    return [tuple(row[: end + 1].tolist()) for row, end in zip(ids, ends, strict=True)]
