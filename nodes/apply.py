"""Nodes that put LoRAs onto a model."""

from comfy_api.latest import io

from ..carlos_core.types import Match
from . import folders
from .sockets import CarlosMatches, LoraStack

AS_GIVEN, SUGGESTED = "as given", "suggested"


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
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                io.String.Output(display_name="trigger_words", tooltip="To be added to the prompt."),
                LoraStack.Output(display_name="lora_stack"),
            ],
        )

    @classmethod
    def execute(cls, model, matches, max_loras: int, weight: float, clip=None, weights: str = AS_GIVEN) -> io.NodeOutput:
        from ..carlos_core.generation import comfy as generation
        from ..carlos_core.generation.conditioning import escape_emphasis

        folders.check_choice(weights, (AS_GIVEN, SUGGESTED), "choice of weights")
        stack = []
        words: dict[str, None] = {}
        for match in matches.installed[:max_loras]:
            path = folders.lora_path(match.file)
            suggested = match.row.get("suggested_weight") if weights == SUGGESTED else None
            own = weight if suggested is None else weight * suggested
            model, clip, _ = generation.apply_lora(model, clip, generation.load_lora(path), path.name, own, own)
            stack.append((match.file, own, own))
            words.update(dict.fromkeys(_trigger_words(match)))
        trigger_words = ", ".join(escape_emphasis(word) for word in words)
        return io.NodeOutput(model, clip, trigger_words, stack)


def _trigger_words(match: Match) -> tuple[str, ...]:
    """The row's, or the file's own if the row does not know, as the published rows do not."""
    entry = folders.lora_library().entry(match.file) if match.file and match.row.get("trigger_words") is None else None
    return match.trigger_words if entry is None else entry.trigger_words


NODES = [CarlosApplyLoras]
