"""Finds LoRAs by what they do, on the assets in this repository: no download, no GPU, no ComfyUI.

usage: python demo [QUERY ...]

The mini-world is a tiny text-to-image world with 23 LoRAs of known effect; its rows were measured with a CLIP model of its own,
which is here too. The published database's 740 rows need CLIP ViT-B/32 for queries, so that only its figures are shown.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import carlos_core as carlos
from carlos_core.clip.weights import local_encoders
from carlos_core.prompts.prompt_set import load_prompt_set

MINIWORLD = Path(__file__).resolve().parents[1] / "tests" / "assets" / "miniworld"
QUERIES = ("drawn with a pencil", "old brown photograph", "snow falling", "red balloons floating", "blocky low resolution pixels")


def show_published_figures() -> None:
    """The bundled database, as the authors of the method published it."""
    frame = carlos.load_bundled_database().to_dataframe()
    within = ((frame.strength <= 9.8) & (frame.consistency >= 0.041)).sum()
    print(f"Published database: {len(frame)} LoRAs, {within} within the published limits")
    print(f"  strength     mean {frame.strength.mean():.4f}  min {frame.strength.min():.4f}  max {frame.strength.max():.4f}")
    print(f"  consistency  mean {frame.consistency.mean():.4f}  median {frame.consistency.median():.4f}")


def show_retrieval(queries: tuple[str, ...]) -> None:
    """The mini-world's LoRAs for each query, with what they really do."""
    encoder = carlos.load_encoder(local_encoders([MINIWORLD])["mini_clip"].encoder_id, [MINIWORLD], device="cpu")
    database = carlos.load_database(MINIWORLD / "reference_metrics.parquet", encoder_id=encoder.encoder_id)
    prompts = load_prompt_set(MINIWORLD / "prompts_signature.json")
    labels = json.loads((MINIWORLD / "labels.json").read_text())
    print(f"\nMini-world: {len(database)} LoRAs, encoder {encoder.encoder_id}")
    for query in queries:
        start = time.perf_counter()
        matches = carlos.retrieve(database, query, top_k=3, prompts=prompts, encoder=encoder)
        print(f"\n  {query!r} ({1000 * (time.perf_counter() - start):.0f} ms)")
        for match in matches:
            file = match.record.file_name
            print(f"    {match.rank}. {match.score:+.3f}  {file:34s} really: {labels[file]['label']}")


def main() -> None:
    show_published_figures()
    show_retrieval(tuple(sys.argv[1:]) or QUERIES)


if __name__ == "__main__":
    main()
