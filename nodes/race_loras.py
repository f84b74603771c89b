"""The node that finds LoRAs which nobody has measured: a race."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .. import carlos_core as carlos
from ..carlos_core.measuring import run_facts
from ..carlos_core.measuring.settings import AUTOMATIC, RACE_EVALUATIONS, SAMPLINGS, RaceSettings
from .common import indexing, pictures, race_report, racing, search_widgets
from .common.report import database_facts, database_line, report
from .common.schema import advanced, search_aliases
from .common.sockets import CarlosDb, CarlosMatches, facts_output, picture_output
from .host import folders
from .host.progress import NodeProgress

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase

_PICTURES = ("prompt", "index_prompts", "sampling", "width", "height", "steps", "cfg", "sampler_name", "scheduler")
"""Widgets that say how the pictures are made: the fields of `RaceSettings`."""


class CarlosRaceLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosRaceLoras",
            display_name="Race LoRAs (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs for a sentence among files that nobody has measured, from a few pictures of each.",
            is_output_node=True,
            hidden=list(search_widgets.HIDDEN),
            inputs=[
                *indexing.model_inputs(),
                io.String.Input("query", multiline=True, tooltip='What the LoRA should do, e.g. "snowfall".'),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="A prompt of your own to try the LoRAs on. Empty: the index prompts, whose pictures Index Library "
                    "uses, too, and which give rows.",
                ),
                search_widgets.prompts_input(),
                io.String.Input(
                    "name_filter",
                    default="",
                    tooltip='Parts of the names, or patterns such as "styles/*", with commas between them. Empty: all LoRAs.',
                ),
                io.Int.Input("top_k", default=3, min=1, max=100, tooltip="How many LoRAs to find."),
                io.Float.Input(
                    "confidence",
                    default=0.9,
                    min=0.5,
                    max=0.999,
                    step=0.01,
                    tooltip="How sure it must be that no other LoRA fits better than one that is found. Less is quicker.",
                ),
                io.Int.Input(
                    "max_model_evaluations",
                    default=RACE_EVALUATIONS,
                    min=0,
                    max=1_000_000_000,
                    tooltip="The race ends after so many forward passes of the model, with the best so far. 0: no limit.",
                ),
                *_optional_inputs(),
            ],
            outputs=[
                CarlosMatches.Output(display_name="matches"),
                CarlosDb.Output(display_name="database"),
                io.String.Output(display_name="report"),
                facts_output(),
                picture_output(),
            ],
            **search_aliases("race", "which lora", "find lora", "try loras", "best lora", "compare loras", "unindexed loras"),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        database: MetricsDatabase,
        query: str,
        name_filter: str,
        **settings: Any,
    ) -> io.NodeOutput:
        of_pictures = RaceSettings(**{name: settings.pop(name) for name in _PICTURES if name in settings})
        names = ("top_k", "confidence", "max_model_evaluations", "max_minutes")
        rules = carlos.RaceRules(**{name: settings.pop(name) for name in names if name in settings})
        done = racing.raced(
            cls.hidden,
            racing.entered(model, clip, name_filter),
            query,
            rules,
            loaded=(model, clip, vae),
            database=database,
            settings=of_pictures,
            search=settings,
        )
        found = race_report.matches_of(done)
        facts = {
            **done.facts,
            "settings": run_facts.settings_facts(done.indexer),
            "database": database_facts(done.database),
        }
        progress = NodeProgress(cls.hidden.unique_id)
        progress.say(f"done: {done.result.reason}" if done.result.candidates else "done: no LoRA takes part")
        details = [*run_facts.plan_lines(done.indexer)[1:], database_line(done.database)]
        text, said = report([*race_report.lines(done), *details], facts)
        picture, shown = pictures.drawn(race_report.listing(done, found), text)
        progress.take_picture_off()
        return io.NodeOutput(found, done.database, text, said, picture, ui=shown)


def _optional_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "sampling",
            options=list(SAMPLINGS),
            default=AUTOMATIC,
            optional=True,
            tooltip="As of Index Library's quick, which shares these pictures. automatic: as this model wants it. preset: always "
            "as the preset says. as given: with steps, cfg, sampler and scheduler of this node.",
        ),
        io.Int.Input(
            "max_minutes",
            default=0,
            min=0,
            max=100_000,
            optional=True,
            tooltip="The race ends after so many minutes, with the best so far. 0: no limit.",
        ),
        io.Combo.Input(
            "index_prompts",
            options=[folders.DEFAULT_PROMPTS, *folders.prompt_set_names()],
            default=folders.DEFAULT_PROMPTS,
            optional=True,
            tooltip="The prompts to try the LoRAs on where prompt is empty: 280 built in, or a file in models/carlos/prompts.",
            **advanced(),
        ),
        io.Int.Input(
            "width", default=0, min=0, max=8192, step=8, optional=True, tooltip="0: the native size of the model.", **advanced()
        ),
        io.Int.Input(
            "height", default=0, min=0, max=8192, step=8, optional=True, tooltip="0: the native size of the model.", **advanced()
        ),
        *indexing.sampling_inputs(of_presets=False),
        *search_widgets.effect_inputs(optional=True),
    ]


NODES = [CarlosRaceLoras]
