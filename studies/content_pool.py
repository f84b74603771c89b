"""Makes the pool that `content.py` works on: pictures with one, two and three LoRAs at many weights, as two CLIPs see them.

usage: python -m studies.content_pool plan MINIWORLD PLAIN PLAN.json
       python -m studies.content_pool pictures COMFYUI MINIWORLD PLAIN PLAN.json OUTPUT [--seconds S] [--part I/N] [--smoke]

PLAIN: folder of the second CLIP and its metrics. `plan` asks Auto LoRA, with its default of `keep_content` and without, for all
queries for two effects, at several budgets under both CLIPs, and writes down which sides to make, the most needed first.
`pictures` makes them inside of ComfyUI's environment, best on a GPU: 64 prompts of `prompts_index`, one seed, 12 steps, guidance
3. It stops when the time is over. --part 2/6: the second of six processes side by side, which share one GPU (what it computes for
128 px is little beside what starts it). --smoke: five sides with two prompts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH = 256
SEED = 0
CLIPS = ("mini_clip", "mini_clip_plain")
WEIGHTS = (1.0, 2.0, 0.5, 1.5, 0.75, 1.25, 0.25, 2.5)
"""Of a LoRA alone."""

BUDGETS = (2.0, 1.0, 0.5, 1.5, 1.25, 1.75, 0.75, 3.0, 2.5)
"""Of two LoRAs. Above 2, today's default gives no more than at 2: the same weights are made larger."""

EQUAL = (0.5, 1.0, 0.75, 1.25, 0.25, 1.5)
"""Weights of each of two LoRAs with equal weights."""

TRIPLES = (1 / 3, 2 / 3, 1.0)
"""Weights of each of three LoRAs."""

N_TRIPLES = 16

Side = tuple[tuple[str, float], ...]
"""LoRA files with their weights, sorted by file; empty for the base side."""


def side_of(uses: Iterable[tuple[str, float]]) -> Side:
    return tuple(sorted((file, round(weight, 3)) for file, weight in uses))


def compound_queries(miniworld: Path) -> list[dict[str, Any]]:
    """All queries for two effects: form, query, and for each effect one of its files."""
    bare = json.loads((miniworld / "queries.json").read_text(encoding="utf-8"))["compound"]
    asked = json.loads((miniworld / "queries_as_asked.json").read_text(encoding="utf-8"))
    found = [{"form": "two phrases", "query": entry["query"], "files": entry["files"]} for entry in bare]
    found += [
        {"form": entry["form"], "query": entry["query"], "files": [files[0] for files in entry["wants"]]}
        for entry in asked
        if len(entry["wants"]) > 1
    ]
    return found


def chosen(miniworld: Path, plain: Path, queries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What Auto LoRA applies for each query and budget under each CLIP, whether it keeps content or not; the former at the full
    budget alone."""
    from carlos_core.search.limits import COMPOSED, KEEP_CONTENT, ChoiceRules
    from studies.choosing import clips
    from studies.queries_as_asked import chooser

    for clip in clips(miniworld, plain):
        searcher, _ = chooser(miniworld, clip)
        for entry in queries:
            full: Side = ()
            for keep, budget in [(0.0, budget) for budget in BUDGETS] + [(KEEP_CONTENT, BUDGETS[0])]:
                rules = ChoiceRules(COMPOSED, strength_budget=min(budget, 2.0), keep_content=keep)
                picks = searcher.choose(entry["query"], rules=rules).picks
                side = side_of((str(pick.match.record.file_name), pick.weight) for pick in picks)
                if (keep, budget) == (0.0, BUDGETS[0]):
                    full = side
                if budget > 2:
                    side = side_of((file, weight * budget / 2) for file, weight in full)
                if len(side) > 1:
                    yield {**entry, "clip": clip.name, "keep": keep, "budget": budget, "side": side}


def triples(labels: dict[str, dict[str, str]]) -> list[tuple[str, ...]]:
    """Three LoRAs each, every ordinary one in three of them."""
    files = sorted(file for file, facts in labels.items() if facts["kind"] == "ordinary")
    return [tuple(files[(start + step) % len(files)] for step in (0, 3, 8)) for start in range(N_TRIPLES)]


def plan(miniworld: Path, plain: Path) -> dict[str, Any]:
    """The sides to make, and the choices, each with the number of its side."""
    labels = json.loads((miniworld / "labels.json").read_text(encoding="utf-8"))
    queries = compound_queries(miniworld)
    choices = list(chosen(miniworld, plain, queries))
    bare = [choice for choice in choices if choice["form"] == "two phrases"]
    others = [choice for choice in choices if choice["form"] != "two phrases"]
    files = sorted(file for file, facts in labels.items() if facts["kind"] not in ("misfit", "noop"))
    pairs = [entry["files"] for entry in queries]
    wanted: list[Side] = [(), *(side_of([(file, weight)]) for weight in WEIGHTS for file in files)]
    for part in (bare, others):
        wanted += [choice["side"] for choice in part if choice["keep"]]
        wanted += [choice["side"] for budget in BUDGETS for choice in part if choice["budget"] == budget]
    wanted += [side_of((file, weight) for file in pair) for weight in EQUAL for pair in pairs]
    wanted += [side_of((file, weight) for file in triple) for weight in TRIPLES for triple in triples(labels)]
    return {"sides": list(dict.fromkeys(wanted)), "choices": choices}


@torch.inference_mode()
def pictures(options: argparse.Namespace) -> None:
    """Make the sides of a plan, or of a part of it, and save their features: for each CLIP [sides, prompts, D] float16.

    Each part begins with the base side.
    """
    start = time.monotonic()
    from studies.miniworld_pool import MiniWorld

    world = MiniWorld(options.comfyui, options.miniworld)
    from carlos_core.clip.loading import load_encoder
    from carlos_core.clip.weights import local_encoders
    from carlos_core.comfy.generator import ComfyGenerator
    from carlos_core.generator import Job, LoraUse, Sampling
    from carlos_core.loras.lora_file import read_lora_file
    from carlos_core.prompts.prompt_set import load_prompt_set

    folders = dict(zip(CLIPS, (options.miniworld, options.plain), strict=True))
    encoders = {name: load_encoder(local_encoders([folder])[name].encoder_id, [folder]) for name, folder in folders.items()}
    prompts = load_prompt_set(options.miniworld / "prompts_index.json").stratified()
    loras = options.miniworld / "loras"
    words = {path.name: read_lora_file(path).trigger_words for path in loras.glob("*.safetensors")}
    generator = ComfyGenerator(world.model, world.clip, world.vae, Sampling(12, 3.0, "euler", "simple", 128, 128))
    planned = json.loads(options.plan.read_text(encoding="utf-8"))
    sides = [tuple((file, weight) for file, weight in side) for side in planned["sides"]]
    part, of = map(int, options.part.split("/"))
    sides = [sides[0], *sides[1:][part - 1 :: of]]
    if options.smoke:
        prompts = prompts[:2]
        sides = [sides[0], *[next(side for side in sides if len(side) == n) for n in (1, 2, 3)], sides[-1]]
    features: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
    for place, side in enumerate(sides):
        if time.monotonic() - start > options.seconds:
            print(f"out of time before side {place} of {len(sides)}", flush=True)
            break
        uses = tuple(LoraUse(loras / file, weight) for file, weight in side)
        triggers = tuple(dict.fromkeys(word for file, _ in side for word in words[file]))
        jobs = [Job(prompt.text, SEED, uses, triggers) for prompt in prompts]
        parts = [generator.generate(jobs[first : first + BATCH]).images for first in range(0, len(jobs), BATCH)]
        images = torch.cat(parts).float()
        for name, encoder in encoders.items():
            features[name].append(encoder.encode_images(images).numpy().astype(np.float16))
        if place % 25 == 0 or options.smoke:
            print(f"side {place} of {len(sides)} {side}: {time.monotonic() - start:.0f} s", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    saved = {f"features_{name}": np.stack(found) for name, found in features.items()}
    for name, encoder in encoders.items():
        saved[f"texts_{name}"] = encoder.encode_texts([prompt.text for prompt in prompts]).numpy()
    n_made = len(saved[f"features_{CLIPS[0]}"])
    facts = json.dumps({**planned, "sides": sides[:n_made]})
    np.savez_compressed(options.output / f"content_{part}of{of}.npz", plan=np.array(facts), **saved)
    print(f"{n_made} of {len(sides)} sides of {len(prompts)} pictures: {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    planning, making = commands.add_parser("plan"), commands.add_parser("pictures")
    making.add_argument("comfyui", type=Path)
    for command in (planning, making):
        command.add_argument("miniworld", type=Path)
        command.add_argument("plain", type=Path)
        command.add_argument("plan", type=Path)
    making.add_argument("output", type=Path)
    making.add_argument("--seconds", type=float, default=400)
    making.add_argument("--part", default="1/1")
    making.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.command == "plan":
        options.plan.write_text(json.dumps(plan(options.miniworld, options.plain)), encoding="utf-8")
    else:
        pictures(options)


if __name__ == "__main__":
    main()
