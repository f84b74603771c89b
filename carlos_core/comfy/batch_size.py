"""How many pictures a model makes at a time."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import Tensor

BATCHED_SAMPLERS = frozenset(
    (
        "euler",
        "heun",
        "heunpp2",
        "dpm_2",
        "lms",
        "dpm_fast",
        "dpmpp_2m",
        "ddim",
        "uni_pc",
        "uni_pc_bh2",
        "ipndm",
        "ipndm_v",
        "deis",
    )
    + (
        "res_multistep",
        "gradient_estimation",
        "euler_cfg_pp",
        "dpmpp_2m_cfg_pp",
        "res_multistep_cfg_pp",
        "gradient_estimation_cfg_pp",
    )
)
"""Samplers that draw no noise of their own and treat each picture of a batch by itself; others get one picture at a time."""

_BATCH_SIZES = (16, 8, 4, 2)
_CPU_BATCH_SIZE = 4
_MEMORY_MARGIN = 1.5


def largest_batch(model: Any, latent: Tensor) -> int:
    """The largest batch that fits into memory by ComfyUI's own estimate, once other models have made room.

    With dynamic VRAM the model need not be resident, and what is made with and without guidance need not fit together: ComfyUI
    makes one after the other where it does not. Larger batches are then the faster ones, as each of them moves the weights in
    (SDXL's layout in 7 GiB: 3.3 images/s with 16, 1.7 with 2, `benchmarks/results/gpu.md`).

    model: ComfyUI's MODEL. latent: that of one picture.
    """
    device = model.load_device
    if comfy.model_management.is_device_cpu(device):
        return _CPU_BATCH_SIZE
    free = comfy.model_management.get_free_memory(device) + _evictable_memory(device)
    sides = 2
    if has_dynamic_vram(model):
        sides = 1
    else:
        free -= model.model_size()
    for batch in _BATCH_SIZES:
        if model.model.memory_required([sides * batch, *latent.shape[1:]]) * _MEMORY_MARGIN < free:
            return batch
    return 1


def has_dynamic_vram(model: Any) -> bool:
    """Whether ComfyUI moves a MODEL's weights in and out while it runs. Older versions do not."""
    is_dynamic = getattr(model, "is_dynamic", None)
    return is_dynamic is not None and bool(is_dynamic())


def _evictable_memory(device: torch.device) -> int:
    """Bytes of a device that loaded models hold, which ComfyUI frees when another model needs them."""
    loaded = comfy.model_management.current_loaded_models
    return sum(int(model.model_loaded_memory()) for model in loaded if model.device == device)
