"""A choice of LoRAs as text: what Auto LoRA reports, and takes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...carlos_core.errors import LoraError
from ...carlos_core.loras.matching import Resolved
from ...carlos_core.records import AppliedLora
from ..host import lora_folder

_MAX_LORAS = 50
_LARGEST = 100.0


def facts_of(lora: AppliedLora) -> dict[str, Any]:
    """A LoRA of a choice, as reports and pictures give it."""
    return {"lora_id": lora.lora_id, "file": posix(lora.file), "weight": lora.weight, "score": lora.score}


def read_choice(text: str, database: Any) -> tuple[list[AppliedLora], list[str]]:
    """The LoRAs of a choice, and what is to be said of them. text: a JSON array of {"lora_id", "file", "weight"}, or a whole
    report's last line.

    A LoRA is found by its file's name. If no such file is listed, it is found by its row, wherever the file is now. Raises
    LoraError for text that is not a choice and for a LoRA that is not installed.
    """
    entries = _entries(text)
    ids = [entry.get("lora_id") or "" for entry in entries]
    files = lora_folder.surely(database, lambda files: (files, ids))
    found = [_locked(entry, database, files) for entry in entries]
    return [lora for lora, _note in found], [note for _lora, note in found if note]


def _entries(text: str) -> list[dict[str, Any]]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoraError(f"choice is not JSON ({error}).", 'Paste the array behind "choice" of an earlier report.') from error
    entries = parsed.get("choice") if isinstance(parsed, dict) else parsed
    if not isinstance(entries, list) or len(entries) > _MAX_LORAS or not all(_is_entry(entry) for entry in entries):
        raise LoraError(
            "choice is not a list of LoRAs with their weights.",
            'Each needs "lora_id" or "file", and a "weight", as in an earlier report.',
        )
    return entries


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    named = [entry.get(key) for key in ("lora_id", "file") if entry.get(key) is not None]
    weight = entry.get("weight")
    return bool(named) and all(isinstance(name, str) for name in named) and _is_number(weight)


def _is_number(value: Any) -> bool:
    """Whether this is a number of a sensible size. NaN is not, and neither are the huge whole numbers that JSON may hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _locked(entry: dict[str, Any], database: Any, files: Mapping[str, Resolved]) -> tuple[AppliedLora, str]:
    """A LoRA of a choice, and a note if its file is no longer that of its row; then the row's words are not used."""
    lora_id, wanted = entry.get("lora_id") or "", entry.get("file")
    where = files.get(lora_id)
    of_row = where.name if where is not None else None
    file = next((name for name in lora_folder.lora_names() if posix(name) == wanted), of_row)
    if file is None:
        raise LoraError(
            f"The LoRA {wanted or lora_id!r} of the choice is not installed.", "Put it back into models/loras, or empty choice."
        )
    score = entry.get("score")
    known_score = score if _is_number(score) else None
    row, note = database.row(lora_id), ""
    is_of_row = where is None or (of_row is not None and file in (of_row, *where.others))
    if row is not None and not is_of_row:
        row, applied = None, f"{posix(file)} is applied as the choice names it"
        note = f"{applied}, but it is not known to be the LoRA {lora_id} of {database.name}"
    return AppliedLora(file, float(entry["weight"]), lora_folder.trigger_words(file, row), lora_id, known_score), note


def posix(file: str) -> str:
    """A name of ComfyUI's list with "/" between folders."""
    return file.replace("\\", "/")
