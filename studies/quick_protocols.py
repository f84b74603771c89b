"""Compares cheap protocols with the full one on a pool of the mini-world's features, at equal numbers of model evaluations.

usage: python -m studies.quick_protocols POOL.npz [POOL.npz ...] [--clip NAME=FOLDER ...] [--runs 20]

POOL.npz comes from `studies/miniworld_pool.py`. "Full" is the mini-world's own protocol (12 steps, guidance 3, 256 pairs). For
each protocol, budget and CLIP: the cosine with the full direction, Spearman's correlation of all scores (queries x
LoRAs) with the full ones, how many queries have the right LoRA first and among three, and the ratio of strengths.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.prompts.prompt_set import load_prompt_set

MINIWORLD = Path(__file__).resolve().parents[1] / "tests" / "assets" / "miniworld"
BUDGETS = (100, 200, 400, 900)


def load_pool(paths: list[Path]) -> dict[str, np.ndarray]:
    pool: dict[str, np.ndarray] = {}
    for path in paths:
        with np.load(path) as content:
            pool.update({name: content[name] for name in content.files})
    return pool


def asked(clip: str, folder: Path) -> tuple[np.ndarray, list[str]]:
    """Unit signatures [Q, D] of the labels and paraphrases, and the right file of each."""
    encoder = load_encoder(local_encoders([folder])[clip].encoder_id, [folder], device="cpu")
    prompts, cache = load_prompt_set(MINIWORLD / "prompts_signature.json"), SignatureCache()
    labels = json.loads((MINIWORLD / "labels.json").read_text())
    single = json.loads((MINIWORLD / "queries.json").read_text())["single"]
    queries = [(facts["label"], name) for name, facts in labels.items() if facts["kind"] == "ordinary"]
    queries += [(entry["query"], entry["files"][0]) for entry in single]
    signatures = np.stack([cache.signature(encoder, prompts, query).double().numpy() for query, _ in queries])
    return signatures / np.linalg.norm(signatures, axis=1, keepdims=True), [file for _, file in queries]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path, nargs="+")
    parser.add_argument("--clip", nargs="*", default=[], help="NAME=FOLDER of further encoders")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    pool = load_pool(options.pool)
    variants = json.loads(str(pool["variants"]))
    files = [name for name, facts in json.loads((MINIWORLD / "labels.json").read_text()).items() if facts["kind"] == "ordinary"]
    chance = np.random.default_rng(0)
    for clip, folder in [("mini_clip", MINIWORLD), *((part.split("=")) for part in options.clip)]:
        signatures, right = asked(clip, Path(folder))
        wanted = np.array([files.index(file) for file in right])

        def diffs(variant: str, clip: str = clip) -> np.ndarray:
            base = pool[f"{variant}|{clip}|base"].astype(np.float64)
            return np.stack([pool[f"{variant}|{clip}|{file}"].astype(np.float64) - base for file in files])

        full = diffs("full")
        truth, strength = unit(full.mean(1)), np.linalg.norm(full, axis=2).mean(1)
        true_scores = signatures @ truth.T
        print(f"\n## {clip}: {len(files)} LoRAs, {len(right)} queries, {options.runs} runs a cell\n")
        print("| protocol | evaluations a picture | all 256: cosine, median (least) |", end="")
        print("".join(f" {budget}: cosine, Spearman, top-1, top-3 |" for budget in BUDGETS), "strength, of the full (range) |")
        print("|---|---|---|" + "---|" * (len(BUDGETS) + 1))
        for variant in sorted(variants, key=lambda variant: (variant["evaluations"], variant["name"])):
            if f"{variant['name']}|{clip}|base" not in pool:
                continue
            found = diffs(variant["name"])
            limit = (unit(found.mean(1)) * truth).sum(1)
            ratio = np.linalg.norm(found, axis=2).mean(1) / strength
            cells = []
            for budget in BUDGETS:
                n = min(max(budget // variant["evaluations"], 1), found.shape[1])
                cosines, correlations, first, three = [], [], [], []
                for _ in range(options.runs):
                    n_prompts = len(pool["prompts"])
                    order = np.concatenate([chance.permutation(n_prompts) + n_prompts * k for k in range(4)])[:n]
                    estimate = unit(found[:, order].mean(1))
                    scores = signatures @ estimate.T
                    places = (scores > scores[np.arange(len(wanted)), wanted][:, None]).sum(1)
                    cosines.append((estimate * truth).sum(1))
                    correlations.append(pd.Series(scores.ravel()).corr(pd.Series(true_scores.ravel()), method="spearman"))
                    first.append((places == 0).mean())
                    three.append((places < 3).mean())
                cells.append(f"{np.median(cosines):.3f}, {np.mean(correlations):.3f}, {np.mean(first):.0%}, {np.mean(three):.0%}")
            print(
                f"| {variant['name']} | {variant['evaluations']} | {np.median(limit):.3f} ({limit.min():.3f}) | "
                + " | ".join(cells)
                + f" | {np.median(ratio):.2f} ({ratio.min():.2f}-{ratio.max():.2f}) |"
            )


if __name__ == "__main__":
    main()
