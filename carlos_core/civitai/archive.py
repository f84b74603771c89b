"""LoRAs that come in a ZIP: only the one safetensors file in it is unpacked."""

from __future__ import annotations

import stat
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from ..errors import CivitaiError

MAX_BYTES = 8 << 30
"""No LoRA is larger than this."""

_MAX_RATIO = 200
"""Weights hardly compress; a file that is packed more tightly than this is a ZIP bomb."""

_FREE_BYTES = 16 << 20
_MAX_ENTRIES = 10_000
_CHUNK = 1 << 20
_ENCRYPTED = 0x1
_DAMAGE = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError)
_BY_HAND = "Download it on the site and look into it yourself."


def begins_like_a_zip(path: Path) -> bool:
    """Whether a file's first bytes can be those of a ZIP with something in it. Raises OSError."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def lora_in(archive: Path) -> zipfile.ZipInfo:
    """The entry of the only safetensors file of an archive.

    Raises CivitaiError if there is none or more than one, or if anything in the archive looks like an attack: a path that
    leads out of its folder, a link, or a size that is out of all proportion.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise CivitaiError("What CivitAI calls a ZIP is not one, or is damaged.", "Try again later.") from error
    if len(entries) > _MAX_ENTRIES:
        raise CivitaiError(f"The ZIP holds {len(entries)} files.", _BY_HAND)
    for entry in entries:
        _check_entry(entry)
    loras = [entry for entry in entries if _is_lora(entry.filename)]
    if not loras:
        raise CivitaiError(
            "The ZIP holds no safetensors file.", "Other formats can run code when they are loaded and are not taken."
        )
    if len(loras) > 1:
        names = ", ".join(_shown(entry.filename) for entry in loras[:5])
        raise CivitaiError(f"The ZIP holds {len(loras)} LoRAs ({names}).", "Download it on the site and unpack the one you want.")
    lora = loras[0]
    if lora.flag_bits & _ENCRYPTED:
        raise CivitaiError("The LoRA in the ZIP is encrypted.", _BY_HAND)
    if lora.header_offset < 0:
        raise CivitaiError("What CivitAI calls a ZIP is damaged: its LoRA begins before the file does.", "Try again later.")
    if lora.file_size > MAX_BYTES or lora.file_size > max(_FREE_BYTES, _MAX_RATIO * lora.compress_size):
        raise CivitaiError(
            f"The ZIP claims to hold {lora.file_size:,} bytes packed into {lora.compress_size:,}, which no LoRA does.", _BY_HAND
        )
    return lora


def unpack(archive: Path, entry: zipfile.ZipInfo, target: Path) -> None:
    """Write one entry to `target`.

    Raises CivitaiError if it is damaged or has another size than it says, and OSError if the disk refuses.
    """
    written = 0
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(entry) as packed, target.open("wb") as file:
            while chunk := packed.read(_CHUNK):
                written += len(chunk)
                if written > entry.file_size:
                    raise zipfile.BadZipFile("larger than its entry says")
                file.write(chunk)
    except (*_DAMAGE, OSError) as error:
        # bz2 says of bad data that it is an OSError, without a number of the system's.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CivitaiError("The LoRA in the ZIP is damaged or packed in an unknown way.", _BY_HAND) from error
    if written != entry.file_size:
        raise CivitaiError(f"The LoRA in the ZIP has {written:,} bytes, not the {entry.file_size:,} that it claims.", _BY_HAND)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    # zipfile cuts names at a NUL and replaces the system's separators, so the original name is checked.
    name = entry.orig_filename.replace("\\", "/")
    is_absolute = name.startswith("/") or (len(name) > 1 and name[1] == ":")
    if is_absolute or ".." in name.split("/") or "\0" in name:
        raise CivitaiError(f"The ZIP wants to write outside of its folder ({_shown(name)}); nothing was unpacked.", _BY_HAND)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise CivitaiError(f"The ZIP holds a link or a device ({_shown(name)}); nothing was unpacked.", _BY_HAND)


def _is_lora(name: str) -> bool:
    # Not `is_dir`: before Python 3.12 it ends with an IndexError for an entry without a name.
    if name.endswith("/"):
        return False
    path = PurePosixPath(name)
    # Macs add a second, hidden file for every file to an archive.
    return path.suffix.lower() == ".safetensors" and not path.name.startswith("._") and "__MACOSX" not in path.parts


def _shown(name: str) -> str:
    return repr(name[:80])
