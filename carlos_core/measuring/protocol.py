"""What was measured how: the protocol of a row, its id, and when a row is as good as a new one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRIGGERS_ON_LORA_SIDE = "lora side"
"""The published rule: trigger words are appended on the LoRA side only, so that their own effect counts as the LoRA's."""

TRIGGERS_ON_BOTH_SIDES = "both sides"
"""The controlled variant: the words stand on both sides, so that only the LoRA's own effect is left."""

_FULLER_LAST = ("quick", "standard", "paper")


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a row's numbers but the LoRA, the encoder and the number of pictures.

    generator: the settings of the Generator (model fingerprint, steps, cfg, sampler, scheduler, size).
    """

    preset: str
    prompts_hash: str
    seed_rule: str
    lora_weight: float
    trigger_rule: str
    generator: Mapping[str, Any]

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
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def base_triggers(self, trigger_words: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a LoRA's trigger words that also stand in the prompts without it."""
        return trigger_words if self.trigger_rule == TRIGGERS_ON_BOTH_SIDES else ()


def shared_seed_rule(first_seed: int) -> str:
    """Seed of (prompt, k) = first_seed + k, the same for all prompts."""
    return f"{first_seed} + k, shared by all prompts"


def protocol_covers(row: Mapping[str, Any], protocols: Mapping[str, Any], protocol: Protocol, n_images: int) -> str | None:
    """Whether a row makes indexing by `protocol` with `n_images` pictures superfluous.

    Returns the covering preset's name (the same or a fuller one), None if the LoRA must be indexed. A row measured by the same
    protocol covers as many pictures as it has; `quick` < `standard` < `paper` whatever the number.
    """
    found = protocols.get(row.get("protocol_id") or "")
    if row.get("protocol_id") == protocol.protocol_id:
        is_enough = protocol.preset != "custom" or (row.get("n_images") or 0) >= n_images
        return protocol.preset if is_enough else None
    preset = found.get("preset") if found else None
    if preset in _FULLER_LAST and protocol.preset in _FULLER_LAST and found is not None:
        ours = protocol.described()
        same = all(found.get(key) == ours.get(key) for key in ("model", "prompts", "lora_weight", "trigger_rule"))
        if same and _FULLER_LAST.index(preset) > _FULLER_LAST.index(protocol.preset):
            return str(preset)
    return None
