"""Texts as a pipeline's text encoders give them, under the LoRAs that are in their weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import torch

from .families import Encoded

logger = logging.getLogger(__name__)

_BYTES_KEPT = 512 << 20
_AT_A_TIME = 16


class Texts:
    """Encodes texts when they are first asked for, and keeps the newest half a gibibyte of them."""

    def __init__(self, encode: Callable[[Sequence[str]], list[Encoded]]) -> None:
        self._encode = encode
        self._kept: dict[str, Encoded] = {}
        self._n_bytes = 0

    def prepare(self, texts: Iterable[str]) -> None:
        """Encode those of the texts that are not kept, as far as there is room, several at a time."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        for start in range(0, len(missing), _AT_A_TIME):
            if self._n_bytes > _BYTES_KEPT:
                break
            part = missing[start : start + _AT_A_TIME]
            for text, encoded in zip(part, self._encode(part), strict=True):
                self._keep(text, encoded)

    def encoded(self, text: str) -> Encoded:
        if text not in self._kept:
            self._keep(text, self._encode([text])[0])
        return self._kept[text]

    def _keep(self, text: str, encoded: Encoded) -> None:
        while self._n_bytes > _BYTES_KEPT:
            self._n_bytes -= _size_of(self._kept.pop(next(iter(self._kept))))
        # A row of a batch would keep the whole batch.
        self._kept[text] = {name: tensor.clone() for name, tensor in encoded.items()}
        self._n_bytes += _size_of(encoded)


def zeroed(encoded: Encoded) -> Encoded:
    """What diffusers uses for a missing negative prompt of SDXL."""
    return {name: torch.zeros_like(tensor) for name, tensor in encoded.items()}


def form_of(encoded: Encoded) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """What is equal for texts that can share a batch."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in sorted(encoded.items()))


def _size_of(encoded: Encoded) -> int:
    return sum(tensor.nbytes for tensor in encoded.values())
