"""What measuring does to a loaded model and what it finds, in a bare process on ComfyUI's own code.

usage: PYTHONPATH=COMFYUI:. python tests/gpu/model_run.py CHECKPOINT LORA SIZE [--static] [--reference FILE ...]

(with ComfyUI's Python)

Prints one JSON object a line: what fits by the LoRA's header and when it is applied, the model's key and fingerprint before, in
between and after, how far a picture without the LoRA is from the same one before, and images a second by batch. --reference:
further LoRAs of the mini-world, whose measured directions are compared with the reference measurement's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

CHECKPOINT, LORA, SIZE, *OPTIONS = sys.argv[1:]
REFERENCE = OPTIONS[OPTIONS.index("--reference") + 1 :] if "--reference" in OPTIONS else []
ROOT = Path(__file__).resolve().parents[2]
MINIWORLD = ROOT / "tests" / "assets" / "miniworld"

import torch

HAS_GPU = torch.cuda.is_available()
sys.argv = [sys.argv[0], *([] if HAS_GPU else ["--cpu"])]
import comfyui_memory

comfyui_memory.prepare(is_dynamic=HAS_GPU and "--static" not in OPTIONS)
import comfy.model_management
import comfy.sd
from facts import say

from benchmarks.model_families import TEXT_ENCODER_OPTIONS
from carlos_core.clip.weights import local_encoders
from carlos_core.comfy.encoder import load_comfy_encoder
from carlos_core.comfy.generator import ComfyGenerator
from carlos_core.comfy.layers import ModelLayers
from carlos_core.comfy.lora_fit import FittingPatches, fit_of_file
from carlos_core.comfy.patching import load_lora
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.database.target import InMemory
from carlos_core.generator import Job, LoraUse, Sampling
from carlos_core.loras.lora_file import read_lora_file
from carlos_core.measuring.indexer import Indexer
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.presets import CUSTOM, TRIGGERS_ON_LORA_SIDE
from carlos_core.measuring.protocol import Protocol
from carlos_core.measuring.studio import Studio
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.vectors import cosine

STEPS = 12


def seconds_of(generator: ComfyGenerator, jobs: list[Job]) -> float:
    start = time.perf_counter()
    generator.generate(jobs)
    if HAS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def say_fit(model: Any, clip: Any) -> None:
    """What of the LoRA fits, by its header alone and as it is applied."""
    layers = ModelLayers(model, clip)
    start = time.perf_counter()
    told = fit_of_file(Path(LORA), layers)
    seconds = time.perf_counter() - start
    applied = FittingPatches(load_lora(Path(LORA)), Path(LORA).name, layers).layers
    say(told=[told.layers, told.of], applied=[applied.layers, applied.of], header_seconds=round(seconds, 3))


def say_unchanged(model: Any, clip: Any, vae: Any) -> None:
    """How the model is before, while and after a LoRA is measured with it."""

    def fresh() -> ComfyGenerator:
        return ComfyGenerator(model, clip, vae, Sampling(STEPS, 3.0, "euler", "simple", int(SIZE), int(SIZE)))

    jobs = [Job("a red house on a hill", seed) for seed in (1, 2)]
    with_lora = [Job(job.prompt, job.seed, (LoraUse(Path(LORA), 1.0),)) for job in jobs]
    prints = [(fresh().fingerprint, fresh().model_key)]
    generator = fresh()
    # The first picture after loading differs a little from all later ones, whoever makes it.
    generator.generate(jobs)
    before = generator.generate(jobs).images
    changed = generator.generate(with_lora).images
    prints.append((fresh().fingerprint, fresh().model_key))
    after = fresh().generate(jobs).images
    comfy.model_management.unload_all_models()
    prints.append((fresh().fingerprint, fresh().model_key))
    fingerprints, keys = (sorted(set(part)) for part in zip(*prints, strict=True))
    say(
        fingerprints=fingerprints,
        keys=keys,
        effect=float((changed - before).abs().mean()),
        difference_afterwards=float((after - before).abs().max()),
    )


def say_speed(model: Any, clip: Any, vae: Any) -> None:
    """Images a second at the batch that is chosen, at others, and the memory that the chosen one takes."""
    generator = ComfyGenerator(model, clip, vae, Sampling(4, 3.0, "euler", "simple", int(SIZE), int(SIZE)))
    chosen = generator.suggest_batch_size()
    jobs = [Job("a red house on a hill", seed) for seed in range(16)]
    generator.generate(jobs[:chosen])
    speeds = {}
    for batch in sorted({1, 4, 16, chosen}):
        if HAS_GPU:
            torch.cuda.reset_peak_memory_stats()
        seconds = sum(seconds_of(generator, jobs[place : place + batch]) for place in range(0, len(jobs), batch))
        speeds[batch] = round(len(jobs) / seconds, 2)
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 1) if HAS_GPU else None
    say(chosen_batch=chosen, images_per_second=speeds, peak_gib_of_largest=peak)


def say_directions(model: Any, clip: Any, vae: Any) -> None:
    """Cosine of each LoRA's measured direction with the reference measurement's."""
    encoder = load_comfy_encoder(local_encoders([MINIWORLD])["mini_clip"].encoder_id, [MINIWORLD])
    generator = ComfyGenerator(model, clip, vae, Sampling(STEPS, 3.0, "euler", "simple", int(SIZE), int(SIZE)))
    prompts = load_prompt_set(MINIWORLD / "prompts_short.json")
    plan = Plan.all(prompts)
    protocol = Protocol(CUSTOM, prompts.content_hash, plan.seed_rule, 1.0, TRIGGERS_ON_LORA_SIDE, generator.settings)
    database = MetricsDatabase.empty(encoder.encoder_id, encoder.dimension)
    indexer = Indexer(Studio(generator, encoder, Path(CHECKPOINT).parent / "cache"), protocol, plan, InMemory(database))
    reference = load_database(MINIWORLD / "reference_metrics.parquet", encoder_id="any").to_dataframe().set_index("file_name")
    found = {}
    for name in REFERENCE:
        row = indexer.index(read_lora_file(MINIWORLD / "loras" / name)).row
        found[name] = round(cosine(row.direction, reference.direction[name]), 4)
    say(cosines=found)


@torch.inference_mode()
def main() -> None:
    options = dict(TEXT_ENCODER_OPTIONS)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, te_model_options=options)
    say(device=torch.cuda.get_device_name() if HAS_GPU else "CPU", dynamic=comfyui_memory.is_dynamic())
    say_fit(model, clip)
    say_unchanged(model, clip, vae)
    say_speed(model, clip, vae)
    if REFERENCE:
        say_directions(model, clip, vae)


main()
