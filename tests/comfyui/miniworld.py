"""The mini-world's truth, and its CLIP to judge pictures with from outside ComfyUI."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from host import MINIWORLD
from PIL import Image

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.clip.weights import local_encoders
from carlos_core.prompts.prompt_set import load_prompt_set


def labels(*kinds: str) -> dict[str, dict[str, Any]]:
    """File name -> what the LoRA does, of the given kinds."""
    known = json.loads((MINIWORLD / "labels.json").read_text())
    return {name: facts for name, facts in known.items() if facts["kind"] in kinds}


@lru_cache(maxsize=1)
def encoder() -> OpenClipEncoder:
    return load_encoder(local_encoders([MINIWORLD])["mini_clip"].encoder_id, [MINIWORLD])


@lru_cache(maxsize=1)
def _signatures() -> SignatureCache:
    return SignatureCache()


def signature(query: str) -> np.ndarray:
    prompts = load_prompt_set(MINIWORLD / "prompts_signature.json")
    return _signatures().signature(encoder(), prompts, query).double().numpy()


def features(picture: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(picture).convert("RGB"), dtype=np.float32) / 255.0
    return encoder().encode_images(torch.from_numpy(pixels)[None])[0].double().numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
