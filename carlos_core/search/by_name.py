"""LoRAs by their names, for people who remember a name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RetrievalError
from .limits import PUBLISHED_LIMITS, SearchLimits
from .matches import Matches, matches_at

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

NAMES = ("model_name", "file_name", "folder_name")
_COLUMNS = (*NAMES, "trigger_words")
ENDINGS = (".safetensors", ".ckpt", ".pt")
_OF_CONTENT = "sha256:"
_SAYS_CONTENT = re.compile(re.escape(_OF_CONTENT), re.IGNORECASE)
_SHORTEST_HASH, _SHORTEST_ID = 4, 3
"""Fewer digits begin the hashes, and the ids on CivitAI, of unrelated LoRAs too often."""


def find_named(
    db: MetricsDatabase, name: str, *, top_k: int, limits: SearchLimits = PUBLISHED_LIMITS, installed: Mapping[str, str]
) -> Matches:
    """LoRAs whose model name, file name, id, folder or trigger words contain every word of `name`, in any order.

    Case, accents, a file's ending and the characters between words do not matter, and a word may be part of a longer one; of an
    id, only its beginning, at least three digits of it and four of a hash, or all of it. The score is the largest part of a
    single name that was asked for: 1 for all of it. Equal scores are ordered by id. The signature is the mean of the unit
    directions found, so that a name can be combined with other searches.

    Args:
        db: the database.
        name: words or parts of words.
        top_k: how many LoRAs at most, at least 1.
        limits: which LoRAs may be found; the limits on what was measured do not count.
        installed: lora_id -> file name of the LoRAs on this machine.

    Raises RetrievalError for a name without letters or digits, or top_k < 1.
    """
    asked = _SAYS_CONTENT.sub(" ", name).strip()
    words, bare = plain_words(asked), plain_words(without_ending(asked))
    if not words:
        raise RetrievalError("The name is empty.", "Type a part of a LoRA's name, file name, id or trigger words.")
    if top_k < 1:
        raise RetrievalError(f"top_k is {top_k}.", "Ask for at least 1 LoRA.")
    arrays = db.ranking_arrays
    chosen = limits.chosen(db, installed)
    # A row that does not know its file has the name without the ending.
    spellings = [words, *([bare] if bare and bare != words else [])]
    found = _called(db, spellings, chosen)[:top_k]
    left_out = [] if found else _called(db, spellings, ~chosen)
    reason = ""
    if left_out:
        best = left_out[0][1]
        name_of_best = db.row_at(int(arrays.rows[best])).name
        reason = f"{name_of_best} is called so and left out: {limits.why_left_out(db, installed, best)}"
    elif not found:
        reason = f"No LoRA's name, file, id or trigger words hold all of: {', '.join(words)}."
    indices = [index for _, index in found]
    items = matches_at(db, indices, [score for score, _ in found], installed)
    norms = arrays.norms[indices]
    units = arrays.directions[indices][norms > 0] / norms[norms > 0, None]
    return Matches(
        query=name.strip(),
        encoder_id=str(db.encoder_id),
        items=items,
        reason=reason,
        signature=units.mean(0) if len(units) else None,
    )


def _called(db: MetricsDatabase, spellings: Iterable[list[str]], among: Tensor) -> list[tuple[float, int]]:
    """The rows that are called so, best first: score, and place in ranking order. among: the rows to look at, [R] bool."""
    columns = [db.column(column) for column in _COLUMNS if column in db.table.column_names]
    ids, rows, called = db.column("lora_id"), db.ranking_arrays.rows, []
    for index in torch.nonzero(among).flatten().tolist():
        row = int(rows[index])
        names = [text for column in columns for text in _texts(column[row])]
        score = max(_score(words, names, ids[row]) for words in spellings)
        if score > 0:
            called.append((score, index))
    return sorted(called, key=lambda each: (-each[0], each[1]))


def _score(words: list[str], names: list[str], lora_id: str) -> float:
    """Largest part of one name that the words cover, in [0, 1]; 0 unless each word is in one of the names or begins the id."""
    its_id = "".join(plain_words(lora_id.removeprefix(_OF_CONTENT)))
    fewest = _SHORTEST_HASH if lora_id.startswith(_OF_CONTENT) else _SHORTEST_ID
    of_id = [word for word in words if word == its_id or (len(word) >= fewest and its_id.startswith(word))]
    if not all(word in of_id or any(word in name for name in names) for word in words):
        return 0.0
    covered = [(name, [word for word in words if word in name]) for name in names]
    return max(min(1.0, sum(map(len, of)) / len(name)) for name, of in (*covered, (its_id, of_id)) if name)


def _texts(value: Any) -> list[str]:
    """A cell as names without blanks: "Pixel-Art v2" -> "pixelartv2"."""
    return ["".join(plain_words(str(each))) for each in (value if isinstance(value, list) else [value]) if each is not None]


def without_ending(name: str) -> str:
    """A name without the ending of a LoRA file."""
    return next((name[: -len(ending)] for ending in ENDINGS if name.casefold().endswith(ending)), name)


def plain_words(text: str) -> list[str]:
    """Words in small letters, without accents and without the marks between them."""
    letters = (char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))
    return "".join(char if char.isalnum() else " " for char in letters).split()
