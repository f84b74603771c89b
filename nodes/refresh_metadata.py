"""What touches CivitAI: the indexer's downloads, and refreshing metadata. Nothing is asked unless the user chose it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
from comfy_api.latest import io, ui

from ..carlos_core.database.database import MetricsDatabase
from ..carlos_core.database.parquet import load_database
from .common import indexing
from .common.report import report, table
from .common.sockets import CarlosDb
from .host import folders

if TYPE_CHECKING:
    from ..carlos_core.civitai.client import CivitaiClient
    from ..carlos_core.civitai.download import DownloadProgress, OnProgress
    from ..carlos_core.civitai.lora import CivitaiLora
    from ..carlos_core.civitai.refresh import RefreshedRow
    from ..carlos_core.measuring.indexer import Outcome, Session

_MEGABYTE = 1_000_000
_SHOWN = 50


def index_version(session: Session, model_id: str, version_id: str, progress: indexing.NodeProgress) -> Outcome:
    """Fetch a LoRA into ComfyUI's first folder of LoRAs and measure it; neither if the database has it. Raises CarlosError."""
    from ..carlos_core.civitai.lora import CivitaiLora

    wanted = CivitaiLora(model_id, version_id, lambda: _client(progress))
    known = session.known_version(wanted.version_id)
    if known is not None:
        return known
    path, name = _fetched(wanted, progress)
    return indexing.index(session, folders.read_lora(path, name), progress)


def fetch_version(model_id: int | None, version_id: int, node_id: str | None) -> str:
    """Fetch a LoRA into ComfyUI's first folder of LoRAs, unless it is at hand. Returns its name in the list."""
    from ..carlos_core.civitai.lora import CivitaiLora

    progress = indexing.NodeProgress(node_id)
    return _fetched(CivitaiLora(model_id, version_id, lambda: _client(progress)), progress)[1]


def _fetched(wanted: CivitaiLora, progress: indexing.NodeProgress) -> tuple[Path, str]:
    listed = folders.listed_loras()
    path = wanted.fetch(folders.loras_folder(), at_hand=listed, on_progress=_in_megabytes(progress))
    folders.refresh_loras()
    return path, listed.get(path, path.name)


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
                    tooltip="On: only blanks are filled in. Off: what CivitAI says replaces what is there.",
                ),
                io.Int.Input("max_rows", default=0, min=0, max=1_000_000, tooltip="Rows to look up, emptiest first. 0: all."),
            ],
            outputs=[CarlosDb.Output(display_name="database"), io.String.Output(display_name="report")],
        )

    @classmethod
    def execute(cls, database: MetricsDatabase, only_missing: bool, max_rows: int) -> io.NodeOutput:
        from ..carlos_core.civitai.refresh import refresh_metadata
        from ..carlos_core.measuring.indexer import check_writable

        path = check_writable(database)
        progress = indexing.NodeProgress(cls.hidden.unique_id)
        rows = refresh_metadata(path, _client(progress), only_missing=only_missing, max_rows=max_rows, on_rows=progress.count)
        facts = {"rows": [{**vars(row), "columns": list(row.columns)} for row in rows]}
        text = report(_lines(rows), facts)
        return io.NodeOutput(load_database(path), text, ui=ui.PreviewText(text))


def _client(progress: indexing.NodeProgress) -> CivitaiClient:
    """A client that says on the node what it waits for, and stops waiting when the user cancels."""
    from ..carlos_core.civitai.client import CivitaiClient

    def on_wait(reason: str, seconds: float) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.say(f"{reason} Trying again in {seconds:.0f} s")

    return CivitaiClient.from_environment(folders.civitai_key_file(), on_wait=on_wait)


def _in_megabytes(progress: indexing.NodeProgress) -> OnProgress:
    def show(download: DownloadProgress) -> None:
        done, total = (round(size / _MEGABYTE) for size in (download.done, download.total))
        progress.count(done, max(total, done))
        progress.say(f"fetching: {done} of {total or '?'} MB, {download.bytes_per_second / _MEGABYTE:.1f} MB/s")

    return show


def _lines(rows: list[RefreshedRow]) -> list[str]:
    from ..carlos_core.civitai.refresh import FAILED, NOT_FOUND, REFRESHED, UNCHANGED

    statuses = [row.status for row in rows]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in (REFRESHED, UNCHANGED, NOT_FOUND, FAILED))
    lines = [f"{len(rows)} rows looked up: {counts}"]
    # Those that somebody may want to do something about come first.
    ordered = sorted(rows, key=lambda row: (FAILED, NOT_FOUND, REFRESHED, UNCHANGED).index(row.status))
    if ordered:
        shown = ordered[:_SHOWN]
        lines += table(("LoRA", "name", "status", "what"), [(r.lora_id, r.name, r.status, _what(r)) for r in shown])
    if len(ordered) > _SHOWN:
        lines.append(f"and {len(ordered) - _SHOWN} more, in the JSON below")
    return lines


def _what(row: RefreshedRow) -> str:
    return row.reason or ", ".join(row.columns) or "-"


NODES = [CarlosRefreshMetadata]
