"""Nodes that put several searches together."""

from typing import Any

from comfy_api.latest import io

from ..carlos_core.errors import RetrievalError
from ..carlos_core.records import Matches
from ..carlos_core.search import queries as asking
from .common import search as found
from .common.sockets import CarlosDb, CarlosMatches


class CarlosCombineSearches(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosCombineSearches",
            display_name="Combine Searches (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs for several searches at once: by sentence, picture, LoRA or name, and what to avoid.",
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader: the one that was searched."),
                CarlosMatches.Input("matches_1", tooltip="From any node that finds LoRAs."),
                found.top_k_input(),
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
                        tooltip=f"How much matches_{place} counts. Negative: but not this.",
                    )
                    for place in (1, 2, 3)
                ],
                *found.optional_limits(),
            ],
            outputs=found.outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return found.fingerprint()

    @classmethod
    def execute(
        cls,
        database,
        matches_1,
        matches_2=None,
        matches_3=None,
        weight_1: float = 1.0,
        weight_2: float = 1.0,
        weight_3: float = 1.0,
        **limits: Any,
    ) -> io.NodeOutput:
        given = [(matches_1, weight_1), (matches_2, weight_2), (matches_3, weight_3)]
        searches = [(matches, weight) for matches, weight in given if matches is not None and weight != 0]
        for matches, _ in searches:
            database.check_encoder(matches.encoder_id)
            if matches.signature is None:
                raise RetrievalError(f"The search for {matches.query!r} found nothing.", "Change it, or leave it out.")
        signature = asking.combined([matches.signature for matches, _ in searches], [weight for _, weight in searches])
        return found.node_output(database, _worded(searches), signature, **limits)


def _worded(searches: list[tuple[Matches, float]]) -> str:
    """The searches in one line: "snow, pencil x 0.5, but not fog"."""
    worded = []
    for matches, weight in searches:
        times = "" if abs(weight) == 1 else f" x {abs(weight):g}"
        worded.append(f"{'but not ' if weight < 0 else ''}{matches.query}{times}")
    return ", ".join(worded)


NODES = [CarlosCombineSearches]
