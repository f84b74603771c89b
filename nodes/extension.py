"""All nodes of the pack."""

from comfy_api.latest import ComfyExtension, io

from . import apply, civitai, database, index, retrieve
from .folders import register_folders


class CarlosExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Not in on_load, which ComfyUI 0.3 never calls; and before any node lists the folders' files.
        register_folders()
        return [*database.NODES, *retrieve.NODES, *apply.NODES, *index.NODES, *civitai.NODES]
