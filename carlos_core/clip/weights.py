"""Where encoder weights are: local models by name, and open_clip models, which are fetched once as safetensors."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from safetensors import SafetensorError, safe_open

from ..errors import EncoderError
from ..partial_file import USABLE, Broken, Busy, PartialFile, TooLong, words_for
from ..progress import OnProgress
from ..public_hosts import leads_inside
from ..storage import bytes_within, sha256_of, target_of

logger = logging.getLogger(__name__)

HUB = "https://huggingface.co"
"""Where weights are fetched from, unless HF_ENDPOINT names a mirror, as it does for Hugging Face's own tools."""
_FILE_ON_HUB = "open_clip_model.safetensors"
_TIMEOUT_S = (10, 60)
_ATTEMPTS, _LONGEST_WAIT_S = 3, 10.0
_LARGEST_DIMENSION, _LARGEST_CONFIG = 65_536, 1 << 20
_LONGEST = 50_000_000_000
"""The most bytes of a file; the largest CLIP models have 20 GB."""


@dataclass(frozen=True)
class LocalEncoder:
    """A user's own open_clip model: `<name>.json` and `<name>.safetensors` in one folder."""

    name: str
    config: Path
    weights: Path

    @property
    def encoder_id(self) -> str:
        """`<name>@<first 12 hex digits of the weights' sha256>`."""
        return f"{self.name}@{sha256_of(self.weights)[:12]}"

    def read_config(self) -> Any:
        """What the config says, whatever that is. Raises OSError or ValueError if it cannot be read, or has more than 1 MB."""
        content = bytes_within(self.config, _LARGEST_CONFIG)
        if content is None:
            raise ValueError(f"it has more than {_LARGEST_CONFIG >> 20} MB")
        return json.loads(content.decode("utf-8"))

    @property
    def dimension(self) -> int:
        """Length of a feature, from the config. Raises EncoderError if the config does not say."""
        try:
            dimension = int(self.read_config()["embed_dim"])
            if not 0 < dimension <= _LARGEST_DIMENSION:
                raise ValueError(f"embed_dim is {dimension}")
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise EncoderError(
                f"{self.config.name} is not an open_clip model config ({error!r}).",
                'It needs "embed_dim", "vision_cfg" and "text_cfg".',
            ) from error
        return dimension


def local_encoders(folders: Sequence[Path]) -> dict[str, LocalEncoder]:
    """Name -> local encoder, for every config that has its weights beside it; the first folder wins."""
    found: dict[str, LocalEncoder] = {}
    for folder in folders:
        for config in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            weights = config.with_suffix(".safetensors")
            if weights.is_file():
                found.setdefault(config.stem, LocalEncoder(config.stem, config, weights))
    return found


def find_local_encoder(encoder_id: str, folders: Sequence[Path]) -> LocalEncoder:
    """The local encoder with this id. Raises EncoderError if it is not there, or if its weights are different ones."""
    name = encoder_id.rpartition("@")[0]
    local = local_encoders(folders).get(name)
    where = " or ".join(str(folder) for folder in folders)
    if local is None:
        raise EncoderError(
            f"These rows need the encoder {encoder_id}, which is not installed.",
            f"Put {name}.json and {name}.safetensors into {where}.",
        )
    if local.encoder_id != encoder_id:
        raise EncoderError(
            f"These rows need the encoder {encoder_id}, but the weights in {local.weights.name} are {local.encoder_id}.",
            "Put the weights back that the rows were measured with, or index into a new database.",
        )
    return local


def weights_path(model_name: str, tag: str, folder: Path) -> Path:
    """Where the weights of an open_clip model are kept, e.g. `ViT-B-32-quickgelu.openai.safetensors`."""
    return folder / f"{model_name}.{tag}.safetensors".replace("/", "-")


def is_at_hand(encoder_id: str, folders: Sequence[Path]) -> bool:
    """Whether an encoder needs no fetching: its weights are here, or it is a local one, which is never fetched."""
    if "@" in encoder_id:
        return True
    model_name, _, tag = encoder_id.partition("/")
    return any(weights_path(model_name, tag, folder).is_file() for folder in folders)


def ensure_weights(
    model_name: str, tag: str, pretrained_config: dict[str, Any], folders: Sequence[Path], on_progress: OnProgress | None = None
) -> Path:
    """Path of an open_clip model's weights, fetched into the first folder if no folder has them.

    Raises EncoderError, which says which file to put where, if there is no network or no safetensors file to fetch.

    Args:
        model_name: as open_clip calls the model.
        tag: as open_clip calls the weights.
        pretrained_config: open_clip's facts about the weights; "hf_hub" names their repository.
        folders: where to look; at least one.
        on_progress: called while weights are fetched, in bytes.
    """
    for folder in folders:
        if weights_path(model_name, tag, folder).is_file():
            return weights_path(model_name, tag, folder)
    target = weights_path(model_name, tag, folders[0])
    repository = str(pretrained_config.get("hf_hub") or "").strip("/")
    if not repository:
        raise EncoderError(
            f"open_clip names no safetensors file for {model_name}/{tag}.",
            f"Get the weights as safetensors and put them at {target}.",
        )
    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    url = f"{hub}/{repository}/resolve/main/{_FILE_ON_HUB}"
    fetch_file(url, target, on_progress)
    return target


def fetch_file(url: str, target: Path, on_progress: OnProgress | None = None) -> None:
    """Fetch a safetensors file to `target`, which appears only when it is complete. A broken fetch continues where it stopped.

    Raises EncoderError if it cannot be fetched, with the place to put the file by hand.
    """
    try:
        # Weights are large: people keep them on another disk, behind a link.
        target = target_of(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = PartialFile(target.with_name(f"{target.name}.part"), _LONGEST, on_progress)
        with part.locked():
            logger.info("carlos: fetching %s to %s, once", target.name, target.parent)
            announced = _fetch(part, url, target)
            if announced and announced != sha256_of(part.path):
                part.clear()
                raise EncoderError(f"{target.name} arrived damaged: its sha256 is not the announced one.", "Run again.")
            try:
                check_safetensors(part.path, target.name)
            except EncoderError:
                part.clear()
                raise
            part.move_to(target)
    except Busy:
        raise EncoderError(f"Another process is fetching {target.name}.", "Wait for it, then run again.") from None
    except OSError as error:
        raise EncoderError(f"{target.name} could not be saved ({error.strerror or error}).", "Free some disk space.") from error


def _fetch(part: PartialFile, url: str, target: Path) -> str | None:
    """Fetch what is missing. Returns the sha256 that the hub states, if it does. Raises EncoderError."""
    announced: list[str | None] = []
    session = _Session(url)

    def ask(headers: dict[str, str]) -> requests.Response:
        try:
            response = session.get(url, stream=True, timeout=_TIMEOUT_S, headers=headers)
        except _SentInside as error:
            raise _not_fetched(url, target, str(error)) from None
        except requests.RequestException as error:
            raise Broken(words_for(error)) from error
        announced.append(_announced_sha256(response))
        if response.status_code not in USABLE:
            response.close()
            raise _not_fetched(url, target, f"HTTP {response.status_code}")
        return response

    def wait(broken: Broken, failures: int) -> None:
        logger.info("carlos: %s broke off: %s", target.name, broken)
        time.sleep(min(2.0 ** (failures - 1), _LONGEST_WAIT_S))

    try:
        part.fetch(ask, _ATTEMPTS, wait)
    except TooLong as error:
        raise _not_fetched(url, target, f"{error.size:,} bytes") from None
    except Broken as broken:
        if not part.size:
            raise _not_fetched(url, target, str(broken)) from broken
        raise EncoderError(
            f"{target.name} broke off after {part.size:,} bytes: {broken}.", "Run again: it goes on from there."
        ) from broken
    return announced[-1]


class _SentInside(requests.RequestException):
    """A redirect leads off https, to a host that is not public, or nowhere."""


class _Session(requests.Session):
    """A session that follows redirects over https, to public hosts, and those that stay on the host that the user named.

    A mirror within a private network may send us on within it.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._named = urlsplit(url)

    @cached_property
    def _is_of_inside(self) -> bool:
        return leads_inside(self._named.hostname or "")

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        location = super().get_redirect_target(resp)
        if location is None:
            return None
        try:
            parts = urlsplit(urljoin(resp.url, location))
            host = parts.hostname or ""
        except ValueError:
            raise _SentInside("sent on to something that is not a web address") from None
        is_allowed = parts.scheme == "https" and (host == self._named.hostname or self._is_of_inside or not leads_inside(host))
        if not is_allowed and parts[:2] != self._named[:2]:
            raise _SentInside(f"sent on to {host}, which is not a public https address")
        return location


def _not_fetched(url: str, target: Path, reason: str) -> EncoderError:
    return EncoderError(
        f"The CLIP weights {target.name} are not here and could not be fetched ({reason}).",
        f"Download {url} and save it as {target}.",
    )


def check_safetensors(path: Path, name: str) -> None:
    """Raises EncoderError unless `path` holds a readable safetensors file; `name` is used in the message."""
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{name} is not a safetensors file ({error}).", "Delete it and get it again.") from error


def _announced_sha256(response: Any) -> str | None:
    """The sha256 that the hub states for a large file, on the answer that redirects to the storage."""
    for answer in (*response.history, response):
        tag: str = answer.headers.get("X-Linked-ETag", "").strip('"')
        if len(tag) == 64:
            return tag
    return None
