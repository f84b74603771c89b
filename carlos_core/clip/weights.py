"""Where encoder weights are: local models by name, and open_clip models fetched once as safetensors."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from safetensors import SafetensorError, safe_open

from ..errors import EncoderError
from ..progress import OnProgress, Progress
from ..storage import sha256_of, target_of

logger = logging.getLogger(__name__)

HUB = "https://huggingface.co"
"""Where weights are fetched from, unless HF_ENDPOINT names a mirror, as it does for Hugging Face's own tools."""
_FILE_ON_HUB = "open_clip_model.safetensors"
_CHUNK = 1 << 20
_TIMEOUT_S = (10, 60)


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

    @property
    def dimension(self) -> int:
        """Length of a feature, from the config. Raises EncoderError if the config does not say."""
        try:
            return int(json.loads(self.config.read_text(encoding="utf-8"))["embed_dim"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EncoderError(
                f"{self.config.name} is no open_clip model config ({error!r}).",
                'It needs "embed_dim", "vision_cfg" and "text_cfg".',
            ) from error


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
    """The local encoder with this id. Raises EncoderError when it is not there or its weights are other ones."""
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


def ensure_weights(
    model_name: str, tag: str, pretrained_config: dict[str, Any], folders: Sequence[Path], on_progress: OnProgress | None = None
) -> Path:
    """Path of an open_clip model's weights, fetched into the first folder if no folder has them.

    Raises EncoderError, which names the file to put where, when there is no network or no safetensors file to fetch.
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
    """Fetch a safetensors file to `target`, which appears only when it is complete; a broken fetch goes on where it stopped.

    Raises EncoderError with the place to put the file by hand when it cannot be had.
    """
    by_hand = f"Download {url} and save it as {target}."
    try:
        # Weights are large: people keep them on another disk, behind a link.
        target = target_of(target)
        partial = target.with_name(f"{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
        with requests.get(url, stream=True, timeout=_TIMEOUT_S, headers={"Range": f"bytes={have}-"} if have else {}) as response:
            if response.status_code == 416:
                partial.unlink()
                raise EncoderError(f"The beginning of {target.name} on disk does not fit the file on the server.", "Run again.")
            response.raise_for_status()
            resumed = response.status_code == 206
            have = have if resumed else 0
            total = have + int(response.headers.get("Content-Length") or 0)
            logger.info("carlos: fetching %s (%d MB) to %s, once", target.name, total // 1_000_000, target.parent)
            with partial.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    if on_progress:
                        on_progress(Progress(have, total))
            expected = _announced_sha256(response)
    except requests.RequestException as error:
        reason = f"HTTP {error.response.status_code}" if error.response is not None else "no connection"
        raise EncoderError(
            f"The CLIP weights {target.name} are not here and could not be fetched ({reason}).", by_hand
        ) from error
    except OSError as error:
        raise EncoderError(f"{target.name} could not be saved ({error.strerror or error}).", "Free some disk space.") from error
    if total and have < total:
        raise EncoderError(f"{target.name} broke off after {have} of {total} bytes.", "Run again: it goes on from there.")
    if expected and expected != sha256_of(partial):
        partial.unlink()
        raise EncoderError(f"{target.name} arrived damaged: its sha256 is not the announced one.", "Run again.")
    try:
        check_safetensors(partial, target.name)
    except EncoderError:
        partial.unlink()
        raise
    partial.replace(target)


def check_safetensors(path: Path, name: str) -> None:
    """Raises EncoderError unless `path` holds a readable safetensors file; `name` is used in the message."""
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{name} is no safetensors file ({error}).", "Delete it and get it again.") from error


def _announced_sha256(response: Any) -> str | None:
    """The sha256 that the hub states for a large file, on the answer that redirects to the storage."""
    for answer in (*response.history, response):
        tag: str = answer.headers.get("X-Linked-ETag", "").strip('"')
        if len(tag) == 64:
            return tag
    return None
