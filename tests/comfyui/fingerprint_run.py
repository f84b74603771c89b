"""Fingerprints of the mini-world's model with things attached to it, before and after a picture, in a bare process on ComfyUI's
own code.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/fingerprint_run.py CHECKPOINT WORK  (with ComfyUI's Python)

Writes what it found to WORK/found.json: for each case its fingerprints, first of what was made first, then again once a picture
was made with it, then of the same thing made anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKPOINT, WORK = sys.argv[1:]
ROOT = Path(__file__).resolve().parents[2]
LORAS = ROOT / "tests" / "assets" / "miniworld" / "loras"

sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.hooks
import comfy.patcher_extension
import comfy.sd
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras import nodes_hooks, nodes_model_advanced
from comfy_extras.nodes_easycache import EasyCacheNode
from safetensors.torch import load_file

from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.generator import Job, LoraUse, Sampling

Pair = tuple[Any, Any]
Made = Callable[[Any, Any], Pair]


def sampling_shift(shift: float) -> Made:
    return lambda model, clip: (nodes_model_advanced.ModelSamplingSD3().patch(model, shift)[0], clip)


def easy_cache(threshold: float) -> Made:
    return lambda model, clip: (EasyCacheNode.execute(model, threshold, 0.15, 0.95, False)[0], clip)


def lora(name: str, strength: float) -> Made:
    return lambda model, clip: comfy.sd.load_lora_for_models(model, clip, load_file(LORAS / name), strength, strength)


def bypass_lora(name: str, strength: float, dtype: torch.dtype = torch.float32) -> Made:
    """In another type than the model's: the LoRA's weights take the model's when they are first used."""

    def made(model: Any, clip: Any) -> Pair:
        tensors = {key: value.to(dtype) for key, value in load_file(LORAS / name).items()}
        return comfy.sd.load_bypass_lora_for_models(model, clip, tensors, strength, strength)

    return made


def clip_hooks(*strengths: float) -> Made:
    """LoRAs that are hooked to the text encoder, on the last MLP of it."""

    def made(model: Any, clip: Any) -> Pair:
        hooks = comfy.hooks.HookGroup()
        for place, strength in enumerate(strengths):
            random = torch.Generator().manual_seed(place)
            key = "lora_te1_text_model_encoder_layers_11_self_attn_out_proj"
            up, down = torch.randn(768, 2, generator=random) * 0.1, torch.randn(2, 768, generator=random) * 0.1
            tensors = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
            hooks = hooks.clone_and_combine(comfy.hooks.create_hook_lora(tensors, strength, strength))
        return model, nodes_hooks.SetClipHooks().apply_hooks(clip, False, False, hooks)[0]

    return made


def wrapped(*held: Any) -> Made:
    """A wrapper that passes everything on, and holds something."""

    def made(model: Any, clip: Any) -> Pair:
        things = [thing() if callable(thing) else thing for thing in held] + [model, model.model.diffusion_model]

        def passing_on(executor: Any, *args: Any, **kwargs: Any) -> Any:
            return executor(*args, **kwargs) if things else None

        clone = model.clone()
        clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "test", passing_on)
        return clone, clip

    return made


def compiled(model: Any, clip: Any) -> Pair:
    clone = model.clone()
    set_torch_compile_wrapper(clone, backend="eager")
    return clone, clip


def as_it_is(model: Any, clip: Any) -> Pair:
    return model, clip


CASES: dict[str, Made] = {
    "plain": as_it_is,
    "LoRA": lora("pencil_sketch.safetensors", 1.0),
    "sampling shift 2": sampling_shift(2.0),
    "sampling shift 5": sampling_shift(5.0),
    "EasyCache 0.2": easy_cache(0.2),
    "EasyCache 0.3": easy_cache(0.3),
    "hooks 1, 0.5": clip_hooks(1.0, 0.5),
    "hooks 0.5, 1": clip_hooks(0.5, 1.0),
    "wrapper of 1": wrapped(1.0),
    "wrapper of 2": wrapped(2.0),
    "wrapper of an activation": wrapped(torch.nn.SiLU),
    "wrapper of another activation": wrapped(torch.nn.ReLU),
    "compiled": compiled,
    "wrapper of who knows what": wrapped(lambda: iter([])),
    "wrapper of who knows what else": wrapped(lambda: iter([])),
}
if hasattr(comfy.sd, "load_bypass_lora_for_models"):
    CASES |= {
        "bypass LoRA": bypass_lora("pencil_sketch.safetensors", 1.0),
        "bypass LoRA, weaker": bypass_lora("pencil_sketch.safetensors", 0.5),
        "bypass LoRA in bf16": bypass_lora("pencil_sketch.safetensors", 1.0, torch.bfloat16),
        "another bypass LoRA": bypass_lora("pink_hearts.safetensors", 1.0),
    }


@torch.inference_mode()
def main() -> None:
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, output_vae=True, output_clip=True)

    def generator(pair: Pair) -> ComfyGenerator:
        return ComfyGenerator(*pair, vae, Sampling(2, 3.0, "euler", "simple", 64, 64))

    found: dict[str, Any] = {}
    for name, made in CASES.items():
        pair = made(model, clip)
        prints = [generator(pair).model_fingerprint]
        generator(pair).generate([Job("a red house", 1), Job("a red house", 1, (LoraUse(LORAS / "pixel_art.safetensors", 1.0),))])
        generator(pair).generate([Job("a red house", 1)])
        prints += [generator(pair).model_fingerprint, generator(made(model, clip)).model_fingerprint]
        found[name] = {"prints": prints, "plain meanwhile": generator((model, clip)).model_fingerprint}
    (Path(WORK) / "found.json").write_text(json.dumps(found, indent=1))


main()
