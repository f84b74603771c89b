"""A LoRA file and what it says about itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..hashing import sha256_of
from .family import family_of_header, family_of_name
from .header import read_header
from .sidecar import Sidecar, read_sidecar

_COMMON_TAG = 0.9
"""A tag is a trigger word if it stands in at least this part of the training captions."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA on disk. name: as in ComfyUI's list, with "/" between folders. `sha256` is of the whole file."""

    path: Path
    name: str
    sha256: str
    base_model: str | None
    trigger_words: tuple[str, ...]
    sidecar: Sidecar

    @property
    def lora_id(self) -> str:
        """`str(version_id)` for a LoRA known on CivitAI, else the beginning of its content's hash."""
        if self.sidecar.version_id is not None:
            return str(self.sidecar.version_id)
        return f"sha256:{self.sha256[:16]}"


@dataclass(frozen=True)
class FileFacts:
    """What header and sidecar of a file say. base_model: the family if it is known, else the sidecar's own word."""

    base_model: str | None = None
    trigger_words: tuple[str, ...] = ()
    sidecar: Sidecar = Sidecar()


NO_FACTS = FileFacts()


def read_facts(path: Path) -> FileFacts:
    """Read header and sidecar of a LoRA. Raises LoraError if the file is missing or is no safetensors file."""
    header = read_header(path)
    sidecar = read_sidecar(path)
    return FileFacts(
        base_model=family_of_name(sidecar.base_model) or family_of_header(header.metadata, header.shapes) or sidecar.base_model,
        trigger_words=sidecar.trigger_words or trigger_words_of(header.metadata),
        sidecar=sidecar,
    )


def read_lora_file(path: str | Path, name: str | None = None) -> LoraFile:
    """Read header and sidecar of a LoRA and hash it. name: default is the file's own.

    Raises LoraError if the file is missing or is no safetensors file.
    """
    path = Path(path)
    facts = read_facts(path)
    return LoraFile(
        path=path,
        name=(name or path.name).replace("\\", "/"),
        sha256=sha256_of(path),
        base_model=facts.base_model,
        trigger_words=facts.trigger_words,
        sidecar=facts.sidecar,
    )


def trigger_words_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Trigger words from a file's own metadata: its trigger phrase, else the tags that nearly all captions share."""
    phrase = metadata.get("modelspec.trigger_phrase", "").strip()
    if phrase:
        return tuple(dict.fromkeys(word for word in (part.strip() for part in phrase.split(",")) if word))
    return _common_tags(metadata)


def _common_tags(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Tags in at least 90% of the captions. `ss_tag_frequency` counts them for each folder of the training set, named
    "<repeats>_<concept>"; how many captions there were stands in `ss_dataset_dirs` or, failing that, is the highest count."""
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in folders.values():
            for tag, count in tags.items():
                counts[tag.strip()] += int(count)
        images = _caption_count(metadata) or max(counts.values(), default=0)
    except (ValueError, AttributeError, TypeError):
        return ()
    return tuple(tag for tag, count in counts.most_common() if tag and images and count >= _COMMON_TAG * images)


def _caption_count(metadata: Mapping[str, str]) -> int:
    folders = json.loads(metadata.get("ss_dataset_dirs") or "{}")
    return sum(int(folder.get("img_count", 0)) for folder in folders.values())
