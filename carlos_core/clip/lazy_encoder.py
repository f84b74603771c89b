"""An encoder that is not loaded yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module

from torch import Tensor

from .encoder import Encoder


class LazyEncoder:
    """An encoder that is loaded only when a picture or a text must be encoded: often everything is known already."""

    def __init__(self, encoder_id: str, dimension: int, load: Callable[[str], Encoder] | None = None) -> None:
        """Nothing is loaded yet. load: encoder id -> encoder; default is `loading.load_encoder`."""
        self.encoder_id = encoder_id
        self.dimension = dimension
        self._load = load

    def encode_images(self, images: Tensor) -> Tensor:
        return self.loaded.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self.loaded.encode_texts(texts)

    def load(self) -> None:
        """Load it now. Raises EncoderError if it is not installed."""
        _ = self.loaded

    @cached_property
    def loaded(self) -> Encoder:
        """The encoder itself. Raises EncoderError if it is not installed."""
        # open_clip takes seconds to import.
        load = self._load or import_module(".loading", __package__).load_encoder
        return load(self.encoder_id)
