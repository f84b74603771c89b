"""The header of a safetensors file: metadata, names and shapes of tensors, without loading any."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import LoraError, UnreadableLoraError
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


_LARGEST_HEADER = 32 << 20
"""Bytes. The format allows 100 MB, which take seconds and a gigabyte of memory; those of LoRAs have some hundred kB."""

_MOST_TENSORS = 50_000
"""Large LoRAs have a few thousand. Whether they fit a model is looked at one by one."""

_PACKED = ("F4", "F6_E2M3", "F6_E3M2")
"""Types of numbers that share bytes. torch keeps them at best, in other shapes than the header says."""

_MOVE_IT = "Move it out of the folder of LoRAs."

_OTHER_FILES = (
    (b"version https://git-lfs", "a pointer of Git LFS to one"),
    (b"PK", "a ZIP archive or a file of PyTorch"),
    (b"\x80", "a pickle, as .pt and .ckpt are"),
    (b"<", "a web page"),
    (b"{", "a text in JSON"),
)
"""How files begin that are often found under the name of a LoRA, and what they are."""


def begins_like_a_lora(path: Path) -> bool:
    """Whether a file's first bytes can be those of a LoRA file: a length, and JSON. Raises OSError."""
    with path.open("rb") as file:
        length, bracket = file.read(8), file.read(1)
    return int.from_bytes(length, "little") <= _LARGEST_HEADER and bracket == b"{"


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file. Raises LoraError if it is missing or cannot be loaded.

    ComfyUI opens LoRAs in the same way, and cannot use a file that fails here.
    """
    name = printable(path.name)
    check_ordinary(path)
    try:
        size = _header_size(path)
        if size > _LARGEST_HEADER:
            raise LoraError(f"{name} has a header of {size >> 20} MB: it is not a LoRA.", _MOVE_IT)
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            if len(names) > _MOST_TENSORS:
                raise LoraError(f"{name} has {len(names):,} tensors: it is not a LoRA.", _MOVE_IT)
            metadata = {key: whole_text(value) for key, value in (file.metadata() or {}).items()}
            slices = {key: file.get_slice(key) for key in names}
            packed = next((found for found in (part.get_dtype() for part in slices.values()) if found in _PACKED), None)
            if packed is not None:
                what = f"{name} holds numbers of less than eight bits ({packed}): they cannot be added to a model's."
                raise LoraError(what, "Look for it in another precision.")
            return Header(metadata, {key: tuple(part.get_shape()) for key, part in slices.items()})
    except OSError as error:
        what = f"The LoRA {name} cannot be read: {error.strerror or error}."
        raise UnreadableLoraError(what, "Check that the file is still there.") from error
    except (SafetensorError, ValueError) as error:
        other = _other_file(path)
        what = f" but {other}" if other else f", or a part of it is missing ({printable(str(error))})"
        raise UnreadableLoraError(f"{name} is not a safetensors file{what}.", "Download it again, as .safetensors.") from error


def _header_size(path: Path) -> int:
    """Bytes of the header, as the file says; 0 if it cannot be true."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return size if size <= os.fstat(file.fileno()).st_size else 0


def check_ordinary(path: Path) -> None:
    """Raises LoraError for a pipe, a socket or a device: opening one can wait for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # Opening it says why.
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        name = printable(path.name)
        raise LoraError(f"The LoRA {name} cannot be read: it is not an ordinary file.", "Put the LoRA itself in its place.")


def _other_file(path: Path) -> str:
    """What a file is that is not a safetensors file, as far as its beginning tells; empty if it does not."""
    try:
        with path.open("rb") as file:
            beginning = file.read(64)
    except OSError:
        return ""
    if beginning[8:9] == b"{":
        # The length of a header, whatever it looks like, and the header.
        return ""
    return "empty" if not beginning else next((what for start, what in _OTHER_FILES if beginning.startswith(start)), "")
