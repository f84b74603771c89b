"""Times retrieval: the ranking against the bare memory-bandwidth limit and the reference's row-by-row method, the signature, and
the start of a calibrated search, which reads the signatures of the bank.

usage: python -m benchmarks.retrieval [--rows 1000000] [--runs 20]

All figures of one table come from one process, in turn. No weights are needed: speed does not depend on them, so that the text
tower is CLIP ViT-B/32's with random ones.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.pixels import PixelFormat
from carlos_core.clip.signature_file import SignatureFile
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.published import load_bundled_database
from carlos_core.prompts.prompt_set import PromptSet, default_effect_bank, default_signature_prompts
from carlos_core.search.limits import PUBLISHED_LIMITS
from carlos_core.search.ranking import rank

QUERIES = (
    "snowfall, cold winter scene, visible breath",
    "oil painting with thick strokes",
    "pixel art like an old video game",
    "wet streets with neon reflections",
    "hand drawn in pencil on rough paper",
)


def median_ms(call: Callable[[], object], runs: int) -> float:
    """Median wall time of a call after one warm-up."""
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def reference_ranking(
    rows: list[tuple[np.ndarray, float, float]], signature: torch.Tensor, top_k: int
) -> list[tuple[float, int]]:
    """The published way to rank: a walk over the table, one cosine a row, then a sort. Rows are plain tuples here; the
    reference package walks a pandas table, which takes longer still."""
    scored = []
    for index, (direction, strength, consistency) in enumerate(rows):
        if strength <= 9.8 and consistency >= 0.041:
            scored.append((float(torch.cosine_similarity(torch.tensor(direction), signature, dim=0)), index))
    return sorted(scored, reverse=True)[:top_k]


def time_ranking(n_rows: int | None, runs: int) -> None:
    """One line of the ranking table; None for the published rows."""
    torch.manual_seed(0)
    if n_rows is None:
        arrays = load_bundled_database().ranking_arrays
        directions, norms, strength, consistency = arrays.directions, arrays.norms, arrays.strength, arrays.consistency
    else:
        directions = torch.randn(n_rows, 512)
        norms, strength, consistency = directions.norm(dim=1), torch.rand(n_rows) * 12, torch.rand(n_rows) * 0.2
    signature = torch.randn(512)

    def ours() -> object:
        allowed = PUBLISHED_LIMITS.within(strength, consistency)
        return rank(directions, signature, 5, norms=norms, allowed=allowed)

    def bare() -> object:
        return torch.topk(directions @ signature, 5)

    ours(), bare()
    pairs = [(median_ms(ours, 1), median_ms(bare, 1)) for _ in range(runs)]
    own, limit = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(mine / other for mine, other in pairs)
    sample = min(len(directions), 37_000)
    rows = list(zip(directions[:sample].numpy(), strength[:sample].tolist(), consistency[:sample].tolist(), strict=True))
    walk = median_ms(lambda: reference_ranking(rows, signature, 5), 3) * len(directions) / sample
    note = "" if sample == len(directions) else f" (from {sample:,})"
    print(f"| {len(directions):,} | {own:.2f} | {limit:.2f} | {ratio:.2f} | {walk:,.0f}{note} |")


def reference_signature(model: Any, tokenizer: Callable[..., torch.Tensor], prompts: PromptSet, query: str) -> torch.Tensor:
    """The published method as published: both halves in one go, padded to the longest text, at every query."""
    texts = [*prompts.texts, *(f"{prompt} {query}" for prompt in prompts.texts)]
    ids = tokenizer(texts)
    ids = ids[:, : int(ids.argmax(1).max()) + 1]
    n = ids.shape[1]
    hidden = model.token_embedding(ids) + model.positional_embedding[:n]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:n, :n]))
    features = hidden[torch.arange(len(ids)), ids.argmax(1)] @ model.text_projection
    return features[len(prompts) :].mean(0) - features[: len(prompts)].mean(0)


@torch.inference_mode()
def time_signature() -> None:
    """The signature table."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    encoder = OpenClipEncoder(
        model, tokenizer, "random", PixelFormat(224, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD), 512
    )
    prompts = default_signature_prompts()
    cache = SignatureCache()
    rows: dict[str, list[float]] = {"reference": [], "first query": [], "new query": [], "same query": []}
    worst = 0.0
    for place, query in enumerate(QUERIES):
        start = time.perf_counter()
        expected = reference_signature(model, tokenizer, prompts, query)
        rows["reference"].append(time.perf_counter() - start)
        start = time.perf_counter()
        found = cache.signature(encoder, prompts, query)
        rows["first query" if place == 0 else "new query"].append(time.perf_counter() - start)
        start = time.perf_counter()
        cache.signature(encoder, prompts, query)
        rows["same query"].append(time.perf_counter() - start)
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    reference = statistics.median(rows["reference"])
    for name, times in rows.items():
        middle = statistics.median(times)
        print(f"| {name} | {middle:.4f} | {middle / reference:.4f} |")
    print(f"\nLargest difference between the two signatures, relative to their largest entry: {worst:.1e}")


def read_single_files(folder: Path, keys: list[str]) -> dict[str, np.ndarray]:
    """How earlier versions read signatures: a file for each, with its checksum."""
    found = {}
    for key in keys:
        content = (folder / f"{key}.f64").read_bytes()
        assert hashlib.sha256(content[16:]).digest()[:16] == content[:16]
        found[key] = np.frombuffer(content[16:], dtype="<f8").astype(np.float64)
    return found


def forget_pages(folder: Path) -> None:
    """Let the next reading of a folder's files come from the disk, where the system allows that."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_start(runs: int) -> None:
    """The table of the start of a calibrated search. Both ways are timed in turn."""
    vectors = {hashlib.sha256(text.encode()).hexdigest()[:32]: np.random.rand(512) for text in default_effect_bank().texts}
    with tempfile.TemporaryDirectory() as name:
        one, many = Path(name, "one"), Path(name, "many")
        many.mkdir()
        SignatureFile(one).write(vectors)
        for key, vector in vectors.items():
            values = vector.tobytes()
            (many / f"{key}.f64").write_bytes(hashlib.sha256(values).digest()[:16] + values)
        ways: dict[Path, Callable[[], object]] = {
            many: partial(read_single_files, many, list(vectors)),
            one: lambda: SignatureFile(one).read(list(vectors)),
        }
        for is_cold in (False, True):
            times: dict[Path, list[float]] = {folder: [] for folder in ways}
            for _ in range(runs):
                for folder, read in ways.items():
                    if is_cold:
                        forget_pages(folder)
                    start = time.perf_counter()
                    read()
                    times[folder].append(1000 * (time.perf_counter() - start))
            files, sqlite = (statistics.median(times[folder]) for folder in (many, one))
            where = "from the disk" if is_cold else "from memory"
            print(f"| {len(vectors)} signatures, {where} | {files:.1f} | {sqlite:.1f} | {sqlite / files:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| rows | rank, ms | matrix-vector + topk, ms | ratio | row by row, ms |\n|---|---|---|---|---|")
    time_ranking(None, options.runs)
    time_ranking(options.rows, options.runs)
    print("\n| signature of a query, 280 prompts, CPU | seconds | of the reference |\n|---|---|---|")
    time_signature()
    print("\n| start of a calibrated search | a file each, ms | one file, ms | ratio |\n|---|---|---|---|")
    time_start(options.runs)


if __name__ == "__main__":
    main()
