"""LoRAs put onto a model: what comes out, and what nodes that do it have in common."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io

from ...carlos_core.comfy.patching import apply_lora, load_lora
from ...carlos_core.drawing.card import short_name
from ...carlos_core.errors import CarlosError, LoraError
from ...carlos_core.loras.trigger_words import escape_emphasis
from ...carlos_core.records import AppliedLora
from ..host import lora_folder
from .sockets import LoraStack

logger = logging.getLogger(__name__)


def outputs() -> list[io.Output]:
    """What comes out of a node that applies LoRAs."""
    return [
        io.Model.Output(display_name="model"),
        io.Clip.Output(display_name="clip"),
        io.String.Output(display_name="trigger_words", tooltip="Add these to your prompt."),
        LoraStack.Output(display_name="lora_stack"),
    ]


def prompt_input() -> io.Input:
    """Where a prompt can be wired in, to get the trigger words behind it."""
    return io.String.Input(
        "prompt",
        optional=True,
        force_input=True,
        tooltip="Your prompt. It comes out again with the trigger words behind it.",
    )


def prompt_output() -> io.Output:
    return io.String.Output(
        display_name="prompt", tooltip="Your prompt and the trigger words, if there are any. For CLIP Text Encode."
    )


@dataclass(frozen=True, eq=False)
class Applied:
    """A model and a text encoder with LoRAs on them."""

    model: Any
    clip: Any
    loras: list[AppliedLora] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What parts of the LoRAs have no effect on this model, one sentence each."""

    @property
    def outputs(self) -> tuple[Any, Any, str, list[tuple[str, float, float]]]:
        """The values in the order of `outputs`: model, CLIP, the words for a prompt, and the stack."""
        return self.model, self.clip, self.trigger_words, [(lora.file, lora.weight, lora.weight) for lora in self.loras]

    @property
    def in_short(self) -> str:
        """What is applied, for the node itself."""
        return ", ".join(f"{short_name(lora.file)} at {lora.weight:g}" for lora in self.loras) or "no LoRA is applied"

    @property
    def trigger_words(self) -> str:
        """The words for a prompt, joined by commas."""
        words = dict.fromkeys(word for lora in self.loras for word in lora.trigger_words)
        return ", ".join(escape_emphasis(word) for word in words)


class NotApplied(LoraError):
    """A LoRA does not fit, is not listed, cannot be read or is no longer to be had. lora: which one."""

    def __init__(self, lora: AppliedLora, error: CarlosError) -> None:
        super().__init__(error.what, error.hint)
        self.lora = lora


def applied(model: Any, clip: Any, loras: Iterable[AppliedLora]) -> Applied:
    """Model and CLIP with listed LoRAs on them. Raises NotApplied for the first that cannot be applied."""
    result = Applied(model, clip)
    for lora in loras:
        try:
            path = lora_folder.lora_path(lora.file)
            model, clip, fit = apply_lora(result.model, result.clip, load_lora(path), path.name, lora.weight, lora.weight)
        except LoraError as error:
            raise NotApplied(lora, error) from error
        warnings = [f"{path.name}: {fit.warning}"] if fit.warning else []
        for warning in warnings:
            logger.warning("carlos: %s", warning)
        result = Applied(model, clip, [*result.loras, lora], [*result.warnings, *warnings])
    return result
