"""What a database of 100,000 rows and a folder of 5,000 LoRAs do to a real ComfyUI: time, memory, and how long it is silent.

usage: python -m benchmarks.large_database [--rows 100000] [--files 5000]

In a real ComfyUI (COMFYUI_DIR or ~/comfy/ComfyUI) on the CPU. The rows are made up, with directions of the mini-world's CLIP (64
numbers). While something runs, the server is asked for its queue every 20 ms: the longest time without an answer is how long its
event loop stood still. Prints Markdown.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import requests

from benchmarks.model_fit import write_file
from carlos_core.database.columns import column_types, direction_array, pack_metadata
from carlos_core.database.parquet import write_table
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Host

DATABASE = "large.parquet"
DIMENSION = 64
LAYERS = {f"lora_unet_block_{place}_attn_to_q": (64, 64) for place in range(40)}
EVERY_S = 0.02


def write_rows(path: Path, n: int) -> None:
    """A database of made-up rows, as many as a large community could share."""
    chance = np.random.default_rng(0)
    directions = chance.normal(size=(n, DIMENSION)).astype(np.float32)
    columns: dict[str, object] = {
        "lora_id": [str(place) for place in range(n)],
        "version_id": list(range(n)),
        "model_name": [f"LoRA number {place}" for place in range(n)],
        "file_name": [f"styles/lora_{place}.safetensors" for place in range(n)],
        "sha256": [f"{place:064x}" for place in range(n)],
        "base_model": ["SD 3"] * n,
        "trigger_words": [[f"word{place}"] for place in range(n)],
        "strength": chance.uniform(1, 9, n),
        "consistency": chance.uniform(0.05, 0.5, n),
    }
    arrays = {
        name: pa.array(columns[name], type_) if name in columns else pa.nulls(n, type_)
        for name, type_ in column_types(DIMENSION).items()
    }
    arrays["direction"] = direction_array(directions)
    write_table(pa.table(arrays).replace_schema_metadata(pack_metadata(miniworld.encoder_id(), {}, "a stamp")), path)


@dataclass
class Silence:
    """How long a server needs for an answer, in seconds."""

    answers: list[float] = field(default_factory=list)

    @property
    def longest_ms(self) -> float:
        return 1000 * max(self.answers, default=0.0)


@contextmanager
def listening(host: Host) -> Iterator[Silence]:
    """Ask the server all the time while a block runs."""
    found, is_over = Silence(), threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not is_over.is_set():
                begin = time.perf_counter()
                session.get(f"{host.url}/prompt", timeout=600).raise_for_status()
                found.answers.append(time.perf_counter() - begin)
                is_over.wait(EVERY_S)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def memory_mb(host: Host) -> int:
    """What the server's process has in memory."""
    status = Path(f"/proc/{host.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) >> 10


def measured(host: Host, what: str, workflow: workflows.Workflow) -> None:
    """Run a workflow and print a line about it."""
    with listening(host) as silence:
        entry = host.wait(host.submit(workflow), timeout_s=1800)
    host.outputs_of(entry)
    print(f"| {what} | {host.seconds_of(entry):.2f} | {memory_mb(host):,} | {silence.longest_ms:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=5000)
    options = parser.parse_args()
    comfyui = hosts.comfyui_folder()
    if comfyui is None:
        parser.error("There is no ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI.")
    with tempfile.TemporaryDirectory() as name:
        base = hosts.make_base_folder(Path(name))
        hosts.build_checkpoint(base / "models" / "checkpoints" / workflows.CHECKPOINT)
        write_rows(base / "models" / "carlos" / DATABASE, options.rows)
        for place in range(options.files):
            write_file(base / "models" / "loras" / f"lora_{place}.safetensors", LAYERS, 4, 1)
        small = {"checkpoint": workflows.node("CheckpointLoaderSimple", ckpt_name=workflows.CHECKPOINT)}
        with hosts.running(comfyui, base) as host:
            print(f"{options.rows:,} rows, {options.files:,} LoRA files\n")
            print("| what | seconds | memory of the server, MB | longest silence, ms |\n|---|---|---|---|")
            measured(host, "the checkpoint alone", {**small, "shown": workflows.node("PreviewAny", source=["checkpoint", 0])})
            loader = {"db": workflows.loader(DATABASE)}
            measured(host, "Metrics DB Loader", {**loader, "shown": workflows.node("PreviewAny", source=["db", 0])})
            for query in ("snow falling", "burning flames"):
                measured(host, f"LoRA Retriever: {query}", workflows.retrieve(query, "large"))
            for query in ("snow falling", "drawn in pencil", "drawn in pencil, night"):
                measured(host, f"Auto LoRA: {query}", workflows.auto_lora(query, DATABASE))


if __name__ == "__main__":
    main()
