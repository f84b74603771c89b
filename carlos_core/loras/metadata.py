"""What others say about a LoRA: CivitAI's JSON, and the sidecars that tools write beside its file."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..foreign import ForeignFacts, printable
from ..records import LoraMetadata
from ..storage import bytes_within
from . import trigger_words
from .family import family_of_header

logger = logging.getLogger(__name__)

_LINK = re.compile(r"civitai\.[a-z]+/models/(\d{1,15})(?:[^\s]*?[?&]modelVersionId=(\d{1,15}))?")

_LARGEST = 16 << 20
"""Bytes. CivitAI's answers of a few hundred pictures have half a megabyte."""

_MOST_PROBLEMS = 3
"""Sentences about one sidecar."""

SAYS_NOTHING = ("", "other", "unknown")
"""What CivitAI and tools call a base model that they do not know."""


def sidecar_names(file_name: str) -> tuple[str, ...]:
    """The names that the sidecars of a LoRA file have, in the order in which they are asked."""
    stem, suffix = os.path.splitext(file_name)
    return tuple(stem + end.replace("*", suffix) for end in _FORMS)


def may_be_sidecar(file_name: str) -> bool:
    """Whether a file's name is one that a sidecar of some LoRA could have."""
    return file_name.lower().endswith((".civitai.info", ".json"))


def read_sidecar(lora: Path, problems: list[str] | None = None) -> LoraMetadata:
    """What the sidecars of a LoRA say; empty if there are none. Each fact is that of the first one that has it.

    problems: gets a sentence added for each sidecar that cannot be read, and for what in one is of another kind than it should be
    or cannot be kept. Without it they are warnings in the log.
    """
    found: list[str] = []
    metadata = _merged(_all_of(lora, found))
    if problems is not None:
        problems += found
    else:
        for problem in found:
            logger.warning("carlos: %s: %s", printable(lora.name), problem)
    return metadata


def _all_of(lora: Path, problems: list[str]) -> Iterator[LoraMetadata]:
    for name, reader in zip(sidecar_names(lora.name), _FORMS.values(), strict=True):
        path = lora.with_name(name)
        try:
            # With os.path, a name that is too long for the file system is one that is not there.
            if not os.path.isfile(path):  # noqa: PTH113
                continue
            text = bytes_within(path, _LARGEST)
            if text is None:
                problems.append(f"the sidecar {printable(name)} is not read: it has {path.stat().st_size >> 20} MB")
                continue
            # From bytes: then JSON is read in any Unicode encoding, with or without a byte order mark.
            content = json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"the sidecar {printable(name)} cannot be read ({error})")
            continue
        if not isinstance(content, Mapping):
            problems.append(f"the sidecar {printable(name)} holds no facts, but {type(content).__name__}")
            continue
        facts = ForeignFacts(content, is_lenient=True)
        yield reader(facts)
        odd = list(dict.fromkeys([*facts.problems, *facts.misfits]))
        shown = [*odd[:_MOST_PROBLEMS], *(["there is more that is odd"] if odd[_MOST_PROBLEMS:] else [])]
        problems += [f"in the sidecar {printable(name)} {problem}" for problem in shown]


def _merged(said: Iterable[LoraMetadata]) -> LoraMetadata:
    """Each fact from the first that has it. That it is known to have no trigger words counts only if none says any."""
    merged = LoraMetadata()
    for more in said:
        ours, theirs = vars(merged), vars(more)
        kept = {name for name in ours if theirs[name] is None or _says(name, ours[name])}
        merged = LoraMetadata(**{name: ours[name] if name in kept else theirs[name] for name in ours})
    return merged


def _says(name: str, value: Any) -> bool:
    if name == "trigger_words":
        return bool(value)
    if name == "base_model":
        return value is not None and value.strip().lower() not in SAYS_NOTHING
    return value is not None


def metadata_of_version(facts: ForeignFacts) -> LoraMetadata:
    """What a model version says, as CivitAI's API gives it and as tools keep it in `.civitai.info`.

    The fields are documented at developer.civitai.com/site/reference.
    """
    stills = (picture.text("url") for picture in facts.parts("images") if picture.text("type") in (None, "image"))
    return LoraMetadata(
        version_id=_id(facts, "id"),
        model_id=_id(facts, "modelId"),
        model_name=facts.part("model").text("name"),
        base_model=facts.text("baseModel"),
        trigger_words=_words(facts.texts("trainedWords")),
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
        trigger_words=trigger_words.split(facts.text("activation text")) or None,
    )


def _stability_matrix(facts: ForeignFacts) -> LoraMetadata:
    """Stability Matrix's form (`.cm-info.json`): CivitAI's facts under names of its own."""
    return LoraMetadata(
        version_id=_id(facts, "VersionId"),
        model_id=_id(facts, "ModelId"),
        model_name=facts.text("UserTitle") or facts.text("ModelName"),
        base_model=facts.text("BaseModel"),
        trigger_words=_words(facts.texts("TrainedWords")),
        download_count=facts.part("Stats").number("DownloadCount"),
        preview_url=_address(facts.text("ThumbnailImageUrl")),
    )


def _rgthree(facts: ForeignFacts) -> LoraMetadata:
    """rgthree-comfy's form: words that CivitAI or the user gave, and those of the training tags, which are not taken."""
    civitai = metadata_of_version(facts.part("raw").part("civitai"))
    typed = [word for word in facts.parts("trainedWords") if word.flag("civitai") or word.flag("user")]
    words = [text for text in (word.text("word") for word in typed) if text]
    link = next(filter(None, (_LINK.search(text) for text in facts.texts("links") or ())), None)
    model_id, version_id = (None, None) if link is None else (int(part) if part else None for part in link.groups())
    return replace(
        civitai,
        version_id=civitai.version_id or version_id,
        model_id=civitai.model_id or model_id,
        model_name=facts.text("name") or civitai.model_name,
        base_model=facts.text("baseModel") or civitai.base_model,
        trigger_words=civitai.trigger_words or _words(tuple(words)) or civitai.trigger_words,
    )


def _swarm(facts: ForeignFacts) -> LoraMetadata:
    """SwarmUI's form: the standard names of headers (modelspec), as its user changed them."""
    header = {key: facts.text(f"modelspec.{key}") or "" for key in ("architecture", "title", "trigger_phrase")}
    return LoraMetadata(
        model_name=header["title"] or None,
        base_model=family_of_header({"modelspec.architecture": header["architecture"]}, {}),
        trigger_words=trigger_words.split(header["trigger_phrase"]) or None,
    )


def _id(facts: ForeignFacts, key: str) -> int | None:
    """An id of CivitAI; tools write 0 or -1 where they know none."""
    number = facts.number(key)
    return number if number is not None and number > 0 else None


def _words(entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if entries is None else trigger_words.cleaned(entries)


def _address(text: str | None) -> str | None:
    """An address of the web; tools also keep paths on their own disk."""
    return text if text is not None and text.lower().startswith(("https://", "http://")) else None


_FORMS: dict[str, Callable[[ForeignFacts], LoraMetadata]] = {
    ".civitai.info": metadata_of_version,
    ".metadata.json": _metadata_json,
    ".json": _webui_json,
    ".cm-info.json": _stability_matrix,
    "*.rgthree-info.json": _rgthree,
    ".swarm.json": _swarm,
}
"""What follows a LoRA's name without its own suffix (*: that suffix), and how it is read."""
