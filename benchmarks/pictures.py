"""What a list's picture adds to a search: seconds of a run, for 5 and 20 LoRAs.

usage: python -m benchmarks.pictures [--rows 100000] [--runs 15]

In a real ComfyUI (COMFYUI_DIR or ~/comfy/ComfyUI) on the CPU, with the made-up rows of large_database.py. Every run is a search
that was not made before. To see what the picture adds, run it in a checkout without pictures, too. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.large_database import DATABASE, write_rows
from tests.support import comfyui_host as hosts
from tests.support import workflows
from tests.support.comfyui_host import Host

TOP_K = (5, 20)


def seconds(host: Host, query: str, top_k: int) -> float:
    """How long a search takes from its start to its end, by ComfyUI's own clock."""
    entry = host.wait(host.submit(workflows.retrieve(query, Path(DATABASE).stem, top_k=top_k)))
    host.outputs_of(entry)
    return host.seconds_of(entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    comfyui = hosts.comfyui_folder()
    if comfyui is None:
        parser.error("There is no ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI.")
    with tempfile.TemporaryDirectory() as name:
        base = hosts.make_base_folder(Path(name))
        write_rows(base / "models" / "carlos" / DATABASE, options.rows)
        with hosts.running(comfyui, base) as host:
            first = seconds(host, "the first search", TOP_K[0])
            second = seconds(host, "the second search", TOP_K[0])
            found: dict[int, list[float]] = {top_k: [] for top_k in TOP_K}
            for place in range(options.runs):
                for top_k, taken in found.items():
                    taken.append(seconds(host, f"snow falling on {place} hills and {top_k} valleys", top_k))
    print(f"{options.rows:,} rows, {options.runs} searches each; seconds\n")
    print("| what | seconds |\n|---|---|")
    print(f"| the first search | {first:.3f} |\n| the second search | {second:.3f} |")
    for top_k, taken in found.items():
        print(f"| {top_k} LoRAs: median (least to most) | {median(taken):.3f} ({min(taken):.3f} to {max(taken):.3f}) |")


if __name__ == "__main__":
    main()
