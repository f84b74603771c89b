"""Nodes that put LoRAs onto a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..carlos_core.loras.trigger_words import with_words
from ..carlos_core.records import AppliedLora
from .common import applying
from .common.schema import search_aliases
from .common.sockets import CarlosMatches
from .host import folders, lora_folder
from .host.progress import NodeProgress

if TYPE_CHECKING:
    from ..carlos_core.search.matches import Matches

AS_GIVEN, SUGGESTED = "as given", "suggested"


class CarlosApplyLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosApplyLoras",
            display_name="Apply Retrieved LoRAs (CARLoS)",
            category="CARLoS",
            description="Applies the best installed LoRAs of a search to model and CLIP, and gives their trigger words.",
            hidden=[io.Hidden.unique_id],
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
                applying.prompt_input(),
            ],
            outputs=[*applying.outputs(), applying.prompt_output()],
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
        done = applying.applied(model, clip, loras)
        NodeProgress(cls.hidden.unique_id).say(done.in_short)
        return io.NodeOutput(*done.outputs, with_words(prompt, done.trigger_words))


class CarlosPromptWithTriggers(io.ComfyNode):
    """Apart from the nodes that choose LoRAs, so that they need not run again when the prompt is changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosPromptWithTriggers",
            display_name="Prompt with Trigger Words (CARLoS)",
            category="CARLoS",
            description="Your prompt, with the trigger words of the applied LoRAs behind it.",
            inputs=[
                io.String.Input("prompt", multiline=True, default="", tooltip="What the picture shows."),
                io.String.Input(
                    "trigger_words",
                    optional=True,
                    force_input=True,
                    tooltip="From Auto LoRA or Apply Retrieved LoRAs. They need not run again when you change the prompt here.",
                ),
            ],
            outputs=[applying.prompt_output()],
            **search_aliases("join prompt", "add trigger words", "append lora keywords", "activation text"),
        )

    @classmethod
    def execute(cls, prompt: str, trigger_words: str = "") -> io.NodeOutput:
        return io.NodeOutput(with_words(prompt, trigger_words))


NODES = [CarlosApplyLoras, CarlosPromptWithTriggers]
