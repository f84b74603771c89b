"""Names of one file: links, links to folders, and links to a folder above, below which every file is listed again and again."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol, TypeVar

from .listed import posix


class Listed(Protocol):
    """A name in ComfyUI's list, and the file behind it."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str | os.PathLike[str]: ...

    @property
    def file_id(self) -> Hashable | None:
        """Equal for names of one file; None if that is not known."""
        ...


_Listed = TypeVar("_Listed", bound=Listed)


def file_id_of(facts: os.stat_result) -> tuple[int, ...] | None:
    """What tells files apart; None on a file system that does not number its files.

    Size and time are in it because some network drives give one number to several files.
    """
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns) if facts.st_ino else None


def by_file(listed: Iterable[_Listed]) -> list[list[_Listed]]:
    """The names of each file, in the order in which the files are first listed. The first of each is its plainest.

    That is one that is not a link itself, in the fewest folders, then the shortest, then the first by the alphabet.
    """
    groups: dict[Hashable, list[_Listed]] = {}
    for entry in listed:
        groups.setdefault(("file", entry.file_id) if entry.file_id is not None else ("name", entry.name), []).append(entry)
    return [group if len(group) == 1 else sorted(group, key=_plainness) for group in groups.values()]


def listed_shortly(names: Sequence[str], most: int = 3) -> str:
    """Names for a sentence, with "/" between folders: the first few, and how many more there are."""
    shown = ", ".join(posix(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _plainness(entry: Listed) -> tuple[bool, int, int, str]:
    name = posix(entry.name)
    return os.path.islink(entry.path), name.count("/"), len(name), name  # noqa: PTH114
