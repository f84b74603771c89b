"""Indexes all LoRAs of the mini-world in a real ComfyUI with one preset after another, and asks for each effect by name and in
other words.

usage: python -m benchmarks.library [--presets quick standard]   (ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI)

"Right" is the file whose effect was asked for, or a duplicate of it; candidates are all files that got a row.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from carlos_core.database.database import load_database
from carlos_core.search.limits import PUBLISHED_LIMITS
from carlos_core.search.ranking import rank
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows


def questions() -> dict[str, list[tuple[str, set[str]]]]:
    """Kind -> (query, right files): the labels' own names, and the paraphrases of queries.json."""
    ordinary, everything = miniworld.labels("ordinary"), miniworld.labels("ordinary", "duplicate")
    same = {
        name: {other for other, facts in everything.items() if facts["label"] == ordinary[name]["label"]} for name in ordinary
    }
    single = json.loads((miniworld.MINIWORLD / "queries.json").read_text())["single"]
    return {
        "by name": [(facts["label"], same[name]) for name, facts in ordinary.items()],
        "in other words": [(entry["query"], same[entry["files"][0]]) for entry in single],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=["quick", "standard"])
    options = parser.parse_args()
    folder = hosts.comfyui_folder()
    if folder is None:
        sys.exit("No ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI.")
    hosts.install_requirements(folder)
    reference = (
        load_database(miniworld.MINIWORLD / "reference_metrics.parquet", encoder_id="any").to_dataframe().set_index("file_name")
    )
    with tempfile.TemporaryDirectory() as name:
        base = hosts.make_base_folder(Path(name) / "base")
        hosts.build_checkpoint(base / "models" / "checkpoints" / workflows.CHECKPOINT)
        print("| preset | LoRAs | failed | images, median | model evaluations, median (base side, in all) | minutes |", end="")
        print(" cosine with the reference, median (least) | by name, top-1 / top-3 | in other words, top-1 / top-3 |")
        print("|---|---|---|---|---|---|---|---|---|")
        rows = []
        for preset in options.presets:
            with hosts.running(folder, base) as host:
                start = time.time()
                workflow = workflows.index_library("", preset, preset=preset, prompts="miniworld-index")
                facts = hosts.facts_of(host.run(workflow, timeout_s=6000), "index")
                minutes = (time.time() - start) / 60
            database = load_database(base / "models" / "carlos" / f"{preset}.parquet")
            frame = database.to_dataframe().set_index("file_name")
            ordinary = list(miniworld.labels("ordinary"))
            cosines = [miniworld.cosine(frame.direction[file], reference.direction[file]) for file in ordinary]
            found = []
            for asked in questions().values():
                places = [place_of(database, query, right) for query, right in asked]
                found.append(f"{sum(place == 1 for place in places)} / {sum(place <= 3 for place in places)} of {len(asked)}")
            taken = [entry for entry in facts["indexed"] if entry["file"] in ordinary]
            base_side = sum(entry["base_model_evaluations"] for entry in facts["indexed"])
            print(
                f"| {preset} | {len(facts['indexed'])} | {len(facts['failed'])} | "
                f"{np.median([e['n_images'] for e in taken]):.0f} | "
                f"{np.median([e['model_evaluations'] for e in taken]):.0f} ({base_side}) | {minutes:.1f} | "
                f"{np.median(cosines):.3f} ({min(cosines):.3f}) | {found[0]} | {found[1]} |",
                flush=True,
            )
            rows += [(preset, entry, reference) for entry in facts["indexed"] + facts["failed"]]
        print("\n| preset | file | kind | images | strength (reference) | consistency (reference) | alignment | notes |")
        print("|---|---|---|---|---|---|---|---|")
        for preset, entry, _ in rows:
            print_row(preset, entry, reference)


def place_of(database: Any, query: str, right: set[str]) -> int:
    """Place of the first right file, counted from 1; 99 if none is within the published limits."""
    arrays = database.ranking_arrays
    signature = torch.from_numpy(miniworld.signature(query)).float()
    allowed = PUBLISHED_LIMITS.within(arrays.strength, arrays.consistency)
    indices, _ = rank(arrays.directions, signature, len(database), norms=arrays.norms, allowed=allowed)
    files = database.column("file_name")
    ranked = [files[int(arrays.rows[index])] for index in indices.tolist()]
    return next((place for place, file in enumerate(ranked, start=1) if file in right), 99)


def print_row(preset: str, entry: dict[str, Any], reference: Any) -> None:
    """One LoRA's line of the second table."""
    kind = miniworld.labels("ordinary", "duplicate", "weak", "strong", "inconsistent", "noop", "misfit")[entry["file"]]["kind"]
    if "reason" in entry:
        print(f"| {preset} | {entry['file']} | {kind} | | | | | failed: {entry['reason']} |")
        return
    known = reference.loc[entry["file"]]
    consistency = "-" if entry["consistency"] is None else f"{entry['consistency']:.3f}"
    alignment = "-" if entry["alignment"] is None else f"{entry['alignment']:.3f}"
    print(
        f"| {preset} | {entry['file']} | {kind} | {entry['n_images']} | {entry['strength']:.2f} ({known.strength:.2f}) | "
        f"{consistency} ({known.consistency:.3f}) | {alignment} | {'; '.join(entry['notes'])} |"
    )


if __name__ == "__main__":
    main()
