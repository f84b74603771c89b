"""What becomes of the row that a LoRA already has, when it would be measured in another way: in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..records import LoraRecord

_WAY_OUT = "overwrite replaces it"


@dataclass(frozen=True)
class RowChange:
    """A row that was replaced, or that is better than what would have been measured, and stays."""

    pairs: int | None
    """Pairs of pictures behind the row that was there before; None if it does not say."""

    source: str
    """What that row was measured by, in words."""

    better_than: str = ""
    """For a row that stays: what it is better than. Empty for one that was replaced."""

    when: str = ""
    """For a row that was replaced: when it was measured."""

    @classmethod
    def kept(cls, row: LoraRecord, preset: str, where: str, wanted: str) -> RowChange:
        """row: the one that stays. preset, where: how and on which model it was measured. wanted: what is not measured."""
        return cls(row.n_images, f"by the preset {preset!r} {where}".rstrip(), wanted)

    @classmethod
    def replaced(cls, row: LoraRecord, described: Mapping[str, Any], where: str) -> RowChange:
        """row: the one that was there. described: its protocol as plain data, empty if unknown. where: on which model."""
        preset, source = described.get("preset"), described.get("source")
        by = f"by the preset {preset!r}" if preset else f"from {source}" if source else "measured in an unknown way"
        return cls(row.n_images, f"{by} {where}".rstrip(), when=row.indexed_at or "")

    @property
    def is_kept(self) -> bool:
        return bool(self.better_than)

    def __str__(self) -> str:
        """For a report of one LoRA."""
        pairs = f"{self.pairs} pairs of pictures" if self.pairs else "pictures"
        if self.is_kept:
            return f"its row stays: {pairs} {self.source} are better than {self.better_than}; {_WAY_OUT}"
        return f"replaces its row{self.when and f' of {self.when}'}: {pairs} {self.source}"

    @property
    def in_short(self) -> str:
        """For a report of many LoRAs: without what is another number for each."""
        if self.is_kept:
            return f"its row {self.source} stays: it is better than {self.better_than}; {_WAY_OUT}"
        return f"replaces its row {self.source}"
