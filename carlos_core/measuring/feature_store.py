"""Features of finished pictures, on disk as soon as they are made.

A journal is a file that only grows: a header that says what its pictures have in common, then one record of fixed length for
each picture. If the checksum of a record is wrong, only that picture is lost: it is made again and written further down. A crash
can cut off the last record at most; what is left of it is dropped at the next append. A reader writes nothing, and writers take
turns.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import IndexingError
from ..storage import is_there, locked, write_atomically
from .in_use import InUse

logger = logging.getLogger(__name__)

_MAGIC = b"CARLOSJ1"
_KEY_BYTES = 16
_LONGEST_HEADER = 4096


@dataclass(frozen=True, eq=False)
class Entry:
    """What is kept of a picture."""

    features: np.ndarray
    """[D] float32, raw CLIP units."""

    evaluations: int
    """Forward passes of the diffusion model that the picture took."""


class FeatureStore:
    """Pictures' features by key, for one identity (what made them: model, settings, encoder, LoRA), in a journal on disk.

    Opening only reads; `begin` or the first append makes the file. A file of another identity at the same place is an error,
    since names carry the identity's hash.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], dimension: int) -> None:
        canonical = json.dumps({**identity, "dimension": dimension}, sort_keys=True).encode()
        self.path = folder / f"{hashlib.sha256(canonical).hexdigest()[:24]}.journal"
        self._dimension = dimension
        self._record = _record_of(dimension)
        self._header = _MAGIC + struct.pack("<I", len(canonical)) + canonical
        self._entries: dict[bytes, Entry] = {}
        self._end = 0
        self._mark: InUse | None = None
        self.refresh()

    def __len__(self) -> int:
        return len(self._entries)

    def refresh(self) -> None:
        """Take in what other processes have kept since the last look."""
        try:
            self._look()
        except OSError as error:
            raise self._unusable(error) from error

    def hold(self) -> None:
        """Keep all processes from removing the journal for as long as this object lives, and take in what it holds by now.

        Where there can be no mark, as in a folder that cannot be written, this is only a line in the log.
        """
        try:
            self._mark = self._mark or InUse(self.path)
        except OSError as error:
            logger.info("carlos: %s cannot be marked as in use: %s", self.path, error)
        self.refresh()

    def touch(self) -> None:
        """Note that the journal was used just now, as an append does."""
        _touch(self.path)

    @property
    def _complete_mark(self) -> Path:
        return self.path.with_suffix(".complete")

    @property
    def thumbnails(self) -> Path:
        """Folder for small pictures to look at; nothing is computed from them."""
        return self.path.with_suffix(".thumbs")

    def get(self, text: str, seed: int) -> Entry | None:
        """What is kept of the picture of a text and a seed; None if it was not made."""
        return self._entries.get(picture_key(text, seed))

    def append(self, pictures: Sequence[tuple[str, int, np.ndarray, int]]) -> None:
        """Keep pictures: (text, seed, features [D] float32, evaluations) each. They are on disk when this returns.

        Raises IndexingError when they cannot be written; what was kept before stays.
        """
        self._add(
            {
                picture_key(text, seed): Entry(np.asarray(features, dtype=np.float32), evaluations)
                for text, seed, features, evaluations in pictures
            }
        )

    def merge(self, other: FeatureStore) -> None:
        """Take in the pictures of another journal of the same measurement. Raises IndexingError if the measurement is another."""
        if other._header != self._header:
            raise IndexingError(
                f"{other.path.name} and {self.path.name} are journals of different measurements.",
                "Merge journals of the same LoRA, model, settings and encoder.",
            )
        self._add(other._entries)

    def _add(self, entries: Mapping[bytes, Entry]) -> None:
        try:
            with locked(self.path):
                self._look()
                new = {key: entry for key, entry in entries.items() if key not in self._entries}
                if not new:
                    return
                size = self._cut_back(self._end)
                records = b"".join(self._packed(key, entry) for key, entry in new.items())
                # Without a buffer: what a failed write leaves in one would be written when the file is closed.
                with self.path.open("ab", buffering=0) as file:
                    try:
                        left = memoryview(records if size else self._header + records)
                        while left:
                            left = left[file.write(left) :]
                        os.fsync(file.fileno())
                    except OSError:
                        # What a failed write has left must not come before later records.
                        self._cut_back(size)
                        raise
        except OSError as error:
            raise IndexingError(
                f"Finished pictures cannot be kept in {self.path.parent} ({error.strerror or error}).",
                "Free some disk space and run again: it goes on from here.",
                ends_run=True,
            ) from error
        self._end = (size or len(self._header)) + len(records)
        self._entries.update(new)

    def begin(self) -> None:
        """Make the file if it is not there, so that an error shows before a picture is made.

        Raises IndexingError when the file cannot be written.
        """
        try:
            with locked(self.path):
                self._look()
                if self._end < len(self._header):
                    self.path.write_bytes(self._header)
                    self._end = len(self._header)
        except OSError as error:
            raise self._unusable(error) from error

    @property
    def is_complete(self) -> bool:
        """Whether the measurement behind this journal came to its end, and no longer one was begun since then."""
        try:
            return self._complete_mark.read_text() == str(len(self))
        except OSError:
            return False

    def mark_complete(self) -> None:
        """Note that the measurement came to its end. Raises IndexingError when the note cannot be written."""
        try:
            write_atomically(self._complete_mark, lambda file: file.write_text(str(len(self))), is_cache=True)
        except OSError as error:
            raise self._unusable(error) from error

    def clear(self) -> None:
        """Forget all pictures, so that they are made again. Raises IndexingError when the file cannot be written."""
        try:
            with locked(self.path):
                self._complete_mark.unlink(missing_ok=True)
                self.path.write_bytes(self._header)
        except OSError as error:
            raise self._unusable(error) from error
        self._entries = {}
        self._end = len(self._header)

    def _packed(self, key: bytes, entry: Entry) -> bytes:
        values = np.ascontiguousarray(entry.features, dtype="<f4").tobytes()
        checksum = zlib.crc32(key + struct.pack("<I", entry.evaluations) + values)
        return self._record.pack(key, entry.evaluations, values, checksum)

    def _look(self) -> None:
        """Take in what the file holds, or has got since the last look. Raises OSError, and IndexingError for another file."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._end:
                    # Somebody cleared it.
                    self._entries, self._end = {}, 0
                file.seek(self._end)
                content = file.read()
        except FileNotFoundError:
            self._entries, self._end = {}, 0
            return
        if not self._end:
            if not content.startswith(self._header):
                if not self._header.startswith(content):
                    raise IndexingError(
                        f"{self.path} is not a journal of this version.", "Delete it: its pictures are made again."
                    )
                return
            content = content[len(self._header) :]
            self._end = len(self._header)
        for key, entry in _records(content, 0, self._record, self.path.name):
            self._entries.setdefault(key, entry)
        self._end += len(content) // self._record.size * self._record.size

    def _cut_back(self, size: int) -> int:
        """Drop what comes after `size` bytes: the rest of a record that was not finished. Returns the size."""
        there = self.path.stat().st_size if is_there(self.path) else 0
        if there > size:
            logger.warning("carlos: dropping %d bytes of an unfinished record in %s", there - size, self.path.name)
            os.truncate(self.path, size)
        return min(there, size)

    def _unusable(self, error: OSError) -> IndexingError:
        return IndexingError(
            f"The folder {self.path.parent} cannot be used ({error.strerror or error}).",
            "Check its permissions and free space.",
            ends_run=True,
        )


def journal_sizes(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes, in bytes, of a folder's journals: they tell whether its mean feature may be another by now."""
    sizes = []
    for path in sorted(folder.glob("*.journal")):
        with suppress(FileNotFoundError):
            sizes.append((path.name, path.stat().st_size))
    return sizes


def mean_features(folder: Path, encoder_id: str) -> np.ndarray | None:
    """Mean feature of all pictures in a folder's journals that one encoder has seen; None if there are none.

    [D] float64, raw CLIP units. Nothing is written, so that an indexing run at the same time is not disturbed; the journals count
    as used.
    """
    total, n = np.zeros(()), 0
    for path in sorted(folder.glob("*.journal")):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            # Removed since: the cache has a limit.
            continue
        except OSError as error:
            logger.warning("carlos: %s cannot be read: %s", path.name, error)
            continue
        try:
            encoder, record, end = _described(content)
        except ValueError:
            logger.warning("carlos: %s is not a journal of this version", path.name)
            continue
        if encoder == encoder_id:
            _touch(path)
            for _, entry in _records(content, end, record, path.name):
                total, n = total + entry.features.astype(np.float64), n + 1
    return total / n if n else None


def count_pictures(journal: Path) -> int:
    """How many pictures a journal file has, damaged ones included; they are not read.

    Raises ValueError for a file that is no journal of this version, OSError if it cannot be read.
    """
    with journal.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
        size = os.fstat(file.fileno()).st_size
    _encoder, record, end = _described(start)
    return max(0, size - end) // record.size


def _described(content: bytes) -> tuple[str, struct.Struct, int]:
    """What the beginning of a journal says: the encoder, the form of a record, and where the first one is. Raises ValueError."""
    try:
        start = len(_MAGIC) + 4
        end = start + struct.unpack_from("<I", content, len(_MAGIC))[0]
        identity = json.loads(content[start:end])
        return identity["encoder"], _record_of(identity["dimension"]), end
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("no journal of this version") from error


def _touch(journal: Path) -> None:
    # What cannot be noted is only forgotten sooner.
    with suppress(OSError):
        os.utime(journal)


def _record_of(dimension: int) -> struct.Struct:
    return struct.Struct(f"<{_KEY_BYTES}sI{4 * dimension}sI")


def _records(content: bytes, place: int, record: struct.Struct, name: str) -> Iterator[tuple[bytes, Entry]]:
    """The whole records from `place` on; damaged ones are left out. name: of the file, for the log."""
    for start in range(place, len(content) - record.size + 1, record.size):
        key, evaluations, values, checksum = record.unpack_from(content, start)
        if zlib.crc32(key + struct.pack("<I", evaluations) + values) == checksum:
            yield key, Entry(np.frombuffer(values, dtype="<f4").astype(np.float32), evaluations)
        else:
            logger.warning("carlos: a picture in %s is damaged and is made again", name)


def picture_key(text: str, seed: int) -> bytes:
    """Name of a picture within a journal: 16 bytes."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).digest()[:_KEY_BYTES]
