"""What indexing has kept of pictures: how much of it there is, how much there may be, and what goes first.

A journal, the note that it is complete, its thumbnails and its lock are one unit, which goes as a whole. A row of a database
needs none of it: at worst, pictures are made again.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .feature_store import count_pictures
from .in_use import stems_in_use, unless_in_use

logger = logging.getLogger(__name__)

LIMIT_GB = 10.0
"""Default size. 800 LoRAs take some 1.2 GB by `standard` (150 pictures and 16 thumbnails each), 9 GB by `paper` (4,480)."""

VARIABLE = "CARLOS_CACHE_GB"
"""The environment variable for another size."""

BASE, LORAS, TRIALS = "base", "loras", "trials"
_FOLDERS = ((BASE, Path(BASE)), (LORAS, Path(LORAS)), (TRIALS, Path(TRIALS, BASE)), (TRIALS, Path(TRIALS, LORAS)))
_PIECE = re.compile(r"([0-9a-f]{24})\.(journal|complete|thumbs)")
_SMALL = 4096
_ABANDONED_AFTER_S = 86_400


@dataclass(frozen=True)
class Unit:
    """A journal with all that belongs to it."""

    kind: str
    """BASE, LORAS or TRIALS."""

    journal: Path
    """Where it is, or would be: a crash can leave the rest of it behind."""

    used: float
    """Time of the last use, in seconds since 1970."""

    size: int
    """Bytes, without the thumbnails."""

    thumbnails: int

    thumbnails_size: int
    """Bytes."""

    @property
    def whole_size(self) -> int:
        return self.size + self.thumbnails_size

    @property
    def pictures(self) -> int:
        """Pictures in the journal; 0 if it cannot be read."""
        try:
            return count_pictures(self.journal)
        except (OSError, ValueError):
            return 0

    @property
    def is_empty(self) -> bool:
        """Whether it is the journal of a measurement that ended before its first picture."""
        try:
            return not self.thumbnails and 0 < self.size < _SMALL and not count_pictures(self.journal)
        except (OSError, ValueError):
            return False

    def remove(self) -> bool:
        """Remove it unless somebody needs it, or has used it since it was looked at. Returns whether it is gone.

        Raises OSError.
        """
        with unless_in_use(self.journal) as is_free:
            if not is_free or _time_of(self.journal) > self.used:
                return False
            for path in (self.journal.with_suffix(".complete"), self.journal):
                path.unlink(missing_ok=True)
            _remove_folder(self._thumbnails)
            # Only who holds the journal writes it, and with it its lock.
            self.journal.with_name(f".{self.journal.name}.lock").unlink(missing_ok=True)
        return True

    def remove_thumbnails(self) -> bool:
        """Remove only the thumbnails, unless somebody needs them. Returns whether they are gone. Raises OSError."""
        with unless_in_use(self.journal) as is_free:
            if is_free:
                _remove_folder(self._thumbnails)
        return is_free

    @property
    def _thumbnails(self) -> Path:
        return self.journal.with_suffix(".thumbs")


def limit() -> float:
    """How large the cache may be, in bytes; infinite for "inf". Of 0, only what is in use is kept."""
    return _bytes_of(os.environ.get(VARIABLE, "").strip())


@lru_cache
def _bytes_of(gigabytes: str) -> float:
    # Kept, so that a wrong value is said once.
    if not gigabytes:
        return LIMIT_GB * 1e9
    try:
        found = float(gigabytes)
    except ValueError:
        found = math.nan
    if not found >= 0:
        logger.warning("carlos: %s=%r is not a number of gigabytes; the limit is %g GB", VARIABLE, gigabytes, LIMIT_GB)
        found = LIMIT_GB
    return found * 1e9


def units(cache: Path) -> list[Unit]:
    """What a cache holds of pictures. cache: its folder, which does not have to exist. Raises OSError."""
    return [unit for kind, folder in _FOLDERS for unit in _units_of(kind, cache / folder)]


def in_use(cache: Path) -> set[Path]:
    """The journals that somebody needs now; what marks of ended processes are left is removed. Raises OSError."""
    return {cache / folder / f"{stem}.journal" for _kind, folder in _FOLDERS for stem in stems_in_use(cache / folder)}


def trim(cache: Path, own: Collection[Path] = ()) -> None:
    """Remove what was not used for longest until the cache is no larger than its limit; empty journals go in any case.

    Nothing that somebody needs now is removed. Problems are a warning in the log.

    own: journals that this process needs, which are kept even where they cannot be marked as in use.
    """
    try:
        _remove_abandoned(cache)
        needed = in_use(cache) | set(own)
        found = sorted(units(cache), key=lambda unit: unit.used)
    except OSError as error:
        logger.warning("carlos: the cache in %s cannot be looked through: %s", cache, error)
        return
    allowed, size = limit(), sum(unit.whole_size for unit in found)
    before = size
    problem: OSError | None = None
    for unit in found:
        if unit.journal in needed or (size <= allowed and not unit.is_empty):
            continue
        try:
            size -= unit.whole_size if unit.remove() else 0
        except OSError as error:
            problem = error
    if problem is not None:
        logger.warning("carlos: not all that is too much in %s can be removed: %s", cache, problem)
    if before > allowed:
        logger.info("carlos: %.2f GB of pictures' features and thumbnails not used for longest removed", (before - size) / 1e9)


def _units_of(kind: str, folder: Path) -> Iterator[Unit]:
    pieces: dict[str, dict[str, os.DirEntry[str]]] = defaultdict(dict)
    for entry in _entries(folder):
        # Whatever else is there is not ours.
        if found := _PIECE.fullmatch(entry.name):
            pieces[found[1]][found[2]] = entry
    for stem, of in pieces.items():
        thumbnails = [_size_of(entry) for entry in _entries(Path(of["thumbs"].path))] if "thumbs" in of else []
        size = sum(_size_of(of[name]) for name in ("journal", "complete") if name in of)
        # Without its journal, a unit is being removed, or was only half removed: the rest goes before all others.
        used = _time_of(of["journal"]) if "journal" in of else 0.0
        yield Unit(kind, folder / f"{stem}.journal", used, size, len(thumbnails), sum(thumbnails))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size_of(entry: os.DirEntry[str]) -> int:
    """Bytes; 0 if it was removed since."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def _time_of(entry: os.DirEntry[str] | Path) -> float:
    """When it was changed last; 0 if there is no such file."""
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove_folder(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _remove_abandoned(cache: Path) -> None:
    """Remove what a process that was killed while it wrote small facts has left."""
    for folder in (cache, cache / TRIALS):
        for path in folder.glob(".*.json.*.tmp"):
            if time.time() - _time_of(path) > _ABANDONED_AFTER_S:
                path.unlink(missing_ok=True)
