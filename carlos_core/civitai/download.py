"""Fetching one LoRA file: resumed, checked, and there under its name only when all of it is right."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import requests

from ..errors import CivitaiError, CivitaiNotFound, LoraError
from ..loras.header import read_header
from ..progress import OnProgress, Progress
from ..storage import sha256_of
from . import archive
from .file_names import names_to_try, safe_name
from .refusals import UNAUTHORISED, refusal
from .transport import Broken, LoginWanted, Transport, words_for
from .versions import VersionFile

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16
_REPORT_S = 0.1
SIZE_TOLERANCE = 1024
"""Sizes in the API are KB with a few decimals."""

_LOCK_TIMEOUT_S = 5
_MEGABYTE = 1_000_000
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE = 200, 206, 416


class _WrongContent(CivitaiError):
    """What has arrived is not what it should be, and is of no use to a later run."""


class Download:
    """One file on its way into a folder.

    It arrives in `<name>.<version>-<file>.part`, which a later run goes on with. Its size and sha256 are compared with the API's,
    its header is read; then it gets its name. Another file of that name is never touched: the version's id is added instead.
    Only safetensors files are accepted, plain or as the only one in a ZIP.
    """

    def __init__(self, transport: Transport, file: VersionFile, folder: Path, on_progress: OnProgress | None = None) -> None:
        """Raises CivitaiError for a file that is of another kind, or that cannot be checked."""
        if not (file.is_safetensors or file.is_zip):
            raise CivitaiError(
                f"{file.name!r} of version {file.version_id} is no safetensors file.",
                "Other formats can run code when they are loaded and are not taken; choose another version.",
            )
        if file.sha256 is None or not file.download_url:
            raise CivitaiError(
                f"CivitAI does not say how to fetch and check {file.name!r} of version {file.version_id}.",
                "A new file is looked through first: try again later.",
            )
        self._transport, self._file, self._folder, self._on_progress = transport, file, folder, on_progress
        self._sha256 = file.sha256
        self._subject = f"the file of version {file.version_id}"
        self._name = safe_name(file.name)
        stem = self._name.removesuffix(".safetensors")
        self._part = folder / f"{stem}.{file.version_id}-{self._sha256[:12]}.part"
        self._tag = self._part.with_suffix(".part-etag")

    def run(self) -> Path:
        """Fetch, check and name the file. Returns its path; a file that is there already, with the same content, is not fetched.

        Raises CivitaiError; what has arrived by then is kept, unless it is wrong or the disk is full.
        """
        if self._file.is_safetensors and (found := self._same_file(self._name, self._sha256)) is not None:
            return found
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._fetch_and_check()
                return self._unpack_and_name() if self._file.is_zip else self._check_and_name(self._part, self._name)
        except _WrongContent:
            self._clear()
            raise
        except OSError as error:
            is_full = error.errno in _FULL
            if is_full:
                self._clear()
            what = "the disk is full" if is_full else error.strerror or type(error).__name__
            raise CivitaiError(
                f"{self._name} could not be saved: {what}.",
                "Free some space, then run again." if is_full else "Check the folder.",
            ) from error

    def _same_file(self, name: str, sha256: str) -> Path | None:
        """The file of this name, or of this name with the version's id, if it has the content."""
        for candidate in names_to_try(name, self._file.version_id):
            path = self._folder / candidate
            if not path.is_file():
                return None
            if sha256_of(path) == sha256:
                return path
        return None

    def _fetch_and_check(self) -> None:
        was_resumed = self._have() > 0
        self._fetch()
        if sha256_of(self._part) != self._sha256 and was_resumed:
            logger.info("carlos: %s does not fit what an earlier run fetched, starting over", self._name)
            self._clear()
            self._fetch()
        if self._file.size is not None and abs(self._have() - self._file.size) > SIZE_TOLERANCE:
            raise self._wrong_size(self._have())
        if sha256_of(self._part) != self._sha256:
            raise _WrongContent(
                f"{self._name} arrived damaged or exchanged: its sha256 is not the one that CivitAI says.", "Run again."
            )

    def _fetch(self) -> None:
        """Fetch what is missing of the part; connections that break off are taken up again while there is progress."""
        failures = 0
        while True:
            have = self._have()
            try:
                if self._fetch_rest(have):
                    return
                problem = "the connection broke off"
            except Broken as broken:
                problem = str(broken)
            failures = 1 if self._have() > have else failures + 1
            if failures >= self._transport.patience.attempts:
                raise CivitaiError(
                    f"{self._name} broke off after {self._have():,} bytes: {problem}.", "Run again: it goes on from there."
                )
            self._transport.wait(f"{self._name} broke off: {problem}.", self._transport.backoff(failures))

    def _fetch_rest(self, have: int) -> bool:
        """One connection's worth. Returns whether the file is complete. Raises Broken if the connection breaks off."""
        headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
        if have and (etag := self._etag()):
            headers["If-Range"] = etag
        with contextlib.closing(self._answer(headers)) as response:
            if response.status_code == _RANGE_NOT_SATISFIABLE:
                if have and response.headers.get("Content-Range") == f"bytes */{have}":
                    return True
                self._clear()
                return False
            start, total = _extent(response)
            if start not in (0, have):
                self._clear()
                raise Broken("another part of the file came than was asked for")
            self._check_size(total)
            self._check_room(total - start)
            self._keep_etag(response)
            done, meter = start, _Meter(self._on_progress, start, total)
            with self._part.open("r+b" if start else "wb") as file:
                file.seek(start)
                for chunk in _chunks(response):
                    file.write(chunk)
                    done += len(chunk)
                    self._check_size(done)
                    meter.show(done)
                file.flush()
                os.fsync(file.fileno())
        meter.show(done, is_last=True)
        return done == total if total else True

    def _answer(self, headers: dict[str, str]) -> requests.Response:
        """An answer that carries (part of) the file, or 416. Raises CivitaiError for everything else."""
        missing: CivitaiError | None = None
        has_key = self._transport.key is not None
        for url in self._transport.addresses.elsewhere(self._url()):
            try:
                response = self._transport.ask("GET", url, headers=headers, stream=True)
            except LoginWanted:
                status = UNAUTHORISED
            else:
                status = response.status_code
                is_page = response.headers.get("Content-Type", "").lower().startswith("text/html")
                if status in (_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE) and not is_page:
                    return response
                response.close()
                if status in (_OK, _PARTIAL):
                    raise CivitaiError(
                        f"CivitAI sends a web page in place of {self._name}.", "Look at the model's page on the site."
                    )
            error = refusal(status, self._subject, has_key=has_key, early_access_until=self._file.early_access_until)
            if not isinstance(error, CivitaiNotFound):
                raise error
            missing = error
        assert missing is not None, "there is at least one address"
        raise missing

    def _url(self) -> str:
        """Where the file is. The addresses of a version's further files are the same for several of them, or lead nowhere
        (github.com/civitai/civitai/issues/758): the file's id tells them apart."""
        url = self._file.download_url
        if self._file.is_primary or self._file.file_id is None or not self._transport.addresses.is_own(url):
            return url
        return urlsplit(url)._replace(query=f"fileId={self._file.file_id}").geturl()

    def _check_size(self, size: int) -> None:
        """Refuse early what is longer than it should be."""
        if size > (archive.MAX_BYTES if self._file.size is None else self._file.size) + SIZE_TOLERANCE:
            raise self._wrong_size(size)

    def _wrong_size(self, size: int) -> CivitaiError:
        expected = "so much" if self._file.size is None else f"{self._file.size:,} bytes as CivitAI says"
        return _WrongContent(f"{self._name} has at least {size:,} bytes, not {expected}.", "Try again later.")

    def _check_room(self, needed: int) -> None:
        if needed > shutil.disk_usage(self._folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _unpack_and_name(self) -> Path:
        unpacked = self._part.with_suffix(".unpacked")
        try:
            entry = archive.lora_in(self._part)
            archive.unpack(self._part, entry, unpacked)
            path = self._check_and_name(unpacked, safe_name(entry.filename))
        except CivitaiError:
            self._clear()
            raise
        finally:
            unpacked.unlink(missing_ok=True)
        self._clear()
        return path

    def _check_and_name(self, complete: Path, name: str) -> Path:
        try:
            read_header(complete)
        except (LoraError, RecursionError) as error:
            raise _WrongContent(
                f"{name} is no safetensors file, whatever its name says; it was deleted.", "Choose another version."
            ) from error
        found = self._same_file(name, sha256_of(complete))
        if found is not None:
            self._clear()
            return found
        paths = (self._folder / candidate for candidate in names_to_try(name, self._file.version_id))
        target = next(path for path in paths if not os.path.lexists(path))
        os.replace(complete, target)
        self._tag.unlink(missing_ok=True)
        return target

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process at a time writes the part."""
        lock = filelock.FileLock(self._part.with_suffix(".part-lock"), timeout=_LOCK_TIMEOUT_S)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise CivitaiError(f"Another process is fetching {self._name}.", "Wait for it, then run again.") from None
        try:
            yield
        finally:
            lock.release()
            # Another process may hold it by now.
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _etag(self) -> str:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._tag.read_text(encoding="ascii")
        return ""

    def _keep_etag(self, response: requests.Response) -> None:
        """A strong ETag, for If-Range (RFC 9110, 13.1.5)."""
        etag = response.headers.get("ETag", "")
        if re.fullmatch(r'"[!#-~]{1,200}"', etag):
            self._tag.write_text(etag, encoding="ascii")
        else:
            self._tag.unlink(missing_ok=True)

    def _clear(self) -> None:
        for path in (self._part, self._tag):
            path.unlink(missing_ok=True)


class _Meter:
    """Tells how far a download is, in bytes with those of earlier runs, at most ten times a second."""

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


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it comes. Raises Broken if it breaks off, outside of the handler, as in `Transport`."""
    try:
        yield from response.iter_content(_CHUNK)
        return
    except requests.RequestException as error:
        words = words_for(error)
    raise Broken(words)


def _extent(response: requests.Response) -> tuple[int, int]:
    """Where the body begins in the file, and how long the file is (0: not known), in bytes. Raises Broken for nonsense."""
    if response.status_code == _OK:
        is_packed = response.headers.get("Content-Encoding", "identity").lower() != "identity"
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() and not is_packed else 0
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None:
        raise Broken("the server does not say which part it sends")
    return int(found[1]), 0 if found[2] == "*" else int(found[2])
