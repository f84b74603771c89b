"""A LoRA's name in a query of effects: what is found for it by effect is another LoRA, and is not what was asked for.

Words that may be an effect are no names here, also where a file is called so: "pixel art", and "pixel_art" or "blue_eyes", as
whole prompts are written. Names are what ends as files do ("ink.safetensors"), and what files at hand are called, if it is
written as they are and not only in ordinary words ("mystery_12", "my_sdxl_style"). A name that finds its own LoRA stays in the
query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from ..loras.listed import posix
from .by_name import ENDINGS, NAMES, plain_words, without_ending
from .spelling import is_ordinary

if TYPE_CHECKING:
    import pyarrow as pa

    from ..database.database import MetricsDatabase
    from .matches import Matches
    from .selection import Selection

ONLY_NAMES = (
    "The query is only a LoRA's name, and by effect those words would find another LoRA, so that none is chosen: say what the "
    "LoRA should do, in plain words."
)
"""Why nothing is chosen for a name whose LoRA would not be found by it."""

_TAG = re.compile(r"<\s*(?:lora|lyco)\s*:([^<>:]+)[^<>]*>", re.IGNORECASE)
_PARTS = re.compile(r"[,;\n]")
_WRITTEN_AS_FILES = re.compile(r"[_/\\]|\bv\d|(?=\w{5})\w*[^\W\d]\d", re.IGNORECASE)
"""An underscore, a folder, a version, or a digit after a letter in a longer word: "3d", "80s", "y2k" and "ps1" are effects."""
_MODEL_NAME = "model_name"
_OF_LORAS = frozenset(("lora", "loras", "lyco"))
"""Words that are ordinary beside names, and not in them."""
_EMPHASIS = re.compile(r":[+-]?\d*\.?\d+$|:[+-]?\d*\.?\d+(?=[)\]])")
_WEIGHT = r"(?::\s*[+-]?\d*\.?\d+)"
_MAX_DEPTH = 8
"""Of brackets around a name."""
_BESIDE_NAMES = "a an and apply called find in like lora loras named of please style the this use with"
_ABOUT_NAMES = frozenset(_BESIDE_NAMES.split())
"""Words that say nothing beside a name."""


class Place(Enum):
    """Where a LoRA of a name is."""

    DATABASE = "database"
    """Where `by_name.find_named` finds it."""

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

    written: str = ""
    """As it stands in the query."""

    lora_ids: frozenset[str] = frozenset()
    """Of the rows that are called so; empty if none is."""


def named_in(
    query: str, db: MetricsDatabase, files: Iterable[str], installed: Mapping[str, str], *, is_lost: bool
) -> list[Named]:
    """What in a query of effects is rather a LoRA's name.

    That is: a file's name with its ending, and the name of a file at hand that is written as files are and not only in ordinary
    words ("mystery_12", "sketch2"), with all of its folders or without. If nothing was found for the query, any known name, in
    plain words, too, and `<lora:name:1>`, which otherwise is for another node.

    Args:
        query: what was asked for.
        db: the database that was searched.
        files: names of the LoRA files on this machine.
        installed: lora_id -> file, of those that are LoRAs of the database.
        is_lost: whether nothing was found for the query.
    """
    parts = [_bare(part.strip()) for part in _PARTS.split(_TAG.sub(",", query))]
    tags = [tag.strip() for tag in _TAG.findall(query)] if is_lost else []
    words = [word for part in parts for word in map(_bare, part.split()) if word != part and _is_written_as_file(word)]
    sure = [part for part in (*tags, *parts, *words) if part and (part in tags or part.casefold().endswith(ENDINGS))]
    perhaps = [part for part in (*parts, *words) if part and part not in sure and (is_lost or _is_no_effect(part))]
    if not sure and not perhaps:
        return []
    known, at_hand = _names_in(db), {key: file for file in files for key in _keys(file)}
    ids = {file: lora_id for lora_id, file in installed.items()}
    found: list[Named] = []
    for part in (*sure, *perhaps):
        key, name = _key(part, is_file=part in sure), _short_name(part)
        file = at_hand.get(key, "")
        if not key or any(part != each.written and _whole(part).search(each.written) for each in found):
            continue
        row = db.row(ids[file]) if file in ids else None
        of_file = frozenset() if row is None else frozenset({row.lora_id})
        if key in known and (file or is_lost or part in sure):
            found.append(Named(name, Place.DATABASE, file, part, known[key] | of_file))
        elif row is not None:
            its_name = _short_name(row.name) if row.name.casefold().endswith(ENDINGS) else row.name
            found.append(Named(its_name, Place.DATABASE, file, part, of_file))
        elif file:
            found.append(Named(name, Place.FILES, file, part))
        # A file's name may hold blanks, and a known one ends a phrase: "use fog_1.safetensors".
        elif part in sure and not any(word in part and _key(word, is_file=True) in {*known, *at_hand} for word in words):
            found.append(Named(name, Place.NOWHERE, written=part))
    return list({(each.name, each.place, each.file): each for each in reversed(found)}.values())[::-1]


def without_names(query: str, names: Iterable[Named]) -> str:
    """A query without names that are written in it, with their brackets and weights; empty if it says nothing else than "use ...
    as LoRA"."""
    for written in sorted((each.written for each in names), key=len, reverse=True):
        name = re.escape(written)
        bracketed = re.compile(rf"[(\[{{]\s*({name})\s*{_WEIGHT}?\s*[)\]}}]")
        for _ in range(_MAX_DEPTH):
            query = bracketed.sub(r" \1 ", query)
        query = _whole(written).sub("", query)
    return query.strip(" \t\n,;") if set(plain_words(_EMPHASIS.sub("", query))) - _ABOUT_NAMES else ""


def strangers(named: Sequence[Named], chosen: Collection[str]) -> list[Named]:
    """The names whose LoRAs were not chosen.

    named: as from `named_in`, of a query for which something was found. chosen: ids of what was chosen for it.
    """
    return [each for each in named if each.lora_ids.isdisjoint(chosen)]


def without_strangers(
    query: str, selection: Selection, choose: Callable[[str], Selection], named: Callable[[], Sequence[Named]]
) -> Selection:
    """A choice, made again without the names in the query for which other LoRAs were chosen.

    Args:
        query: what was asked for.
        selection: what was chosen for it.
        choose: query -> what would be chosen.
        named: gives the names in the query, as from `named_in`.
    """
    if not selection.picks:
        return selection
    # What fits and was not picked is no stranger: it does what the query says, beside too many others or one that is like it.
    others = strangers(named(), {pick.match.lora_id for pick in selection.picks} | selection.fitting)
    if not others:
        return selection
    rest = without_names(query, others)
    if not rest:
        return replace(selection, picks=(), reason=ONLY_NAMES, notes=(), keeping=None, fitting=frozenset())
    left_out = f"Left out of the query, as names of LoRAs: {', '.join(repr(each.written) for each in others)}."
    return _told(choose(rest), query.strip(), left_out)


def doubted(query: str, matches: Matches, named: Sequence[Named]) -> Matches:
    """Matches of which none is sure, if the query is nothing but names of other LoRAs. named: the names in the query."""
    sure = {match.lora_id for match in matches.items if match.is_sure}
    others = strangers(named, sure) if sure else []
    if not others or without_names(query, others):
        return matches
    items = tuple(replace(match, is_sure=False) for match in matches.items)
    return replace(matches, items=items, doubt=ONLY_NAMES)


def _told(selection: Selection, query: str, left_out: str) -> Selection:
    """A choice, and what is chosen in place of it, as one for the query as it was asked. left_out: what was not looked for."""
    alternative = selection.alternative
    others = None if alternative is None else lambda lora_ids: _told(alternative(lora_ids), query, left_out)
    return replace(selection, query=query, notes=(*selection.notes, left_out), alternative=others)


def _whole(written: str) -> re.Pattern[str]:
    """What finds a name that is not a part of a longer word: "fog_1" in "fog_1, rain", and not in "fog_12"."""
    return re.compile(rf"(?<![^\s,;()\[\]{{}}]){re.escape(written)}(?![^\s,;:()\[\]{{}}])")


def _is_written_as_file(text: str) -> bool:
    return text.casefold().endswith(ENDINGS) or _WRITTEN_AS_FILES.search(text) is not None


def _is_no_effect(text: str) -> bool:
    """Whether a text is written as files are, and not only in ordinary words."""
    return _is_written_as_file(text) and not all(is_ordinary(word) and word not in _OF_LORAS for word in plain_words(text))


def _bare(word: str) -> str:
    """A word without the brackets of its emphasis: "(fog_1:1.2)" -> "fog_1". Its own ones stay: "fog_(1)"."""
    word = _EMPHASIS.sub("", word).lstrip("([{")
    n_foreign = sum(map(word.count, ")]}")) - sum(map(word.count, "([{"))
    n_last = len(word) - len(word.rstrip(")]}"))
    return word[: len(word) - max(0, min(n_foreign, n_last))]


def _names_in(db: MetricsDatabase) -> Mapping[str, frozenset[str]]:
    """The keys of the names of a database's rows, and the ids of those that are called so; gathered once for each state of it."""
    known = _known_names.get(db)
    if known is None or known[0] is not db.table:
        names: dict[str, set[str]] = {}
        ids = db.column("lora_id")
        for column in (column for column in NAMES if column in db.table.column_names):
            for lora_id, name in zip(ids, db.column(column), strict=True):
                # "Black/White" may be a model's name, and is in no folder.
                keys = {_path_key(without_ending(name or ""))} if column == _MODEL_NAME else _keys(name or "")
                for key in keys - {""}:
                    names.setdefault(key, set()).add(lora_id)
        known = _known_names[db] = db.table, {name: frozenset(its) for name, its in names.items()}
    return known[1]


_known_names: WeakKeyDictionary[MetricsDatabase, tuple[pa.Table, Mapping[str, frozenset[str]]]] = WeakKeyDictionary()


def _short_name(name: str) -> str:
    """A name without folder and ending."""
    return without_ending(posix(name).rsplit("/", 1)[-1].strip())


def _keys(file: str) -> set[str]:
    """What a file is found by: with and without its folders."""
    return {_path_key(without_ending(file)), _path_key(_short_name(file))}


def _key(written: str, *, is_file: bool) -> str:
    """What a written name is looked for by. Folders count where it need be no file's: "black/white" is no LoRA called "White"."""
    return _path_key(_short_name(written) if is_file else written)


def _path_key(path: str) -> str:
    """A path in small letters and digits only, with "/" between its folders; empty for one without letters and digits."""
    key = "/".join("".join(plain_words(part)) for part in posix(path).split("/"))
    return key if key.strip("/") else ""
