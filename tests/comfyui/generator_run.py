"""Counts what the generator loads and encodes, in a bare process on ComfyUI's own code.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/generator_run.py CHECKPOINT WORK  (with ComfyUI's Python)

Writes what it found to WORK/found.json.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import weakref
from collections import Counter
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
import comfy.utils
import torch
from safetensors.torch import load_file, save_file

from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.generator import Job, LoraUse, Sampling

TEXTS = ("a red house", "a small boat on the sea", "a red house")
calls: Counter[str] = Counter()


def counted(inner: Any, name: str) -> Any:
    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return inner(*args, **kwargs)

    return counting


def with_text_encoder_part(clip: Any) -> Path:
    """The sketch LoRA with a part for the text encoder: both matrices of an MLP, as the mini-world's own are zero."""
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    random = torch.Generator().manual_seed(0)
    part = {}
    for layer in ("fc1", "fc2"):
        key = f"lora_te1_text_model_encoder_layers_0_mlp_{layer}"
        shape = clip.cond_stage_model.state_dict()[keys[key]].shape
        part[f"{key}.lora_up.weight"] = torch.randn(shape[0], 4, generator=random) * 0.1
        part[f"{key}.lora_down.weight"] = torch.randn(4, shape[1], generator=random) * 0.1
    path = Path(WORK) / "with_text_encoder_part.safetensors"
    save_file({**load_file(SKETCH), **part}, path)
    return path


@torch.inference_mode()
def main() -> None:
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, output_vae=True, output_clip=True)
    both = with_text_encoder_part(clip)
    comfy.sd.CLIP.encode_from_tokens_scheduled = counted(comfy.sd.CLIP.encode_from_tokens_scheduled, "texts encoded")
    comfy.sd.CLIP.load_model = counted(comfy.sd.CLIP.load_model, "text encoder loaded")
    comfy.utils.load_torch_file = counted(comfy.utils.load_torch_file, "files loaded")

    def generator() -> ComfyGenerator:
        return ComfyGenerator(model, clip, vae, Sampling(1, 3.0, "euler", "simple", 64, 64))

    def jobs(*loras: LoraUse) -> list[Job]:
        return [Job(text, seed, loras) for seed, text in enumerate(TEXTS)]

    found: dict[str, Any] = {}

    def note(name: str) -> None:
        found[name] = dict(calls)
        calls.clear()

    at_once, prepared = generator(), generator()
    without = at_once.generate(jobs()).images
    note("base side")
    at_once.generate(jobs())
    note("base side again")
    at_once.check_lora(LoraUse(SKETCH, 1.0))
    with_lora = at_once.generate(jobs(LoraUse(SKETCH, 1.0))).images
    note("a LoRA that leaves the text encoder alone")
    at_once.check_lora(LoraUse(both, 1.0))
    with_both = at_once.generate(jobs(LoraUse(both, 1.0))).images
    note("a LoRA with a part for the text encoder")

    changing = Path(WORK) / "changing.safetensors"
    shutil.copy(SKETCH, changing)
    use = LoraUse(changing, 1.0)
    at_once.check_lora(use)
    shutil.copy(both, changing)
    before = at_once.generate(jobs(use)).images
    at_once.check_lora(use)
    after = at_once.generate(jobs(use)).images
    found["a file that changes"] = [torch.equal(before, with_lora), torch.equal(after, with_both)]
    calls.clear()

    same: list[Any] = []
    for loras, expected in (((), without), ((LoraUse(SKETCH, 1.0),), with_lora), ((LoraUse(both, 1.0),), with_both)):
        prepared.prepare(jobs(*loras))
        note(f"prepared, {len(same)}")
        same.append(torch.equal(prepared.generate(jobs(*loras)).images, expected))
        note(f"generated, {len(same) - 1}")
    found["same pictures"] = same
    gc.collect()
    gc.disable()
    freed = weakref.ref(prepared)
    del prepared
    found["freed without the garbage collector"] = freed() is None
    gc.enable()
    found["pictures differ"] = [not torch.equal(a, b) for a, b in ((without, with_lora), (with_lora, with_both))]
    (Path(WORK) / "found.json").write_text(json.dumps(found))


main()
