"""Nodes that compare LoRAs with each other."""

from typing import Any

from comfy_api.latest import io, ui

from ..carlos_core.errors import RetrievalError
from ..carlos_core.search import duplicates
from ..carlos_core.search import queries as asking
from ..carlos_core.search.ranking import matches_at
from .common import search as found
from .common.report import number, report, table
from .common.sockets import CarlosDb
from .host import folders

BY_ID = "by lora_id"


class CarlosSimilarLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosSimilarLoras",
            display_name="Similar LoRAs (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs that change pictures the same way as a given one.",
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input("lora_id", default="", tooltip="Id of the LoRA to compare with, as in a report."),
                found.top_k_input(),
                io.Combo.Input(
                    "lora_name",
                    options=[BY_ID, *folders.lora_names()],
                    default=BY_ID,
                    optional=True,
                    tooltip="The LoRA to compare with, from your list, in place of its id.",
                ),
                *found.optional_limits(),
            ],
            outputs=found.outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return found.fingerprint()

    @classmethod
    def execute(cls, database, lora_id: str, lora_name: str = BY_ID, **limits: Any) -> io.NodeOutput:
        lora_id = lora_id.strip() if lora_name == BY_ID else _id_of(database, lora_name)
        signature = asking.like_lora(database, lora_id)
        # The LoRA itself is no answer.
        return found.node_output(database, f"like {lora_id}", signature, exclude={lora_id}, **limits)


class CarlosDuplicateLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosDuplicateLoras",
            display_name="Duplicate LoRAs (CARLoS)",
            category="CARLoS",
            description="Lists groups of LoRAs that do the same to pictures.",
            is_output_node=True,
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.Float.Input(
                    "min_cosine",
                    default=0.95,
                    min=0.5,
                    max=1.0,
                    step=0.01,
                    tooltip="How alike two LoRAs must be: 1 is exactly the same effect.",
                ),
                io.Boolean.Input(
                    "installed_only", default=False, optional=True, tooltip="Only LoRAs whose file is in models/loras."
                ),
            ],
            outputs=[io.String.Output(display_name="report")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return found.fingerprint()

    @classmethod
    def execute(cls, database, min_cosine: float, installed_only: bool = False) -> io.NodeOutput:
        arrays, at_hand, ids = database.ranking_arrays, found.installed(found.resolved(database)), database.column("lora_id")
        places = [place for place, row in enumerate(arrays.rows.tolist()) if not installed_only or ids[row] in at_hand]
        compared = [ids[row] for row in arrays.rows[places].tolist()]
        groups = [
            matches_at(database, [places[row] for row in cluster.rows], cluster.cosines, at_hand)
            for cluster in duplicates.clusters(arrays.directions[places], min_cosine, ids=compared)
        ]
        lines = [
            f"{len(groups)} groups of LoRAs that do the same (cosine of at least {min_cosine:g} with the first of the group)."
        ]
        for number_of_group, group in enumerate(groups, start=1):
            header = ("cosine", "strength", "installed", f"group {number_of_group}")
            lines += ["", *table(header, [_cells(match) for match in group])]
        facts = {
            "min_cosine": min_cosine,
            "groups": [
                [
                    {
                        "lora_id": match.lora_id,
                        "file": found.file_of(match),
                        "cosine": match.score,
                        "installed": match.file is not None,
                    }
                    for match in group
                ]
                for group in groups
            ],
        }
        text = report(lines, facts)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def _cells(match: Any) -> tuple[str, ...]:
    return (number(match.score), number(match.vector.strength, 2), "yes" if match.file else "no", found.name_of(match))


def _id_of(database: Any, lora_name: str) -> str:
    """Id of the row whose file is `lora_name`. Raises RetrievalError if it has none, LoraError for a name that is not listed."""
    folders.lora_path(lora_name)
    for lora_id, file in found.installed(found.resolved(database)).items():
        if file == lora_name:
            return lora_id
    raise RetrievalError(f"{lora_name} is not in {database.name}.", "Index it with LoRA Indexer first.")


NODES = [CarlosSimilarLoras, CarlosDuplicateLoras]
