"""LoRA files: what they say about themselves, and which of them are at hand."""

from .family import FAMILIES, families_alike, family_of_name, fits
from .file import LoraFile, read_lora_file
from .library import LibraryEntry, LoraLibrary, scan
from .resolving import Resolved

__all__ = [
    "FAMILIES",
    "LibraryEntry",
    "LoraFile",
    "LoraLibrary",
    "Resolved",
    "families_alike",
    "family_of_name",
    "fits",
    "read_lora_file",
    "scan",
]
