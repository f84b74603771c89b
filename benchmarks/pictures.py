"""What a list's picture adds to a search: seconds of its parts, and of runs in ComfyUI, for 5 and 20 LoRAs.

usage: python -m benchmarks.pictures [--rows 100000] [--runs 15] [--parts-only]

The parts in this process: where most LoRAs are, drawing with and without pictures of LoRAs, the output, and the file for the
node. The runs in a real ComfyUI (COMFYUI_DIR or ~/comfy/ComfyUI) on the CPU, with the made-up rows of large_database.py; each
is a search that was not made before. To see what the picture adds to a run, run it in a checkout without pictures, too.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from benchmarks.large_database import DATABASE, write_rows
from carlos_core.database.database import load_database
from carlos_core.drawing.listing import Gauge, Listing, Row, Said, picture_of_listing
from carlos_core.drawing.pair import Pair
from carlos_core.drawing.tensors import as_tensor, picture_of
from tests.support import comfyui_host as hosts
from tests.support import workflows
from tests.support.comfyui_host import Host

TOP_K = (5, 20)

Made = TypeVar("Made")


def timed(what: str, make: Callable[[int], Made], runs: int) -> Made:
    """Make something `runs` times, print how long that takes, and return the last. make: takes the number of the run."""
    taken = []
    for place in range(runs):
        begin = time.perf_counter()
        made = make(place)
        taken.append(time.perf_counter() - begin)
    print(f"| {what} | {median(taken):.3f} ({min(taken):.3f} to {max(taken):.3f}) |", flush=True)
    return made


def parts(path: Path, runs: int) -> None:
    """What each part takes. path: a database."""
    database = load_database(path)
    arrays = database.ranking_arrays
    timed(f"where most of {len(database):,} LoRAs are, once", lambda _place: (arrays.usual_strength, arrays.usual_consistency), 1)
    noise = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    pair = Pair("a house", 0, Image.fromarray(noise[0]), Image.fromarray(noise[1]))

    def drawn(place: int, top_k: int, shown: Pair | None) -> Image.Image:
        rows = []
        for rank in range(top_k):
            record = database.row_at(place * top_k + rank)
            measured = (
                Gauge("strength", record.strength, 2, arrays.usual_strength),
                Gauge("consistency", record.consistency, 3, arrays.usual_consistency),
            )
            lines = ((Said(f"score {rank / 100:.3f}"),), (Said("not installed"),), (Said(record.metadata.base_model or ""),))
            rows.append(Row(record.name, lines, measured, shown))
        title = Said(f"LoRAs for “search {place}”")
        return picture_of_listing(Listing(title, (), tuple(rows), top_k, "light part of a bar: 9 of 10 LoRAs"))

    for top_k in TOP_K:
        for shown, said in ((None, ""), (pair, " with pictures of each")):
            what = f"{top_k} LoRAs{said}"
            picture = timed(f"{what}: drawn", partial(drawn, top_k=top_k, shown=shown), runs)
            image = timed(f"{what}: as the output", partial(_output, picture), runs)
            timed(f"{what}: as the file for the node", partial(_file, image), runs)


def _output(picture: Image.Image, _place: int) -> torch.Tensor:
    return as_tensor(picture)


def _file(image: torch.Tensor, _place: int) -> int:
    """Bytes of a picture in a file, as ComfyUI writes previews."""
    file = io.BytesIO()
    picture_of(image[0]).save(file, "PNG", compress_level=1)
    return file.tell()


def seconds(host: Host, query: str, top_k: int) -> float:
    """How long a search takes from its start to its end, by ComfyUI's own clock."""
    entry = host.wait(host.submit(workflows.retrieve(query, Path(DATABASE).stem, top_k=top_k)))
    host.outputs_of(entry)
    return host.seconds_of(entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--parts-only", action="store_true")
    options = parser.parse_args()
    comfyui = hosts.comfyui_folder()
    if comfyui is None:
        parser.error("There is no ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI.")
    with tempfile.TemporaryDirectory() as name:
        base = hosts.make_base_folder(Path(name))
        write_rows(base / "models" / "carlos" / DATABASE, options.rows)
        print(f"{options.rows:,} rows, {options.runs} times each; seconds, median (least to most)\n")
        print("| what | seconds |\n|---|---|")
        parts(base / "models" / "carlos" / DATABASE, options.runs)
        if options.parts_only:
            return
        with hosts.running(comfyui, base) as host:
            first = seconds(host, "the first search", TOP_K[0])
            second = seconds(host, "the second search", TOP_K[0])
            found: dict[int, list[float]] = {top_k: [] for top_k in TOP_K}
            for place in range(options.runs):
                for top_k, taken in found.items():
                    taken.append(seconds(host, f"snow falling on {place} hills and {top_k} valleys", top_k))
    print(f"| the first search | {first:.3f} |\n| the second search | {second:.3f} |")
    for top_k, taken in found.items():
        print(f"| {top_k} LoRAs: a run in ComfyUI | {median(taken):.3f} ({min(taken):.3f} to {max(taken):.3f}) |")


if __name__ == "__main__":
    main()
