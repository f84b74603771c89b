"""LoRAs by their names, for people who remember a name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import RetrievalError
from .limits import PUBLISHED_LIMITS, SearchLimits
from .matches import Matches, matches_at

if TYPE_CHECKING:
    import pyarrow as pa

    from ..database.database import MetricsDatabase

_NAMES = ("model_name", "file_name", "folder_name")
_COLUMNS = (*_NAMES, "trigger_words")
_ENDINGS = (".safetensors", ".ckpt", ".pt")
_TAG = re.compile(r"<\s*(?:lora|lyco)\s*:([^<>:]+)[^<>]*>", re.IGNORECASE)
_PARTS = re.compile(r"[,;\n]")
_WRITTEN_AS_FILES = re.compile(r"[_/\\]|[^\W\d]\d")
"""An underscore, a folder, or a digit after a letter: "3d" and "80s" are effects."""
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
    words, without_ending = plain_words(asked), plain_words(_without_ending(asked))
    if not words:
        raise RetrievalError("The name is empty.", "Type a part of a LoRA's name, file name, id or trigger words.")
    if top_k < 1:
        raise RetrievalError(f"top_k is {top_k}.", "Ask for at least 1 LoRA.")
    arrays = db.ranking_arrays
    chosen = limits.chosen(db, installed)
    # A row that does not know its file has the name without the ending.
    spellings = [words, *([without_ending] if without_ending and without_ending != words else [])]
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


class Place(Enum):
    """Where a LoRA of a name is."""

    DATABASE = "database"
    """Where `find_named` finds it."""

    FILES = "files"
    """Among the files, and not measured."""

    NOWHERE = "nowhere"


class Named(NamedTuple):
    """A LoRA's name in a query of effects."""

    name: str
    """As it was written, without folder and ending; for a file that the database knows by another name, that name."""

    place: Place
    file: str = ""
    """Its name in the list of files; empty if it is not there, or only under another name."""


def named_in(
    query: str, db: MetricsDatabase, files: Iterable[str], installed: Mapping[str, str], *, is_lost: bool
) -> list[Named]:
    """What in a query of effects is rather a LoRA's name.

    That is: a file's name with its ending, and a known name that is written as files are ("mystery_12", "sketch2"). If nothing
    was found for the query, also `<lora:name:1>`, which otherwise is for another node, and plain words that are a name.

    Args:
        query: what was asked for.
        db: the database that was searched.
        files: names of the LoRA files on this machine.
        installed: lora_id -> file, of those that are LoRAs of the database.
        is_lost: whether nothing was found for the query.
    """
    parts = [part.strip() for part in _PARTS.split(_TAG.sub(",", query))]
    tags = [tag.strip() for tag in _TAG.findall(query)] if is_lost else []
    sure = [part for part in (*tags, *parts) if part and (part in tags or part.casefold().endswith(_ENDINGS))]
    perhaps = [part for part in parts if part and part not in sure and (is_lost or _WRITTEN_AS_FILES.search(part))]
    if not sure and not perhaps:
        return []
    known, at_hand = _names_in(db), {_plain_name(file): file for file in files}
    ids = {file: lora_id for lora_id, file in installed.items()}
    found = []
    for part in (*sure, *perhaps):
        plain, name = _plain_name(part), _short_name(part)
        file = at_hand.get(plain, "")
        if plain in known:
            found.append(Named(name, Place.DATABASE, file))
        elif file:
            row = db.row(ids[file]) if file in ids else None
            found.append(Named(name, Place.FILES, file) if row is None else Named(_short_name(row.name), Place.DATABASE, file))
        elif part in sure and plain:
            found.append(Named(name, Place.NOWHERE))
    return list(dict.fromkeys(found))


def _names_in(db: MetricsDatabase) -> frozenset[str]:
    """The names of a database's rows, with letters and digits only; gathered once for each state of it."""
    known = _known_names.get(db)
    if known is None or known[0] is not db.table:
        columns = [db.column(column) for column in _NAMES if column in db.table.column_names]
        known = _known_names[db] = db.table, frozenset(_plain_name(name) for column in columns for name in column if name)
    return known[1]


_known_names: WeakKeyDictionary[MetricsDatabase, tuple[pa.Table, frozenset[str]]] = WeakKeyDictionary()


def _short_name(name: str) -> str:
    """A name without folder and ending."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1].strip()
    return _without_ending(last)


def _without_ending(name: str) -> str:
    return next((name[: -len(ending)] for ending in _ENDINGS if name.casefold().endswith(ending)), name)


def _plain_name(name: str) -> str:
    """A name without folder and ending, with letters and digits only."""
    return "".join(plain_words(_short_name(name)))


def plain_words(text: str) -> list[str]:
    """Words in small letters, without accents and without the marks between them."""
    letters = (char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))
    return "".join(char if char.isalnum() else " " for char in letters).split()
