"""ComfyUI's door to CARLoS. Outside ComfyUI, importing this does nothing."""

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The extension, built when ComfyUI asks for it."""
    from .nodes import CarlosExtension  # noqa: PLC0415, so that the folder can be imported without ComfyUI

    return CarlosExtension()
