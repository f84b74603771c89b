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
    """A file of a version. name: as uploaded, not to be trusted as a path. size: bytes, to within a KB. sha256: lower case.

    early_access_until: when the version becomes free for all, as CivitAI writes it; "" if that is not known; None if it is free.
    """

    version_id: int
    file_id: int | None
    name: str
    download_url: str
    type: str | None = None
    format: str | None = None
    size: int | None = None
    sha256: str | None = None
    is_primary: bool = False
    early_access_until: str | None = None

    @property
    def is_safetensors(self) -> bool:
        return self.name.lower().endswith(".safetensors")

    @property
    def is_zip(self) -> bool:
        return self.name.lower().endswith(".zip")


@dataclass(frozen=True)
class Version:
    """One release of a model. metadata: what a row takes over. raw: CivitAI's answer as it is."""

    version_id: int
    metadata: LoraMetadata = LoraMetadata()
    name: str | None = None
    model_type: str | None = None
    model_mode: str | None = None
    published_at: str | None = None
    early_access_until: str | None = None
    usage_control: str | None = None
    files: tuple[VersionFile, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Model:
    """A model and its releases, in CivitAI's order. mode: "Archived" or "TakenDown" if it is gone."""

    model_id: int
    name: str | None = None
    type: str | None = None
    mode: str | None = None
    versions: tuple[Version, ...] = ()
