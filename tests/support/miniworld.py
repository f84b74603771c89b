"""The mini-world: its files, its truth, and its CLIP to judge pictures with."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.prompts.prompt_set import load_prompt_set

MINIWORLD = Path(__file__).resolve().parents[1] / "assets" / "miniworld"

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of colours that OpenAI's CLIP expects, from its release."""


@lru_cache(maxsize=1)
def encoder_id() -> str:
    """Id of the mini CLIP, worked out from its file."""
    return f"mini_clip@{hashlib.sha256((MINIWORLD / 'mini_clip.safetensors').read_bytes()).hexdigest()[:12]}"


@lru_cache(maxsize=8)
def labels(*kinds: str) -> dict[str, dict[str, Any]]:
    """File name -> what the LoRA does; of the given kinds only, if any are given."""
    known = json.loads((MINIWORLD / "labels.json").read_text(encoding="utf-8"))
    return {name: facts for name, facts in known.items() if not kinds or facts["kind"] in kinds}


@lru_cache(maxsize=1)
def encoder() -> OpenClipEncoder:
    return load_encoder(encoder_id(), [MINIWORLD])


def reference_rows(path: Path) -> MetricsDatabase:
    """The reference measurement of the mini-world's LoRAs, saved as a database of its own."""
    database = load_database(MINIWORLD / "reference_metrics.parquet", encoder_id=encoder_id())
    database.save_parquet(path)
    return database


@lru_cache(maxsize=1)
def _signatures() -> SignatureCache:
    return SignatureCache()


def signature(query: str) -> np.ndarray:
    """Of a query, on the mini-world's prompts. [D] float64."""
    prompts = load_prompt_set(MINIWORLD / "prompts_signature.json")
    return _signatures().signature(encoder(), prompts, query).double().numpy()


def features(picture: Path) -> np.ndarray:
    """Of a picture file. [D] float64."""
    pixels = np.asarray(Image.open(picture).convert("RGB"), dtype=np.float32) / 255.0
    return encoder().encode_images(torch.from_numpy(pixels)[None])[0].double().numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
