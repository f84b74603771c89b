"""Pictures of a model that makes videos, and models that make none, in a bare process on ComfyUI's own code.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/video_run.py  (with ComfyUI's Python)

The models are ComfyUI's own classes with few and narrow layers and random weights. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any

sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.ldm.wan.vae
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch

from benchmarks.model_families import build, randomised
from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.errors import GenerationError
from carlos_core.generator import Job, Sampling

WAN: dict[str, Any] = {"image_model": "wan2.1", "model_type": "t2v", "dim": 256, "out_dim": 16, "num_heads": 2, "ffn_dim": 512}
WAN |= {"num_layers": 1, "patch_size": (1, 2, 2), "in_dim": 16, "text_dim": 4096}
SAMPLING = Sampling(2, 3.0, "euler", "simple", 64, 64)
CPU = torch.device("cpu")


def model_of(name: str) -> Any:
    """A model of one of ComfyUI's classes of configurations, on Wan's layers."""
    config = getattr(comfy.supported_models, name)(dict(WAN))
    config.set_inference_dtype(torch.float32, None)
    model = randomised(comfy.supported_models.WAN21_T2V.get_model(config, {}, "", device=CPU), 1)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


@torch.inference_mode()
def main() -> None:
    _model, clip, _vae = build("sd3", True, CPU)
    vae = comfy.sd.VAE(
        sd=randomised(comfy.ldm.wan.vae.WanVAE(dim=96, z_dim=16, temperal_downsample=[False, True, True]), 3).state_dict()
    )
    generator = ComfyGenerator(model_of("WAN21_T2V"), clip, vae, SAMPLING)
    jobs = [Job("a house", 1), Job("a boat", 2)]
    together, alone = generator.generate(jobs).images, generator.generate(jobs[1:]).images
    refused = {}
    for name in ("WAN21_I2V", "WAN21_Vace", "WAN21_Camera"):
        try:
            ComfyGenerator(model_of(name), clip, vae, SAMPLING)
        except GenerationError as error:
            refused[name] = str(error)
    found = {
        "shape": list(together.shape),
        "is_finite": bool(torch.isfinite(together).all()),
        "differ": float((together[0] - together[1]).abs().mean()),
        "alone": float((together[1] - alone[0]).abs().max()),
        "refused": refused,
    }
    sys.stdout.write(json.dumps(found) + "\n")


main()
