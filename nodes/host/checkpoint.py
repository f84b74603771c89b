"""What can be known of the checkpoint behind a MODEL: the workflow names its file, and a sidecar may say what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths

from ...carlos_core.comfy.workflow import checkpoints_of
from ...carlos_core.loras.lines import line_of
from ...carlos_core.loras.listed import posix
from ...carlos_core.loras.metadata import read_sidecar

_FOLDERS = ("checkpoints", "diffusion_models", "unet_gguf")


@dataclass(frozen=True)
class KnownCheckpoint:
    """A checkpoint whose line is known."""

    line: str
    """See `loras.lines`."""

    name: str
    """Of its file, with "/" between folders; of several that were merged, all."""


def checkpoint_of(hidden: Any) -> KnownCheckpoint | None:
    """The checkpoint of a node's input `model`, from the prompt that runs; None if its line cannot be told.

    hidden: of the node; it asks for `prompt` and `unique_id`. Of models that are merged, the lines must be the same.
    """
    names = checkpoints_of(hidden.prompt, hidden.unique_id)
    lines = {line_of((_label_of(name), name)) for name in names}
    line = lines.pop() if len(lines) == 1 else None
    return None if line is None else KnownCheckpoint(line, " and ".join(map(posix, names)))


def _label_of(name: str) -> str | None:
    """What a sidecar beside a checkpoint calls its base model."""
    paths = (folder_paths.get_full_path(folder, name) for folder in _FOLDERS if folder in folder_paths.folder_names_and_paths)
    path = next(filter(None, paths), None)
    return None if path is None else read_sidecar(Path(path)).base_model
