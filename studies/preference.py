"""By how much do the z-scores of two LoRAs that do the same differ, for no reason but that both were measured?

usage: python -m studies.preference MINIWORLD > studies/results/preference.md

MINIWORLD: folder with mini_clip, labels.json, prompts_signature.json and reference_metrics.parquet. `ABOUT_EQUAL` of
carlos_core/search/preference.py is the result. Half a minute on two cores.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from carlos_core.clip.loading import load_encoder
from carlos_core.clip.weights import local_encoders
from carlos_core.database.database import load_database
from carlos_core.measuring.stopping import StoppingRule
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.search.calibration import calibrated_rows
from carlos_core.search.searcher import Searcher

RUNS = 20


def measured_again(units: Tensor, alignment: float, generator: torch.Generator, *, like_loras: bool) -> Tensor:
    """Directions at a cosine of `alignment` with the true ones. units: [R, D], unit length.

    like_loras: the errors are made of what LoRAs do; otherwise they point anywhere.
    """
    n_rows, dimension = units.shape
    if like_loras:
        errors = torch.randn(n_rows, n_rows, generator=generator, dtype=units.dtype) @ units
    else:
        errors = torch.randn(n_rows, dimension, generator=generator, dtype=units.dtype)
    errors -= (errors * units).sum(1, keepdim=True) * units
    errors /= errors.norm(dim=1, keepdim=True)
    return alignment * units + math.sqrt(1 - alignment**2) * errors


def main() -> None:
    world = Path(sys.argv[1])
    encoder = load_encoder(local_encoders([world])["mini_clip"].encoder_id, [world])
    database = load_database(world / "reference_metrics.parquet", encoder_id=encoder.encoder_id)
    searcher = Searcher(database, encoder=encoder, prompts=load_prompt_set(world / "prompts_signature.json"))
    background = searcher.background()
    directions = database.ranking_arrays.directions.double()
    directions = directions[directions.norm(dim=1) > 0]
    units = directions / directions.norm(dim=1, keepdim=True)
    labels = json.loads((world / "labels.json").read_text(encoding="utf-8"))
    queries = [facts["label"] for facts in labels.values() if facts["kind"] == "ordinary"]
    signatures = [searcher.signature(query) for query in queries]

    def z_scores(rows: Tensor) -> Tensor:
        calibrated = calibrated_rows(rows, background)
        return torch.stack([calibrated.z_scores(signature) for signature in signatures])

    generator = torch.Generator().manual_seed(0)
    print("# Two measurements of one LoRA\n")
    print(
        f"Standard deviation of the difference of their z-scores: {len(units)} directions, {len(queries)} queries, {RUNS} pairs"
    )
    print("of measurements, each at the given cosine with the true direction.\n")
    print("| cosine | errors point anywhere | errors are made of what LoRAs do |")
    print("|---|---|---|")
    for alignment in (0.95, StoppingRule().target, 0.99):
        cells = []
        for like_loras in (False, True):
            pairs = [
                [z_scores(measured_again(units, alignment, generator, like_loras=like_loras)) for _side in range(2)]
                for _run in range(RUNS)
            ]
            cells.append(torch.stack([first - second for first, second in pairs]).std().item())
        print(f"| {alignment} | {cells[0]:.2f} | {cells[1]:.2f} |")


main()
