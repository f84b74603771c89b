"""A choice of LoRAs as text: what Auto LoRA reports, and takes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...carlos_core.errors import LoraError
from ...carlos_core.loras.listed import posix
from ...carlos_core.loras.matching import Resolved
from ...carlos_core.records import AppliedLora
from ...carlos_core.search.choice_text import ChoiceEntry, entries_of
from ..host import lora_folder


def facts_of(lora: AppliedLora) -> dict[str, Any]:
    """A LoRA of a choice, as reports and pictures give it."""
    return {"lora_id": lora.lora_id, "file": posix(lora.file), "weight": lora.weight, "score": lora.score}


def read_choice(text: str, database: Any) -> tuple[list[AppliedLora], list[str]]:
    """The LoRAs of a choice, and what is to be said of them. text: a JSON array of {"lora_id", "file", "weight"}, or a whole
    report's last line.

    A LoRA is found by its file's name. If no such file is listed, it is found by its row, wherever the file is now. Raises
    LoraError for text that is not a choice and for a LoRA that is not installed.
    """
    entries = entries_of(text)
    ids = [entry.lora_id for entry in entries]
    files = lora_folder.surely(database, lambda files: (files, ids))
    found = [_locked(entry, database, files) for entry in entries]
    return [lora for lora, _note in found], [note for _lora, note in found if note]


def _locked(entry: ChoiceEntry, database: Any, files: Mapping[str, Resolved]) -> tuple[AppliedLora, str]:
    """A LoRA of a choice, and a note if its file is no longer that of its row; then the row's words are not used."""
    lora_id, where = entry.lora_id, files.get(entry.lora_id)
    of_row = where.name if where is not None else None
    file = next((name for name in lora_folder.lora_names() if posix(name) == entry.file), of_row)
    if file is None:
        raise LoraError(
            f"The LoRA {entry.file or lora_id!r} of the choice is not installed.",
            "Put it back into models/loras, or empty choice.",
        )
    row, note = database.row(lora_id), ""
    is_of_row = where is None or (of_row is not None and file in (of_row, *where.others))
    if row is not None and not is_of_row:
        row, applied = None, f"{posix(file)} is applied as the choice names it"
        note = f"{applied}, but it is not known to be the LoRA {lora_id} of {database.name}"
    return AppliedLora(file, entry.weight, lora_folder.trigger_words(file, row), lora_id, entry.score), note
