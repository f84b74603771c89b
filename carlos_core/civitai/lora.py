"""From a model's or version's id to a LoRA file with its sidecar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ..errors import CivitaiError, CivitaiNotFound
from ..foreign import whole_text
from ..loras.metadata import read_sidecar
from ..progress import OnProgress
from ..storage import sha256_of, write_atomically
from .answers import is_sha256
from .client import CivitaiClient
from .download import SIZE_TOLERANCE
from .versions import LORA_TYPES, Model, Version, VersionFile

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

_WEIGHTS = (None, "Model", "Pruned Model", "Archive")
"""Types of files that hold the LoRA itself, as CivitAI calls them; others are training data, configs and the like."""

_MAX_DIGITS = 18
"""The most digits of an id, so that it fits the database's column."""


class CivitaiLora:
    """A LoRA by its ids at CivitAI. The site is asked only if something must be known that the ids do not tell."""

    def __init__(
        self, model_id: str | int | None, version_id: str | int | None, client: Callable[[], CivitaiClient], *, file: str = ""
    ) -> None:
        """Nothing is asked yet. Raises CivitaiError if neither id is given, or if one is not a number.

        Args:
            model_id: alone it means its newest version that has a LoRA file.
            version_id: may be given alone.
            client: called once, before the first question.
            file: which of the version's files, see `lora_file_of`.
        """
        self._model_id, self._version_id = _id_of(model_id, "model id"), _id_of(version_id, "version id")
        self._which = file.strip()
        self._make_client = client
        if self._model_id is None and self._version_id is None:
            raise CivitaiError("It is not said which LoRA to take from CivitAI.", "Give a model id, a version id, or both.")

    @property
    def version_id(self) -> int:
        return self._newest_id if self._version_id is None else self._version_id

    @cached_property
    def version(self) -> Version:
        """The version itself. Raises CivitaiError if it belongs to another model, or cannot be fetched."""
        version = self._client.version(self.version_id)
        model_id = version.metadata.model_id
        if None not in (self._model_id, model_id) and self._model_id != model_id:
            raise CivitaiError(
                f"Version {version.version_id} belongs to model {model_id}, not to {self._model_id}.",
                "Correct or empty one of the ids.",
            )
        return version

    @cached_property
    def file(self) -> VersionFile:
        """The file that is meant. Raises CivitaiError if there is no such file."""
        return lora_file_of(self.version, self._which)

    def id_in(self, database: MetricsDatabase) -> str | None:
        """The id under which a database may have it, which can be told without its file; None if only the file can tell.

        CivitAI is asked only if a certain file of the version is meant.
        """
        if not self._which:
            return database.id_of_version(self.version_id)
        known = self.file.sha256 if self.file.is_safetensors else None
        if known is None:
            return None
        lora_id = database.id_of(str(self.version_id), known)
        row = database.row(lora_id)
        # A row that does not know its content was measured from the main file, most likely.
        return lora_id if row is not None and row.sha256 is not None else None

    def fetch(self, folder: Path, *, at_hand: Iterable[Path] = (), on_progress: OnProgress | None = None) -> Path:
        """Get the file, with `<stem>.civitai.info` beside it. Returns its path.

        at_hand: files on this machine; if one of them is the file, nothing is fetched. Otherwise it is fetched into `folder`.
        Raises CivitaiError.
        """
        found = next((path for path in at_hand if self._is_at(path)), None)
        path = found or self._client.download(self.file, folder, on_progress)
        _write_sidecar(path, self.version, is_new=found is None)
        return path

    def _is_at(self, path: Path) -> bool:
        """Whether a local file is the one that is meant: by its content, or for one that comes in a ZIP by its sidecar."""
        file = self.file
        try:
            if file.is_zip:
                if is_sha256(self._which):
                    return sha256_of(path) == self._which.lower()
                # Of several files that come in a ZIP, a sidecar does not tell which one it was.
                is_only = len(lora_files_of(self.version)) == 1
                return is_only and read_sidecar(path).version_id == file.version_id
            # Hashing a library takes minutes; comparing sizes takes no time.
            is_likely = file.size is None or abs(path.stat().st_size - file.size) <= SIZE_TOLERANCE
            return is_likely and sha256_of(path) == file.sha256
        except OSError:
            return False

    @cached_property
    def _newest_id(self) -> int:
        assert self._model_id is not None, "one of the ids is given"
        return _newest(self._client.model(self._model_id)).version_id

    @cached_property
    def _client(self) -> CivitaiClient:
        return self._make_client()


def lora_files_of(version: Version) -> list[VersionFile]:
    """The files of a version that hold LoRAs, the main one first: the primary safetensors file, then others, then ZIPs.

    Raises CivitaiError if there is none, or if the version is not a LoRA or may not be downloaded.
    """
    noun = f"Version {version.version_id}"
    if version.model_type is not None and version.model_type not in LORA_TYPES:
        raise CivitaiError(f"{noun} is a {version.model_type}, not a LoRA.", "Choose a LoRA.")
    if version.model_mode in ("Archived", "TakenDown"):
        raise CivitaiNotFound(f"{noun} was taken off CivitAI ({version.model_mode}).", "Choose another LoRA.")
    if version.usage_control not in (None, "Download"):
        raise CivitaiError(f"{noun} may be used on the site only, by its creator's choice.", "Choose another LoRA.")
    weights = [file for file in version.files if file.type in _WEIGHTS and (file.is_safetensors or file.is_zip)]
    if not weights:
        names = ", ".join(repr(file.name) for file in version.files[:5])
        raise CivitaiError(
            f"{noun} has no safetensors file" + (f", only {names}." if names else "."),
            "Other formats can run code when they are loaded and are not taken; choose another version.",
        )
    return sorted(weights, key=lambda file: (not file.is_safetensors, not file.is_primary))


def lora_file_of(version: Version, which: str = "") -> VersionFile:
    """A file of a version that holds a LoRA.

    which: its id, its name or a part of it, or its sha256; a LoRA of this sha256 may also come in a ZIP, whose hash is another.
    Empty: the main one.

    Raises as `lora_files_of` does, and if no file is meant, or several are.
    """
    files = lora_files_of(version)
    return _one_of(files, which, f"Version {version.version_id}") if which else files[0]


def _one_of(files: Sequence[VersionFile], which: str, noun: str) -> VersionFile:
    """The file that is meant by `lora_file_of`'s `which`. Raises CivitaiError if none is, or several are."""
    if is_sha256(which):
        found = [file for file in files if file.sha256 == which.lower()] or [file for file in files if file.is_zip]
        if not found:
            raise CivitaiNotFound(f"{noun} has other files now than the one that was measured.", "Measure the new file.")
        return found[0]
    wanted = which.lower()
    names = {file: (str(file.file_id), file.name.lower(), PurePath(file.name.lower()).stem) for file in files}
    found = [file for file in files if wanted in names[file]] or [file for file in files if wanted in file.name.lower()]
    if len(found) != 1:
        listed = ", ".join(f"{file.name!r} ({file.file_id})" for file in files)
        many = "several files" if found else "no file"
        raise CivitaiError(f"{noun} has {many} {which!r}.", f"Give the name or the id of one of these: {listed}.")
    return found[0]


def _id_of(text: str | int | None, noun: str) -> int | None:
    """An id as a user typed it; None if it is blank. Raises CivitaiError if it is not a whole number."""
    digits = str(text if text is not None else "").strip()
    if not digits:
        return None
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
        raise CivitaiError(f"{digits!r} is not a {noun}.", "It is the number in the model page's address, such as 12345.")
    return int(digits)


def _newest(model: Model) -> Version:
    usable = []
    refusal = CivitaiError(f"Model {model.model_id} has no published version.", "Check the id on the site.")
    for version in model.versions:
        try:
            lora_file_of(version)
            usable.append(version)
        except CivitaiError as error:
            refusal = error
    if not usable:
        raise refusal
    # ISO 8601 in UTC sorts as text. Of equal ones, this takes the first in CivitAI's order.
    return max(usable, key=lambda version: version.published_at or "")


def _write_sidecar(lora: Path, version: Version, *, is_new: bool) -> None:
    """Write CivitAI's answer beside the file, as other tools do. An existing one is the user's, unless the LoRA file is new."""
    target = lora.with_name(f"{lora.stem}.civitai.info")
    if target.exists() and (not is_new or read_sidecar(lora).version_id == version.version_id):
        return
    text = whole_text(json.dumps(version.raw, ensure_ascii=False, indent=2))
    try:
        write_atomically(target, lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise CivitaiError(f"{target.name} could not be saved: {error.strerror}.", "Free some space, then run again.") from error
