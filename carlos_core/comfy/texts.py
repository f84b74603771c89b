"""Conditionings of texts under one text encoder of ComfyUI."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import comfy.model_management

from ..errors import GenerationError
from .conditioning import Conditioning, size_of

_BYTES_KEPT = 512 << 20


class Texts:
    """Encodes texts when they are first asked for, and keeps their conditionings: the newest half a gibibyte or so."""

    def __init__(self, clip: Any) -> None:
        """Nothing is loaded yet. clip: ComfyUI's CLIP."""
        self._clip = clip
        self._conditionings: dict[str, Conditioning] = {}
        self._n_bytes = 0

    def prepare(self, texts: Iterable[str]) -> None:
        """Encode the texts that are not kept, as far as there is room, with the text encoder loaded once for all of them.

        Raises GenerationError for a CLIP with a schedule of its own.
        """
        clip = _loaded_once(self._clip)
        for text in dict.fromkeys(texts):
            comfy.model_management.throw_exception_if_processing_interrupted()
            if self._is_full:
                break
            if text not in self._conditionings:
                self._keep(text, _encoded(clip, text))

    def conditioning(self, text: str) -> Conditioning:
        """The conditioning of a text. Raises as `prepare`."""
        if text not in self._conditionings:
            self._keep(text, _encoded(self._clip, text))
        return self._conditionings[text]

    @property
    def _is_full(self) -> bool:
        return self._n_bytes > _BYTES_KEPT

    def _keep(self, text: str, conditioning: Conditioning) -> None:
        """Add a conditioning; the oldest are dropped if there is no room."""
        while self._is_full:
            self._n_bytes -= size_of(self._conditionings.pop(next(iter(self._conditionings))))
        self._conditionings[text] = conditioning
        self._n_bytes += size_of(conditioning)


def _encoded(clip: Any, text: str) -> Conditioning:
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    if len(encoded) != 1:
        raise GenerationError(
            "This CLIP has a schedule of its own (hooks), so that a prompt is not a single conditioning.",
            "Index with the CLIP as the checkpoint loader gives it.",
        )
    tensor, extras = encoded[0]
    return tensor, extras


def _loaded_once(clip: Any) -> Any:
    """The same CLIP for texts one after another, with nothing else loaded in between: it is loaded for the first.

    ComfyUI loads a text encoder for every text. One that is loaded already takes it some 0.15 s with dynamic VRAM (SDXL, H100,
    profiled), most of the time that a text takes. A CLIP that asks for memory by the text is loaded for each, as ever.
    """
    if getattr(getattr(clip, "cond_stage_model", None), "memory_estimation_function", None) is not None:
        return clip
    patient = copy.copy(clip)
    loaded: list[Any] = []

    def load_model(*args: Any, **kwargs: Any) -> Any:
        if not loaded:
            loaded.append(clip.load_model(*args, **kwargs))
        return loaded[0]

    patient.load_model = load_model
    return patient
