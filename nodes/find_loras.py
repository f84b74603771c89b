"""Nodes that find LoRAs for a sentence."""

from typing import Any

from comfy_api.latest import io

from ..carlos_core.prompts.prompt_set import default_signature_prompts
from ..carlos_core.search import ranking as retrieval
from .common import search as found
from .common.sockets import CarlosDb
from .host import folders
from .host import runtime as encoding


class CarlosLoraRetriever(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLoraRetriever",
            display_name="LoRA Retriever (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs by what they do to pictures, for a sentence of yours.",
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input(
                    "query",
                    multiline=True,
                    tooltip='What the LoRA should do, e.g. "snowfall, cold winter scene, visible breath".',
                ),
                found.top_k_input(),
                *found.effect_inputs(optional=False),
                *found.file_inputs(optional=False),
                found.prompts_input(),
                io.Float.Input(
                    "min_alignment",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Leave out LoRAs whose direction is known less well than this cosine says. 0: no limit.",
                ),
                io.Combo.Input(
                    "ranking",
                    options=list(retrieval.RANKINGS),
                    default=retrieval.PUBLISHED,
                    optional=True,
                    tooltip="By the published score, or by how far a LoRA stands out of what it has in common with any sentence, "
                    "with a word for how sure that is.",
                ),
                *found.civitai_inputs(),
            ],
            outputs=found.outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return found.fingerprint()

    @classmethod
    def execute(cls, database, query: str, prompts: str, ranking: str = retrieval.PUBLISHED, **limits: Any) -> io.NodeOutput:
        found.base_model_of(limits["base_model"])
        folders.check_choice(ranking, retrieval.RANKINGS, "ranking")
        signature_prompts = folders.prompt_set(prompts, default_signature_prompts())
        signature = encoding.signature(database, signature_prompts, query)
        background = encoding.background(database, signature_prompts) if ranking == retrieval.CALIBRATED else None
        return found.node_output(database, query, signature, ranking=ranking, background=background, **limits)


NODES = [CarlosLoraRetriever]
