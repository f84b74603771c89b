"""Nodes that put several searches together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..carlos_core.errors import RetrievalError
from ..carlos_core.search import queries
from ..carlos_core.search.matches import Matches
from .common import matches, search_widgets
from .common.schema import keeps_report, search_aliases
from .common.sockets import CarlosDb, CarlosMatches

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase


class CarlosCombineSearches(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosCombineSearches",
            display_name="Combine Searches (CARLoS)",
            category="CARLoS",
            description="Combines searches by sentence, picture, LoRA or name: finds LoRAs that have all effects, or avoid some.",
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader: the database that was searched."),
                CarlosMatches.Input("matches_1", tooltip="From any node that finds LoRAs."),
                search_widgets.top_k_input(),
                CarlosMatches.Input("matches_2", optional=True, tooltip="A second search."),
                CarlosMatches.Input("matches_3", optional=True, tooltip="A third search."),
                *[
                    io.Float.Input(
                        f"weight_{place}",
                        default=1.0,
                        min=-1.0,
                        max=10.0,
                        step=0.05,
                        optional=True,
                        tooltip=f"How much matches_{place} counts. Negative: avoid this.",
                    )
                    for place in (1, 2, 3)
                ],
                *search_widgets.optional_limits(),
            ],
            outputs=matches.outputs(),
            **search_aliases("merge lora searches", "add searches", "but not", "exclude lora effect", "negative lora search"),
            **keeps_report(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return matches.fingerprint()

    @classmethod
    def execute(cls, database: MetricsDatabase, **settings: Any) -> io.NodeOutput:
        given = [(settings.pop(f"matches_{place}", None), settings.pop(f"weight_{place}", 1.0)) for place in (1, 2, 3)]
        searches = [(found, weight) for found, weight in given if found is not None and weight != 0]
        for found, _ in searches:
            database.check_encoder(found.encoder_id)
            if found.signature is None:
                raise RetrievalError(f"The search for {found.query!r} found nothing.", "Change it, or leave it out.")
        signature = queries.combined([found.signature for found, _ in searches], [weight for _, weight in searches])
        return matches.found(database, _worded(searches), signature, hidden=cls.hidden, **settings)


def _worded(searches: list[tuple[Matches, float]]) -> str:
    """The searches in one line: "snow, pencil x 0.5, but not fog"."""
    worded = []
    for found, weight in searches:
        times = "" if abs(weight) == 1 else f" x {abs(weight):g}"
        worded.append(f"{'but not ' if weight < 0 else ''}{found.query}{times}")
    return ", ".join(worded)


NODES = [CarlosCombineSearches]
