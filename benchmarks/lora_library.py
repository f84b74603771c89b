"""Times the LoRA library: the first scan against bare hashing of the same files, a scan of unchanged files, rows to files, and
retrieval of installed LoRAs only.

usage: python -m benchmarks.lora_library [--files 5000] [--large 24] [--runs 7]

The files are made for it: tiny ones of six families in 50 folders, every second with a sidecar, and large ones to see what a scan
costs where reading is what takes the time. Everything is in the page cache, the worst case for the ratio: a disk makes both sides
wait alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from carlos_core.database.database import MetricsDatabase
from carlos_core.loras.library import LoraLibrary, scan, scan_surveyed, survey
from carlos_core.records import LoraMetadata, LoraRecord
from carlos_core.search.limits import SearchLimits
from carlos_core.search.searcher import Searcher

Files = list[tuple[str, Path]]

_CROSS_ATTENTION = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
_SHAPES = (
    {_CROSS_ATTENTION: (1, 768)},
    {_CROSS_ATTENTION: (1, 1024)},
    {_CROSS_ATTENTION: (1, 2048)},
    {"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": (1, 1536)},
    {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (1, 3072)},
    {"diffusion_model.blocks.0.cross_attn.k.lora_A.weight": (1, 5120)},
)
"""A key and its shape that give away SD 1.5, SD 2, SDXL, SD 3, Flux, and none of these."""

_LARGE_BYTES = 64 << 20


def write_lora(path: Path, shapes: dict[str, tuple[int, int]], place: int, padding: int = 0) -> None:
    """A valid safetensors file of one byte a number, with a content of its own. padding: bytes of a further tensor."""
    entries: dict[str, object] = {"__metadata__": {"modelspec.trigger_phrase": f"word {place}"}}
    end = 0
    for name, shape in {**shapes, **({"padding": (1, padding)} if padding else {})}.items():
        entries[name] = {"dtype": "U8", "shape": shape, "data_offsets": [end, end + shape[0] * shape[1]]}
        end += shape[0] * shape[1]
    header = json.dumps(entries).encode()
    content = np.random.default_rng(place).bytes(end)
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)


def write_library(folder: Path, n_files: int) -> Files:
    """Tiny files of all families in 50 folders, every second with a sidecar."""
    files = []
    for place in range(n_files):
        name = f"folder{place % 50}/lora{place}.safetensors"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lora(path, _SHAPES[place % len(_SHAPES)], place)
        if place % 2:
            facts = {"id": 10_000 + place, "modelId": place, "baseModel": "Pony", "trainedWords": [f"snow {place}"]}
            path.with_name(f"{path.stem}.civitai.info").write_text(json.dumps(facts))
        files.append((name, path))
    return files


def write_large(folder: Path, n_files: int) -> Files:
    folder.mkdir()
    files = [(f"large{place}.safetensors", folder / f"large{place}.safetensors") for place in range(n_files)]
    for place, (_, path) in enumerate(files):
        write_lora(path, _SHAPES[2], place, _LARGE_BYTES)
    return files


def bare_hashes(files: Files) -> list[str]:
    """The least that a scan must do: read and hash every file."""
    hashes = []
    for _, path in files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        hashes.append(digest.hexdigest())
    return hashes


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_first_scan(what: str, files: Files, folder: Path, runs: int) -> None:
    """One line of the first table; each run with an index of its own and without the process's memory of hashes."""
    from carlos_core import storage

    pairs, headers = [], []
    for run in range(runs):
        storage._sha256.cache_clear()
        ours = seconds(partial(scan, files, folder / f"{what}{run}.sqlite"))
        pairs.append((ours, seconds(lambda: bare_hashes(files))))
        headers.append(seconds(partial(scan, files, folder / f"{what}{run}.headers.sqlite", hash_files=False)))
    ours, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(mine / other for mine, other in pairs)
    size = sum(path.stat().st_size for _, path in files) / 1e6
    print(f"| {what} | {size:,.0f} | {ours:.2f} | {bare:.2f} | {ratio:.2f} | {statistics.median(headers):.2f} |")


def median_ms(call: Callable[[], object], runs: int) -> float:
    return 1000 * statistics.median(seconds(call) for _ in range(runs))


def database_of(library: LoraLibrary) -> MetricsDatabase:
    """A row for each file, found by a third of them each: hash, version id, file name."""
    import pyarrow as pa

    from carlos_core.database import columns as schema

    numbers = np.random.default_rng(0)
    empty = MetricsDatabase.empty("some encoder", 512)
    tables = []
    for place, entry in enumerate(library.entries):
        record = LoraRecord(
            lora_id=f"row {place}",
            direction=numbers.standard_normal(512).astype(np.float32),
            strength=5.0,
            consistency=0.2,
            metadata=LoraMetadata(
                base_model=entry.metadata.base_model, version_id=entry.metadata.version_id if place % 3 == 1 else None
            ),
            sha256=entry.sha256 if place % 3 == 0 else None,
            file_name=entry.name,
        )
        tables.append(schema.table_of(record, empty.table.schema))
    return MetricsDatabase(pa.concat_tables(tables).combine_chunks(), encoder_id="some encoder")


def time_the_rest(files: Files, index_file: Path, runs: int) -> None:
    """The second table: what happens at every query of a library that is known."""
    library = scan(files, index_file)
    states = survey(files)
    database = database_of(library)
    signature = torch.randn(512, generator=torch.Generator().manual_seed(0))

    def rescan() -> LoraLibrary:
        return scan(files, index_file)

    def ask(library: LoraLibrary = library, database: MetricsDatabase = database, base_model: str | None = None) -> None:
        resolved = library.resolve(database.identities)
        installed = {lora_id: found.name for lora_id, found in resolved.items() if found.name is not None}
        assert len(installed) == len(files)
        limits = SearchLimits(installed_only=True, base_model=base_model)
        found = Searcher(database, installed=installed).find(signature, limits, query="snow")
        assert len(found) == 5

    def first_ask() -> None:
        ask(LoraLibrary(library.entries), MetricsDatabase(database.table, encoder_id="some encoder"))

    rows = (
        ("rescan of unchanged files, index read from disk", rescan),
        ("of this, asking the file system for sizes and times", lambda: survey(files)),
        ("of this, index and entries", lambda: scan_surveyed(states, index_file)),
        ("rows to files", lambda: library.resolve(database.identities)),
        ("retrieval, installed only: rows to files and ranking", ask),
        ("the same with a base model", lambda: ask(base_model="SDXL")),
        ("the same for a library and a database that were just opened", first_ask),
    )
    print(f"\n| {len(files):,} files, {len(database):,} rows | ms |\n|---|---|")
    for what, call in rows:
        print(f"| {what} | {median_ms(call, runs):.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--large", type=int, default=24)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny, large = write_library(folder / "tiny", options.files), write_large(folder / "large", options.large)
        os.sync()
        print("| first scan | MB | scan, s | bare sha256, s | ratio | headers only, s |\n|---|---|---|---|---|---|", flush=True)
        time_first_scan(f"{len(tiny):,} tiny files", tiny, folder, options.runs)
        time_first_scan(f"{len(large)} files of 64 MiB", large, folder, options.runs)
        time_the_rest(tiny, folder / "index.sqlite", options.runs)


if __name__ == "__main__":
    main()
