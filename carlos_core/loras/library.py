"""The LoRA library: every file of ComfyUI's list with what it is, from an index that makes a second scan cheap.

To know a file's content, all of it must be read, and 800 LoRAs of some hundred MB take minutes to hours. So a scan hashes
everything only when asked to. Otherwise it reads headers and sidecars, uses the hashes that are known already (indexing a LoRA
hashes it), and hashes only files for which there is a reason:

- it was hashed before, and has changed since: there is no other way to know whether it is still the same LoRA;
- it has the size of a hashed file that is gone: most likely that file was renamed. A file that was only moved to another
  folder is found by its name, so that a drive that is mounted in another place is not read completely.

The hashes in `ss_*` and `modelspec.*` metadata are only of the tensors, not of the file, so they cannot be used.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..errors import LoraError
from ..foreign import printable
from ..progress import OnProgress, Progress
from ..records import LoraIdentity, LoraMetadata
from ..storage import sha256_of
from .header import UNFINISHED
from .library_index import KnownFile, LibraryIndex
from .listed import posix
from .lora_file import FileFacts, LoraFile, read_facts
from .matching import Files, Resolved, resolve
from .metadata import may_be_sidecar, sidecar_names
from .same_file import by_file, file_id_of

_READERS = 2
"""Threads: one reads while the other hashes. More would only make a spinning disk seek."""

_SAVE_EVERY_S = 1.0


@dataclass(frozen=True)
class LibraryEntry:
    """A file of ComfyUI's list."""

    name: str
    """As listed, in the system's own spelling."""
    path: Path
    size: int
    """Bytes; -1 if there is no such file."""
    mtime_ns: int
    """Time of the last change, in ns."""
    sha256: str | None = None
    """Of the whole file; None if it is not known yet."""
    metadata: LoraMetadata = LoraMetadata()
    """What header and sidecar say."""
    problem: str = ""
    """What is wrong with the file or with the facts beside it; empty if nothing is wrong."""
    is_usable: bool = True
    """Whether it is a LoRA that can be read, with or without a problem."""
    layout: str = ""
    """`Header.layout`: files of one layout fit the same models."""
    line: str | None = None
    """`FileFacts.line`."""
    file_id: tuple[int, ...] | None = None
    """`same_file.file_id_of`."""

    def as_lora_file(self) -> LoraFile:
        """The same as `read_lora_file` returns. Raises LoraError for a file that cannot be read or was not hashed."""
        if not self.is_usable:
            raise LoraError(self.problem)
        if self.sha256 is None:
            raise LoraError(f"{self.path.name} was not hashed.", "Scan with hash_files.")
        return LoraFile(self.path, posix(self.name), self.sha256, self.metadata, self.problem)


@dataclass(frozen=True, eq=False)
class LoraLibrary:
    """All LoRA files on this machine, in the order they were listed."""

    entries: tuple[LibraryEntry, ...] = ()

    def entry(self, name: str) -> LibraryEntry | None:
        """The file of this name, spelt as listed."""
        return self._by_name.get(name)

    def resolve(self, rows: Iterable[LoraIdentity]) -> dict[str, Resolved]:
        """lora_id -> its file; see `matching.resolve`. Files that cannot be read are left out."""
        return resolve(rows, self._files)

    @cached_property
    def _by_name(self) -> Mapping[str, LibraryEntry]:
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def _files(self) -> Files:
        usable = [(entry, links) for entry, links in _with_links(self.entries) if entry.is_usable]
        identities = (
            LoraIdentity("", entry.sha256, entry.metadata.version_id, entry.metadata.model_id, entry.name)
            for entry, _links in usable
        )
        return Files(identities, {entry.name: links for entry, links in usable if links})


def _with_links(entries: Iterable[LibraryEntry]) -> Iterator[tuple[LibraryEntry, list[str]]]:
    """Each file with the names by which links to folders list it again: the same file, under the same name in another folder."""
    for names in by_file(entries):
        same: dict[Hashable, list[LibraryEntry]] = {}
        for entry in names:
            key = (os.path.basename(entry.path), entry.metadata.version_id, entry.metadata.model_id)
            same.setdefault(key, []).append(entry)
        yield from ((first, [other.name for other in others]) for first, *others in same.values())


@dataclass(frozen=True)
class FileState:
    """What the file system says about a listed file and its sidecars, without opening any."""

    name: str
    """As listed."""
    path: str
    size: int
    """Bytes; -1 if there is no such file."""
    mtime_ns: int
    """Time of the last change, in ns; 0 if there is no such file."""
    file_id: tuple[int, ...] | None
    """`same_file.file_id_of`."""
    sidecars: str
    """Sizes and times of its sidecars; empty if there are none."""


def survey(files: Iterable[tuple[str, Path]]) -> tuple[FileState, ...]:
    """The states of files, given as (name as listed, path). Equal surveys mean that a scan would find nothing new."""
    listings: dict[str, dict[str, os.DirEntry[str]]] = {}
    states = []
    for name, file in files:
        path = os.fspath(file)
        folder, base_name = os.path.split(path)
        if folder not in listings:
            listings[folder] = _sidecars_in(folder)
        sidecars = _stamp(base_name, listings[folder]) if listings[folder] else ""
        states.append(FileState(name, path, *_state_of(path), sidecars))
    return tuple(states)


def _state_of(path: str) -> tuple[int, int, tuple[int, ...] | None]:
    """Size, time of the last change and number of a file, as in `FileState`."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return -1, 0, None
    return (facts.st_size, facts.st_mtime_ns, file_id_of(facts)) if stat.S_ISREG(facts.st_mode) else (-1, 0, None)


def scan(
    files: Iterable[tuple[str, Path]], index_file: Path, on_progress: OnProgress | None = None, *, hash_files: bool = True
) -> LoraLibrary:
    """Find out what the given files are. Only those that are new, changed or not hashed as asked are opened.

    A file that cannot be read is an entry with a `problem` that is not `is_usable`. An index that cannot be used is a warning in
    the log.

    Args:
        files: (name as listed, path) of each.
        index_file: where the results of earlier scans are kept; made if it is not there. Files that are in the index but not
            given (on a drive that is offline) stay in it.
        on_progress: called after each file that was opened, in files.
        hash_files: hash every file that was not hashed yet. If False, only those with a reason; see the top of this file.
    """
    return scan_surveyed(survey(files), index_file, on_progress, hash_files=hash_files)


def scan_surveyed(
    states: tuple[FileState, ...], index_file: Path, on_progress: OnProgress | None = None, *, hash_files: bool = True
) -> LoraLibrary:
    """`scan` for files whose states are known already.

    Args:
        states: from `survey`.
        index_file: see `scan`.
        on_progress: see `scan`.
        hash_files: see `scan`.
    """
    index = LibraryIndex(index_file)
    known = index.known([state.path for state in states])
    current = {state.path: file for state in states if (file := known.get(state.path)) and _is_same_content(state, file)}
    sizes_of_renamed: set[int] = set()
    if not hash_files and any(state.path not in current or current[state.path].sha256 is None for state in states):
        sizes_of_renamed = _sizes_of_gone(index.hashed(), states)
    found: dict[str, LibraryEntry] = {}
    to_read = []
    for state in states:
        before, now = known.get(state.path), current.get(state.path)
        is_hashed = now is not None and now.sha256 is not None
        was_hashed = before is not None and before.sha256 is not None
        to_hash = not is_hashed and (hash_files or was_hashed or state.size in sizes_of_renamed)
        if now is not None and now.sidecars == state.sidecars and not to_hash:
            found[state.name] = _usable(state, now.sha256, now.facts)
        else:
            to_read.append((state, now, to_hash))
    found.update(_read_all(to_read, index, on_progress))
    return LoraLibrary(tuple(found[state.name] for state in states))


def _sizes_of_gone(hashed: Iterable[tuple[str, int]], states: tuple[FileState, ...]) -> set[int]:
    """Sizes of hashed files that are not where they were, and of which it is not certain that they are in another folder."""
    paths = {state.path for state in states}
    at_hand = Counter((os.path.basename(state.path), state.size) for state in states)
    return {size for path, size in hashed if path not in paths and at_hand[os.path.basename(path), size] != 1}


_Task = tuple[FileState, "KnownFile | None", bool]
"""A file to read, what is known about its present content, and whether to hash it."""


def _alike(tasks: Iterable[_Task]) -> list[list[_Task]]:
    """Files that are to be read, and with each the further names of the same file, whose facts are the same."""
    groups: dict[Hashable, list[_Task]] = {}
    for task in tasks:
        state, now, to_hash = task
        place = state.path if state.file_id is None else (state.file_id, os.path.basename(state.path))
        groups.setdefault((place, state.sidecars, now is None, to_hash), []).append(task)
    return list(groups.values())


def _read_all(to_read: Iterable[_Task], index: LibraryIndex, on_progress: OnProgress | None) -> dict[str, LibraryEntry]:
    """Entries of files that must be opened, by name. They are saved as they come."""
    unsaved: deque[KnownFile] = deque()

    def read(tasks: list[_Task]) -> list[LibraryEntry]:
        entry = _read(*tasks[0])
        # Links to one file, with the same sidecars: it is read once.
        entries = [replace(entry, name=state.name, path=Path(state.path)) for state, _now, _to_hash in tasks]
        # A file that cannot be read is looked at again the next time.
        if entry.is_usable:
            unsaved.extend(_known(state, entry) for state, _now, _to_hash in tasks)
        return entries

    def save() -> None:
        index.save([unsaved.popleft() for _ in range(len(unsaved))])

    entries: dict[str, LibraryEntry] = {}
    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="carlos-library")
    last_save = time.monotonic()
    try:
        groups = _alike(to_read)
        for done, future in enumerate(as_completed([pool.submit(read, group) for group in groups]), start=1):
            entries |= {entry.name: entry for entry in future.result()}
            if time.monotonic() - last_save > _SAVE_EVERY_S:
                save()
                last_save = time.monotonic()
            if on_progress is not None:
                on_progress(Progress(done, len(groups)))
    finally:
        pool.shutdown(cancel_futures=True)
        save()
    return entries


def _read(state: FileState, now: KnownFile | None, to_hash: bool) -> LibraryEntry:
    """Read one file. now: what is known about its present content."""
    path = Path(state.path)
    if state.size < 0:
        return _unusable(state, f"The LoRA {printable(path.name)} {_why_no_file(path)}")
    try:
        facts = now.facts if now is not None and now.sidecars == state.sidecars else read_facts(path)
        sha256 = sha256_of(path) if to_hash else now.sha256 if now is not None else None
    except LoraError as error:
        return _unusable(state, str(error))
    except OSError as error:
        return _unusable(state, f"The LoRA {printable(path.name)} cannot be read: {error.strerror or error}.")
    if _state_of(state.path)[:2] != (state.size, state.mtime_ns):
        # Header and hash may be those of two contents.
        what = f"The LoRA {printable(path.name)} was changed while it was read."
        return _unusable(state, f"{what} Run again when nothing writes it any more.")
    return _usable(state, sha256, facts)


def _why_no_file(path: Path) -> str:
    """What is at the path of a LoRA if it is not a file, and what to do about it: the rest of a sentence."""
    if path.is_dir():
        return "is a folder. Rename it, so that it is not taken for a LoRA."
    if path.is_symlink() and not path.exists():
        return "is a link to a file that is not there. Connect its drive, or delete the link."
    if os.path.lexists(path):
        return "is not an ordinary file. Put the LoRA itself in its place."
    return "is not there. Check that it was not moved or deleted."


def _usable(state: FileState, sha256: str | None, facts: FileFacts) -> LibraryEntry:
    return LibraryEntry(
        state.name,
        Path(state.path),
        state.size,
        state.mtime_ns,
        sha256,
        facts.metadata,
        facts.problem,
        layout=facts.layout,
        line=facts.line,
        file_id=state.file_id,
    )


def _known(state: FileState, entry: LibraryEntry) -> KnownFile:
    """An entry as the index keeps it."""
    return KnownFile(
        path=state.path,
        size=state.size,
        mtime_ns=state.mtime_ns,
        sidecars=state.sidecars,
        sha256=entry.sha256,
        metadata=entry.metadata,
        problem=entry.problem,
        layout=entry.layout,
        line=entry.line,
    )


def _unusable(state: FileState, problem: str) -> LibraryEntry:
    return LibraryEntry(
        state.name, Path(state.path), state.size, state.mtime_ns, problem=problem, is_usable=False, file_id=state.file_id
    )


def _is_same_content(state: FileState, file: KnownFile) -> bool:
    return (file.size, file.mtime_ns) == (state.size, state.mtime_ns)


def _sidecars_in(folder: str) -> dict[str, os.DirEntry[str]]:
    """The files of a folder that may be sidecars, by name. Listing a folder once is cheaper than asking for each name."""
    try:
        with os.scandir(folder) as listing:
            beside = (item for item in listing if may_be_sidecar(item.name) or item.name.lower().endswith(UNFINISHED))
            return {os.path.normcase(item.name): item for item in beside}
    except (OSError, ValueError):
        return {}


def _stamp(base_name: str, sidecars: Mapping[str, os.DirEntry[str]]) -> str:
    """Sizes and times of the sidecars of one LoRA, and whether it is being downloaded; empty if there is nothing beside it."""
    parts = []
    for place, name in enumerate(sidecar_names(base_name)):
        item = sidecars.get(os.path.normcase(name))
        if item is None:
            continue
        try:
            facts = item.stat()
        except OSError:
            continue
        parts.append(f"{place}:{facts.st_size}:{facts.st_mtime_ns}")
    if any(os.path.normcase(base_name + end) in sidecars for end in UNFINISHED):
        # Its size and time change all the time, and say nothing.
        parts.append("unfinished")
    return " ".join(parts)
