"""Chooses for queries with the encoder as ComfyUI loads it and with it on the CPU, and says where they differ.

usage: PYTHONPATH=COMFYUI:. python tests/gpu/query_run.py N  (with ComfyUI's Python)

N: so many of the mini-world's queries as people ask, taken evenly. Prints one JSON object a line: the largest difference of an
entry of a query's signature, and the choices that are not the same.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

N = int(sys.argv[1])
ROOT = Path(__file__).resolve().parents[2]
MINIWORLD = ROOT / "tests" / "assets" / "miniworld"

import torch

HAS_GPU = torch.cuda.is_available()
sys.argv = [sys.argv[0], *([] if HAS_GPU else ["--cpu"])]
import comfyui_memory

comfyui_memory.prepare(is_dynamic=HAS_GPU)

from facts import say

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.comfy.encoder import load_comfy_encoder
from carlos_core.database.database import load_database
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.search.limits import COMPOSED, ChoiceRules
from carlos_core.search.searcher import Searcher


def choices(encoder: OpenClipEncoder, queries: list[str]) -> tuple[list[list[tuple[str, float]]], torch.Tensor]:
    """What is chosen for each query, with its weight to two digits; and the queries' signatures."""
    database = load_database(MINIWORLD / "reference_metrics.parquet", encoder_id=encoder.encoder_id)
    prompts = load_prompt_set(MINIWORLD / "prompts_signature.json")
    searcher = Searcher(database, encoder=encoder, prompts=prompts, signatures=SignatureCache())
    start = time.perf_counter()
    searcher.background()
    ready = time.perf_counter()
    rules = ChoiceRules(COMPOSED)
    chosen = [
        [(str(pick.match.record.file_name), round(pick.weight, 2)) for pick in searcher.choose(query, rules=rules).picks]
        for query in queries
    ]
    end = time.perf_counter()
    signatures = torch.stack([searcher.signature(query).cpu() for query in queries])
    say(is_on_gpu=not encoder.keeps_prefixes, bank_s=round(ready - start, 2), queries_s=round(end - ready, 2))
    return chosen, signatures


@torch.inference_mode()
def main() -> None:
    asked = json.loads((MINIWORLD / "queries_as_asked.json").read_text(encoding="utf-8"))
    queries = [entry["query"] for entry in asked[:: max(1, len(asked) // N)]][:N]
    encoder_id = local_encoders([MINIWORLD])["mini_clip"].encoder_id
    loaded, expected = load_comfy_encoder(encoder_id, [MINIWORLD]), load_encoder(encoder_id, [MINIWORLD], device="cpu")
    found, signatures = choices(loaded, queries)
    right, reference = choices(expected, queries)
    different = [list(row) for row in zip(queries, found, right, strict=True) if row[1] != row[2]]
    say(
        queries=len(queries),
        chosen=sum(map(bool, found)),
        difference=float((signatures - reference).abs().max()),
        different=different,
    )


main()
