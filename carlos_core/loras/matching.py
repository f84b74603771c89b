"""From rows of a database to the files on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeVar

from ..records import LoraIdentity
from .listed import posix
from .same_file import listed_shortly

FoundBy = Literal["hash", "version id", "model id", "file name"]

_Key = TypeVar("_Key", str, int)


@dataclass(frozen=True)
class Resolved:
    """Where a row's LoRA is."""

    name: str | None
    """Name of the file as listed; None if no file can be taken, and `note` then says why."""
    by: FoundBy
    """What the decision is based on."""
    others: tuple[str, ...] = ()
    """With a name: further names that would do as well. Without: the files that it may be, or that only have its name."""
    note: str = ""
    """A sentence for reports; empty if there is nothing to say."""


class Files:
    """The files on this machine, looked up by hash, version, model or name. Their `file_name` is as listed."""

    def __init__(self, files: Iterable[LoraIdentity], links: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
        """links: `file_name` of a file -> its other names, by which it is known only once it is found."""
        self.links = links
        self.by_hash: dict[str, list[LoraIdentity]] = {}
        self.by_version: dict[int, list[LoraIdentity]] = {}
        self.by_model: dict[int, list[LoraIdentity]] = {}
        self.by_base_name: dict[str, list[LoraIdentity]] = {}
        for file in files:
            _add(self.by_hash, _digits(file), file)
            _add(self.by_version, file.version_id, file)
            _add(self.by_model, file.model_id, file)
            _add(self.by_base_name, _base_name(posix(_name(file))), file)


def _name(file: LoraIdentity) -> str:
    return file.file_name or ""


def _digits(lora: LoraIdentity) -> str | None:
    return None if lora.sha256 is None else lora.sha256.lower()


def _add(table: dict[_Key, list[LoraIdentity]], key: _Key | None, file: LoraIdentity) -> None:
    if key is not None:
        table.setdefault(key, []).append(file)


def resolve(rows: Iterable[LoraIdentity], files: Files) -> dict[str, Resolved]:
    """lora_id -> its file, for the rows that have one, or a file of the same name.

    The surest sign is tried first:

    1. the hash of the content;
    2. the CivitAI version in a sidecar, of a file whose content is not known to be another;
    3. the CivitAI model, if the row knows neither hash nor version and only one file has that model;
    4. the file name, in the row's own folder, otherwise in any other folder if only one file has it. It is not a match if the
       file's hash or version is known to be different: then the file was replaced.

    If several files have the same content or version, the one with the row's own name is taken, otherwise the one with the
    shortest name (then the alphabetically first). If several files share only the name, none is chosen.
    """
    found = {}
    for row in rows:
        result = _by_identity(row, files) or (_by_name(row, files) if row.file_name else None) or _of_other_content(row, files)
        if result is not None:
            found[row.lora_id] = result
    return found


def _by_identity(row: LoraIdentity, files: Files) -> Resolved | None:
    of_content = files.by_hash.get(_digits(row) or "")
    if of_content:
        return _chosen(row, of_content, files.links, "hash", "the same content")
    if row.version_id is not None and row.version_id in files.by_version:
        claiming = files.by_version[row.version_id]
        left = [file for file in claiming if not _is_other_content(row, file)]
        if left:
            return _chosen(row, left, files.links, "version id", f"CivitAI version {row.version_id}")
    if row.sha256 is None and row.version_id is None and row.model_id is not None:
        of_model = files.by_model.get(row.model_id, [])
        if len(of_model) == 1:
            return Resolved(of_model[0].file_name, "model id")
    return None


def _chosen(row: LoraIdentity, alike: list[LoraIdentity], links: Mapping[str, Sequence[str]], by: FoundBy, what: str) -> Resolved:
    names = sorted(map(_name, alike), key=lambda name: (posix(name) != row.file_name, len(name), posix(name)))
    ways = {name: (name, *links.get(name, ())) for name in names}
    # A file may have the row's own name through a link.
    of_row = ((name, way) for name in names for way in ways[name] if posix(way) == row.file_name)
    file, best = next(of_row, (names[0], names[0]))
    others = tuple(way for name in names for way in ways[name] if way != best)
    further = [name for name in names if name != file]
    return Resolved(best, by, others, f"{what} is also in {listed_shortly(further)}" if further else "")


def _by_name(row: LoraIdentity, files: Files) -> Resolved | None:
    path = posix(row.file_name or "")
    namesakes = files.by_base_name.get(_base_name(path), [])
    if not namesakes:
        return None
    unlike = [_name(file) for file in namesakes if _is_another(row, file)]
    left = [_name(file) for file in namesakes if not _is_another(row, file)]
    at_path = next((name for name in left if posix(name) == path), None)
    if at_path is not None or len(left) == 1:
        return Resolved(at_path or left[0], "file name")
    if left:
        return Resolved(None, "file name", tuple(left), f"which of {listed_shortly(left)} it is cannot be told by the name alone")
    return Resolved(None, "file name", tuple(unlike), f"{listed_shortly(unlike)} has its name but is another LoRA now")


def _of_other_content(row: LoraIdentity, files: Files) -> Resolved | None:
    """What to say of files that name the row's version and were found to be something else."""
    if row.version_id is None or row.sha256 is None or row.version_id not in files.by_version:
        return None
    names = [_name(file) for file in files.by_version[row.version_id]]
    note = f"{listed_shortly(names)} names CivitAI version {row.version_id}, but is another file than the row's"
    return Resolved(None, "version id", tuple(names), note)


def _is_another(row: LoraIdentity, file: LoraIdentity) -> bool:
    """Whether it is known that a file is not the row's."""
    other_version = row.version_id is not None and file.version_id is not None and row.version_id != file.version_id
    return other_version or _is_other_content(row, file)


def _is_other_content(row: LoraIdentity, file: LoraIdentity) -> bool:
    return row.sha256 is not None and file.sha256 is not None and _digits(row) != _digits(file)


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]
