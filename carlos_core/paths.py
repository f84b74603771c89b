"""Where CARLoS keeps its own files when nobody says otherwise (ComfyUI's nodes do say)."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder of weights and caches: the environment variable CARLOS_HOME, else ~/.cache/carlos."""
    return Path(os.environ.get("CARLOS_HOME") or Path.home() / ".cache" / "carlos")


def encoders_directory() -> Path:
    return home() / "encoders"


def loras_directory() -> Path:
    return home() / "loras"


def cache_directory() -> Path:
    return home() / "cache"
