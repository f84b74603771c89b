"""How a row was measured: its protocol, the protocol's id, and when a row is as good as a new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..loras.trigger_words import used
from ..records import NO_EFFECT, RACE, MeasuredRow
from ..storage import short_hash
from .base_check import UNSUITABLE
from .presets import AS_GIVEN, CUSTOM, PRESETS, TRIGGERS_ON_BOTH_SIDES

if TYPE_CHECKING:
    from ..loras.lora_file import LoraFile


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

    sampling: str = ""
    """Where the sampling comes from, unless it is the preset's own: `presets.FEW_STEPS` or `presets.AS_GIVEN`."""

    def described(self) -> dict[str, Any]:
        """The protocol as plain data, as it is kept in a database file."""
        return {
            **self.generator,
            "preset": self.preset,
            "prompts": self.prompts_hash,
            "seed_rule": self.seed_rule,
            "lora_weight": float(self.lora_weight),
            "trigger_rule": self.trigger_rule,
            **({"sampling": self.sampling} if self.sampling else {}),
        }

    @cached_property
    def protocol_id(self) -> str:
        """First 12 hex digits of the sha256 of the canonical JSON."""
        canonical = json.dumps(self.described(), sort_keys=True, separators=(",", ":"))
        return short_hash(canonical, 12)

    def trigger_words(self, lora: LoraFile) -> tuple[str, ...]:
        """The words of a LoRA that stand in its prompts."""
        return words_of_preset(self.preset, lora.metadata.trigger_words or ())

    def base_triggers(self, trigger_words: tuple[str, ...]) -> tuple[str, ...]:
        """The trigger words of a LoRA that also stand in the prompts without it."""
        return trigger_words if self.trigger_rule == TRIGGERS_ON_BOTH_SIDES else ()

    def covering(self, row: MeasuredRow, protocols: Mapping[str, Any], n_images: int, *, model_key: str = "") -> Covering | None:
        """What makes measuring a LoRA by this protocol unnecessary, given its row; None if it must be measured.

        A row covers what is measured by its own protocol (custom: with as many pictures as it has), and by a lesser preset:
        `race` < `quick` < `standard` < `paper`, sampled alike. It does so for every checkpoint of its shape if it found an
        effect: a LoRA for one checkpoint may do nothing on another of the same shape. Another checkpoint may want another
        sampling: there a preset's own and the one for few steps count as alike. What another program made the pictures with is
        another checkpoint, too: weights that are the same cannot be told. A race on another checkpoint spares a race nothing.

        Args:
            row: the LoRA's row.
            protocols: those of the row's database, by id.
            n_images: how many pictures are wanted; for presets the number does not matter.
            model_key: shape of the model that pictures are made with; empty: a row of another checkpoint does not count.
        """
        ours, theirs = self.described(), self._protocol_of(row, protocols)
        is_other_checkpoint = theirs.get("model") != ours.get("model")
        if is_other_checkpoint and not _counts_elsewhere(row, model_key):
            return None
        preset = str(theirs.get("preset"))
        if is_other_checkpoint and preset == self.preset == RACE:
            return None
        ignored = {"model": None, "generator": None}
        is_same = {**theirs, **ignored} == {**ours, **ignored}
        is_enough = preset != CUSTOM or (row.n_images or 0) >= n_images
        if not (is_enough if is_same else _is_fuller(theirs, ours, is_other_checkpoint=is_other_checkpoint)):
            return None
        return Covering(preset, is_other_checkpoint)

    def better(self, row: MeasuredRow, protocols: Mapping[str, Any], n_images: int, model: ThisModel) -> Covering | None:
        """What a row was measured by, if measuring by this protocol can only be poorer; None if it may be as good or better.

        The order: of two presets the fuller one is better (`race` < `quick` < `standard` < `paper`), and beside `custom` the one
        with more pairs of pictures. Settings that differ otherwise, such as prompts or steps, do not count. A row of another
        model is not compared, nor one that was measured on pictures that do not show their prompts.

        Args:
            row: the LoRA's row.
            protocols: those of the row's database, by id.
            n_images: how many pairs are taken at most.
            model: what pictures are made with.
        """
        preset = self._comparable(row, protocols, model)
        if preset is None:
            return None
        if CUSTOM in (preset, self.preset):
            is_better = (row.n_images or 0) > n_images
        else:
            order = list(PRESETS)
            is_better = order.index(preset) > order.index(self.preset)
        is_elsewhere = self.is_elsewhere(row, protocols, model)
        return Covering(preset, bool(is_elsewhere), is_better=True) if is_better else None

    def at_least(self, row: MeasuredRow, protocols: Mapping[str, Any], model: ThisModel) -> int:
        """How many pairs of pictures this protocol must take not to be poorer than a row that it will replace; 0 for any number.

        Only a preset beside a row by `custom` has to: its rule may stop before it has as many.
        """
        is_custom = self._comparable(row, protocols, model) == CUSTOM
        return row.n_images or 0 if is_custom and self.preset != CUSTOM else 0

    def is_elsewhere(self, row: MeasuredRow, protocols: Mapping[str, Any], model: ThisModel) -> bool | None:
        """Whether a row was measured on another checkpoint; None if that cannot be told.

        Fingerprints of models hold the noise levels: of two that differ by them alone, only `Environment.checkpoint` tells.
        """
        ours, theirs = self.described(), self._protocol_of(row, protocols)
        if theirs.get("model") == ours.get("model"):
            return False
        if row.checkpoint and model.checkpoint:
            return row.checkpoint != model.checkpoint
        is_comparable = theirs and all(theirs.get(name) == ours.get(name) for name in ("steps", "scheduler"))
        return True if is_comparable else None

    def other_program(self, row: MeasuredRow, protocols: Mapping[str, Any]) -> str:
        """The program that made a row's pictures, for people, if it is known to be another than ours; empty otherwise."""
        ours, theirs = self.described(), self._protocol_of(row, protocols)
        if not theirs.get("model") or theirs.get("generator") == ours.get("generator"):
            return ""
        return str(theirs.get("generator") or COMFYUI)

    def _comparable(self, row: MeasuredRow, protocols: Mapping[str, Any], model: ThisModel) -> str | None:
        """The preset of a row that can be compared with what this protocol finds; None for a row that cannot."""
        preset = self._protocol_of(row, protocols).get("preset")
        if preset not in (*PRESETS, CUSTOM) or self.preset not in (*PRESETS, CUSTOM) or is_unsuitable(row):
            return None
        is_own_model = self.is_elsewhere(row, protocols, model) is False
        return str(preset) if is_own_model or _counts_elsewhere(row, model.key) else None

    def _protocol_of(self, row: MeasuredRow, protocols: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row's protocol as plain data; empty if it is not known."""
        return self.described() if row.protocol_id == self.protocol_id else protocols.get(row.protocol_id or "") or {}


COMFYUI = "ComfyUI"
"""Who makes pictures where a protocol says nothing of it."""


class ThisModel(NamedTuple):
    """What pictures are made with."""

    key: str = ""
    """Its shape; empty if rows of other checkpoints of the shape do not count."""

    checkpoint: str = ""
    """`generator.Environment.checkpoint`; empty if it is not known."""


@dataclass(frozen=True)
class Covering:
    """What a LoRA's row was measured by, where that makes measuring it again unnecessary."""

    preset: str
    """Name of the row's preset, or "custom"."""

    is_other_checkpoint: bool = False
    """Whether it was measured on another checkpoint of the same shape."""

    is_better: bool = False
    """Whether it was measured with other settings, and better than it would be now (`Protocol.better`)."""


def has_effect(row: MeasuredRow) -> bool:
    """Whether a row found that its LoRA changes pictures."""
    return bool(row.strength) and NO_EFFECT not in row.notes


def _counts_elsewhere(row: MeasuredRow, model_key: str) -> bool:
    """Whether a row of another checkpoint says something of one of this shape."""
    return bool(model_key) and row.model_key == model_key and has_effect(row) and not is_unsuitable(row)


def is_unsuitable(row: MeasuredRow) -> bool:
    """Whether a row was measured on pictures that do not show their prompts: that says little about another checkpoint."""
    return any(note.startswith(UNSUITABLE) for note in row.notes)


_OF_A_CHECKPOINT = ("model", "generator", "sampling", "steps", "cfg", "sampler", "scheduler")
"""What a preset may have to do otherwise on another checkpoint of the same shape."""


def _is_fuller(theirs: Mapping[str, Any], ours: Mapping[str, Any], *, is_other_checkpoint: bool) -> bool:
    """Whether a described protocol is ours by a fuller preset, or by the same one as another checkpoint wants it."""
    order = list(PRESETS)
    if theirs.get("preset") not in order or ours["preset"] not in order:
        return False
    further = order.index(theirs["preset"]) - order.index(ours["preset"])
    if AS_GIVEN in (theirs.get("sampling"), ours.get("sampling")):
        named = {"preset": None, "generator": None}
        return further > 0 and {**theirs, **named} == {**ours, **named}
    if is_other_checkpoint and not further:
        ignored = dict.fromkeys(_OF_A_CHECKPOINT)
        return {**theirs, **ignored} == {**ours, **ignored}
    is_alike = all(theirs.get(key) == ours[key] for key in ("prompts", "lora_weight", "trigger_rule"))
    is_sampled_alike = is_other_checkpoint or theirs.get("sampling") == ours.get("sampling")
    return is_alike and is_sampled_alike and further > 0


def words_of_preset(preset: str, entries: tuple[str, ...]) -> tuple[str, ...]:
    """The trigger words that a preset takes of those that are known: `paper` takes all, also of variants."""
    return entries if preset == "paper" else used(entries)
