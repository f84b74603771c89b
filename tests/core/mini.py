"""The mini-world's truth, and the smallest rows and files that tests need."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from carlos_core.records import LoraMetadata, LoraRecord

MINIWORLD = Path(__file__).parents[1] / "assets" / "miniworld"
ASSETS = Path(__file__).parent / "assets"

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of colours that OpenAI's CLIP expects, from its release."""


@lru_cache(maxsize=1)
def encoder_id() -> str:
    """Id of the mini CLIP, worked out from its file."""
    return f"mini_clip@{hashlib.sha256((MINIWORLD / 'mini_clip.safetensors').read_bytes()).hexdigest()[:12]}"


@lru_cache(maxsize=1)
def labels() -> dict[str, dict[str, Any]]:
    """File name -> what the LoRA does."""
    return json.loads((MINIWORLD / "labels.json").read_text(encoding="utf-8"))


def record(lora_id: str, direction: list[float] | np.ndarray | None = None, **facts: Any) -> LoraRecord:
    """A row with made-up metrics within the published limits."""
    said = {name: facts.pop(name) for name in vars(LoraMetadata()) if name in facts}
    made_up = {"strength": 5.0, "consistency": 0.2, **facts}
    direction = np.asarray([1, 0, 0, 0] if direction is None else direction, np.float32)
    return LoraRecord(lora_id=lora_id, direction=direction, metadata=LoraMetadata(**said), **made_up)
