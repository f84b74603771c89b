"""Applies LoRAs of odd shapes in a bare process on ComfyUI's own code, and says what became of each.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/fit_run.py CHECKPOINT WORK  (with ComfyUI's Python)

Writes what it found to WORK/found.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKPOINT, WORK = sys.argv[1:]
ROOT = Path(__file__).resolve().parents[2]
SKETCH = ROOT / "tests" / "assets" / "miniworld" / "loras" / "pencil_sketch.safetensors"

sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.lora
import comfy.sd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.comfy.layers import ModelLayers
from carlos_core.comfy.lora_fit import fit_of_file
from carlos_core.errors import LoraError
from carlos_core.generator import Job, LoraUse, Sampling

Tensors = dict[str, Tensor]


def down_twice_as_wide(tensors: Tensors) -> Tensors:
    return {key: torch.cat([value, value], dim=1) if ".lora_down." in key else value for key, value in tensors.items()}


def up_twice_as_high(tensors: Tensors) -> Tensors:
    return {key: torch.cat([value, value]) if ".lora_up." in key else value for key, value in tensors.items()}


def other_ranks(tensors: Tensors) -> Tensors:
    return {key: value[:-1] if ".lora_down." in key else value for key, value in tensors.items()}


def every_second_layer(tensors: Tensors) -> Tensors:
    layers = sorted({key.partition(".")[0] for key in tensors})
    wrong = down_twice_as_wide(tensors)
    return {key: wrong[key] if layers.index(key.partition(".")[0]) % 2 else value for key, value in tensors.items()}


def without_downs(tensors: Tensors) -> Tensors:
    return {key: value for key, value in tensors.items() if ".lora_down." not in key}


def alpha_of_two_values(tensors: Tensors) -> Tensors:
    return {key: torch.ones(2) if key.endswith(".alpha") else value for key, value in tensors.items()}


def as_kind(kind: str, width: int, dora: bool = False) -> Callable[[Tensors], Tensors]:
    """The sketch's layers as a LoRA of another kind, `width` times as wide as they should be."""

    def made(tensors: Tensors) -> Tensors:
        layers = {key.partition(".")[0] for key in tensors}
        found: Tensors = {}
        for layer in sorted(layers):
            up, down = tensors[f"{layer}.lora_up.weight"], tensors[f"{layer}.lora_down.weight"]
            up, down = up.reshape(up.shape[0], -1), torch.cat([down.reshape(down.shape[0], -1)] * width, dim=1)
            rows, columns = up.shape[0], down.shape[1]
            if kind == "old diffusers":
                found |= {f"{layer}_lora.up.weight": up, f"{layer}_lora.down.weight": down}
            elif kind == "lora":
                found |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
            elif kind == "loha":
                found |= {f"{layer}.hada_w1_a": up, f"{layer}.hada_w1_b": down}
                found |= {f"{layer}.hada_w2_a": up, f"{layer}.hada_w2_b": down}
            elif kind == "lokr":
                found |= {f"{layer}.lokr_w1": torch.ones(2, 2), f"{layer}.lokr_w2": torch.randn(rows // 2, columns // 2)}
            elif kind == "diff":
                found[f"{layer}.diff"] = up @ down
            elif kind == "oft":
                found |= {
                    f"{layer}.oft_blocks": torch.randn(2 * width, rows // 2, rows // 2) * 0.01,
                    f"{layer}.alpha": torch.ones(()),
                }
            if dora:
                found[f"{layer}.dora_scale"] = torch.ones(1, columns)
        return found

    return made


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, output_vae=True, output_clip=True)
    # Layers of two dimensions, so that each kind of LoRA can be made for them.
    weights = model.model.state_dict()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    sketch = load_file(SKETCH)
    flat = {key: value for key, value in sketch.items() if weights[keys[key.partition(".")[0]]].ndim == 2}
    cases: dict[str, Tensors] = {"as it is": sketch}
    for change in (down_twice_as_wide, up_twice_as_high, other_ranks, every_second_layer, without_downs, alpha_of_two_values):
        cases[change.__name__.replace("_", " ")] = change(sketch)
    whole = {key: value for key, value in sketch.items() if key.startswith("lora_unet_joint_blocks_0")}
    cases["half a layer that the model lacks"] = {**whole, "lora_unet_elsewhere.lora_up.weight": torch.ones(8, 2)}
    for kind in ("lora", "old diffusers", "loha", "lokr", "diff", "oft"):
        cases[kind] = as_kind(kind, 1)(flat)
        cases[f"{kind}, too wide"] = as_kind(kind, 2)(flat)
    cases["dora"] = as_kind("lora", 1, dora=True)(flat)
    cases["dora, too wide"] = as_kind("lora", 2, dora=True)(flat)
    plain = as_kind("lora", 1)(flat)
    cases["dora, scale too wide"] = {**plain, **{k: v for k, v in cases["dora, too wide"].items() if k.endswith("dora_scale")}}

    generator = ComfyGenerator(model, clip, vae, Sampling(1, 3.0, "euler", "simple", 64, 64))
    job = ("a red house", 1)
    without = generator.generate([Job(*job)]).images
    layers = ModelLayers(model, clip)
    found: dict[str, Any] = {}
    for name, tensors in cases.items():
        path = Path(WORK) / f"{name}.safetensors"
        save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path)
        try:
            fit = generator.check_lora(LoraUse(path, 1.0))
            by_layer = fit_of_file(path, layers)
            picture = generator.generate([Job(*job, (LoraUse(path, 1.0),))]).images
            found[name] = {
                "matched": fit.matched,
                "total": fit.total,
                "of_other_shape": fit.of_other_shape,
                "warning": fit.warning,
                "layers": [by_layer.layers, by_layer.of, by_layer.of_other_shape],
                "changes the picture": not torch.equal(picture, without),
            }
        except LoraError as error:
            found[name] = {"error": str(error)}
    (Path(WORK) / "found.json").write_text(json.dumps(found, indent=1))


main()
