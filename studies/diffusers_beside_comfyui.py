"""The mini-world's 16 ordinary LoRAs measured on the same prompts and seeds through diffusers and through ComfyUI.

usage: python -m studies.diffusers_beside_comfyui COMFYUI_FOLDER MINIWORLD WORK [--seeds 2] [--loras 16]

Both make pictures from the same noise: prompts_short.json (12 prompts), 12 steps, cfg 3, euler, simple, 128 px, on the CPU.
Prints, for each LoRA, the cosine of the two directions, the ratio of the two strengths and how far the pictures are apart. WORK
keeps ComfyUI's pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from carlos_core.clip.loading import load_encoder
from carlos_core.clip.weights import local_encoders
from carlos_core.demo.miniworld_diffusers import SIDE, diffusers_folder
from carlos_core.diffusers.generator import DiffusersGenerator
from carlos_core.diffusers.loading import load_model
from carlos_core.generator import Job, LoraUse, Sampling
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.vectors import cosine

ROOT = Path(__file__).resolve().parents[1]
SAMPLING: dict[str, Any] = {
    "steps": 12,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "width": SIDE,
    "height": SIDE,
}
_BATCH = 4


def jobs_of(miniworld: Path, seeds: int, loras: int) -> list[tuple[str, int, str, list[str]]]:
    """(prompt, seed, path of a LoRA or "", trigger words), first those without a LoRA."""
    texts = [prompt.text for prompt in load_prompt_set(miniworld / "prompts_short.json").stratified()]
    labels = json.loads((miniworld / "labels.json").read_text())
    ordinary = [(name, facts) for name, facts in sorted(labels.items()) if facts["kind"] == "ordinary"][:loras]
    with_loras = ((str(miniworld / "loras" / name), list(facts.get("trigger_words") or ())) for name, facts in ordinary)
    sides = [("", list[str]()), *with_loras]
    return [(text, seed, lora, words) for lora, words in sides for seed in range(seeds) for text in texts]


def by_comfyui(folder: Path, checkpoint: Path, work: Path, jobs: list[tuple[str, int, str, list[str]]]) -> np.ndarray:
    (work / "jobs.json").write_text(json.dumps({"sampling": SAMPLING, "jobs": jobs}))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    script = ROOT / "tests" / "comfyui" / "same_pictures_run.py"
    subprocess.run([folder / ".venv/bin/python", script, checkpoint, work], cwd=folder, env=environment, check=True)
    return np.load(work / "pictures.npz")["images"]


def by_diffusers(folder: Path, jobs: list[tuple[str, int, str, list[str]]]) -> np.ndarray:
    generator = DiffusersGenerator(load_model(folder, "cpu"), Sampling(**SAMPLING))
    made = [Job(text, seed, (LoraUse(Path(lora), 1.0),) if lora else (), tuple(words)) for text, seed, lora, words in jobs]
    generator.prepare(made)
    images = [generator.generate(made[start : start + _BATCH]).images.numpy() for start in range(0, len(made), _BATCH)]
    return np.concatenate(images)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--loras", type=int, default=16)
    parser.add_argument("--kept", action="store_true", help="ComfyUI's pictures are in WORK from the last run.")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    miniworld = options.miniworld.absolute()
    jobs = jobs_of(miniworld, options.seeds, options.loras)
    checkpoint = options.work.absolute() / "miniworld.safetensors"
    if options.kept:
        theirs = np.load(options.work / "pictures.npz")["images"]
    else:
        subprocess.run([sys.executable, miniworld / "build_checkpoint.py", checkpoint], check=True, stdout=subprocess.DEVNULL)
        theirs = by_comfyui(options.comfyui.absolute(), checkpoint, options.work.absolute(), jobs)
    ours = by_diffusers(diffusers_folder(miniworld, options.work / "diffusers"), jobs)
    encoder = load_encoder(local_encoders([miniworld])["mini_clip"].encoder_id, [miniworld])

    def features(images: np.ndarray) -> np.ndarray:
        rounded = torch.from_numpy((images * 255).round().clip(0, 255) / 255).float()
        return torch.cat([encoder.encode_images(part) for part in rounded.split(32)]).double().numpy()

    per_side = sum(not lora for _text, _seed, lora, _words in jobs)
    found = {"ComfyUI": features(theirs), "diffusers": features(ours)}
    print(f"{len(jobs)} pictures each; mean difference of pictures {np.abs(ours - theirs).mean():.2e} of 1")
    print("LoRA                             cosine     strengths (diffusers / ComfyUI)   pictures: mean, largest difference")
    cosines, ratios = [], []
    for start in range(per_side, len(jobs), per_side):
        part = slice(start, start + per_side)
        diffs = {name: values[part] - values[:per_side] for name, values in found.items()}
        strengths = {name: float(np.linalg.norm(each, axis=1).mean()) for name, each in diffs.items()}
        cosines.append(cosine(diffs["ComfyUI"].mean(axis=0), diffs["diffusers"].mean(axis=0)))
        ratios.append(strengths["diffusers"] / strengths["ComfyUI"])
        gap = np.abs(ours[part] - theirs[part])
        name = Path(jobs[start][2]).name
        print(
            f"{name:32s} {cosines[-1]:.6f}   {strengths['diffusers']:.4f} / {strengths['ComfyUI']:.4f} = {ratios[-1]:.5f}"
            f"         {gap.mean():.1e}, {gap.max():.1e}"
        )
    print(f"lowest cosine {min(cosines):.6f}; strengths within {100 * max(abs(ratio - 1) for ratio in ratios):.3f}%")


if __name__ == "__main__":
    main()
