"""Nodes that put LoRAs onto a model."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io

from .common.sockets import CarlosMatches, LoraStack
from .host import folders

logger = logging.getLogger(__name__)

AS_GIVEN, SUGGESTED = "as given", "suggested"


def outputs() -> list[io.Output]:
    """What comes out of a node that applies LoRAs."""
    return [
        io.Model.Output(display_name="model"),
        io.Clip.Output(display_name="clip"),
        io.String.Output(display_name="trigger_words", tooltip="To be added to the prompt."),
        LoraStack.Output(display_name="lora_stack"),
    ]


class CarlosApplyLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosApplyLoras",
            display_name="Apply Retrieved LoRAs (CARLoS)",
            category="CARLoS",
            description="Applies the best installed LoRAs of a retrieval to model and CLIP, and gives their trigger words.",
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip", optional=True),
                CarlosMatches.Input("matches", tooltip="From LoRA Retriever."),
                io.Int.Input("max_loras", default=1, min=1, max=20, tooltip="How many to apply at most."),
                io.Float.Input(
                    "weight", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip="Weight of each, for model and CLIP."
                ),
                io.Combo.Input(
                    "weights",
                    options=[AS_GIVEN, SUGGESTED],
                    default=AS_GIVEN,
                    optional=True,
                    tooltip="suggested: weight times what a scale sweep of LoRA Indexer found for each LoRA, if there was one.",
                ),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(cls, model, matches, max_loras: int, weight: float, clip=None, weights: str = AS_GIVEN) -> io.NodeOutput:
        folders.check_choice(weights, (AS_GIVEN, SUGGESTED), "weight")
        loras = []
        for match in matches.installed[:max_loras]:
            suggested = match.row.get("suggested_weight") if weights == SUGGESTED else None
            own = weight if suggested is None else weight * suggested
            loras.append((match.file, own, trigger_words(match.file, match.row)))
        model, clip, words, stack, _ = applied(model, clip, loras)
        return io.NodeOutput(model, clip, words, stack)


def applied(
    model: Any, clip: Any, loras: Sequence[tuple[str, float, tuple[str, ...]]]
) -> tuple[Any, Any, str, list[tuple[str, float, float]], list[str]]:
    """Model and CLIP with listed LoRAs (file, weight, trigger words) on them, the words for a prompt, the LoRA stack, and what
    of the LoRAs is without effect on this model, a sentence each.

    Raises LoraError for a LoRA that does not fit, is not listed or cannot be read.
    """
    from ..carlos_core.comfy.conditioning import escape_emphasis
    from ..carlos_core.comfy.patching import apply_lora, load_lora

    words: dict[str, None] = {}
    warnings: list[str] = []
    for file, weight, of_file in loras:
        path = folders.lora_path(file)
        model, clip, fit = apply_lora(model, clip, load_lora(path), path.name, weight, weight)
        if fit.warning:
            warnings.append(f"{path.name}: {fit.warning}")
            logger.warning("carlos: %s", warnings[-1])
        words.update(dict.fromkeys(of_file))
    in_prompt = ", ".join(escape_emphasis(word) for word in words)
    return model, clip, in_prompt, [(file, weight, weight) for file, weight, _ in loras], warnings


def trigger_words(file: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that the row knows, or the file's own if it does not say, as the published rows do not."""
    if row.get("trigger_words") is not None:
        return tuple(row["trigger_words"])
    entry = folders.lora_library().entry(file)
    return () if entry is None else entry.trigger_words


NODES = [CarlosApplyLoras]
