"""Nodes that put LoRAs onto a model."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..carlos_core.comfy.patching import apply_lora, load_lora
from ..carlos_core.errors import CarlosError, LoraError
from ..carlos_core.loras.trigger_words import escape_emphasis, with_words
from ..carlos_core.records import AppliedLora
from .common.schema import search_aliases
from .common.sockets import CarlosMatches, LoraStack
from .host import folders, lora_folder

if TYPE_CHECKING:
    from ..carlos_core.search.matches import Matches

logger = logging.getLogger(__name__)

AS_GIVEN, SUGGESTED = "as given", "suggested"


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


class CarlosApplyLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosApplyLoras",
            display_name="Apply Retrieved LoRAs (CARLoS)",
            category="CARLoS",
            description="Applies the best installed LoRAs of a search to model and CLIP, and gives their trigger words.",
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip", optional=True),
                CarlosMatches.Input("matches", tooltip="From LoRA Retriever, or from another node that finds LoRAs."),
                io.Int.Input("max_loras", default=1, min=1, max=20, tooltip="How many LoRAs to apply at most."),
                io.Float.Input(
                    "weight", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip="Weight of each LoRA, for model and CLIP."
                ),
                io.Combo.Input(
                    "weights",
                    options=[AS_GIVEN, SUGGESTED],
                    default=AS_GIVEN,
                    optional=True,
                    tooltip="suggested: weight times what the scale_sweep of LoRA Indexer suggests for each LoRA, if anything.",
                ),
                prompt_input(),
            ],
            outputs=[*outputs(), prompt_output()],
            **search_aliases("load lora", "use lora", "lora loader", "lora stack", "trigger words"),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        matches: Matches,
        max_loras: int,
        weight: float,
        clip: Any = None,
        weights: str = AS_GIVEN,
        prompt: str = "",
    ) -> io.NodeOutput:
        folders.check_choice(weights, (AS_GIVEN, SUGGESTED), "weight")
        loras = []
        for match in matches.installed[:max_loras]:
            suggested = match.record.suggested_weight if weights == SUGGESTED else None
            own = weight if suggested is None else weight * suggested
            file = match.file or ""
            lora_folder.check_content(file, match.record)
            loras.append(AppliedLora(file, own, lora_folder.trigger_words(file, match.record)))
        done = applied(model, clip, loras)
        return io.NodeOutput(*done.outputs, with_words(prompt, done.trigger_words))


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


NODES = [CarlosApplyLoras]
