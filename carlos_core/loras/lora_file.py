"""A LoRA file and what it says about itself."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import LoraError
from ..foreign import printable, whole_text
from ..records import LoraMetadata, id_of_content
from ..storage import sha256_of
from .family import family_of_header, family_of_name
from .header import check_finished, read_header
from .lines import line_of
from .listed import posix
from .metadata import SAYS_NOTHING, read_sidecar
from .trigger_words import cleaned, listed, n_too_long, split, used

logger = logging.getLogger(__name__)

_COMMON_TAG = 0.9
"""A tag is a trigger word if it is in at least this share of the training captions."""

_FEWEST_CAPTIONS = 10


@dataclass(frozen=True)
class LoraFile:
    """A LoRA on disk."""

    path: Path
    name: str
    """As in ComfyUI's list, with "/" between folders."""
    sha256: str
    """Of the whole file, 64 hex digits."""
    metadata: LoraMetadata
    """What header and sidecar say."""
    problem: str = ""
    """`FileFacts.problem`."""

    @property
    def lora_id(self) -> str:
        """What it claims to be: `str(version_id)` if its sidecar names a version of CivitAI, otherwise the id of its content.

        Its row may have another id: `MetricsDatabase.id_of`.
        """
        if self.metadata.version_id is not None:
            return str(self.metadata.version_id)
        return id_of_content(self.sha256)

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """Those that go into a prompt; see `trigger_words.used`."""
        return used(self.metadata.trigger_words or ())


class FileFacts(NamedTuple):
    """What a LoRA file says without being hashed."""

    metadata: LoraMetadata
    """What header and sidecar say."""
    layout: str
    """`Header.layout`."""
    problem: str
    """A sentence about what cannot be read of them; empty if nothing is wrong."""
    line: str | None = None
    """What it was made for within its family, by its label and the checkpoint that it was trained on (`lines`)."""


def read_facts(path: Path) -> FileFacts:
    """What sidecar and header of a LoRA say.

    Raises LoraError if the file is missing, is not a safetensors file or is still being downloaded.
    """
    check_finished(path)
    header = read_header(path)
    problems: list[str] = []
    said = read_sidecar(path, problems)
    # A family that is named and not known here may share the names and shapes of one that is.
    shapes = header.shapes if (said.base_model or "").strip().lower() in SAYS_NOTHING else {}
    metadata = replace(
        said,
        base_model=family_of_name(said.base_model) or family_of_header(header.metadata, shapes) or said.base_model,
        trigger_words=said.trigger_words or trigger_words_of(header.metadata, problems),
    )
    n_long = n_too_long(metadata.trigger_words or ())
    if n_long:
        problems.append(
            f"its trigger words are too long for a prompt, {n_long} of them {'is' if n_long == 1 else 'are'} not used"
        )
    problem = f"{printable(path.name)}: {'; '.join(problems)}." if problems else ""
    if problem:
        logger.warning("carlos: %s", problem)
    return FileFacts(metadata, header.layout, problem, line_of((said.base_model, header.metadata.get("ss_sd_model_name"))))


def read_lora_file(path: str | Path, name: str | None = None) -> LoraFile:
    """Read header and sidecar of a LoRA and hash it. name: as in ComfyUI's list; default is the file's own name.

    Raises LoraError if the file is missing or is not a safetensors file.
    """
    path = Path(path)
    facts = read_facts(path)
    return LoraFile(path, posix(name or path.name), sha256_of(path), facts.metadata, facts.problem)


def check_unchanged(lora: LoraFile) -> None:
    """Raises LoraError if a LoRA's file does not hold what it did when it was read. It is hashed again only if it was touched."""
    try:
        is_same = sha256_of(lora.path) == lora.sha256
    except OSError as error:
        what = f"The LoRA {printable(lora.path.name)} cannot be read: {error.strerror or error}."
        raise LoraError(what, "Check that the file is still there.") from error
    if not is_same:
        what = f"The LoRA {printable(lora.path.name)} was changed after it was read."
        raise LoraError(what, "Run again when nothing writes it any more.")


def trigger_words_of(metadata: Mapping[str, str], problems: list[str]) -> tuple[str, ...]:
    """Trigger words from a file's own metadata: those that it names, otherwise the tags that nearly all captions share.

    problems: gets a sentence added if the counts of tags cannot be read.
    """
    named = split(metadata.get("modelspec.trigger_phrase")) or listed(metadata.get("trained_words"))
    if named:
        return named
    try:
        return _common_tags(metadata)
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        problems.append(f"the counts of tags in its metadata cannot be read ({error})")
        return ()


def _common_tags(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Tags in at least 90% of the captions, if there are 10 or more: a single one says nothing of what they have in common.

    `ss_tag_frequency` counts them for each folder of the training set, named "<repeats>_<concept>". The number of captions is in
    `ss_dataset_dirs`; if it is not there, the highest count is used.
    """
    folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
    counts: Counter[str] = Counter()
    for tags in folders.values():
        for tag, count in tags.items():
            counts[whole_text(tag).strip()] += int(count)
    images = _caption_count(metadata) or max(counts.values(), default=0)
    if images < _FEWEST_CAPTIONS:
        return ()
    return cleaned(tag for tag, count in counts.most_common() if tag and count >= _COMMON_TAG * images)


def _caption_count(metadata: Mapping[str, str]) -> int:
    folders = json.loads(metadata.get("ss_dataset_dirs") or "{}")
    return sum(int(folder.get("img_count", 0)) for folder in folders.values())
