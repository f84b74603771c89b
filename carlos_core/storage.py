"""Files on disk: where ours are, their hashes, and writing while other processes also read and write them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import filelock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CHUNK = 1 << 20
_LOCK_TIMEOUT_S = 60
_ABANDONED_AFTER_S = 600
_REPLACE_TRIES = 20
_REPLACE_WAIT_S = 0.05


def home() -> Path:
    """The default folder of weights and caches: the environment variable CARLOS_HOME, otherwise ~/.cache/carlos.

    ComfyUI's nodes name other folders.
    """
    return Path(os.environ.get("CARLOS_HOME") or Path.home() / ".cache" / "carlos")


def encoders_directory() -> Path:
    return home() / "encoders"


def loras_directory() -> Path:
    return home() / "loras"


def cache_directory() -> Path:
    return home() / "cache"


def sha256_of(path: Path) -> str:
    """sha256 of a whole file, 64 hex digits; computed again only if the file changed. Raises OSError if it cannot be read."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8192)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def short_hash(content: str | bytes, digits: int) -> str:
    """The first `digits` hex digits of the sha256 of a text (as UTF-8) or of bytes."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:digits]


def target_of(path: Path) -> Path:
    """Where a file is, or will be, once all links are followed. Two names of one file have one target.

    Raises OSError for links that lead in a circle.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    return target


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing a file, by a lock beside it.

    Raises TimeoutError after a minute, and OSError if there can be no lock.
    """
    target = target_of(path)
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"), timeout=_LOCK_TIMEOUT_S)
    _make_folder(path, target)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise TimeoutError(f"Another process has been writing {path.name} for {_LOCK_TIMEOUT_S} s.") from error
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, write: Callable[[Path], object], *, is_cache: bool = False) -> None:
    """Run `write` on a temporary file beside `path`, force it to disk, then rename it over `path`.

    is_cache: the file can be made again, so it does not have to survive a power cut.

    At every moment `path` is either the old file or the complete new one. If it is a link, its target is written and the link
    stays. Temporary files that a killed process has left are removed (not for a cache); those of processes that are writing now
    are not. Raises OSError.
    """
    target = target_of(path)
    _make_folder(path, target)
    if not is_cache:
        _remove_abandoned(target)
    handle, temporary = _new_temporary(target)
    try:
        write(temporary)
        if not is_cache:
            os.fsync(handle)
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        else:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        if fcntl is None:
            # An open file cannot be renamed on Windows. On other systems it stays open, because that marks it as in use.
            os.close(handle)
            handle = -1
        _replace(temporary, target)
        if not is_cache:
            _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
        if handle >= 0:
            os.close(handle)


def _make_folder(path: Path, target: Path) -> None:
    # A link may lead to a drive that is not connected now: its folders are not created.
    if not path.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)


def _new_temporary(target: Path) -> tuple[int, Path]:
    """A temporary file for `target`, open and marked as in use."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        if fcntl is not None:
            with suppress(OSError):  # file systems without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink == 0:
                # Another process removed it before it was marked as in use.
                os.close(handle)
                continue
        return handle, Path(name)


def _remove_abandoned(target: Path) -> None:
    """Remove temporary files of this target that are old and that no process has open."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.tmp")
    for path in target.parent.glob(".*.tmp"):
        # Not all file systems have locks: a new file may be in use without one.
        with suppress(OSError):
            if pattern.fullmatch(path.name) and time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                _remove_unless_open(path)


def _remove_unless_open(path: Path) -> None:
    """Remove a file. Raises OSError if a process has it open."""
    if fcntl is None:
        # On Windows an open file cannot be removed.
        path.unlink()
        return
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _replace(temporary: Path, target: Path) -> None:
    for left in reversed(range(_REPLACE_TRIES)):
        try:
            temporary.replace(target)
            return
        except PermissionError:
            # On Windows a file cannot be replaced while another process reads it.
            if os.name != "nt" or not left:
                raise
            time.sleep(_REPLACE_WAIT_S)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be opened (not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
