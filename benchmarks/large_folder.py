"""How long does Auto LoRA take in a folder of 23 LoRAs, and once 5,000 files more are in it?

usage: python -m benchmarks.large_folder [--files 5000] [--layouts 50]

In a real ComfyUI (COMFYUI_DIR or ~/comfy/ComfyUI) on the CPU, with the mini-world and its reference metrics: the node alone,
without a picture. Each round asks five queries that were read before. The further files have 722 layers of another model's names
each; they are no LoRAs of the database. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.model_fit import write_file
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Host, facts_of

DATABASE = "reference.parquet"
QUERIES = ("snow falling", "drawn in pencil", "sepia toned", "burning flames", "pink hearts")
LAYERS = {
    f"lora_unet_input_blocks_{place // 10}_1_transformer_blocks_{place % 10}_attn1_to_q": (640, 640) for place in range(722)
}


def seconds_of(host: Host, query: str) -> float:
    """From the start of a workflow to its end, by ComfyUI's own clock."""
    entry = host.wait(host.submit(workflows.auto_lora(query, DATABASE)))
    facts = facts_of(host.outputs_of(entry), "report")
    assert facts["choice"], f"nothing was chosen for {query!r}"
    return host.seconds_of(entry)


def round_of(host: Host) -> list[float]:
    return [seconds_of(host, query) for query in QUERIES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--layouts", type=int, default=50)
    options = parser.parse_args()
    comfyui = hosts.comfyui_folder()
    if comfyui is None:
        parser.error("There is no ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI.")
    with tempfile.TemporaryDirectory() as name:
        base = hosts.make_base_folder(Path(name))
        hosts.build_checkpoint(base / "models" / "checkpoints" / workflows.CHECKPOINT)
        miniworld.reference_rows(base / "models" / "carlos" / DATABASE)
        print("| folder | first query, seconds | each of the next ones | each of five more |")
        print("|---|---|---|---|")
        with hosts.running(comfyui, base) as host:
            round_of(host)
            n_own = len(list((base / "models" / "loras").iterdir()))
            for n_files in (0, options.files):
                for place in range(n_files):
                    layout = place % options.layouts
                    write_file(base / "models" / "loras" / f"more{place}.safetensors", LAYERS, 4 + layout // 2, 1 + layout % 2)
                first, *rest = round_of(host)
                again = statistics.median(round_of(host))
                print(f"| {n_own + n_files:,} files | {first:.2f} | {statistics.median(rest):.2f} | {again:.2f} |", flush=True)


if __name__ == "__main__":
    main()
