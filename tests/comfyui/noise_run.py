"""Indexes LoRAs on a model whose pictures differ every time, in a bare process on ComfyUI's own code.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/noise_run.py CHECKPOINT WORK AMOUNT [LORA ...]  (with ComfyUI's Python)

A model function adds noise of its own to what the model predicts, AMOUNT of its spread. Prints one JSON object a LoRA.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

CHECKPOINT, WORK, AMOUNT, *LORAS = sys.argv[1:]
MINIWORLD = Path(__file__).resolve().parents[1] / "assets" / "miniworld"

sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.sd
import torch

from carlos_core.clip.loading import load_encoder
from carlos_core.clip.weights import local_encoders
from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.database.database import MetricsDatabase
from carlos_core.database.target import InMemory
from carlos_core.loras.lora_file import read_lora_file
from carlos_core.measuring.indexer import Indexer
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.presets import PRESETS, TRIGGERS_ON_LORA_SIDE
from carlos_core.measuring.protocol import Protocol
from carlos_core.measuring.studio import Studio
from carlos_core.prompts.prompt_set import load_prompt_set

OWN = torch.Generator()
OWN.manual_seed(1)


def noisy(apply_model: Any, arguments: dict[str, Any]) -> Any:
    """A model function that draws noise of its own: that of torch is the same for each picture, since samplers seed it."""
    predicted = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
    return predicted + float(AMOUNT) * predicted.std() * torch.randn(predicted.shape, generator=OWN)


@torch.inference_mode()
def main() -> None:
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, output_vae=True, output_clip=True)
    if float(AMOUNT):
        model = model.clone()
        model.set_model_unet_function_wrapper(noisy)
    preset, prompts = PRESETS["quick"], load_prompt_set(MINIWORLD / "prompts_short.json")
    generator = ComfyGenerator(model, clip, vae, replace(preset.sampling, width=128, height=128))
    encoder = load_encoder(local_encoders([MINIWORLD])["mini_clip"].encoder_id, [MINIWORLD], device="cpu")
    plan = Plan.of_preset(preset, prompts, generator.evaluations_per_image)
    protocol = Protocol("quick", prompts.content_hash, plan.seed_rule, 1.0, TRIGGERS_ON_LORA_SIDE, generator.settings)
    database = MetricsDatabase.empty(encoder.encoder_id, encoder.dimension)
    indexer = Indexer(Studio(generator, encoder, Path(WORK)), protocol, plan, InMemory(database))
    for name in LORAS:
        outcome = indexer.index(read_lora_file(MINIWORLD / "loras" / name))
        row = outcome.row
        facts = {"strength": row.strength, "noise_floor": row.noise_floor, "n_images": row.n_images, "notes": row.notes}
        sys.stdout.write(json.dumps({"file": name, **facts, "other": outcome.other_evaluations}) + "\n")


main()
