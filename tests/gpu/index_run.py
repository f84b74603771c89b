"""Indexes a LoRA twice by presets, in a bare process on ComfyUI's own code, and says how many pictures each run made.

usage: PYTHONPATH=COMFYUI:. python tests/gpu/index_run.py CHECKPOINT LORA WORK SIZE [--static] [--only-fingerprint]

(with ComfyUI's Python)

With CUDA, memory is managed as ComfyUI's main.py does it by default (dynamic VRAM where this ComfyUI has it), or without that
(--static). Features are kept in WORK, so that a second process goes on with them. Prints one JSON object a line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

CHECKPOINT, LORA, WORK, SIZE, *OPTIONS = sys.argv[1:]
ROOT = Path(__file__).resolve().parents[2]
MINIWORLD = ROOT / "tests" / "assets" / "miniworld"
N_PROMPTS = 4

import torch

HAS_GPU = torch.cuda.is_available()
sys.argv = [sys.argv[0], *([] if HAS_GPU else ["--cpu"])]
import comfyui_memory

comfyui_memory.prepare(is_dynamic=HAS_GPU and "--static" not in OPTIONS)
import comfy.sd
from facts import say

from benchmarks.model_families import TEXT_ENCODER_OPTIONS
from carlos_core.clip.weights import local_encoders
from carlos_core.comfy.encoder import load_comfy_encoder
from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.database.target import DatabaseFile
from carlos_core.generator import LoraUse
from carlos_core.loras.lora_file import read_lora_file
from carlos_core.measuring.indexer import Indexer
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.presets import PRESETS, TRIGGERS_ON_LORA_SIDE
from carlos_core.measuring.protocol import Protocol
from carlos_core.measuring.studio import Studio
from carlos_core.prompts.prompt_set import PromptSet, load_prompt_set


class Counting(ComfyGenerator):
    """Counts the pictures that it is asked for."""

    pictures = 0

    def generate(self, jobs: Sequence[Any], on_progress: Any = None) -> Any:
        self.pictures += len(jobs)
        return super().generate(jobs, on_progress)


@torch.inference_mode()
def main() -> None:
    is_dynamic = comfyui_memory.is_dynamic()
    options = dict(TEXT_ENCODER_OPTIONS)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, te_model_options=options)
    encoder = load_comfy_encoder(local_encoders([MINIWORLD])["mini_clip"].encoder_id, [MINIWORLD])
    lora = read_lora_file(Path(LORA))
    whole = load_prompt_set(MINIWORLD / "prompts_short.json")
    prompts = PromptSet("few", whole.stratified()[:N_PROMPTS])

    def generator_of(preset_name: str) -> Counting:
        return Counting(model, clip, vae, replace(PRESETS[preset_name].sampling, width=int(SIZE), height=int(SIZE)))

    def index(preset_name: str, database: str) -> None:
        generator = generator_of(preset_name)
        path = Path(WORK) / f"{database}-{preset_name}.parquet"
        if not path.exists():
            MetricsDatabase.empty(encoder.encoder_id, encoder.dimension).save_parquet(path)
        plan = Plan.of_preset(PRESETS[preset_name], prompts, generator.evaluations_per_image)
        settings = generator.settings
        protocol = Protocol(preset_name, prompts.content_hash, plan.seed_rule, 1.0, TRIGGERS_ON_LORA_SIDE, settings)
        studio = Studio(generator, encoder, Path(WORK) / "cache")
        indexer = Indexer(studio, protocol, plan, DatabaseFile(path))
        start = time.perf_counter()
        fit = generator.check_lora(LoraUse(lora.path, 1.0))
        checked = time.perf_counter()
        outcome = indexer.index(lora)
        row = load_database(path).row(outcome.lora.lora_id)
        assert row is not None
        say(
            preset=preset_name,
            database=database,
            status=outcome.status,
            pictures=generator.pictures,
            fingerprint=generator.fingerprint,
            protocol_id=row.protocol_id,
            strength=row.strength,
            n_images=row.n_images,
            keys=f"{fit.matched}/{fit.total}",
            check_seconds=round(checked - start, 3),
            index_seconds=round(time.perf_counter() - checked, 2),
        )

    device = torch.cuda.get_device_name() if HAS_GPU else "CPU"
    say(device=device, torch=torch.__version__, dynamic=is_dynamic, patcher=type(model).__name__)
    if "--only-fingerprint" in OPTIONS:
        say(**{preset_name: generator_of(preset_name).fingerprint for preset_name in ("quick", "standard")})
        return
    # The row is there the second time. In a new database it is not: then the features of the pictures must be found.
    for database in ("first", "first", f"of-{time.time_ns()}"):
        for preset_name in ("quick", "standard"):
            index(preset_name, database)


main()
