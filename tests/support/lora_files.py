"""LoRA files and sidecars for the tests of the library: the smallest valid ones, and whether anybody opens them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from carlos_core.loras import header

Files = list[tuple[str, Path]]

SDXL_KEY = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"


def lora(path: Path, content: int = 0, trigger: str = "", *, width: int = 2048) -> Path:
    """A valid LoRA whose tensors hold the number `content`; width 768 is SD 1.5's, 2048 SDXL's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({SDXL_KEY: np.full((1, width), content, np.int32)}, path, {"modelspec.trigger_phrase": trigger})
    return path


def later(path: Path) -> Path:
    """The same file, changed at a later time than it was: file systems tell times in steps of up to some milliseconds."""
    os.utime(path, (2_000_000_000, 2_000_000_000))
    return path


def sidecar(lora_path: Path, suffix: str = ".civitai.info", **facts: Any) -> Path:
    path = lora_path.with_name(lora_path.stem + suffix)
    path.write_text(json.dumps(facts), encoding="utf-8")
    return path


def listed(folder: Path) -> Files:
    """All LoRAs below a folder as ComfyUI lists them: it follows links, and names are relative."""
    found = [
        Path(place) / name
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(".safetensors")
    ]
    return sorted((path.relative_to(folder).as_posix(), path) for path in found)


_watchers: list[list[str]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watchers and isinstance(arguments[0], (str, bytes, os.PathLike)):
        for opened in _watchers:
            opened.append(os.path.basename(os.fsdecode(arguments[0])))


sys.addaudithook(_watch)


@contextmanager
def opened_loras() -> Iterator[list[str]]:
    """Names of the LoRA files and sidecars that this process opens meanwhile: as Python itself reports them, and those
    whose header safetensors reads, which opens files on its own."""
    opened: list[str] = []

    def watched(path: Path, framework: str) -> Any:
        opened.append(path.name)
        return safe_open(path, framework=framework)

    _watchers.append(opened)
    try:
        with patch.object(header, "safe_open", watched):
            yield opened
    finally:
        _watchers.remove(opened)
        opened[:] = [name for name in opened if name.endswith((".safetensors", ".info", ".json"))]
