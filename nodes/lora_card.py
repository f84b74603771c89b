"""The node that shows all that is known of one LoRA as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..carlos_core.counting import counted
from ..carlos_core.drawing.card import Shown, card, empty_card
from ..carlos_core.drawing.tensors import as_tensor
from ..carlos_core.errors import RetrievalError
from ..carlos_core.measuring.labels import notice
from ..carlos_core.search.portrait import portrait
from .common import matches as found_loras
from .common.indexing import curve_lines
from .common.one_lora import BY_ID, lora_name_input, wanted_row
from .common.report import database_facts, database_line, number, report, table
from .common.schema import search_aliases
from .common.shown import shown
from .common.sockets import CarlosDb, CarlosMatches, facts_output
from .host import runtime

if TYPE_CHECKING:
    from PIL import Image

    from ..carlos_core.database.database import MetricsDatabase
    from ..carlos_core.measuring.gallery import Sheet
    from ..carlos_core.records import LoraRecord
    from ..carlos_core.search.matches import Matches
    from ..carlos_core.search.portrait import Portrait

_NONE_KEPT = "No pictures of it are kept. Index Library and LoRA Indexer keep some when they measure, races of the best."


class CarlosLoraCard(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLoraCard",
            display_name="LoRA Card (CARLoS)",
            category="CARLoS",
            description="Shows all that is known of one LoRA as a picture: what it does, how strong it is, what is like it.",
            is_output_node=True,
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                lora_name_input("The LoRA to show, from your list, instead of its id."),
                io.String.Input("lora_id", default="", optional=True, tooltip="Id of the LoRA to show, as in a report."),
                CarlosMatches.Input(
                    "matches", optional=True, tooltip="Shows the first match of a search, unless a LoRA is chosen here."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="card"),
                io.Image.Output(
                    display_name="without", tooltip="Pictures without the LoRA, in pairs with with_lora: for Compare Images."
                ),
                io.Image.Output(display_name="with_lora", tooltip="The same pictures with the LoRA."),
                io.String.Output(display_name="report"),
                facts_output(),
            ],
            **search_aliases("lora info", "lora details", "what does this lora do", "show lora", "before after", "lora preview"),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return f"{found_loras.fingerprint()}|{runtime.gallery().state()}"

    @classmethod
    def execute(
        cls, database: MetricsDatabase, lora_name: str = BY_ID, lora_id: str = "", matches: Matches | None = None
    ) -> io.NodeOutput:
        record = _chosen(database, lora_name, lora_id, matches)
        if record is None:
            assert matches is not None, "otherwise a LoRA is chosen or missing"
            return _nothing(database, matches)
        about = portrait(database, record)
        sheet = runtime.gallery().sheet(record)
        pairs = [] if sheet is None else [Shown(pair, kind) for pair, kind in sheet.shown]
        facts = _facts(about, sheet, database)
        text, facts_said = report([*_lines(about, sheet), database_line(database)], facts)
        image, said = shown(card(about, pairs, "" if sheet is None else sheet.about(record)), text)
        without = _batch([each.pair.without for each in pairs], f"{record.name}: {_NONE_KEPT}")
        with_lora = _batch([each.pair.with_lora for each in pairs], f"{record.name}: {_NONE_KEPT}")
        return io.NodeOutput(image, without, with_lora, text, facts_said, ui=said)


def _chosen(database: MetricsDatabase, lora_name: str, lora_id: str, matches: Matches | None) -> LoraRecord | None:
    """The row to show; None if it is to be that of a match, and there is none.

    Raises RetrievalError if no LoRA is chosen, EncoderError for matches of another encoder, and what `wanted_row` raises.
    """
    row = wanted_row(database, lora_name, lora_id)
    if row is not None:
        return row
    if matches is None:
        raise RetrievalError(
            "No LoRA is chosen.", "Choose one in lora_name, type an id into lora_id, or connect matches of a search."
        )
    if matches.encoder_id != database.encoder_id:
        database.check_encoder(matches.encoder_id)
    return matches.items[0].record if matches.items else None


def _nothing(database: MetricsDatabase, matches: Matches) -> io.NodeOutput:
    """What there is to show where a search has found nothing."""
    said = f"Nothing fits {matches.query!r}."
    facts = {"lora_id": None, "query": matches.query, "reason": matches.reason, "database": database_facts(database)}
    text, facts_said = report([f"{said} {matches.reason}".strip(), database_line(database)], facts)
    image, on_node = shown(empty_card(said, matches.reason), text)
    return io.NodeOutput(image, _batch([], said), _batch([], said), text, facts_said, ui=on_node)


def _lines(about: Portrait, sheet: Sheet | None) -> list[str]:
    row = about.record
    lines = [row.name]
    lines += [f"what it does: {row.described_as}"] if row.described_as else []
    lines.append(
        f"strength {number(row.strength, 2)}, consistency {number(row.consistency)}"
        + ("" if row.alignment is None else f", direction known to a cosine of about {number(row.alignment)}")
    )
    lines += curve_lines(row)
    if about.neighbours:
        cells = [(number(near.cosine, 2), near.record.name, near.record.lora_id) for near in about.neighbours]
        lines += ["most like it:", *table(("cosine", "LoRA", "id"), cells)]
    if sheet is not None:
        # In the order of the outputs, where nothing else says which is which.
        each = [f"{place}. {kind}: {pair.prompt}" for place, (pair, kind) in enumerate(sheet.shown, start=1)]
        return [*lines, f"pictures: {counted(len(sheet.shown), 'pair')}. {sheet.about(row)}", *each]
    return [*lines, _NONE_KEPT]


def _facts(about: Portrait, sheet: Sheet | None, database: MetricsDatabase) -> dict[str, Any]:
    row = about.record
    measured = ("strength", "strength_se", "consistency", "consistency_se", "alignment", "n_images", "n_prompts")
    made = ("indexed_at", "protocol_id", "model_key", "encoder_id", "noise_floor", "suggested_weight")
    return {
        "lora_id": row.lora_id,
        "name": row.name,
        "file": row.file_name,
        "base_model": row.metadata.base_model,
        "trigger_words": None if row.metadata.trigger_words is None else list(row.metadata.trigger_words),
        "described_as": row.described_as,
        **{name: getattr(row, name) for name in (*measured, *made)},
        "strength_curve": [vars(point) for point in row.strength_curve],
        "topics": {effect.topic: effect.vector.strength for effect in row.topics},
        "most_like_it": [near.facts for near in about.neighbours],
        "pictures": [
            {"prompt": pair.prompt, "seed": pair.seed, "kind": kind} for pair, kind in (sheet.shown if sheet is not None else ())
        ],
        "notes": list(row.notes),
        "database": database_facts(database),
    }


def _batch(pictures: Sequence[Image.Image], otherwise: str) -> torch.Tensor:
    """Pictures of one size, [N, H, W, 3] float in [0, 1]; if there are none, one that says so."""
    return torch.cat([as_tensor(picture) for picture in pictures]) if pictures else notice(otherwise)


NODES = [CarlosLoraCard]
