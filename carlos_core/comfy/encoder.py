"""The encoder under ComfyUI's memory management."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import torch

from ..clip.encoder import OpenClipEncoder
from ..clip.loading import EncoderParts, load_encoder_parts
from ..progress import OnProgress


class ComfyEncoder(OpenClipEncoder):
    """An open_clip model that ComfyUI moves to the GPU when it is needed, and away when others need the memory."""

    def __init__(self, parts: EncoderParts) -> None:
        super().__init__(parts.model, parts.tokenizer, parts.encoder_id, parts.pixel_format, parts.dimension)
        self._patcher = comfy.model_patcher.ModelPatcher(
            parts.model,
            load_device=comfy.model_management.text_encoder_device(),
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )

    def _ready(self) -> torch.device:
        if not self._is_loaded:
            # Load all of it or nothing: open_clip's attention holds weights that ComfyUI's partial loading would leave behind.
            comfy.model_management.load_models_gpu([self._patcher], force_full_load=True)
        return self._patcher.load_device

    @property
    def _is_loaded(self) -> bool:
        """Whether ComfyUI has loaded all of the model.

        Asking ComfyUI to load it again costs a full garbage collection whenever a model with a LoRA was unloaded before.
        """
        is_known = any(loaded is self._patcher for loaded in comfy.model_management.loaded_models())
        return is_known and self._patcher.loaded_size() >= self._patcher.model_size()


def load_comfy_encoder(encoder_id: str, folders: Sequence[str | Path], on_progress: OnProgress | None = None) -> ComfyEncoder:
    """Load an encoder for use inside ComfyUI. Raises EncoderError as `loading.load_encoder` does."""
    return ComfyEncoder(load_encoder_parts(encoder_id, folders, on_progress=on_progress))
