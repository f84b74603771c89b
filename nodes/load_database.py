"""Nodes that open metrics databases."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from comfy_api.latest import io

from .. import carlos_core as carlos
from ..carlos_core.clip.encoder import DEFAULT_ENCODER_ID
from .common.schema import advanced, search_aliases
from .common.sockets import CarlosDb
from .host import folders

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase

BUNDLED = "bundled"
EMPTY = "empty"


class CarlosMetricsDBLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosMetricsDBLoader",
            display_name="Metrics DB Loader (CARLoS)",
            category="CARLoS",
            description="Opens a database that says what each LoRA does: the published one, or your own in models/carlos.",
            inputs=[
                io.Combo.Input(
                    "database",
                    options=[BUNDLED, EMPTY, *folders.database_names()],
                    default=BUNDLED,
                    tooltip="bundled: 740 published SDXL LoRAs, read-only. empty: no LoRAs. Otherwise a file in models/carlos.",
                ),
                io.String.Input(
                    "create_as",
                    default="",
                    tooltip="Name of a database of your own. It is made from the chosen one, or opened as it is if it exists.",
                ),
                io.Combo.Input(
                    "encoder",
                    options=[DEFAULT_ENCODER_ID, *folders.encoders()],
                    default=DEFAULT_ENCODER_ID,
                    tooltip="CLIP model for a new, empty database. Other databases know their own.",
                    **advanced(),
                ),
            ],
            outputs=[CarlosDb.Output(display_name="database")],
            **search_aliases("lora database", "open lora database", "load lora metrics", "my loras", "index"),
        )

    @classmethod
    def fingerprint_inputs(cls, database: str, create_as: str, encoder: str) -> str:
        path = folders.new_database_path(create_as) if create_as.strip() else None
        if path is None and database not in (BUNDLED, EMPTY):
            path = folders.database_path(database)
        if path is None:
            return "no file"
        if not path.exists():
            # It is made in this run, or was deleted since the last run: no cached result may be used for it.
            return f"absent|{time.time_ns()}"
        stat = path.stat()
        return f"{path}|{stat.st_mtime_ns}|{stat.st_size}"

    @classmethod
    def execute(cls, database: str, create_as: str, encoder: str) -> io.NodeOutput:
        if not create_as.strip():
            return io.NodeOutput(_open(database, encoder))
        target = folders.new_database_path(create_as)
        if target.exists():
            return io.NodeOutput(carlos.load_database(target))
        return io.NodeOutput(carlos.create_database(_open(database, encoder), target))


def _open(name: str, encoder: str) -> MetricsDatabase:
    if name == BUNDLED:
        return carlos.load_bundled_database()
    if name == EMPTY:
        encoder_id = _encoder_id(encoder)
        return carlos.MetricsDatabase.empty(encoder_id, carlos.encoder_dimension(encoder_id, folders.encoder_folders()))
    return carlos.load_database(folders.database_path(name))


def _encoder_id(name: str) -> str:
    local = folders.encoders()
    folders.check_choice(name, (DEFAULT_ENCODER_ID, *local), "encoder")
    return local[name].encoder_id if name in local else name


NODES = [CarlosMetricsDBLoader]
