"""ComfyUI nodes: they translate between sockets and widgets and `carlos_core`, and hold no maths."""

from comfy_api.latest import ComfyExtension, io

from . import (
    apply_loras,
    auto_lora,
    caches,
    combine_searches,
    describe_loras,
    duplicate_loras,
    find_loras,
    index_loras,
    load_database,
    lora_card,
    lora_map,
    race_loras,
    refresh_metadata,
)
from .common import choice_in_pictures
from .host.folders import register_folders

_MODULES = (
    load_database,
    auto_lora,
    find_loras,
    combine_searches,
    describe_loras,
    duplicate_loras,
    lora_card,
    lora_map,
    apply_loras,
    index_loras,
    race_loras,
    refresh_metadata,
    caches,
)


class CarlosExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Not in on_load, which ComfyUI 0.3 never calls; and before any node lists the folders' files.
        register_folders()
        choice_in_pictures.register()
        return [node for module in _MODULES for node in module.NODES]
