"""From a model's or version's id to a LoRA file with its sidecar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

from ..errors import CivitaiError, CivitaiNotFound
from ..foreign import whole_text
from ..loras.metadata import read_sidecar
from ..progress import OnProgress
from ..storage import sha256_of, write_atomically
from .client import CivitaiClient
from .download import SIZE_TOLERANCE
from .versions import LORA_TYPES, Model, Version, VersionFile

_WEIGHTS = (None, "Model", "Pruned Model", "Archive")
"""Types of files that hold the LoRA itself, as CivitAI calls them; others are training data, configs and the like."""

_MAX_DIGITS = 18
"""The most digits of an id, so that it fits the database's column."""


class CivitaiLora:
    """A LoRA by its ids at CivitAI. The site is asked only if something must be known that the ids do not tell."""

    def __init__(self, model_id: str | int | None, version_id: str | int | None, client: Callable[[], CivitaiClient]) -> None:
        """A model_id alone means its newest version that has a LoRA file. client: called once, before the first question.

        Raises CivitaiError if neither id is given, or if one is not a number.
        """
        self._model_id, self._version_id = _id_of(model_id, "model id"), _id_of(version_id, "version id")
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

    def fetch(self, folder: Path, *, at_hand: Iterable[Path] = (), on_progress: OnProgress | None = None) -> Path:
        """Get the file, with `<stem>.civitai.info` beside it. Returns its path.

        at_hand: files on this machine; if one of them is the file, nothing is fetched. Otherwise it is fetched into `folder`.
        Raises CivitaiError.
        """
        file = lora_file_of(self.version)
        found = next((path for path in at_hand if _is_file_of(path, file)), None)
        path = found or self._client.download(file, folder, on_progress)
        _write_sidecar(path, self.version, is_new=found is None)
        return path

    @cached_property
    def _newest_id(self) -> int:
        assert self._model_id is not None, "one of the ids is given"
        return _newest(self._client.model(self._model_id)).version_id

    @cached_property
    def _client(self) -> CivitaiClient:
        return self._make_client()


def lora_file_of(version: Version, file_id: int | None = None) -> VersionFile:
    """The file with this id. Without an id: the primary safetensors file, otherwise the first one, otherwise a ZIP.

    Raises CivitaiError if there is none, or if the version is not a LoRA or may not be downloaded.
    """
    noun = f"Version {version.version_id}"
    if version.model_type is not None and version.model_type not in LORA_TYPES:
        raise CivitaiError(f"{noun} is a {version.model_type}, not a LoRA.", "Choose a LoRA.")
    if version.model_mode in ("Archived", "TakenDown"):
        raise CivitaiNotFound(f"{noun} was taken off CivitAI ({version.model_mode}).", "Choose another LoRA.")
    if version.usage_control not in (None, "Download"):
        raise CivitaiError(f"{noun} may be used on the site only, by its creator's choice.", "Choose another LoRA.")
    if file_id is not None:
        found = next((file for file in version.files if file.file_id == file_id), None)
        if found is None:
            ids = ", ".join(str(file.file_id) for file in version.files) or "none"
            raise CivitaiError(f"{noun} has no file {file_id}.", f"Its files are: {ids}.")
        return found
    weights = [file for file in version.files if file.type in _WEIGHTS]
    ordered = sorted(weights, key=lambda file: (not file.is_safetensors, not file.is_primary))
    found = next((file for file in ordered if file.is_safetensors or file.is_zip), None)
    if found is None:
        names = ", ".join(repr(file.name) for file in version.files[:5])
        raise CivitaiError(
            f"{noun} has no safetensors file" + (f", only {names}." if names else "."),
            "Other formats can run code when they are loaded and are not taken; choose another version.",
        )
    return found


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


def _is_file_of(path: Path, file: VersionFile) -> bool:
    """Whether a local file is this one. This is told by content, or by the sidecar for a file that comes in a ZIP."""
    try:
        if file.is_zip:
            return read_sidecar(path).version_id == file.version_id
        # Hashing a library takes minutes; comparing sizes takes no time.
        is_likely = file.size is None or abs(path.stat().st_size - file.size) <= SIZE_TOLERANCE
        return is_likely and sha256_of(path) == file.sha256
    except OSError:
        return False


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
