"""Makes the pool that `race_replay.py` and `race_simulation.py` work on: quick's pictures, as two CLIPs see them.

usage: python -m studies.race_pool pictures COMFYUI_FOLDER MINIWORLD PLAIN OUTPUT_FOLDER [--seconds 400]
       python -m studies.race_pool signatures MINIWORLD PLAIN OUTPUT_FOLDER

PLAIN: folder of the second CLIP. `pictures` runs inside ComfyUI's environment: every LoRA of the mini-world, and none, on the 112
pairs of quick's plan. It stops when the time is over, and goes on when it is called again.
`signatures` encodes the queries of queries.json and the banks.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

CLIPS = ("mini_clip", "mini_clip_plain")
KINDS = ("single", "compound", "nothing_fits")


@torch.inference_mode()
def pictures(options: argparse.Namespace) -> None:
    """Features of all sides that are missing: OUTPUT/<file>.npz with [112, D] float32 for each CLIP."""
    start = time.monotonic()
    from studies.miniworld_pool import MiniWorld

    world = MiniWorld(options.comfyui, options.miniworld)
    from dataclasses import replace

    from carlos_core.clip.loading import load_encoder
    from carlos_core.clip.weights import local_encoders
    from carlos_core.comfy.generator import ComfyGenerator
    from carlos_core.errors import LoraError
    from carlos_core.generator import Job, LoraUse
    from carlos_core.loras.lora_file import read_lora_file
    from carlos_core.measuring.plan import Plan
    from carlos_core.measuring.presets import PRESETS
    from carlos_core.measuring.protocol import words_of_preset
    from carlos_core.prompts.prompt_set import load_prompt_set

    folders = dict(zip(CLIPS, (options.miniworld, options.plain), strict=True))
    encoders = {name: load_encoder(local_encoders([folder])[name].encoder_id, [folder]) for name, folder in folders.items()}
    quick = PRESETS["quick"]
    generator = ComfyGenerator(world.model, world.clip, world.vae, replace(quick.sampling, width=128, height=128))
    prompts = load_prompt_set(options.miniworld / "prompts_index.json")
    plan = Plan.of_preset(quick, prompts, generator.evaluations_per_image)
    options.output.mkdir(parents=True, exist_ok=True)
    for path in (None, *sorted((options.miniworld / "loras").glob("*.safetensors"))):
        output = options.output / f"{path.name if path else 'base'}.npz"
        made = dict(np.load(output)) if output.exists() else {}
        shots = plan.shots[len(made[CLIPS[0]]) if made else 0 : options.pairs]
        if not shots:
            continue
        if time.monotonic() - start > options.seconds:
            print(f"out of time before {output.name}", flush=True)
            return
        triggers: tuple[str, ...] = ()
        uses: tuple[LoraUse, ...] = ()
        if path is not None:
            uses = (LoraUse(path, 1.0),)
            triggers = words_of_preset("quick", read_lora_file(path).metadata.trigger_words or ())
            try:
                generator.check_lora(uses[0])
            except LoraError as error:
                print(error, flush=True)
                continue
        jobs = [Job(shot.prompt.text, shot.seed, uses, triggers) for shot in shots]
        images = torch.cat([generator.generate(jobs[place : place + 4]).images for place in range(0, len(jobs), 4)])
        features = {name: encoder.encode_images(images).numpy() for name, encoder in encoders.items()}
        np.savez(output, **{name: np.concatenate([*([made[name]] if made else []), features[name]]) for name in CLIPS})
        print(output.name, triggers, f"{time.monotonic() - start:.0f} s", flush=True)
    print("complete", flush=True)


@torch.inference_mode()
def signatures(options: argparse.Namespace) -> None:
    """OUTPUT/signatures.npz: of the queries by kind, and of the bank of effects, for each CLIP."""
    from carlos_core.clip.loading import load_encoder
    from carlos_core.clip.signatures import SignatureCache
    from carlos_core.clip.weights import local_encoders
    from carlos_core.prompts.prompt_set import default_effect_bank, load_prompt_set

    queries = json.loads((options.miniworld / "queries.json").read_text(encoding="utf-8"))
    prompts = load_prompt_set(options.miniworld / "prompts_signature.json")
    found: dict[str, np.ndarray] = {}
    cache = SignatureCache()
    for name, folder in zip(CLIPS, (options.miniworld, options.plain), strict=True):
        encoder = load_encoder(local_encoders([folder])[name].encoder_id, [folder])
        for kind in KINDS:
            texts = [entry["query"] for entry in queries[kind]]
            found[f"{name}|{kind}"] = np.stack([each.numpy() for each in cache.signatures(encoder, prompts, texts)])
        bank = default_effect_bank().texts
        found[f"{name}|bank"] = np.stack([each.numpy() for each in cache.signatures(encoder, prompts, bank)])
    np.savez(options.output / "signatures.npz", **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making, encoding = commands.add_parser("pictures"), commands.add_parser("signatures")
    making.add_argument("comfyui", type=Path)
    for command in (making, encoding):
        command.add_argument("miniworld", type=Path)
        command.add_argument("plain", type=Path)
        command.add_argument("output", type=Path)
    making.add_argument("--pairs", type=int, default=112, help="only the first ones")
    making.add_argument("--seconds", type=float, default=400)
    options = parser.parse_args()
    {"pictures": pictures, "signatures": signatures}[options.command](options)


if __name__ == "__main__":
    main()
