"""What CivitAI says about models, versions and their files. None: it does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..records import LoraMetadata

LORA_TYPES = ("LORA", "LoCon", "DoRA")
"""Kinds of models that are LoRAs, as CivitAI calls them."""


REFRESHED, UNCHANGED, NOT_FOUND, FAILED = STATUSES = ("refreshed", "unchanged", "not on CivitAI", "failed")
"""What became of a row that was looked up."""


@dataclass(frozen=True)
class VersionFile:
    """A file of a version."""

    version_id: int
    file_id: int | None
    name: str
    """As uploaded; not to be trusted as a path."""
    download_url: str
    type: str | None = None
    """What the file is, as CivitAI calls it, such as "Model" or "Training Data"."""
    format: str | None = None
    """As CivitAI calls it, such as "SafeTensor"."""
    size: int | None = None
    """Bytes, to within a KB."""
    sha256: str | None = None
    """64 hex digits, lower case."""
    is_primary: bool = False
    early_access_until: str | None = None
    """When the version becomes free for all, as CivitAI writes it; "" if that is not known; None if it is free."""

    @property
    def is_safetensors(self) -> bool:
        return self.name.lower().endswith(".safetensors")

    @property
    def is_zip(self) -> bool:
        return self.name.lower().endswith(".zip")


@dataclass(frozen=True)
class Version:
    """One release of a model."""

    version_id: int
    metadata: LoraMetadata = LoraMetadata()
    """What a row of a database takes over."""
    name: str | None = None
    model_type: str | None = None
    """Kind of the model, as CivitAI calls it; for LoRAs one of `LORA_TYPES`."""
    model_mode: str | None = None
    """If the model is gone, "Archived" or "TakenDown"."""
    published_at: str | None = None
    """ISO 8601, UTC; when it was created if it is not said when it was published."""
    early_access_until: str | None = None
    """See `VersionFile.early_access_until`."""
    usage_control: str | None = None
    """What is allowed: "Download", or other values for use on the site only."""
    files: tuple[VersionFile, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """CivitAI's answer as it is."""


@dataclass(frozen=True)
class Model:
    """A model and its releases."""

    model_id: int
    name: str | None = None
    type: str | None = None
    """As CivitAI calls it; for LoRAs one of `LORA_TYPES`."""
    mode: str | None = None
    """If the model is gone, "Archived" or "TakenDown"."""
    versions: tuple[Version, ...] = ()
    """In CivitAI's order."""
