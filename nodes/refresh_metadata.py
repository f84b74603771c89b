"""The node that asks CivitAI what a database does not know about its LoRAs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from .. import carlos_core as carlos
from ..carlos_core.civitai.versions import FAILED, NOT_FOUND, REFRESHED, STATUSES, UNCHANGED
from ..carlos_core.counting import counted
from .common.own_database import own_database
from .common.report import database_facts, database_line, report, table
from .common.schema import search_aliases
from .common.sockets import CarlosDb, facts_output
from .host import civitai
from .host.progress import NodeProgress

if TYPE_CHECKING:
    from ..carlos_core.civitai.refresh import RefreshedRow
    from ..carlos_core.database.database import MetricsDatabase

_SHOWN = 50


class CarlosRefreshMetadata(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosRefreshMetadata",
            display_name="Refresh Metadata (CARLoS)",
            category="CARLoS",
            description="Asks CivitAI for trigger words, base models, hashes and previews of the LoRAs in your database.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                CarlosDb.Input("database", tooltip="A database of your own: Metrics DB Loader with create_as."),
                io.Boolean.Input(
                    "only_missing",
                    default=True,
                    tooltip="On: fills in only what is missing. Off: replaces what is there with what CivitAI says.",
                ),
                io.Int.Input(
                    "max_rows", default=0, min=0, max=1_000_000, tooltip="How many rows to look up, emptiest first. 0: all."
                ),
            ],
            outputs=[CarlosDb.Output(display_name="database"), io.String.Output(display_name="report"), facts_output()],
            **search_aliases("civitai", "civitai info", "trigger words", "lora metadata", "update lora info"),
        )

    @classmethod
    def execute(cls, database: MetricsDatabase, only_missing: bool, max_rows: int) -> io.NodeOutput:
        path = own_database(database).path
        progress = NodeProgress(cls.hidden.unique_id)
        rows = carlos.refresh_metadata(
            path, civitai.client(progress), only_missing=only_missing, max_rows=max_rows, on_progress=progress
        )
        refreshed = carlos.load_database(path)
        facts = {
            "rows": [{**vars(row), "columns": list(row.columns)} for row in rows],
            "database": database_facts(refreshed),
        }
        lines = _lines(rows)
        progress.say(f"done: {lines[0]}")
        text, said = report([*lines, database_line(refreshed)], facts)
        return io.NodeOutput(refreshed, text, said, ui=ui.PreviewText(text))


def _lines(rows: list[RefreshedRow]) -> list[str]:
    statuses = [row.status for row in rows]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in STATUSES)
    lines = [f"{counted(len(rows), 'row')} looked up: {counts}"]
    # Rows that somebody may want to do something about come first.
    ordered = sorted(rows, key=lambda row: (FAILED, NOT_FOUND, REFRESHED, UNCHANGED).index(row.status))
    if ordered:
        shown = ordered[:_SHOWN]
        lines += table(("status", "LoRA", "what"), [(row.status, row.name, _what(row)) for row in shown])
    if len(ordered) > _SHOWN:
        lines.append(f"and {len(ordered) - _SHOWN} more, in the JSON below")
    return lines


def _what(row: RefreshedRow) -> str:
    return row.reason or ", ".join(row.columns) or "-"


NODES = [CarlosRefreshMetadata]
