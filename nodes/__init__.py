"""All nodes of the pack."""

from comfy_api.latest import ComfyExtension, io

from . import apply_loras as apply
from . import auto_lora as auto
from . import combine_searches as combine
from . import find_loras as retrieve
from . import image, name, similar
from . import index_loras as index
from . import load_database as database
from . import refresh_metadata as civitai
from .common import choice_in_pictures
from .host.folders import register_folders

_FAMILIES = (database, auto, retrieve, similar, image, name, combine, apply, index, civitai)


class CarlosExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Not in on_load, which ComfyUI 0.3 never calls; and before any node lists the folders' files.
        register_folders()
        choice_in_pictures.register()
        return [node for family in _FAMILIES for node in family.NODES]
