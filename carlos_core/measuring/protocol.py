"""How a row was measured: its protocol, the protocol's id, and when a row is as good as a new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..records import MeasuredRow
from ..storage import short_hash
from .presets import CUSTOM, PRESETS, TRIGGERS_ON_BOTH_SIDES


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a row's numbers, except the LoRA, the encoder and the number of pictures."""

    preset: str
    """Name of the preset, or "custom"."""

    prompts_hash: str
    """`PromptSet.content_hash` of the prompts."""

    seed_rule: str
    """Where the seeds come from, in words."""

    lora_weight: float
    trigger_rule: str
    """Where trigger words stand: one of `presets.TRIGGER_RULES`."""

    generator: Mapping[str, Any]
    """The settings of the Generator (model fingerprint, steps, cfg, sampler, scheduler, size)."""

    def described(self) -> dict[str, Any]:
        """The protocol as plain data, as it is kept in a database file."""
        return {
            **self.generator,
            "preset": self.preset,
            "prompts": self.prompts_hash,
            "seed_rule": self.seed_rule,
            "lora_weight": float(self.lora_weight),
            "trigger_rule": self.trigger_rule,
        }

    @property
    def protocol_id(self) -> str:
        """First 12 hex digits of the sha256 of the canonical JSON."""
        canonical = json.dumps(self.described(), sort_keys=True, separators=(",", ":"))
        return short_hash(canonical, 12)

    def base_triggers(self, trigger_words: tuple[str, ...]) -> tuple[str, ...]:
        """The trigger words of a LoRA that also stand in the prompts without it."""
        return trigger_words if self.trigger_rule == TRIGGERS_ON_BOTH_SIDES else ()

    def covering(self, row: MeasuredRow, protocols: Mapping[str, Any], n_images: int) -> str | None:
        """Whether a row makes measuring its LoRA by this protocol with `n_images` pictures unnecessary.

        protocols: those of the row's database, by id. Returns the name of the covering preset (the same or a fuller one), or None
        if the LoRA must be measured. A custom row of the same protocol covers as many pictures as it has. For presets the number
        does not matter: `quick` < `standard` < `paper`.
        """
        if row.protocol_id == self.protocol_id:
            return self.preset if self.preset != CUSTOM or (row.n_images or 0) >= n_images else None
        found = protocols.get(row.protocol_id or "") or {}
        preset, order = found.get("preset"), list(PRESETS)
        if preset not in order or self.preset not in order:
            return None
        ours = self.described()
        is_alike = all(found.get(key) == ours.get(key) for key in ("model", "prompts", "lora_weight", "trigger_rule"))
        return str(preset) if is_alike and order.index(preset) > order.index(self.preset) else None
