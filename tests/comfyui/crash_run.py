"""Drives the indexing engine in a bare process on ComfyUI's own code, for the crash tests to kill.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/crash_run.py CHECKPOINT WORK BATCH  (with ComfyUI's Python)

Indexes LoRAs of the mini-world into WORK/db.parquet. Writes the size of every batch that was generated to WORK/generated, and
"done" to WORK/done at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHECKPOINT, WORK, BATCH = sys.argv[1:]
ROOT = Path(__file__).resolve().parents[2]
MINIWORLD = ROOT / "tests" / "assets" / "miniworld"
LORAS = ("pencil_sketch", "red_balloons", "sepia_toned", "mystery_08", "pixel_art")

sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.sd
import torch

from carlos_core.clip.loading import load_encoder
from carlos_core.clip.weights import local_encoders
from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.database.target import DatabaseFile
from carlos_core.generator import Sampling
from carlos_core.measuring.failures import Failure
from carlos_core.measuring.indexer import Indexer
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.presets import TRIGGERS_ON_LORA_SIDE
from carlos_core.measuring.protocol import Protocol
from carlos_core.measuring.studio import Studio
from carlos_core.prompts.prompt_set import load_prompt_set


class Counting(ComfyGenerator):
    """Notes how many pictures were generated, before anybody keeps them."""

    def generate(self, jobs: Sequence[Any], on_progress: Any = None) -> Any:
        generated = super().generate(jobs, on_progress)
        with (Path(WORK) / "generated").open("a") as file:
            file.write(f"{len(jobs)}\n")
        return generated


@torch.inference_mode()
def main() -> None:
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, output_vae=True, output_clip=True)
    generator = Counting(model, clip, vae, Sampling(3, 3.0, "euler", "simple", 128, 128))
    encoder = load_encoder(local_encoders([MINIWORLD])["mini_clip"].encoder_id, [MINIWORLD], device="cpu")
    prompts = load_prompt_set(MINIWORLD / "prompts_index.json")
    plan = Plan.all(prompts, max_prompts=24)
    protocol = Protocol("custom", prompts.content_hash, plan.seed_rule, 1.0, TRIGGERS_ON_LORA_SIDE, generator.settings)
    studio = Studio(generator, encoder, Path(WORK) / "cache", int(BATCH))
    indexer = Indexer(studio, protocol, plan, DatabaseFile(Path(WORK) / "db.parquet"))
    files = [(f"{name}.safetensors", MINIWORLD / "loras" / f"{name}.safetensors") for name in LORAS]
    failed = [result for result in indexer.index_all(files, lambda name: None) if isinstance(result, Failure)]
    (Path(WORK) / "done").write_text(repr(failed))


main()
