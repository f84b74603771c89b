"""The header of a safetensors file: metadata, names and shapes of tensors, without loading any."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import LoraError
from ..foreign import printable, whole_text
from ..storage import short_hash


@dataclass(frozen=True)
class Header:
    """What the header of a LoRA file says. metadata: the file's own words. shapes: tensor name -> shape."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    @property
    def layout(self) -> str:
        """16 hex digits for the names and shapes of the tensors: what decides which models the LoRA fits."""
        return short_hash(repr(sorted(self.shapes.items())), 16)


UNFINISHED = (".aria2", ".part", ".crdownload", ".!qb", ".!ut", ".download")
"""What follows a file's name while it is downloaded, in the name of what the program keeps beside it. Some programs give the file
its full length from the start, so that its header is whole while its weights are not."""


def check_finished(path: Path) -> None:
    """Raises LoraError for a file that is being downloaded."""
    # With os.path, a name that is too long for the file system is one that is not there.
    beside = next((end for end in UNFINISHED if os.path.exists(f"{path}{end}")), None)  # noqa: PTH110
    if beside is not None:
        name = printable(path.name)
        raise LoraError(
            f"{name} is not downloaded completely: {name}{beside} is beside it.",
            f"Wait for the download, or delete {name}{beside} if it has ended.",
        )


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file. Raises LoraError if it is missing or cannot be loaded.

    ComfyUI opens LoRAs in the same way, and cannot use a file that fails here.
    """
    name = printable(path.name)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = {key: whole_text(value) for key, value in (file.metadata() or {}).items()}
            return Header(metadata, {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()})  # noqa: SIM118
    except OSError as error:
        raise LoraError(
            f"The LoRA {name} cannot be read: {error.strerror or error}.", "Check that the file is still there."
        ) from error
    except (SafetensorError, ValueError) as error:
        raise LoraError(
            f"{name} is not a safetensors file, or a part of it is missing ({printable(str(error))}).",
            "Download it again, as .safetensors.",
        ) from error
