"""Fetching one LoRA file: resumed, checked, and given its name only if all of it is right."""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests

from ..errors import CivitaiError, CivitaiNotFound, LoraError
from ..loras.header import begins_like_a_lora, read_header
from ..partial_file import CONTENT, USABLE, Broken, Busy, PartialFile, TooLong
from ..progress import OnProgress
from ..storage import move_as_new, sha256_of
from . import archive
from .file_names import names_to_try, safe_name
from .refusals import UNAUTHORISED, refusal
from .transport import LoginWanted, Transport
from .versions import VersionFile

logger = logging.getLogger(__name__)

SIZE_TOLERANCE = 1024
"""Bytes by which sizes may differ: the API gives them in KB with a few decimals."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class _WrongContent(CivitaiError):
    """What has arrived is not what it should be, and a later run cannot use it."""


class Download:
    """One file that is fetched into a folder.

    It arrives in `<name>.<version>-<12 hex of its sha256>.part`, where a later run continues. Its size and sha256 are compared
    with the API's, and its header is read; then it gets its name. Another file of that name is never touched: the version's id is
    added instead. Only safetensors files are accepted, plain or as the only one in a ZIP.
    """

    def __init__(self, transport: Transport, file: VersionFile, folder: Path, on_progress: OnProgress | None = None) -> None:
        """Nothing is fetched yet. Raises CivitaiError for a file that is of another kind, or that cannot be checked.

        Args:
            transport: makes the requests.
            file: what to fetch.
            folder: where it goes; made if it is missing.
            on_progress: called while the file arrives, in bytes.
        """
        if not (file.is_safetensors or file.is_zip):
            raise CivitaiError(
                f"{file.name!r} of version {file.version_id} is not a safetensors file.",
                "Other formats can run code when they are loaded and are not taken; choose another version.",
            )
        if file.sha256 is None or not file.download_url:
            raise CivitaiError(
                f"CivitAI does not say how to fetch and check {file.name!r} of version {file.version_id}.",
                "A new file is looked through first: try again later.",
            )
        self._transport, self._file, self._folder = transport, file, folder
        self._sha256 = file.sha256
        self._subject = f"the file of version {file.version_id}"
        self._name = safe_name(file.name)
        stem = self._name.removesuffix(".safetensors")
        longest = (archive.MAX_BYTES if file.size is None else file.size) + SIZE_TOLERANCE
        self._part = PartialFile(folder / f"{stem}.{file.version_id}-{self._sha256[:12]}.part", longest, on_progress)

    def run(self) -> Path:
        """Fetch, check and name the file. Returns its path. A file with the same content that is already there is not fetched.

        Raises CivitaiError; what has arrived by then is kept, unless it is no such file or the disk is full.
        """
        try:
            if self._file.is_safetensors and (found := self._same_file(self._name, self._sha256)) is not None:
                if self._part.is_there:
                    # A run was killed when it had named the file, or somebody else has put it there.
                    with suppress(Busy), self._part.locked():
                        self._clear()
                return found
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._part.locked():
                try:
                    self._fetch_and_check()
                    return self._unpack_and_name() if self._file.is_zip else self._check_and_name(self._part.path, self._name)
                finally:
                    self._drop_what_is_no_beginning()
        except Busy:
            raise CivitaiError(f"Another process is fetching {self._name}.", "Wait for it, then run again.") from None
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
        """The file of this name, or of this name with the version's id, if it has this content."""
        for candidate in names_to_try(name, self._file.version_id):
            path = self._folder / candidate
            if not path.is_file():
                return None
            if sha256_of(path) == sha256:
                return path
        return None

    def _fetch_and_check(self) -> None:
        was_resumed = self._part.size > 0
        self._fetch()
        if sha256_of(self._part.path) != self._sha256 and was_resumed:
            logger.info("carlos: %s does not fit what an earlier run fetched, starting over", self._name)
            self._part.clear()
            self._fetch()
        if self._file.size is not None and abs(self._part.size - self._file.size) > SIZE_TOLERANCE:
            raise self._wrong_size(self._part.size)
        if sha256_of(self._part.path) != self._sha256:
            raise _WrongContent(
                f"{self._name} arrived damaged or exchanged: its sha256 is not the one that CivitAI says.", "Run again."
            )

    def _fetch(self) -> None:
        try:
            self._part.fetch(self._answer, self._transport.patience.attempts, self._wait)
        except TooLong as error:
            raise self._wrong_size(error.size) from None
        except Broken as broken:
            raise CivitaiError(
                f"{self._name} broke off after {self._part.size:,} bytes: {broken}.", "Run again: it goes on from there."
            ) from None

    def _wait(self, broken: Broken, failures: int) -> None:
        self._transport.wait(f"{self._name} broke off: {broken}.", self._transport.backoff(failures))

    def _answer(self, headers: dict[str, str]) -> requests.Response:
        """An answer that carries (part of) the file, or 416. Raises CivitaiError for all other answers."""
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
                if status in USABLE and not is_page:
                    return response
                response.close()
                if status in CONTENT:
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
        """Where the file is. The file's id is added to the address of a version's further files.

        Several of them may have the same address, or one that leads nowhere (github.com/civitai/civitai/issues/758).
        """
        url = self._file.download_url
        if self._file.is_primary or self._file.file_id is None or not self._transport.addresses.is_own(url):
            return url
        return urlsplit(url)._replace(query=f"fileId={self._file.file_id}").geturl()

    def _wrong_size(self, size: int) -> CivitaiError:
        expected = "so much" if self._file.size is None else f"{self._file.size:,} bytes as CivitAI says"
        return _WrongContent(f"{self._name} has at least {size:,} bytes, not {expected}.", "Try again later.")

    def _unpack_and_name(self) -> Path:
        unpacked = self._part.path.with_suffix(".unpacked")
        try:
            entry = archive.lora_in(self._part.path)
            archive.unpack(self._part.path, entry, unpacked)
            path = self._check_and_name(unpacked, safe_name(entry.filename))
        except CivitaiError:
            self._clear()
            raise
        finally:
            with suppress(OSError):
                unpacked.unlink(missing_ok=True)
        self._clear()
        return path

    def _check_and_name(self, complete: Path, name: str) -> Path:
        try:
            read_header(complete)
        except (LoraError, RecursionError) as error:
            if isinstance(error.__cause__, OSError):
                # It is the disk that fails, not what has arrived.
                raise error.__cause__ from None
            raise _WrongContent(
                f"{name} is not a safetensors file, whatever its name says; it was deleted.", "Choose another version."
            ) from error
        found = self._same_file(name, sha256_of(complete))
        if found is None:
            found = self._name_as_new(complete, name)
        self._clear()
        return found

    def _clear(self) -> None:
        """Forget what has arrived. What cannot be removed is left to the next run: it changes no result."""
        with suppress(OSError):
            self._part.clear()

    def _drop_what_is_no_beginning(self) -> None:
        """Forget what cannot be the beginning of such a file: some other answer, which may repeat what the server was sent."""
        begins_right = archive.begins_like_a_zip if self._file.is_zip else begins_like_a_lora
        with suppress(OSError):
            if not begins_right(self._part.path):
                self._part.clear()

    def _name_as_new(self, complete: Path, name: str) -> Path:
        """Give a file the first name that no other file has, not even one that another process has put there just now."""
        for candidate in names_to_try(name, self._file.version_id):
            with suppress(FileExistsError):
                move_as_new(complete, self._folder / candidate)
                return self._folder / candidate
        raise AssertionError("there is no end of names to try")
