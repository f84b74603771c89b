"""Writes a checkpoint of SDXL's or Z-Image's layout with random weights, and a LoRA for it.

usage: PYTHONPATH=COMFYUI:. python tests/gpu/random_checkpoint.py FAMILY TARGET LORA [--cut]  (with ComfyUI's Python)

FAMILY: sdxl or zimage, of `benchmarks/model_families.py`. --cut: few and narrow layers, to try the script on a CPU; ComfyUI does
not know such a file for SDXL when it loads it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

FAMILY, TARGET, LORA, *OPTIONS = sys.argv[1:]

sys.argv = [sys.argv[0], *([] if torch.cuda.is_available() else ["--cpu"])]
import comfyui_memory

comfyui_memory.prepare(is_dynamic=False)
import comfy.model_management
import comfy.sd

from benchmarks import model_families


@torch.inference_mode()
def main() -> None:
    model, clip, vae = model_families.build(FAMILY, "--cut" in OPTIONS, comfy.model_management.get_torch_device())
    torch.manual_seed(1)
    model_families.write_lora(model, Path(LORA))
    comfy.sd.save_checkpoint(TARGET, model, clip=clip, vae=vae)


main()
