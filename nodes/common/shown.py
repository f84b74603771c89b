"""Pictures that a node shows together with its report."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from comfy_api.latest import ui

from ...carlos_core.drawing.tensors import as_tensor

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

logger = logging.getLogger(__name__)


def shown(picture: Image.Image, text: str) -> tuple[Tensor, dict[str, Any]]:
    """A picture as an output, [1, H, W, 3] float in [0, 1], and what the node shows: the picture and its report.

    The file is in ComfyUI's temporary folder, without the workflow in it. Where it cannot be written, as on a full disk, the node
    shows its report alone.
    """
    image, said = as_tensor(picture), ui.PreviewText(text).as_dict()
    try:
        return image, {**said, **ui.PreviewImage(image).as_dict()}
    except OSError as error:
        logger.warning("carlos: the picture cannot be shown on the node: %s", error)
        return image, said
