"""A pipeline of diffusers on its device: its parts, its LoRAs, and the texts that it was given."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GenerationError
from ..generator import LoraFit, LoraUse
from ..memory import is_out_of_memory
from ..picture_jobs import FileStates, states_of
from ..tensor_samples import sampled_bytes
from .families import Encoded, Family
from .lora_files import LoraTensors
from .merging import LoadedLora, MergedWeights
from .texts import Texts

logger = logging.getLogger(__name__)

_DECIDING = frozenset(
    (
        # Attention, and where in the picture or text its tokens are.
        *("attention_head_dim", "num_attention_heads", "num_heads", "num_key_value_heads", "head_dim", "n_heads", "n_kv_heads"),
        *("axes_dims", "axes_dims_rope", "axes_lens", "mrope_section", "rope_theta", "rope_type", "theta"),
        *("patch_size", "pos_embed_max_size", "sample_size", "relative_attention_num_buckets", "relative_attention_max_distance"),
        # Activations and norms.
        *("act_fn", "dense_act_fn", "feed_forward_proj", "hidden_act", "is_gated_act", "timestep_post_act"),
        *("eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_num_groups", "qk_norm", "rms_norm_eps"),
        # Times, sizes, and the picture's scale.
        *("addition_embed_type", "addition_time_embed_dim", "flip_sin_to_cos", "freq_shift", "time_embedding_type", "t_scale"),
        *("center_input_sample", "downsample_padding", "mid_block_scale_factor", "resnet_time_scale_shift"),
        *("latents_mean", "latents_std", "scaling_factor", "shift_factor"),
        # Where a text ends.
        "eos_token_id",
    )
)
"""Keys of configurations; see `_facts_of`."""

_SIDES_KEPT = 3
_RESERVE = 6 << 30
"""Bytes of a GPU that pictures are to have beside the weights."""


@dataclass(eq=False)
class Side:
    """The model with some LoRAs (none: the base side)."""

    loras: tuple[LoadedLora, ...]
    texts: Texts
    """Shared with the base side if the LoRAs do not touch the text encoders."""

    files: FileStates
    """States of the LoRAs' files before they were read."""

    @property
    def fits(self) -> tuple[LoraFit, ...]:
        return tuple(lora.fit for lora in self.loras)


class DiffusersModel:
    """A pipeline, which several generators may use for pictures of different samplings. One picture is made at a time."""

    def __init__(self, pipe: Any, family: Family, device: torch.device) -> None:
        """Put a pipeline on a device. Text encoders stay in the computer's memory where a GPU has too little.

        Raises GenerationError if there is too little for the rest.
        """
        self.pipe, self.family, self.device = pipe, family, _usual(device)
        pipe.set_progress_bar_config(disable=True)
        self.denoiser: nn.Module = getattr(pipe, family.part)
        self.dtype: torch.dtype = self.denoiser.dtype
        self._encoders = [
            module for name, module in pipe.components.items() if name.startswith("text_encoder") and module is not None
        ]
        self._merged = MergedWeights()
        self._sides: dict[tuple[LoraUse, ...], Side] = {}
        for module in self._modules.values():
            module.requires_grad_(False)
            module.eval()
        if getattr(pipe.vae.config, "force_upcast", False) and self.dtype == torch.float16:
            pipe.vae.to(torch.float32)
        self.load()

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {name: module for name, module in self.pipe.components.items() if isinstance(module, nn.Module)}

    def load(self) -> None:
        """Put the model on its device, unless it is there. Raises GenerationError if there is too little memory."""
        keeps = _bytes_of(self._modules.values()) + _RESERVE <= _free_bytes(self.device) + self._loaded_bytes
        try:
            for module in self._modules.values():
                if keeps or module not in self._encoders:
                    module.to(self.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise GenerationError(
                f"The model does not fit into the memory of {self.device}.",
                "Close other programs, choose a smaller model, or let the CPU compute (slowly).",
            ) from error

    def unload(self) -> None:
        """Take the model off its device; the next picture loads it again."""
        self._merged.clear()
        for module in self._modules.values():
            module.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _loaded_bytes(self) -> int:
        return sum(_bytes_of([module]) for module in self._modules.values() if _device_of(module) == self.device)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits for all weights, and what else decides what the parts compute."""
        self._merged.clear()
        digest = hashlib.sha256()
        for name, module in sorted(self._modules.items()):
            digest.update(f"{name} {type(module).__name__} {_facts_of(module)}\0".encode())
            for key, tensor in sorted(module.state_dict().items()):
                digest.update(f"{key}\0".encode() + sampled_bytes(tensor))
        for name, part in sorted(self.pipe.components.items()):
            if name.startswith("tokenizer") and part is not None:
                digest.update(f"{name} {len(part)} {part.pad_token_id}\0".encode())
        return digest.hexdigest()[:16]

    @cached_property
    def model_key(self) -> str:
        return self.family.model_key(self.pipe)

    def side(self, uses: tuple[LoraUse, ...]) -> Side:
        """The model with LoRAs; the last few combinations are kept. Raises LoraError for one that does not fit."""
        side = self._sides.pop(uses, None)
        if side is None:
            self._merged.clear()
            files = states_of(uses)
            loras = tuple(
                LoadedLora(LoraTensors(use.path, self.pipe, self.family), self.pipe, self.family, use.weight) for use in uses
            )
            if not uses or any(lora.changes_texts for lora in loras):
                texts = Texts(lambda given: self._encode(loras, given))
            else:
                texts = self.side(()).texts
            side = Side(loras, texts, files)
            while len(self._sides) >= _SIDES_KEPT:
                del self._sides[next(iter(self._sides))]
        self._sides[uses] = side
        return side

    def forget_changed(self, path: Path) -> None:
        """Read a LoRA's file again when it is next asked for, if it was changed since."""
        for uses in [uses for uses in self._sides if any(use.path == path for use in uses)]:
            if self._sides[uses].files != states_of(uses):
                del self._sides[uses]

    def put_in(self, side: Side) -> None:
        """Have a side's LoRAs, and no others, in the weights."""
        self._merged.set(side.loras)

    def _encode(self, loras: tuple[LoadedLora, ...], texts: Sequence[str]) -> list[Encoded]:
        self._merged.set(loras)
        self._warn_of_long(texts)
        with self._encoders_there():
            encoded = self.family.encode(self.pipe, texts, self.device)
        return [{name: tensor.to(self.device) for name, tensor in text.items()} for text in encoded]

    def _warn_of_long(self, texts: Sequence[str]) -> None:
        tokenizer = self.pipe.tokenizer
        limit = getattr(tokenizer, "model_max_length", 0)
        if not 0 < limit <= 77:
            return
        for text in texts:
            length = len(tokenizer(text).input_ids)
            if length > limit:
                logger.warning("carlos: diffusers reads %d of the %d tokens of %r", limit, length, text)

    @contextmanager
    def _encoders_there(self) -> Iterator[None]:
        """The text encoders on the device, where they do not stay if there is no room for them beside the rest."""
        away = [module for module in self._encoders if _device_of(module) != self.device]
        if away and self.device.type == "cuda":
            self.denoiser.to("cpu")
        for module in away:
            module.to(self.device)
        try:
            yield
        finally:
            for module in away:
                module.to("cpu")
            if away and self.device.type == "cuda":
                torch.cuda.empty_cache()
                self.denoiser.to(self.device)

    def decoded(self, latents: Tensor) -> Tensor:
        """Pictures of latents, [B, H, W, 3] in [0, 1]."""
        vae = self.pipe.vae
        images = vae.decode(self.family.unscaled(self.pipe, latents.to(vae.dtype)), return_dict=False)[0]
        images = images[:, :, 0] if images.ndim == 5 else images
        return (images.float() / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def _facts_of(module: Any) -> str:
    """What of a component's configuration decides what it computes, and does not show in its weights.

    A configuration also has what the installed version of its library knows beside, with its defaults.
    """
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    return repr(list(_deciding(config)))


def _deciding(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in sorted(config.items()):
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", found) for inner, found in _deciding(value))
        elif key in _DECIDING and value is not None:
            yield key, list(value) if isinstance(value, tuple) else value


def _bytes_of(modules: Any) -> int:
    return sum(parameter.nbytes for module in modules for parameter in module.parameters())


def _device_of(module: nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    return _usual(torch.device("cpu") if parameter is None else parameter.device)


def _usual(device: torch.device) -> torch.device:
    """The one name of a device: the first of a kind has two."""
    return torch.device(device.type) if device.index in (None, 0) else device


def _free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 1 << 62
    free, _total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
