"""The node that shows a library as a map: LoRAs of like effects lie near each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..carlos_core.counting import counted
from ..carlos_core.drawing.map import draw_map
from ..carlos_core.loras.family import FAMILIES
from ..carlos_core.search.library_map import library_map
from .common import matches as found_loras
from .common.one_lora import BY_ID, lora_name_input, wanted_row
from .common.report import database_facts, database_line, number, report, table
from .common.schema import search_aliases
from .common.search_widgets import ANY_BASE_MODEL, base_model_of
from .common.shown import shown
from .common.sockets import CarlosDb, CarlosMatches, facts_output
from .host import runtime

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase
    from ..carlos_core.search.library_map import LibraryMap
    from ..carlos_core.search.matches import Matches

_MOST_MARKED = 10


class CarlosLoraMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLoraMap",
            display_name="LoRA Map (CARLoS)",
            category="CARLoS",
            description="Shows the LoRAs of a database as a map: those of like effects lie near each other.",
            is_output_node=True,
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input(
                    "query",
                    default="",
                    optional=True,
                    tooltip='What to look for, e.g. "snowfall": it gets a place on the map, and the nearest LoRAs are named.',
                ),
                lora_name_input("A LoRA of your list to mark, instead of its id."),
                io.String.Input(
                    "lora_id", default="", optional=True, tooltip="Id of a LoRA to mark, as in a report. The nearest are named."
                ),
                io.Combo.Input(
                    "base_model",
                    options=[ANY_BASE_MODEL, *FAMILIES],
                    default=ANY_BASE_MODEL,
                    optional=True,
                    tooltip="Show only LoRAs for this family of models, and those of an unknown family.",
                ),
                CarlosMatches.Input("matches", optional=True, tooltip="Marks the matches of a search."),
            ],
            outputs=[
                io.Image.Output(display_name="map"),
                io.String.Output(display_name="report"),
                facts_output(),
            ],
            **search_aliases("lora overview", "lora landscape", "lora clusters", "visualize loras", "scatter plot", "lora space"),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return found_loras.fingerprint()

    @classmethod
    def execute(
        cls,
        database: MetricsDatabase,
        query: str = "",
        lora_name: str = BY_ID,
        lora_id: str = "",
        base_model: str = ANY_BASE_MODEL,
        matches: Matches | None = None,
    ) -> io.NodeOutput:
        family, query = base_model_of(base_model), query.strip()
        wanted = wanted_row(database, lora_name, lora_id)
        ids = [] if wanted is None else [wanted.lora_id]
        found = [] if matches is None else [match.lora_id for match in matches.items[:_MOST_MARKED]]
        ids += [each for each in found if each not in ids and each in database]
        signature = runtime.searcher(database).signature(query) if query else None
        library = library_map(database, base_model=family, signature=signature, marked=ids)
        named = {name.record.lora_id for name in library.names if name.is_marked}
        unplaced = [row.name for each in ids if each not in named and (row := database.row(each)) is not None]
        title = library.title(query or ("" if matches is None else matches.query), family)
        facts = {
            "query": query or None,
            "drawn": len(library.dots),
            **library.facts,
            "database": database_facts(database),
        }
        lines = [title, *_lines(library, unplaced), database_line(database)]
        text, facts_said = report(lines, facts)
        image, said = shown(draw_map(library, title, query), text)
        return io.NodeOutput(image, text, facts_said, ui=said)


def _lines(library: LibraryMap, unplaced: list[str]) -> list[str]:
    """What the map shows, in words. unplaced: names of LoRAs to mark that have no direction."""
    if not library.dots:
        return ["There is no LoRA with an effect to show. Index some, or choose another base_model."]
    families = ", ".join(f"{family} {n:,}" for family, n in library.facts["families"].items())
    lines = [f"The two axes hold {sum(library.shares):.0%} of all differences between them. Families: {families}."]
    lines += [f"{name} has no measurable effect, and so no place on the map." for name in unplaced]
    if library.n_without_effect:
        lines.append(f"left out: {counted(library.n_without_effect, 'LoRA')} without effect")
    has_marked = any(name.is_marked for name in library.names)
    cells = [
        (number(name.cosine, 2), name.record.name, *(["yes" if name.is_marked else "no"] if has_marked else []))
        for name in library.names
    ]
    return [*lines, "named on the map:", *table(("cosine", "LoRA", *(["marked"] if has_marked else [])), cells)]


NODES = [CarlosLoraMap]
