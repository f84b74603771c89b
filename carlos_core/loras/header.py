"""The header of a safetensors file: metadata, names and shapes of tensors, without loading any."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LoraError
from ..foreign import whole_text

_MAX_HEADER = 100_000_000
"""The format's own limit, in bytes."""


@dataclass(frozen=True)
class Header:
    """metadata: the file's own words. shapes: tensor name -> shape."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file. Raises LoraError if the file is missing or is something else."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ValueError("no header")
            entries = json.loads(file.read(length))
            metadata = {key: whole_text(str(value)) for key, value in (entries.pop("__metadata__", None) or {}).items()}
            shapes = {name: _sizes(entry["shape"]) for name, entry in entries.items()}
            end = max((_sizes(entry["data_offsets"])[1] for entry in entries.values()), default=0)
    except OSError as error:
        raise LoraError(
            f"The LoRA {path.name} cannot be read: {error.strerror}.", "Check that the file is still there."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise LoraError(f"{path.name} is no safetensors file.", "Use a LoRA saved as .safetensors.") from error
    if 8 + length + end > size:
        raise LoraError(f"{path.name} is cut off: {size} bytes of {8 + length + end}.", "Download it again.")
    return Header(metadata, shapes)


def _sizes(value: Any) -> tuple[int, ...]:
    """A list of whole numbers from 0 to what a file can hold. Raises ValueError for anything else."""
    if not isinstance(value, list) or not all(type(number) is int and 0 <= number < 2**63 for number in value):
        raise ValueError("no sizes")
    return tuple(value)
