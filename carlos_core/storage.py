"""Files on disk: where ours are, their hashes, and writing while other processes also read and write them."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import filelock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_LOCK_TIMEOUT_S = 60
_ABANDONED_AFTER_S = 600
_REPLACE_TRIES = 200
_REPLACE_WAIT_S = 0.05
_LONGEST_STEM = 100
"""Bytes of a file's name that the names of hidden files beside it repeat."""
_TEMPORARY = re.compile(r"\..*\.carlos-([0-9a-f]{8})-[0-9a-f]{8}\.tmp", re.DOTALL)
_NOBODY = "0" * 8
"""In place of the system in the names of temporary files that cannot be marked as in use."""
_TIDY: set[Path] = set()
"""Folders in which this process has looked for temporary files of killed ones."""


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


def bytes_within(path: Path, most: int) -> bytes | None:
    """The content of a file; None if it has more than `most` bytes, which are not read. Raises OSError if it cannot be read."""
    if path.stat().st_size > most:
        return None
    with path.open("rb") as file:
        content = file.read(most + 1)
    # It may have grown since.
    return content if len(content) <= most else None


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


def is_there(path: Path) -> bool:
    """Whether there is a file or folder, at the end of all links. Raises OSError if that cannot be told.

    Python's own functions then say "no", and a file that counts as missing would be written over.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def move_as_new(source: Path, target: Path) -> None:
    """Give a file a name in the same folder that no file has. Raises FileExistsError if one has it, and OSError.

    It may keep its old name, too, if that cannot be removed.
    """
    if os.name == "nt":
        source.rename(target)
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        # File systems without hard links, such as those of memory sticks.
        if os.path.lexists(target) or is_there(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target)) from None
        source.rename(target)
        return
    with suppress(OSError):
        source.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing a file, by a lock beside it.

    Raises TimeoutError after a minute, and OSError if there can be no lock.
    """
    target = target_of(path)
    _make_folder(path, target)
    with ExitStack() as stack:
        try:
            stack.enter_context(holding(target.with_name(f".{_stem(target)}.lock"), _LOCK_TIMEOUT_S))
        except filelock.Timeout as error:
            raise TimeoutError(f"Another process has been writing {path.name} for {_LOCK_TIMEOUT_S} s.") from error
        yield


@contextmanager
def holding(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock that is the file `path`. Raises filelock.Timeout if another process does, and OSError if there is none."""
    lock = filelock.FileLock(path, timeout=timeout_s)
    lock.acquire()
    try:
        yield
    finally:
        try:
            lock.release()
        except OSError as error:
            # What was done under it is done, and the system lets it go with the file's handle.
            logger.warning("carlos: %s was not released in order: %s", path.name, error)


def write_atomically(path: Path, write: Callable[[Path], object], *, is_cache: bool = False) -> None:
    """Run `write` on a temporary file beside `path`, force it to disk, then rename it over `path`.

    is_cache: the file can be made again, so it does not have to survive a power cut.

    At every moment `path` is either the old file or the complete new one. If it is a link, its target is written and the link
    stays; so do permissions and, as far as the system allows, owner and group. Temporary files that killed processes have left in
    the folder are removed (in a folder of cached files once in each process); those of processes that are writing now are not.
    Raises OSError, and then `path` is what it was.
    """
    target = target_of(path)
    _make_folder(path, target)
    if not is_cache or target.parent not in _TIDY:
        _remove_abandoned(target)
        _TIDY.add(target.parent)
    handle, temporary = _new_temporary(target)
    try:
        write(temporary)
        if not is_cache:
            os.fsync(handle)
        _take_over_permissions(temporary, target)
        if fcntl is None:
            # An open file cannot be renamed on Windows. On other systems it stays open, because that marks it as in use.
            closing, handle = handle, -1
            os.close(closing)
            # Writing it may have taken long: from now on its age counts.
            os.utime(temporary)
        _replace(temporary, target)
    finally:
        _remove(handle, temporary)
    if not is_cache:
        _sync_folder(target.parent)


def check_writable(path: Path) -> None:
    """Raises OSError where `write_atomically` could not even begin: there is no folder, or nothing may be written in it."""
    target = target_of(path)
    _make_folder(path, target)
    _remove(*_new_temporary(target))


def _make_folder(path: Path, target: Path) -> None:
    if not path.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
    elif not is_there(target.parent):
        # A link may lead to a drive that is not connected now: its folders are not created, here or by who makes the lock.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(target.parent))


def _stem(target: Path) -> str:
    """What the names of hidden files beside `target` begin with. File systems take no names of more than 255 bytes, some 143."""
    name = target.name
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST_STEM else f"{name[:16]}-{short_hash(encoded, 16)}"


def _new_temporary(target: Path) -> tuple[int, Path]:
    """A temporary file for `target`, open and marked as in use."""
    # Nobody else reads what will replace a private file. A new file is what the user's umask makes of it.
    permissions = 0o600 if is_there(target) else 0o666
    system = _kernel()
    while True:
        path = target.with_name(f".{_stem(target)}.carlos-{system}-{uuid4().hex[:8]}.tmp")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, permissions)
        except FileExistsError:
            continue
        is_ours = fcntl is None or system == _NOBODY
        try:
            if fcntl is not None and not is_ours:
                with suppress(OSError):  # file systems without locks
                    fcntl.flock(handle, fcntl.LOCK_EX)
                # Another process may have removed it before it was marked as in use.
                is_ours = os.fstat(handle).st_nlink > 0
                if is_ours and not _can_be_written(path):
                    # Time alone protects a file of nobody's.
                    is_ours, system = False, _NOBODY
            if is_ours:
                return handle, path
        finally:
            if not is_ours:
                _remove(handle, path)


def _can_be_written(path: Path) -> bool:
    """Whether a locked file can be written through another handle. On some network drives (SMB on Linux) it cannot."""
    try:
        with path.open("r+b", buffering=0) as file:
            file.write(b"\0")
            file.truncate(0)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EPERM, errno.EAGAIN)
    return True


def _remove(handle: int, temporary: Path) -> None:
    """Close a temporary file (handle >= 0) and remove it, if it is still there. What fails is left to the next write."""
    if fcntl is None and handle >= 0:
        # On Windows an open file cannot be removed.
        closing, handle = handle, -1
        with suppress(OSError):
            os.close(closing)
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        _TIDY.discard(temporary.parent)
    if handle >= 0:
        with suppress(OSError):
            os.close(handle)


def _take_over_permissions(temporary: Path, target: Path) -> None:
    try:
        there = target.stat()
    except FileNotFoundError:
        return
    if hasattr(os, "chown") and (there.st_uid, there.st_gid) != (os.geteuid(), os.getegid()):
        # Only root may give a file away, but anybody to a group of theirs.
        for owner in (there.st_uid, -1):
            with suppress(OSError):
                os.chown(temporary, owner, there.st_gid)
                break
    temporary.chmod(there.st_mode & 0o777)


@lru_cache(maxsize=1)
def _kernel() -> str:
    """8 hex digits that name the running system: all processes of one name see each other's locks."""
    try:
        # Other machines and containers may have the same host name. This is another one after each start, too.
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        name = platform.node()
    return short_hash(name, 8)


def _remove_abandoned(target: Path) -> None:
    """Remove temporary files beside a target that no process has open; what cannot be removed stays."""
    # Those of earlier versions name no system.
    earlier = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.tmp")
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found or earlier.fullmatch(entry.name):
                with suppress(OSError):
                    age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                    # Another system's locks may not be seen here, and not all file systems have locks: it may be in use.
                    if age > _ABANDONED_AFTER_S or (found and found[1] == _kernel()):
                        _remove_unless_open(Path(entry.path), age)


def _remove_unless_open(path: Path, age: float) -> None:
    """Remove a file that was changed `age` seconds ago. Raises OSError if a process has it open."""
    if fcntl is None:
        # On Windows an open file cannot be removed. A finished one is not open while it waits for its readers.
        if age > 2 * _REPLACE_TRIES * _REPLACE_WAIT_S:
            path.unlink()
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            # Without locks, time must tell.
            if age <= _ABANDONED_AFTER_S:
                return
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
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # The new file is there, so this is no failure.
        logger.warning("carlos: a file in %s may not survive a power cut just now: %s", folder, error)
