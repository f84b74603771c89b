"""Nodes that find LoRAs for a sentence."""

from typing import Any

from comfy_api.latest import io

from ..carlos_core import retrieval
from ..carlos_core.prompts import default_signature_prompts
from . import encoding, folders, found
from .sockets import CarlosDb


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
                io.Combo.Input(
                    "prompts",
                    options=[folders.DEFAULT_PROMPTS, *folders.prompt_set_names()],
                    default=folders.DEFAULT_PROMPTS,
                    tooltip="Prompt set behind the query's signature: built in, or a file in models/carlos/prompts.",
                ),
                *found.civitai_inputs(),
            ],
            outputs=found.outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return found.fingerprint()

    @classmethod
    def execute(cls, database, query: str, prompts: str, **limits: Any) -> io.NodeOutput:
        found.base_model_of(limits["base_model"])
        signature = retrieval.signature_for(
            database,
            query,
            prompts=folders.prompt_set(prompts, default_signature_prompts()),
            cache=encoding.signature_cache(),
            load=encoding.load_encoder,
        )
        return found.node_output(found.find(database, query, signature, **limits))


NODES = [CarlosLoraRetriever]
