"""Nodes that find LoRAs by pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..carlos_core.search import queries as asking
from .common import search as found
from .common.sockets import CarlosDb
from .host import folders
from .host import runtime as encoding


class CarlosLorasLikeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLorasLikeImage",
            display_name="LoRAs Like Image (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs that make pictures look like yours.",
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.Image.Input("image", tooltip="A picture with the look you want; several count as one, by their mean."),
                found.top_k_input(),
                io.Image.Input(
                    "image_without", optional=True, tooltip="The same without that look: only the difference then counts."
                ),
                *found.optional_limits(),
            ],
            outputs=found.outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        # Pictures without a LoRA that were indexed since are what a single picture is compared with.
        sizes = sorted((path.name, path.stat().st_size) for path in _base_folder().glob("*.journal"))
        return f"{found.fingerprint()}|{sizes}"

    @classmethod
    def execute(cls, database, image: torch.Tensor, image_without: torch.Tensor | None = None, **limits: Any) -> io.NodeOutput:
        from ..carlos_core.measuring.feature_store import mean_features

        encoder_id = database.check_encoder()
        mean = None if image_without is not None else mean_features(_base_folder(), encoder_id)
        signature = asking.like_images(
            encoding.load_encoder(encoder_id),
            image,
            without=image_without,
            base_mean=None if mean is None else torch.from_numpy(mean),
        )
        if image_without is not None:
            query, note = "the difference of the pictures", "Compared with image_without."
        elif mean is not None:
            query, note = "the picture", "Compared with the pictures without a LoRA that indexing has kept."
        else:
            query = "the picture"
            note = "Compared with nothing: what the picture shows counts too. Index a LoRA, or give image_without."
        return found.node_output(database, query, signature, note, **limits)


def _base_folder() -> Path:
    """Where indexing keeps features of pictures without a LoRA."""
    return folders.cache_folder() / "base"


NODES = [CarlosLorasLikeImage]
