"""What becomes of the row that a LoRA already has, when it would be measured in another way: in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..records import LoraRecord
from .presets import CUSTOM
from .protocol import Covering, Protocol


@dataclass(frozen=True)
class RowChange:
    """A row that was replaced, or that is better than what would have been measured, and stays."""

    is_kept: bool
    pairs: int | None
    """Pairs of pictures behind the row that was there before; None if it does not say."""

    preset: str
    """What that row was measured by; empty if it does not say."""

    where: str = ""
    """On which model, if it is another one than now."""

    wanted: str = ""
    """For a row that stays: what it is better than."""

    when: str = ""
    """For a row that was replaced: when it was measured."""

    @classmethod
    def kept(cls, row: LoraRecord, covering: Covering, protocol: Protocol, n_images: int) -> RowChange:
        """row: the one that stays. protocol, n_images: what is not measured, and on how many pairs at most."""
        wanted = f"{n_images} pairs by the preset {CUSTOM!r}" if protocol.preset == CUSTOM else f"the preset {protocol.preset!r}"
        where = " on another checkpoint of the same shape" if covering.is_other_checkpoint else ""
        return cls(True, row.n_images, covering.preset, where, wanted)

    @classmethod
    def replaced(cls, row: LoraRecord, described: Mapping[str, Any], protocol: Protocol) -> RowChange:
        """row: the one that was there. described: its protocol as plain data, empty if unknown. protocol: of the new one."""
        is_other = bool(described) and described.get("model") != protocol.generator.get("model")
        preset = str(described.get("preset") or "")
        return cls(False, row.n_images, preset, " on another model" if is_other else "", when=row.indexed_at or "")

    def __str__(self) -> str:
        """For a report of one LoRA."""
        pairs = f"{self.pairs} pairs of pictures" if self.pairs else "pictures"
        if self.is_kept:
            return f"its row stays: {pairs} by the preset {self.preset!r}{self.where} are better than {self.wanted}; {_WAY_OUT}"
        when = f" of {self.when}" if self.when else ""
        return f"replaces its row{when}: {pairs} by the preset {self.preset!r}{self.where}" if self.preset else _UNKNOWN

    @property
    def in_short(self) -> str:
        """For a report of many LoRAs: without what is another number for each."""
        if self.is_kept:
            return f"its row by the preset {self.preset!r}{self.where} stays: it is better than {self.wanted}; {_WAY_OUT}"
        return f"replaces its row by the preset {self.preset!r}{self.where}" if self.preset else _UNKNOWN


_WAY_OUT = "overwrite replaces it"
_UNKNOWN = "replaces a row that does not say how it was measured, such as a published one"
