"""Nodes that measure LoRAs."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui

from ..carlos_core.database.parquet import load_database
from ..carlos_core.errors import IndexingError
from . import refresh_metadata as civitai
from .common import indexing
from .common.report import number, report, table
from .common.sockets import CarlosDb
from .host import folders

if TYPE_CHECKING:
    from ..carlos_core.measuring.indexer import Failure, Outcome

CIVITAI = "CivitAI"


def _outputs() -> list[io.Output]:
    return [
        CarlosDb.Output(display_name="database"),
        io.String.Output(display_name="report"),
        io.Image.Output(display_name="contact_sheet", tooltip="Above without, below with the LoRA."),
    ]


class CarlosLoraIndexer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLoraIndexer",
            display_name="LoRA Indexer (CARLoS)",
            category="CARLoS",
            description="Measures what a LoRA does: compares pictures with and without it through CLIP, and keeps the row.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *indexing.model_inputs(),
                io.Combo.Input(
                    "lora_name",
                    options=[CIVITAI, *folders.lora_names()],
                    default=next(iter(folders.lora_names()), CIVITAI),
                    tooltip="The LoRA to measure.",
                ),
                io.String.Input(
                    "civitai_model_id", default="", tooltip="lora_name = CivitAI: the model, for its newest version."
                ),
                io.String.Input(
                    "civitai_version_id", default="", tooltip="lora_name = CivitAI: the version. It is fetched into models/loras."
                ),
                *indexing.settings_inputs("standard"),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, lora_name: str, civitai_model_id: str, civitai_version_id: str, **settings: Any) -> io.NodeOutput:
        session = indexing.session_of(**settings)
        progress = indexing.NodeProgress(cls.hidden.unique_id)
        if lora_name == CIVITAI:
            outcome = civitai.index_version(session, civitai_model_id, civitai_version_id, progress)
        else:
            outcome = indexing.index(session, folders.read_lora(folders.lora_path(lora_name), lora_name), progress)
        text = report([*_lines(outcome), *indexing.plan_lines(session)], indexing.facts_of(outcome))
        database = load_database(session.database_path)
        return io.NodeOutput(database, text, outcome.contact_sheet, ui=ui.PreviewText(text))


class CarlosIndexLibrary(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosIndexLibrary",
            display_name="Index Library (CARLoS)",
            category="CARLoS",
            description="Measures all LoRAs of models/loras, or a selection, one after another; skips those it knows.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *indexing.model_inputs(),
                io.String.Input(
                    "name_filter", default="", tooltip='Part of the names, or a pattern such as "styles/*". Empty: all LoRAs.'
                ),
                *indexing.settings_inputs("quick"),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, name_filter: str, **settings: Any) -> io.NodeOutput:
        from ..carlos_core.measuring.indexer import INDEXED, Outcome

        session = indexing.session_of(**settings)
        names = [name for name in folders.lora_names() if _fits(name, name_filter)]
        if not names:
            raise IndexingError(f"No LoRA's name fits {name_filter!r}.", "Empty name_filter to take all of models/loras.")
        plan = indexing.plan_lines(session)
        progress_of = indexing.LibraryProgress(cls.hidden.unique_id, session, names)
        results = list(session.index_all([(name, folders.lora_path(name)) for name in names], progress_of))
        outcomes = [result for result in results if isinstance(result, Outcome)]
        facts = {
            "indexed": [indexing.facts_of(outcome) for outcome in outcomes if outcome.status == INDEXED],
            "skipped": [outcome.lora.name for outcome in outcomes if outcome.status != INDEXED],
            "failed": [vars(result) for result in results if not isinstance(result, Outcome)],
        }
        text = report([*_library_lines(results), *plan], facts)
        sheets = [outcome.contact_sheet for outcome in outcomes if outcome.status == INDEXED]
        database = load_database(session.database_path)
        return io.NodeOutput(database, text, _stacked(sheets), ui=ui.PreviewText(text))


def _fits(name: str, name_filter: str) -> bool:
    """Whether a LoRA's name holds the filter, or fits it as a pattern; upper and lower case are alike."""
    posix, wanted = name.replace("\\", "/").lower(), name_filter.strip().lower()
    return wanted in posix or fnmatchcase(posix, wanted)


def _lines(outcome: Outcome) -> list[str]:
    row = outcome.row
    topics = zip(row["topic_names"] or (), row["topic_strengths"] or (), strict=True)
    strongest = sorted(topics, key=lambda topic: -topic[1])
    return [
        f"{outcome.lora.name}: {outcome.status} as {outcome.lora.lora_id}",
        f"strength {number(row['strength'], 2)} +- {number(row['strength_se'], 2)}, "
        f"consistency {number(row['consistency'])} +- {number(row['consistency_se'])}, "
        f"from {row['n_images']} pairs of pictures of {row['n_prompts']} prompts",
        f"direction known to a cosine of about {number(row['alignment'])}",
        *([f"strength by topic: {', '.join(f'{name} {number(value, 1)}' for name, value in strongest)}"] if strongest else []),
        *indexing.curve_lines(row),
        *outcome.notes,
    ]


def _library_lines(results: list[Outcome | Failure]) -> list[str]:
    from ..carlos_core.measuring.indexer import Outcome

    outcomes = [result for result in results if isinstance(result, Outcome)]
    rows = [
        (
            outcome.lora.name,
            outcome.status,
            number(outcome.row["strength"], 2),
            number(outcome.row["consistency"]),
            str(outcome.row["n_images"]),
            number(outcome.row["alignment"]),
        )
        for outcome in outcomes
    ]
    lines = [f"{len(outcomes)} of {len(results)} LoRAs are in the database, {len(results) - len(outcomes)} failed"]
    if rows:
        lines += table(("LoRA", "status", "strength", "consistency", "images", "alignment"), rows)
    return lines + [f"failed: {result.file}: {result.reason}" for result in results if not isinstance(result, Outcome)]


def _stacked(sheets: list[torch.Tensor]) -> torch.Tensor:
    """Contact sheets of equal size as a batch; a grey square if there are none."""
    if not sheets:
        return torch.full((1, 64, 64, 3), 0.5)
    return torch.cat([sheet for sheet in sheets if sheet.shape == sheets[0].shape])


NODES = [CarlosLoraIndexer, CarlosIndexLibrary]
