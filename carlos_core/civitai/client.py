"""A client of CivitAI's public API (developer.civitai.com/site/reference): look-ups, and downloads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import requests

from ..errors import CivitaiError, CivitaiNotFound, CivitaiOddAnswer
from ..progress import OnProgress
from .addresses import DEFAULT_BASES, bases_from_environment
from .answers import hashes_in, is_sha256, model_of, version_of
from .download import Download
from .keys import ApiKey, find_key
from .refusals import refusal
from .transport import LoginWanted, OnWait, Patience, Transport
from .versions import Model, Version, VersionFile

logger = logging.getLogger(__name__)

MAX_HASHES = 100
"""The most hashes in one request, by the API's documentation."""


class CivitaiClient:
    """Typed answers of CivitAI. Every method raises CivitaiError, and its subclass CivitaiNotFound if no base URL has it."""

    def __init__(
        self,
        bases: Sequence[str] = DEFAULT_BASES,
        key: ApiKey | None = None,
        *,
        timeouts: tuple[float, float] = (10.0, 30.0),
        patience: Patience | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        """Nothing is asked yet. Raises CivitaiError for unusable base URLs.

        Args:
            bases: base URLs; each is asked for what the one before does not have.
            key: the user's key; it is sent only to the base URLs.
            timeouts: seconds to connect, and seconds between two pieces of an answer.
            patience: how often to ask and how long to wait; default `Patience()`.
            on_wait: called while waiting; it may raise, to cancel.
        """
        self._transport = Transport(bases, key, timeouts=timeouts, patience=patience, on_wait=on_wait)

    @classmethod
    def from_environment(cls, key_file: Path | None = None, *, on_wait: OnWait | None = None) -> CivitaiClient:
        """A client with the base URLs of CARLOS_CIVITAI_URL and the key of CIVITAI_API_KEY, otherwise of `key_file`."""
        return cls(bases_from_environment(), find_key(key_file), on_wait=on_wait)

    def model(self, model_id: int) -> Model:
        """A model with all its published versions."""
        return model_of(self._get(f"models/{int(model_id)}", f"model {model_id}"))

    def version(self, version_id: int) -> Version:
        return version_of(self._get(f"model-versions/{int(version_id)}", f"version {version_id}"))

    def version_by_hash(self, sha256: str) -> Version | None:
        """The version that has a file with this sha256; None if no base URL knows one."""
        try:
            return version_of(self._get(f"model-versions/by-hash/{_checked_hash(sha256)}", "this hash"))
        except CivitaiNotFound:
            return None

    def versions_by_hashes(self, hashes: Iterable[str]) -> dict[str, Version]:
        """sha256 (lower case) -> version that has such a file, for those that are known; 100 in each request.

        Raises CivitaiOddAnswer if one of them cannot be read; `answers_by_hashes` gives the others anyway.
        """
        found = self.answers_by_hashes(hashes)
        for answer in found.values():
            if isinstance(answer, CivitaiOddAnswer):
                raise answer
        return {sha256: answer for sha256, answer in found.items() if isinstance(answer, Version)}

    def answers_by_hashes(self, hashes: Iterable[str]) -> dict[str, Version | CivitaiOddAnswer]:
        """Like `versions_by_hashes`, but an answer that cannot be read is replaced by the error that says why."""
        missing = list(dict.fromkeys(_checked_hash(sha256).lower() for sha256 in hashes))
        found: dict[str, Version | CivitaiOddAnswer] = {}
        for base in self._transport.addresses.bases:
            for start in range(0, len(missing), MAX_HASHES):
                found.update(self._by_hashes(base, missing[start : start + MAX_HASHES]))
            missing = [sha256 for sha256 in missing if not isinstance(found.get(sha256), Version)]
        return found

    def download(self, file: VersionFile, target_folder: Path, on_progress: OnProgress | None = None) -> Path:
        """The LoRA of a file of a version, in `target_folder`: fetched, checked, unpacked if it is a ZIP. Returns its path.

        See `download.Download`.
        """
        return Download(self._transport, file, target_folder, on_progress).run()

    def _by_hashes(self, base: str, hashes: list[str]) -> dict[str, Version | CivitaiOddAnswer]:
        content = self._ask(
            "POST", f"{base}/api/v1/model-versions/by-hash", "these hashes", [sha256.upper() for sha256 in hashes]
        )
        if not isinstance(content, list):
            raise CivitaiOddAnswer(
                "CivitAI's answer to a list of hashes is not a list.", "Try again later; if it stays, update CARLoS."
            )
        wanted = set(hashes)
        found: dict[str, Version | CivitaiOddAnswer] = {}
        odd: dict[str, CivitaiOddAnswer] = {}
        # A version without any public file comes as null.
        for entry in filter(None, content):
            try:
                version = version_of(entry)
            except CivitaiOddAnswer as error:
                logger.warning("carlos: one of CivitAI's answers to a list of hashes cannot be read: %s", error)
                odd.update(dict.fromkeys(hashes_in(entry) & wanted or wanted, error))
            else:
                found.update({file.sha256: version for file in version.files if file.sha256 in wanted})
        return {**odd, **found}

    def _get(self, page: str, subject: str) -> Any:
        for base in self._transport.addresses.bases:
            try:
                return self._ask("GET", f"{base}/api/v1/{page}", subject)
            except CivitaiNotFound as error:
                missing = error
        raise missing

    def _ask(self, method: str, url: str, subject: str, body: Any = None) -> Any:
        try:
            response = self._transport.ask(method, url, headers={"Accept": "application/json"}, json=body)
        except LoginWanted:
            raise refusal(requests.codes.unauthorized, subject, has_key=self._transport.key is not None) from None
        if response.status_code != requests.codes.ok:
            raise refusal(response.status_code, subject, has_key=self._transport.key is not None)
        try:
            return json.loads(self._transport.text_of(response))
        except (ValueError, RecursionError):
            raise CivitaiOddAnswer(
                f"CivitAI's answer about {subject} is not JSON.",
                "Try again later, and check that no login page of a network is in between.",
            ) from None


def _checked_hash(sha256: str) -> str:
    if not is_sha256(sha256):
        raise CivitaiError(f"{sha256!r} is not a sha256.", "Give 64 hexadecimal digits.")
    return sha256
