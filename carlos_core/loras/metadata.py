"""What others say about a LoRA: CivitAI's JSON, and the sidecars that tools write beside its file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..foreign import ForeignFacts, printable, words_of
from ..records import LoraMetadata

logger = logging.getLogger(__name__)

SIDECAR_SUFFIXES = (".civitai.info", ".metadata.json", ".json")
"""They follow a LoRA's name without its own suffix. The order is the one in which they are tried."""


def read_sidecar(lora: Path, problems: list[str] | None = None) -> LoraMetadata:
    """The first readable of `<name>.civitai.info`, `<name>.metadata.json`, `<name>.json`; empty if there is none.

    problems: gets a sentence added for each sidecar that cannot be read, and for each number in one that cannot be kept. Without
    it they are warnings in the log.
    """
    found: list[str] = []
    metadata = _first_readable(lora, found)
    if problems is not None:
        problems += found
    else:
        for problem in found:
            logger.warning("carlos: %s: %s", printable(lora.name), problem)
    return metadata


def _first_readable(lora: Path, problems: list[str]) -> LoraMetadata:
    for suffix, reader in zip(SIDECAR_SUFFIXES, (metadata_of_version, _metadata_json, _webui_json), strict=True):
        path = lora.with_name(f"{lora.stem}{suffix}")
        if not path.is_file():
            continue
        try:
            # From bytes: then JSON is read in any Unicode encoding, with or without a byte order mark.
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"the sidecar {path.name} cannot be read ({error})")
            continue
        if isinstance(content, Mapping):
            facts = ForeignFacts(content)
            metadata = reader(facts)
            problems += [f"in the sidecar {path.name} {problem}" for problem in facts.problems]
            return metadata
    return LoraMetadata()


def metadata_of_version(facts: ForeignFacts) -> LoraMetadata:
    """What a model version says, as CivitAI's API gives it and as tools keep it in `.civitai.info`.

    The fields are documented at developer.civitai.com/site/reference.
    """
    stills = (picture.text("url") for picture in facts.parts("images") if picture.text("type") in (None, "image"))
    return LoraMetadata(
        version_id=facts.number("id"),
        model_id=facts.number("modelId"),
        model_name=facts.part("model").text("name"),
        base_model=facts.text("baseModel"),
        trigger_words=facts.words("trainedWords"),
        nsfw_level=facts.number("nsfwLevel", bits=32),
        download_count=facts.part("stats").number("downloadCount"),
        # The first of CivitAI's pictures that is not a video.
        preview_url=next(filter(None, stills), None),
    )


def _metadata_json(facts: ForeignFacts) -> LoraMetadata:
    """Lora-Manager's form: its own facts, which include CivitAI's answer."""
    civitai = metadata_of_version(facts.part("civitai"))
    return replace(
        civitai,
        model_name=facts.text("model_name") or civitai.model_name,
        base_model=facts.text("base_model") or civitai.base_model,
    )


def _webui_json(facts: ForeignFacts) -> LoraMetadata:
    """The web UI's form: what its user typed in."""
    return LoraMetadata(
        base_model=facts.text("sd version"),
        trigger_words=words_of((facts.text("activation text") or "").split(",")) or None,
    )
