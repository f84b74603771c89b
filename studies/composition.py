"""Measures compositions for real: both LoRAs applied, is the joint effect nearer to a compound query than the best single LoRA's?

usage: python -m studies.composition COMFYUI_FOLDER CACHE [--prompts 64] [--clip NAME=FOLDER=METRICS.parquet] [--seconds 200]

Runs inside ComfyUI's environment. For each compound query of the mini-world a pair is chosen from the reference metrics, by
`compose` for the signature of the whole query or as Auto LoRA does. Its pictures, those of every LoRA alone at 1.0 and those
without are made for the prompts of `prompts_index` at one seed, with 12 steps and guidance 3, and compared through CLIP.
Features are kept in CACHE, so that the command can be stopped and run again. --seconds: make pictures for so long, then print
what is known. --rules: which rules to compare, by number. A query for which no LoRA is chosen counts as a miss; the medians
are of the others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
MINIWORLD = ROOT / "tests" / "assets" / "miniworld"
BATCH = 4
SEED = 0
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.search.limits import CALIBRATED, MAX_STRENGTH, MIN_CONSISTENCY
from carlos_core.search.selection import Search, parts_of
from carlos_core.search.weights import Candidates, Composition, WeightLimits, compose, unlike, weighed
from studies.choosing import BUDGET, auto_choice, database, interval, searcher

Side = tuple[tuple[str, float], ...]
"""LoRA files with their weights, sorted; empty for the base side."""


@dataclass(frozen=True, eq=False)
class Library:
    """The LoRAs within the published limits, as one CLIP sees them, and what is asked."""

    clip: str
    encoder: Any
    files: list[str]
    directions: np.ndarray
    strength: np.ndarray
    signatures: dict[str, np.ndarray]
    search: Search

    @property
    def candidates(self) -> Candidates:
        return Candidates(self.files, self.directions, self.strength, np.ones(len(self.files)))

    def composed(self, query: str, budget: float = BUDGET) -> Composition:
        return compose(self.candidates, self.signatures[query], WeightLimits(budget), 2)

    def side(self, query: str, budget: float = BUDGET) -> Side:
        found = self.composed(query, budget).chosen
        return side_of((self.files[each.index], each.weight) for each in found)

    def two_nearest(self, query: str) -> Side:
        """The two rows nearest to the query that do not do the same, each at its own weight."""
        units = self.directions / np.linalg.norm(self.directions, axis=1, keepdims=True)
        order = np.argsort(-(units @ self.signatures[query]), kind="stable").tolist()
        return side_of((self.files[row], 1.0) for row in unlike(order, units, 2))

    def auto_side(self, query: str) -> Side:
        """What Auto LoRA applies: nothing, if it is not sure enough."""
        picks = auto_choice(query, self.search).picks
        return side_of((str(pick.match.record.file_name), pick.weight) for pick in picks)

    def auto_side_for_parts(self, query: str) -> Side:
        """Auto LoRA's LoRAs with the weights that come closest to the sum of the parts' unit signatures."""
        rows = [self.files.index(file) for file, _ in self.auto_side(query)]
        if not rows:
            return ()
        aim = np.sum([unit(self.search(part).signature.double().numpy()) for part in parts_of(query)], axis=0)
        own = Candidates([self.files[row] for row in rows], self.directions[rows], self.strength[rows], np.ones(len(rows)))
        weights = weighed(own, aim, WeightLimits(BUDGET))
        return side_of((self.files[row], float(weight)) for row, weight in zip(rows, weights, strict=True))


def side_of(uses: Iterable[tuple[str, float]]) -> Side:
    return tuple(sorted((file, round(weight, 3)) for file, weight in uses))


def library(clip: str, folder: Path, metrics: Path, queries: list[str]) -> Library:
    import pandas as pd

    rows = pd.read_parquet(metrics)
    rows = rows[(rows.strength > 0) & (rows.strength <= MAX_STRENGTH) & (rows.consistency >= MIN_CONSISTENCY)]
    encoder = load_encoder(local_encoders([folder])[clip].encoder_id, [folder], device="cpu")
    prompts, cache = load_prompt_set(MINIWORLD / "prompts_signature.json"), SignatureCache()
    signatures = {query: cache.signature(encoder, prompts, query).double().numpy() for query in queries}
    search = searcher(database(metrics, encoder.encoder_id), encoder, cache, prompts, CALIBRATED)
    directions = np.stack(list(rows.direction))
    return Library(clip, encoder, list(rows.file_name), directions, rows.strength.to_numpy(), signatures, search)


class Pictures:
    """Features of sides, from the cache or made now."""

    def __init__(self, comfyui: Path, cache: Path, encoders: dict[str, Any], n_prompts: int, seconds: float) -> None:
        self._comfyui, self._cache, self._encoders = comfyui, cache, encoders
        self._prompts = load_prompt_set(MINIWORLD / "prompts_index.json").stratified()[:n_prompts]
        self._end = time.monotonic() + seconds
        cache.mkdir(parents=True, exist_ok=True)

    def features(self, side: Side) -> dict[str, np.ndarray] | None:
        """CLIP -> [P, D] of a side, None if there is no time left to make them."""
        path = self._cache / f"{hashlib.sha256(repr(side).encode()).hexdigest()[:16]}.npz"
        known: dict[str, np.ndarray] = dict(np.load(path)) if path.exists() else {}
        have = min((len(known[clip]) for clip in self._encoders if clip in known), default=0) if known else 0
        if have < len(self._prompts):
            if time.monotonic() > self._end:
                return None
            new = self._made(side, have)
            known = {clip: np.concatenate([known[clip][:have], part]) if have else part for clip, part in new.items()}
            np.savez(path, **known)
        return {clip: features[: len(self._prompts)].astype(np.float64) for clip, features in known.items()}

    @torch.inference_mode()
    def _made(self, side: Side, first: int) -> dict[str, np.ndarray]:
        from carlos_core.generator import Job, LoraUse
        from carlos_core.loras.lora_file import read_lora_file

        paths = [MINIWORLD / "loras" / file for file, _ in side]
        triggers = tuple(dict.fromkeys(word for path in paths for word in read_lora_file(path).trigger_words))
        uses = tuple(LoraUse(path, weight) for path, (_, weight) in zip(paths, side, strict=True))
        jobs = [Job(prompt.text, SEED, uses, triggers if side else ()) for prompt in self._prompts[first:]]
        parts: dict[str, list[np.ndarray]] = {clip: [] for clip in self._encoders}
        for start in range(0, len(jobs), BATCH):
            images = self._generator.generate(jobs[start : start + BATCH]).images
            for clip, encoder in self._encoders.items():
                parts[clip].append(encoder.encode_images(images.float().cpu()).numpy())
        return {clip: np.concatenate(part) for clip, part in parts.items()}

    @cached_property
    def _generator(self) -> Any:
        sys.path[:0] = [str(self._comfyui), str(MINIWORLD)]
        arguments, sys.argv = sys.argv, [sys.argv[0], *([] if torch.cuda.is_available() else ["--cpu"])]
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.sd

        sys.argv = arguments
        import build_checkpoint

        from carlos_core.comfy.generator import ComfyGenerator
        from carlos_core.generator import Sampling

        checkpoint = self._cache / "miniworld.safetensors"
        if not checkpoint.exists():
            build_checkpoint.build(str(MINIWORLD / "mini_diffusion.safetensors"), str(checkpoint))
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=True, output_clip=True)
        return ComfyGenerator(model, clip, vae, Sampling(12, 3.0, "euler", "simple", 128, 128))


RULES: dict[str, Any] = {
    "composed, budget 2.0": lambda lib, query: lib.side(query),
    "the same pair at 1.0 + 1.0": lambda lib, query: side_of((file, 1.0) for file, _ in lib.side(query)),
    "top k equal (1.0 + 1.0)": lambda lib, query: lib.two_nearest(query),
    "composed, budget 1.0": lambda lib, query: lib.side(query, budget=1.0),
    "Auto LoRA": lambda lib, query: lib.auto_side(query),
    "Auto LoRA's pair, weighed for its parts": lambda lib, query: lib.auto_side_for_parts(query),
}


def unit(vector: np.ndarray) -> np.ndarray:
    """At length 1, or zero as it is: no LoRA, no difference."""
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


@dataclass(frozen=True, eq=False)
class Outcome:
    """A composition for one query, as measured. cosines with the query's signature, 0 where no LoRA was chosen; length: mean
    length of the differences."""

    query: str
    side: Side
    is_right: bool
    cosine: float
    predicted: float
    length: float
    best_single: str
    best_cosine: float


def outcome(lib: Library, pictures: Pictures, query: str, side: Side, wanted: set[str], labels: dict[str, str]) -> Outcome | None:
    """None where pictures are missing yet."""
    base, found = pictures.features(()), pictures.features(side)
    alone = {file: pictures.features(side_of([(file, 1.0)])) for file in lib.files}
    if base is None or found is None or None in alone.values():
        return None
    aim = unit(lib.signatures[query])

    def cosine(features: dict[str, np.ndarray]) -> float:
        return float(unit(features[lib.clip].mean(0) - base[lib.clip].mean(0)) @ aim)

    single = {file: cosine(features) for file, features in alone.items() if features is not None}
    best = max(single, key=lambda file: single[file])
    weights = dict(side)
    predicted = np.array([weights.get(file, 0.0) for file in lib.files]) @ lib.directions
    return Outcome(
        query=query,
        side=side,
        is_right={labels[file] for file in weights} == wanted,
        cosine=cosine(found),
        predicted=float(unit(predicted) @ aim),
        length=float(np.linalg.norm(found[lib.clip] - base[lib.clip], axis=1).mean()),
        best_single=best,
        best_cosine=single[best],
    )


def print_rule(clip: str, rule: str, outcomes: list[Outcome]) -> None:
    right = interval(sum(each.is_right for each in outcomes), len(outcomes))
    better = interval(sum(each.cosine > each.best_cosine for each in outcomes), len(outcomes))
    taken = [each for each in outcomes if each.side]
    names = ("cosine", "best_cosine", "predicted")
    medians = [float(np.median([getattr(each, name) for each in taken])) if taken else np.nan for name in names]
    print(
        f"| {clip} | {rule} | {right} | {better} | "
        + " | ".join(f"{value:.3f}" for value in medians)
        + f" | {max(each.length for each in outcomes):.1f} |",
        flush=True,
    )


def print_singles(lib: Library, singles: dict[str, set[str]], labels: dict[str, str]) -> None:
    """How often a query for one effect gets one LoRA. Needs no pictures."""
    chosen = {query: [labels[file] for file, _ in lib.side(query)] for query in singles}
    one = sum(len(found) == 1 for found in chosen.values())
    right = sum(len(found) == 1 and set(found) == singles[query] for query, found in chosen.items())
    print(f"| {lib.clip} | {interval(one, len(chosen))} | {interval(right, len(chosen))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--clip", nargs="*", default=[], help="NAME=FOLDER=METRICS of further encoders")
    parser.add_argument("--rules", nargs="*", type=int, default=list(range(len(RULES))))
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    labels = {file: facts["label"] for file, facts in json.loads((MINIWORLD / "labels.json").read_text()).items()}
    asked = {
        kind: {entry["query"]: {labels[file] for file in entry["files"]} for entry in entries}
        for kind, entries in json.loads((MINIWORLD / "queries.json").read_text()).items()
    }
    clips = [("mini_clip", MINIWORLD, MINIWORLD / "reference_metrics.parquet")]
    clips += [(name, Path(folder), Path(metrics)) for name, folder, metrics in (part.split("=") for part in options.clip)]
    libraries = [library(*clip, [*asked["compound"], *asked["single"]]) for clip in clips]
    encoders = {lib.clip: lib.encoder for lib in libraries}
    pictures = Pictures(options.comfyui, options.cache, encoders, options.prompts, options.seconds)
    print("| CLIP | rule | pair is the right one | joint effect nearer than the best single LoRA's | ", end="")
    print("cosine of the pair, median | of the best single, median | predicted, median | longest difference |")
    print("|---|---|---|---|---|---|---|---|")
    details = []
    for lib in libraries:
        for rule in [name for place, name in enumerate(RULES) if place in options.rules]:
            outcomes = [
                found
                for query, wanted in asked["compound"].items()
                if (found := outcome(lib, pictures, query, RULES[rule](lib, query), wanted, labels))
            ]
            if outcomes:
                print_rule(lib.clip, rule, outcomes)
            details += [(lib.clip, rule, each) for each in outcomes]
    print("\n| CLIP | single-effect queries for which one LoRA is chosen | and it is the right one |\n|---|---|---|")
    for lib in libraries:
        print_singles(lib, asked["single"], labels)
    print("\n| CLIP | rule | query | LoRAs and weights | right pair | cosine | best single LoRA |\n|---|---|---|---|---|---|---|")
    for clip, rule, each in details:
        uses = " + ".join(f"{labels[file]} {weight:.2f}" for file, weight in each.side)
        best = f"{each.best_cosine:.3f} ({labels[each.best_single]})"
        print(f"| {clip} | {rule} | {each.query} | {uses} | {'yes' if each.is_right else 'no'} | {each.cosine:.3f} | {best} |")


if __name__ == "__main__":
    main()
