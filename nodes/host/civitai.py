"""LoRAs from CivitAI into ComfyUI's folders. Nothing is asked unless the user chose it."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management

from ...carlos_core.civitai.client import CivitaiClient
from ...carlos_core.civitai.lora import CivitaiLora
from . import folders, lora_folder
from .progress import NodeProgress


def client(progress: NodeProgress) -> CivitaiClient:
    """A client that says on the node what it waits for, and stops waiting when the user cancels."""

    def on_wait(reason: str, seconds: float) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.say(f"{reason} Trying again in {seconds:.0f} s")

    return CivitaiClient.from_environment(folders.civitai_key_file(), on_wait=on_wait)


def wanted(model_id: str | int | None, version_id: str | int | None, progress: NodeProgress, *, file: str = "") -> CivitaiLora:
    """A LoRA by its ids, and by its file's id, name or sha256. Raises CivitaiError if an id is no number, or none is given."""
    return CivitaiLora(model_id, version_id, lambda: client(progress), file=file)


def fetched(lora: CivitaiLora, progress: NodeProgress) -> tuple[Path, str]:
    """Fetch a LoRA into ComfyUI's first folder of LoRAs, unless it is installed. Returns its path and its name in the list."""
    listed = lora_folder.listed_loras()
    path = lora.fetch(lora_folder.loras_folder(), at_hand=listed, on_progress=progress)
    lora_folder.refresh_loras()
    return path, listed.get(path, path.name)
