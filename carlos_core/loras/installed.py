"""Which rows of a database have their file at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath


def installed_files(file_names: Mapping[str, str | None], at_hand: Iterable[str]) -> dict[str, str]:
    """lora_id -> name of the installed file, as it stands in `at_hand`.

    file_names: lora_id -> the row's file name ("/" between folders). at_hand: ComfyUI's list, in the system's own spelling.
    A row's file is found where it was indexed, else under the same name in one other folder; two such files are ambiguous
    and count as not installed.
    """
    by_path: dict[str, str] = {}
    by_name: dict[str, list[str]] = {}
    for listed in at_hand:
        posix = listed.replace("\\", "/")
        by_path[posix] = listed
        by_name.setdefault(PurePosixPath(posix).name, []).append(listed)
    found: dict[str, str] = {}
    for lora_id, file_name in file_names.items():
        if not file_name:
            continue
        if file_name in by_path:
            found[lora_id] = by_path[file_name]
            continue
        namesakes = by_name.get(PurePosixPath(file_name).name, [])
        if len(namesakes) == 1:
            found[lora_id] = namesakes[0]
    return found
