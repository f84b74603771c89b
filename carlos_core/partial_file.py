"""A file being fetched from a server: it arrives piece by piece, and a later run continues where an earlier one broke off."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import requests

from .progress import OnProgress, Progress
from .storage import holding, is_there

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16
_REPORT_S = 0.1
_LOCK_TIMEOUT_S = 5
_MEGABYTE = 1_000_000
_ETAG = re.compile(r'"[!#-~]{1,200}"')
_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE = 200, 206, 416

CONTENT = (_OK, _PARTIAL)
"""Statuses of answers that carry the file, or a part of it."""

USABLE = (*CONTENT, _RANGE_NOT_SATISFIABLE)
"""Statuses of answers that `PartialFile.fetch` can use."""


class Broken(Exception):
    """A connection that could not be made or broke off; the text is a few words for people."""


class TooLong(Exception):
    """The file is longer than it may be: at least `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Busy(Exception):
    """Another process is fetching the file."""


class PartialFile:
    """What has arrived of a file so far, at `path`, with the server's ETag in a file beside it.

    longest: the most bytes that the file may have. on_progress: called at most ten times a second, in bytes, which include
    those of earlier runs.
    """

    def __init__(self, path: Path, longest: int, on_progress: OnProgress | None = None) -> None:
        self.path, self._longest, self._on_progress = path, longest, on_progress
        self._tag, self._lock = (path.with_name(f"{path.name}-{kind}") for kind in ("etag", "lock"))

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def is_there(self) -> bool:
        """Whether anything is left of an earlier run."""
        return any(map(is_there, (self.path, self._tag, self._lock)))

    def clear(self) -> None:
        for path in (self.path, self._tag):
            path.unlink(missing_ok=True)

    def move_to(self, target: Path) -> None:
        """Move the complete file to `target`, replacing what is there."""
        self.path.replace(target)
        with contextlib.suppress(OSError):
            self._tag.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let only one process at a time write the file. Raises Busy if another one does."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(holding(self._lock, _LOCK_TIMEOUT_S))
            except filelock.Timeout:
                raise Busy from None
            try:
                yield
            finally:
                # Only while we hold it: the next one's lock would be another file than that of who comes after.
                # On Windows a file that is open stays, and is removed with the lock.
                with contextlib.suppress(OSError):
                    self._lock.unlink()

    def fetch(
        self, ask: Callable[[dict[str, str]], requests.Response], attempts: int, wait: Callable[[Broken, int], None]
    ) -> None:
        """Fetch what is missing. A connection that breaks off is made again, at most `attempts` times without any progress.

        Raises the last Broken, TooLong, OSError (ENOSPC before the disk is full), and what `ask` raises; what has arrived stays.

        Args:
            ask: request headers -> a streamed answer with a status of `USABLE`. It raises Broken if there is no
                connection, and an error of its own for other answers.
            attempts: connections in a row that may bring nothing, >= 1.
            wait: called before another try with what broke, and how often in a row.
        """
        failures = 0
        while True:
            have = self.size
            try:
                if self._fetch_rest(ask, have):
                    return
                broken = Broken("the connection broke off")
            except Broken as caught:
                broken = caught
            failures = 1 if self.size > have else failures + 1
            if failures >= attempts:
                raise broken
            wait(broken, failures)

    def _fetch_rest(self, ask: Callable[[dict[str, str]], requests.Response], have: int) -> bool:
        """Fetch over one connection. Returns whether the file is complete. Raises Broken if it breaks off."""
        headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
        if have and (etag := self._etag()):
            headers["If-Range"] = etag
        with contextlib.closing(ask(headers)) as response:
            if response.status_code == _RANGE_NOT_SATISFIABLE:
                if have and response.headers.get("Content-Range") == f"bytes */{have}":
                    return True
                self.clear()
                return False
            start, total = _extent(response)
            if start not in (0, have):
                self.clear()
                raise Broken("another part of the file came than was asked for")
            self._check_size(total)
            if total - start > shutil.disk_usage(self.path.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done, meter = start, _Meter(self._on_progress, start, total)
            with self.path.open("r+b" if start else "wb") as file:
                file.seek(start)
                # Now that the old content is gone: it must not be taken for the beginning of the file with the new ETag.
                self._keep_etag(response)
                for chunk in _chunks(response):
                    file.write(chunk)
                    done += len(chunk)
                    self._check_size(done)
                    meter.show(done)
                file.flush()
                os.fsync(file.fileno())
        meter.show(done, is_last=True)
        return done == total if total else True

    def _check_size(self, size: int) -> None:
        """Refuse early a file that is longer than it should be. Raises TooLong."""
        if size > self._longest:
            raise TooLong(size)

    def _etag(self) -> str:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            etag = self._tag.read_text(encoding="ascii")
            # A kill may have left the beginning of one.
            return etag if _ETAG.fullmatch(etag) else ""
        return ""

    def _keep_etag(self, response: requests.Response) -> None:
        """Save a strong ETag, for If-Range (RFC 9110, 13.1.5)."""
        etag = response.headers.get("ETag", "")
        if _ETAG.fullmatch(etag):
            self._tag.write_text(etag, encoding="ascii")
        else:
            self._tag.unlink(missing_ok=True)


class _Meter:
    """Reports how far a download is."""

    def __init__(self, on_progress: OnProgress | None, start: int, total: int) -> None:
        self._on_progress, self._start, self._total = on_progress, start, total
        self._begin = time.monotonic()
        self._next = self._begin

    def show(self, done: int, is_last: bool = False) -> None:
        now = time.monotonic()
        if self._on_progress is None or (now < self._next and not is_last):
            return
        self._next = now + _REPORT_S
        speed = (done - self._start) / max(now - self._begin, 1e-3)
        size = f"{self._total / _MEGABYTE:.0f}" if self._total else "?"
        note = f"fetching: {done / _MEGABYTE:.0f} of {size} MB, {speed / _MEGABYTE:.1f} MB/s"
        self._on_progress(Progress(done, self._total, note))


def words_for(error: Exception) -> str:
    """What went wrong with a connection, without addresses and headers."""
    kinds: tuple[tuple[type[Exception], str], ...] = (
        (requests.exceptions.SSLError, "its certificate is not accepted"),
        (requests.exceptions.ProxyError, "the proxy refuses"),
        (requests.Timeout, "it takes too long"),
        (requests.exceptions.ChunkedEncodingError, "the connection broke off"),
        (requests.ConnectionError, "no connection"),
    )
    return next((words for kind, words in kinds if isinstance(error, kind)), type(error).__name__)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it comes. Raises Broken if it breaks off.

    It is raised outside of the handler, because requests' exceptions carry the request with its headers.
    """
    try:
        yield from response.iter_content(_CHUNK)
        return
    except requests.RequestException as error:
        words = words_for(error)
    raise Broken(words)


def _extent(response: requests.Response) -> tuple[int, int]:
    """Where the body begins in the file, and the file's length (0: not known), in bytes. Raises Broken if that is not said."""
    if response.status_code == _OK:
        is_packed = response.headers.get("Content-Encoding", "identity").lower() != "identity"
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() and not is_packed else 0
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None:
        raise Broken("the server does not say which part it sends")
    return int(found[1]), 0 if found[2] == "*" else int(found[2])
