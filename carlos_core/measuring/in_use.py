"""Which journals somebody needs now, told to every process by marks that end with their owners.

A mark is a file in the folder `in_use` beside the journals, locked for as long as its owner lives: the system lets go of the lock
when a process ends, however it ends, and whoever looks next removes the file. Marks are set, and journals removed, under one lock
of the folder, so that neither happens in the midst of the other.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from ..storage import locked

_FOLDER = "in_use"


class InUse:
    """A mark on a journal, from when it is made until nobody holds it any more."""

    def __init__(self, journal: Path) -> None:
        """journal: its path, whether there is a file yet or not. Raises OSError if there can be no mark."""
        marks = _marks(journal.parent)
        with locked(marks):
            marks.mkdir(exist_ok=True)
            # Whoever lets go of it may be another thread.
            lock = filelock.FileLock(marks / f"{journal.stem}.{uuid.uuid4().hex}.lock", timeout=0, thread_local=False)
            lock.acquire()
        weakref.finalize(self, _end, lock)


@contextmanager
def unless_in_use(journal: Path) -> Iterator[bool]:
    """Whether nobody needs a journal, and nobody can begin to while the block runs. Raises OSError if that cannot be told."""
    marks = _marks(journal.parent)
    with locked(marks):
        yield not any([_is_held(mark) for mark in marks.glob(f"{journal.stem}.*.lock")])


def stems_in_use(folder: Path) -> set[str]:
    """The journals of a folder that somebody needs now, without the ending of their names. Raises OSError."""
    marks = _marks(folder)
    if not marks.is_dir():
        return set()
    with locked(marks):
        return {mark.name.partition(".")[0] for mark in marks.glob("*.lock") if _is_held(mark)}


def _marks(folder: Path) -> Path:
    return folder / _FOLDER


def _is_held(mark: Path) -> bool:
    """Whether the owner of a mark lives; the mark of a process that has ended is removed."""
    lock = filelock.FileLock(mark, timeout=0)
    try:
        lock.acquire()
    except (filelock.Timeout, OSError):
        return True
    _end(lock)
    return False


def _end(lock: filelock.BaseFileLock) -> None:
    lock.release()
    # Whoever looks now may have removed it, or, on Windows, has it open and removes it.
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
