"""LoRAs by their names, for people who remember a name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import RetrievalError
from .limits import PUBLISHED_LIMITS, SearchLimits
from .matches import Matches, matches_at

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

_COLUMNS = ("model_name", "file_name", "trigger_words", "folder_name")
_ENDINGS = (".safetensors", ".ckpt", ".pt")
_TAG = re.compile(r"<\s*(?:lora|lyco)\s*:([^<>:]+)[^<>]*>", re.IGNORECASE)
_PARTS = re.compile(r"[,;\n]")
_WRITTEN_AS_FILES = re.compile(r"[_\d/\\]")
_OF_CONTENT = "sha256:"
_SHORTEST_HASH = 4
"""Fewer digits begin the hashes of unrelated LoRAs too often."""


def find_named(
    db: MetricsDatabase, name: str, *, top_k: int, limits: SearchLimits = PUBLISHED_LIMITS, installed: Mapping[str, str]
) -> Matches:
    """LoRAs whose model name, file name, id, folder or trigger words contain every word of `name`, in any order.

    Case, accents and the characters between words do not matter, and a word may be part of a longer one; of an id, only its
    beginning, and of a hash at least four digits of it. The score is the
    largest part of a single name that was asked for: 1 for all of it. Equal scores are ordered by id. The signature is the mean
    of the unit directions found, so that a name can be combined with other searches.

    Args:
        db: the database.
        name: words or parts of words.
        top_k: how many LoRAs at most, at least 1.
        limits: which LoRAs may be found; the limits on what was measured do not count.
        installed: lora_id -> file name of the LoRAs on this machine.

    Raises RetrievalError for a name without letters or digits, or top_k < 1.
    """
    words = plain_words(name.replace(_OF_CONTENT, " "))
    if not words:
        raise RetrievalError("The name is empty.", "Type a part of a LoRA's name, file name, id or trigger words.")
    if top_k < 1:
        raise RetrievalError(f"top_k is {top_k}.", "Ask for at least 1 LoRA.")
    arrays = db.ranking_arrays
    chosen = limits.chosen(db, installed)
    columns = [db.column(column) for column in _COLUMNS if column in db.table.column_names]
    ids = db.column("lora_id")
    found = []
    for index, row in enumerate(arrays.rows.tolist()):
        if chosen[index]:
            score = _score(words, [text for column in columns for text in _texts(column[row])], ids[row])
            if score > 0:
                found.append((-score, index))
    found = sorted(found)[:top_k]
    indices = [index for _, index in found]
    items = matches_at(db, indices, [-score for score, _ in found], installed)
    norms = arrays.norms[indices]
    units = arrays.directions[indices][norms > 0] / norms[norms > 0, None]
    return Matches(
        query=name.strip(),
        encoder_id=str(db.encoder_id),
        items=items,
        reason="" if items else f"No LoRA's name, file, id or trigger words hold all of: {', '.join(words)}.",
        signature=units.mean(0) if len(units) else None,
    )


def _score(words: list[str], names: list[str], lora_id: str) -> float:
    """Largest part of one name that the words cover, in [0, 1]; 0 unless each word is in one of the names or begins the id."""
    its_id = "".join(plain_words(lora_id.removeprefix(_OF_CONTENT)))
    fewest = _SHORTEST_HASH if lora_id.startswith(_OF_CONTENT) else 1
    of_id = [word for word in words if len(word) >= fewest and its_id.startswith(word)]
    if not all(word in of_id or any(word in name for name in names) for word in words):
        return 0.0
    covered = [(name, [word for word in words if word in name]) for name in names]
    return max(min(1.0, sum(map(len, of)) / len(name)) for name, of in (*covered, (its_id, of_id)) if name)


def _texts(value: Any) -> list[str]:
    """A cell as names without blanks: "Pixel-Art v2" -> "pixelartv2"."""
    return ["".join(plain_words(str(each))) for each in (value if isinstance(value, list) else [value]) if each is not None]


def named_in(query: str, names: Iterable[str], *, is_lost: bool) -> list[str]:
    """What in a query of effects is rather a LoRA's name, as it was written.

    That is: a file's name with its ending, `<lora:name:1>`, and a name of `names` that is written as files are ("mystery_12").
    Plain words that are also a name ("pencil sketch") count only if `is_lost`.

    Args:
        query: what was asked for.
        names: of LoRAs and their files.
        is_lost: whether nothing was found for the query.
    """
    known = {_plain_name(name) for name in names}
    parts = [part.strip() for part in _PARTS.split(_TAG.sub(",", query))]
    found = [tag.strip() for tag in _TAG.findall(query)]
    for part in parts:
        is_name = _plain_name(part) in known and (is_lost or bool(_WRITTEN_AS_FILES.search(part)))
        if part and (is_name or part.casefold().endswith(_ENDINGS)):
            found.append(part)
    return list(dict.fromkeys(found))


def _plain_name(name: str) -> str:
    """A name without folder and ending, with letters and digits only."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1].strip()
    for ending in _ENDINGS:
        last = last[: -len(ending)] if last.casefold().endswith(ending) else last
    return "".join(plain_words(last))


def plain_words(text: str) -> list[str]:
    """Words in small letters, without accents and without the marks between them."""
    letters = (char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))
    return "".join(char if char.isalnum() else " " for char in letters).split()
