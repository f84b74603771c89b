"""Writes a checkpoint with its diffusion model in 8-bit floats and their scales.

usage: python tests/comfyui/write_scaled_fp8.py CHECKPOINT TARGET FORM [CHANGE]  (with ComfyUI's Python)

FORM: comfy_quant, as ComfyUI writes it today, or scaled_fp8, as it was before. CHANGE: see `weights_of`.
"""

from __future__ import annotations

import json
import sys

import torch
from packed_weights import PREFIX, is_packed, weights_of
from safetensors.torch import save_file

FP8 = torch.float8_e4m3fn
SCALES = {"comfy_quant": "weight_scale", "scaled_fp8": "scale_weight"}


def main() -> None:
    checkpoint, target, form, *change = sys.argv[1:]
    found = {} if form == "comfy_quant" else {f"{PREFIX}scaled_fp8": torch.zeros(2, dtype=FP8)}
    described = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    for name, weight in weights_of(checkpoint, *change).items():
        if not is_packed(name, weight):
            found[name] = weight
            continue
        layer = name.removesuffix(".weight")
        scale = weight.float().abs().max() / torch.finfo(FP8).max
        found |= {name: (weight.float() / scale).to(FP8), f"{layer}.{SCALES[form]}": scale}
        if form == "comfy_quant":
            found[f"{layer}.comfy_quant"] = described.clone()
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, target)


main()
