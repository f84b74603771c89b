"""File names from the network, made safe on every system."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath

_MAX_STEM_BYTES = 120
"""Leaves room for the suffixes of sidecars and of other tools' previews within the usual 255 bytes."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f]')
_SUFFIX = ".safetensors"


def safe_name(name: str) -> str:
    """A name for a LoRA file: no folders, control or reserved characters, reserved names, leading dots; ends in .safetensors."""
    last = PurePosixPath(name.replace("\\", "/")).name
    stem = re.sub(r"\.(safetensors|zip)$", "", last, flags=re.IGNORECASE)
    # Direction marks and the like make a name look like another one.
    stem = "".join(
        char for char in unicodedata.normalize("NFC", stem) if unicodedata.category(char) not in ("Cf", "Cs", "Co", "Cn")
    )
    stem = _FORBIDDEN.sub("_", stem).strip(" .")
    stem = stem.encode()[:_MAX_STEM_BYTES].decode(errors="ignore").strip(" .") or "lora"
    return f"{'_' if _RESERVED.fullmatch(stem) else ''}{stem}{_SUFFIX}"


def names_to_try(name: str, version_id: int) -> Iterator[str]:
    """`name`, then with the version's id, then also with numbers: for the case that another file has that name."""
    stem = name.removesuffix(_SUFFIX)
    yield name
    yield f"{stem}.{version_id}{_SUFFIX}"
    yield from (f"{stem}.{version_id}-{count}{_SUFFIX}" for count in itertools.count(2))
