"""What other tools have written beside a LoRA file: names, trigger words, CivitAI ids."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

SIDECAR_SUFFIXES = (".civitai.info", ".metadata.json", ".json")
"""Behind a LoRA's name without its own suffix, in the order in which they are asked."""


@dataclass(frozen=True)
class Sidecar:
    """Facts about a LoRA; None or empty where the sidecar is silent."""

    version_id: int | None = None
    model_id: int | None = None
    model_name: str | None = None
    base_model: str | None = None
    trigger_words: tuple[str, ...] = ()
    nsfw_level: int | None = None
    download_count: int | None = None
    preview_url: str | None = None


def read_sidecar(lora: Path) -> Sidecar:
    """The first readable of `<name>.civitai.info`, `<name>.metadata.json`, `<name>.json`; empty if there is none."""
    for suffix, reader in zip(SIDECAR_SUFFIXES, (_civitai_info, _metadata_json, _webui_json), strict=True):
        path = lora.with_name(f"{lora.stem}{suffix}")
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("carlos: the sidecar %s cannot be read and is left out: %s", path.name, error)
            continue
        if isinstance(content, Mapping):
            return reader(content)
    return Sidecar()


def _civitai_info(content: Mapping[str, Any]) -> Sidecar:
    """A model version as CivitAI's API gives it."""
    model = _mapping(content.get("model"))
    return Sidecar(
        version_id=_number(content.get("id")),
        model_id=_number(content.get("modelId")),
        model_name=_text(model.get("name")),
        base_model=_text(content.get("baseModel")),
        trigger_words=words_of(content.get("trainedWords")),
        nsfw_level=_number(content.get("nsfwLevel")),
        download_count=_number(_mapping(content.get("stats")).get("downloadCount")),
        preview_url=_first_picture(content.get("images")),
    )


def _metadata_json(content: Mapping[str, Any]) -> Sidecar:
    """Lora-Manager's form: its own facts, with CivitAI's answer inside."""
    civitai = _civitai_info(_mapping(content.get("civitai")))
    return Sidecar(
        version_id=civitai.version_id,
        model_id=civitai.model_id,
        model_name=_text(content.get("model_name")) or civitai.model_name,
        base_model=_text(content.get("base_model")) or civitai.base_model,
        trigger_words=civitai.trigger_words,
        nsfw_level=civitai.nsfw_level,
        download_count=civitai.download_count,
        preview_url=civitai.preview_url,
    )


def _webui_json(content: Mapping[str, Any]) -> Sidecar:
    """The web UI's form: what its user typed in."""
    activation = _text(content.get("activation text")) or ""
    return Sidecar(
        base_model=_text(content.get("sd version")),
        trigger_words=words_of(re.split(r"\s*,\s*", activation.strip(" ,"))) if activation else (),
    )


def words_of(value: Any) -> tuple[str, ...]:
    """Trigger words of a list, without blanks, commas at the ends and repetitions."""
    words = (str(word).strip().strip(",").strip() for word in value) if isinstance(value, list) else ()
    return tuple(dict.fromkeys(word for word in words if word))


def _first_picture(images: Any) -> str | None:
    """Address of the first of CivitAI's pictures that is no film."""
    pictures = map(_mapping, images if isinstance(images, list) else ())
    stills = (_text(picture.get("url")) for picture in pictures if picture.get("type") in (None, "image"))
    return next(filter(None, stills), None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return int(value) if is_number else None
