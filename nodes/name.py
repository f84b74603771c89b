"""Nodes that find LoRAs by what they are called."""

from comfy_api.latest import io

from ..carlos_core.search.by_name import find_named
from .common import search as found
from .common.sockets import CarlosDb


class CarlosLorasByName(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLorasByName",
            display_name="LoRAs by Name (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs by their names, files, ids and trigger words.",
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input("name", default="", tooltip="Words or parts of words, in any order; all must be there."),
                found.top_k_input(),
                *found.file_inputs(optional=True),
            ],
            outputs=found.outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return found.fingerprint()

    @classmethod
    def execute(
        cls, database, name: str, top_k: int, base_model: str = found.ANY_BASE_MODEL, installed_only: bool = False
    ) -> io.NodeOutput:
        files = found.resolved(database)
        matches = find_named(
            database,
            name,
            top_k=top_k,
            base_model=found.base_model_of(base_model),
            installed=found.installed(files),
            installed_only=installed_only,
        )
        return found.output_of(files, matches)


NODES = [CarlosLorasByName]
