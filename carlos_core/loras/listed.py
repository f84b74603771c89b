"""Names of LoRA files as ComfyUI lists them."""

from __future__ import annotations

from fnmatch import fnmatchcase


def posix(file: str) -> str:
    """A listed name with "/" between folders, as rows and reports have it, whatever the system writes."""
    return file.replace("\\", "/")


def is_named(name: str, name_filter: str) -> bool:
    """Whether a LoRA's name contains the filter, or fits it as a pattern; case does not matter.

    name_filter: one, or several with commas between them, of which any will do. Names may hold commas themselves.
    """
    shown = posix(name).lower()
    whole = name_filter.strip().lower()
    parts = [part for part in map(str.strip, whole.split(",")) if part]
    return any(wanted in shown or fnmatchcase(shown, wanted) for wanted in (whole, *parts))
