"""In which order LoRAs are measured, so that the first rows are those that are asked for first.

The order is that of use: what workflows name that ran or wait, then what saved workflows name, then the newest files. It decides
nothing but the order, since files between which it might decide something keep that of ComfyUI's list: those that claim to be one
version of CivitAI, of which the first to be measured gets the version's id, and those that hold the same, as far as their last
bytes tell, of which the first is measured.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..storage import bytes_within, short_hash
from .library import LibraryEntry
from .listed import posix

_MOST_WORKFLOWS, _LONGEST_WORKFLOW, _MOST_BYTES = 200, 2 << 20, 32 << 20
"""Of saved workflows, the newest so many are looked at, and none longer than a few MB; a picture in one may be larger."""

_MOST_VALUES = 100_000
"""Values of a workflow that are looked at."""

_LONGEST_NAME, _MOST_TEXT = 300, 20_000
_TAIL = 1 << 16


@dataclass(frozen=True)
class Uses:
    """How often LoRAs are named, by their names with "/" between folders."""

    running: Mapping[str, int] = field(default_factory=dict)
    """In the workflows that ran or wait."""

    saved: Mapping[str, int] = field(default_factory=dict)
    """In the user's saved workflows."""


def in_order_of_use(files: Sequence[LibraryEntry], uses: Uses) -> list[LibraryEntry]:
    """Files in the order in which to measure them. The same facts give the same order."""
    place = {posix(file.name): index for index, file in enumerate(files)}

    def urgency(file: LibraryEntry) -> tuple[int, int, int, int]:
        name = posix(file.name)
        return -uses.running.get(name, 0), -uses.saved.get(name, 0), -file.mtime_ns, place[name]

    groups = sorted(_inseparable(files), key=lambda group: min(map(urgency, group)))
    return [file for group in groups for file in group]


def used_in(workflows: Iterable[Any], names: Iterable[str]) -> Counter[str]:
    """In how many workflows each LoRA is named, by its name with "/" between folders.

    A workflow names a LoRA, in whatever form it is kept, by a value that is the name of a listed file, or by its tag in a
    prompt's text.

    Args:
        workflows: each as plain data, as JSON holds it.
        names: of the listed files.
    """
    listed = {posix(name) for name in names}
    of_tags = {name.rpartition(".")[0]: name for name in listed}
    return Counter(name for workflow in workflows for name in _named_in(workflow, listed, of_tags))


def _named_in(workflow: Any, listed: set[str], of_tags: Mapping[str, str]) -> set[str]:
    found = set()
    for text in _texts(workflow):
        if len(text) <= _LONGEST_NAME and posix(text) in listed:
            found.add(posix(text))
        for tag in text[:_MOST_TEXT].split("<lora:")[1:]:
            name = of_tags.get(posix(tag[:_LONGEST_NAME].partition(":")[0].partition(">")[0]))
            if name is not None:
                found.add(name)
    return found


def saved_workflows(folder: Path) -> Iterator[Any]:
    """The newest workflows that a user has saved; what is too long or makes no sense is left out.

    folder: that of the frontend. Links are not followed: what they lead to is not the user's by being named here.
    """
    files = sorted(_json_files(folder), key=lambda file: (-file[1].st_mtime_ns, file[0]))[:_MOST_WORKFLOWS]
    left = _MOST_BYTES
    for path, facts in files:
        if facts.st_size > min(_LONGEST_WORKFLOW, left):
            continue
        left -= facts.st_size
        try:
            content = bytes_within(Path(path), _LONGEST_WORKFLOW)
            if content is not None:
                yield json.loads(content)
        except (OSError, ValueError, RecursionError):
            continue


def _json_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for root, _folders, names in os.walk(folder, followlinks=False):
        for name in names:
            path = os.path.join(root, name)
            if name.endswith(".json") and not os.path.islink(path):
                try:
                    facts = os.stat(path)
                except OSError:
                    continue
                # Opening a pipe may take for ever.
                if stat.S_ISREG(facts.st_mode):
                    yield path, facts


def _texts(value: Any) -> Iterator[str]:
    """The texts in plain data, without recursion: what strangers nest deeply must not end a run."""
    waiting, seen = [value], 0
    while waiting and seen < _MOST_VALUES:
        each = waiting.pop()
        seen += 1
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, (list, tuple)):
            waiting += each


def _inseparable(files: Sequence[LibraryEntry]) -> list[list[LibraryEntry]]:
    """Files, with those together whose order among themselves stays: they claim one version, or hold the same."""
    sizes = Counter(file.size for file in files)
    leader = list(range(len(files)))

    def led_by(place: int) -> int:
        while leader[place] != place:
            place = leader[place]
        return place

    first: dict[Hashable, int] = {}
    for place, file in enumerate(files):
        version_id = file.metadata.version_id
        keys: list[Hashable] = [] if version_id is None else [("version", version_id)]
        keys += [("content", file.size, _tail(file))] if sizes[file.size] > 1 else []
        for key in keys:
            one, other = sorted((led_by(first.setdefault(key, place)), led_by(place)))
            leader[other] = one
    groups: dict[int, list[LibraryEntry]] = {}
    for place, file in enumerate(files):
        groups.setdefault(led_by(place), []).append(file)
    return list(groups.values())


def _tail(file: LibraryEntry) -> str:
    """A name for the last bytes of a file, which are weights; empty if they cannot be read."""
    # Whoever opens a pipe waits for somebody to write into it.
    if not file.path.is_file():
        return ""
    try:
        with file.path.open("rb") as stream:
            stream.seek(max(0, file.size - _TAIL))
            return short_hash(stream.read(_TAIL), 16)
    except OSError:
        return ""
