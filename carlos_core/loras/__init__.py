"""LoRA files: what they say about themselves, and which of them are at hand."""

from .family import FAMILIES, family_of_name
from .file import LoraFile, read_lora_file
from .installed import installed_files

__all__ = ["FAMILIES", "LoraFile", "family_of_name", "installed_files", "read_lora_file"]
