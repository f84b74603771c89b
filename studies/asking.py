"""What a picture is best compared with, and what "but not" is best made of, on the mini-world.

usage: python -m studies.asking POOL.npz [POOL.npz ...] [--clip NAME=FOLDER=METRICS.parquet ...]

POOL.npz comes from `studies/miniworld_pool.py`. Pictures: 100 drawn for each LoRA (also the weak one), of prompts that the
base line does not hold. "But not": each compound query without either of its effects, in three wordings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.search.limits import MAX_STRENGTH, MIN_CONSISTENCY
from carlos_core.search.queries import but_not
from studies.quick_protocols import MINIWORLD, load_pool, unit

DRAWS = 100
LABELS = {file: facts["label"] for file, facts in json.loads((MINIWORLD / "labels.json").read_text()).items()}


def picture_table(clip: str, pool: dict[str, np.ndarray], units: np.ndarray, effects: list[str], text_mean: np.ndarray) -> None:
    """How often the LoRA that made a picture, or a duplicate, comes first."""
    n_prompts = len(pool["prompts"])
    base = pool[f"full|{clip}|base"].astype(np.float64)
    of_base_line = np.arange(len(base)) % n_prompts < n_prompts // 2
    shown = np.flatnonzero(~of_base_line)
    few = base[of_base_line][:8].mean(0)
    lines = {
        "mean of 128 pictures without a LoRA": base[of_base_line].mean(0),
        "mean of 8": few,
        "nothing": np.zeros(base.shape[1]),
    }
    lines["mean feature of 64 prompts as text"] = text_mean
    for name in [*lines, "the same picture without the LoRA"]:
        cells = []
        for n_pictures in (1, 4):
            chance = np.random.default_rng(0)
            first = three = n = 0
            for file in sorted(key.split("|")[2] for key in pool if key.startswith(f"full|{clip}|")):
                if LABELS.get(file) not in effects:
                    continue
                features = pool[f"full|{clip}|{file}"].astype(np.float64)
                for _ in range(DRAWS):
                    drawn = chance.choice(shown, n_pictures, replace=False)
                    against = lines[name] if name in lines else base[drawn].mean(0)
                    scores = units @ (features[drawn].mean(0) - against)
                    found = list(dict.fromkeys(effects[row] for row in np.argsort(-scores)))
                    first, three, n = first + (found[0] == LABELS[file]), three + (LABELS[file] in found[:3]), n + 1
            cells.append(f"{first / n:.0%} / {three / n:.0%}")
        print(f"| {clip} | {name} | {cells[0]} | {cells[1]} |")


def negative_table(clip: str, encoder: OpenClipEncoder, units: np.ndarray, effects: list[str]) -> None:
    """How often the effect that is left comes first, and how often the unwanted one."""
    asked = json.loads((MINIWORLD / "queries.json").read_text())
    prompts, cache = load_prompt_set(MINIWORLD / "prompts_signature.json"), SignatureCache()
    words: dict[str, list[str]] = {}
    for entry in asked["single"]:
        words.setdefault(LABELS[entry["files"][0]], []).append(entry["query"])

    def signature(query: str) -> np.ndarray:
        return unit(cache.signature(encoder, prompts, query).double().numpy())

    def projected(aim: np.ndarray, negative: np.ndarray) -> np.ndarray:
        return but_not(torch.from_numpy(aim), torch.from_numpy(negative)).double().numpy()

    ways = {"nothing": lambda aim, _: aim, "unit vectors subtracted": np.subtract, "projected out (`but_not`)": projected}
    for name, way in ways.items():
        left = unwanted = n = 0
        for entry in asked["compound"]:
            pair = [LABELS[file] for file in entry["files"]]
            for wanted, other in (pair, pair[::-1]):
                for query in words[other]:
                    found = effects[int(np.argmax(units @ way(signature(entry["query"]), signature(query))))]
                    left, unwanted, n = left + (found == wanted), unwanted + (found == other), n + 1
        kept = m = 0
        for wanted, queries in words.items():
            for query in queries:
                for other in words.keys() - {wanted}:
                    found = effects[int(np.argmax(units @ way(signature(query), signature(words[other][0]))))]
                    kept, m = kept + (found == wanted), m + 1
        print(f"| {clip} | {name} | {left} of {n} | {unwanted} of {n} | {kept} of {m} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path, nargs="+")
    parser.add_argument("--clip", nargs="*", default=[], help="NAME=FOLDER=METRICS of further encoders")
    options = parser.parse_args()
    pool = load_pool(options.pool)
    clips = [("mini_clip", MINIWORLD, MINIWORLD / "reference_metrics.parquet")]
    clips += [(name, Path(folder), Path(metrics)) for name, folder, metrics in (part.split("=") for part in options.clip)]
    seen = []
    for clip, folder, metrics in clips:
        rows = pd.read_parquet(metrics)
        rows = rows[(rows.strength > 0) & (rows.strength <= MAX_STRENGTH) & (rows.consistency >= MIN_CONSISTENCY)]
        rows = rows[~rows.kind.isin(["strong", "inconsistent"])]
        encoder = load_encoder(local_encoders([folder])[clip].encoder_id, [folder], device="cpu")
        seen.append(
            (clip, encoder, unit(np.stack(list(rows.direction)).astype(np.float64)), [LABELS[file] for file in rows.file_name])
        )
    print("| CLIP | a picture is compared with | 1 picture: right first / in three | 4 pictures |\n|---|---|---|---|")
    texts = load_prompt_set(MINIWORLD / "prompts_signature.json").texts
    for clip, encoder, units, effects in seen:
        picture_table(clip, pool, units, effects, encoder.encode_texts(texts).double().numpy().mean(0))
    print('\n| CLIP | "A and B, but not B": done with the negative | A first | B first | "A, but not C": A first |')
    print("|---|---|---|---|---|")
    for clip, encoder, units, effects in seen:
        negative_table(clip, encoder, units, effects)


if __name__ == "__main__":
    main()
