"""The node that does everything between a checkpoint loader and a sampler: finds LoRAs, fetches, weighs and applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..carlos_core.loras.family import FAMILIES
from ..carlos_core.loras.trigger_words import with_words
from ..carlos_core.search import limits
from .common import (
    applying,
    auto_choice,
    auto_report,
    choice_in_pictures,
    matches,
    pictures,
    racing,
    search_widgets,
)
from .common.auto_choice import AUTO, ONE, SUGGESTED
from .common.choice import read_choice
from .common.report import report
from .common.schema import advanced, keeps_report, search_aliases
from .common.sockets import CarlosDb, facts_output, picture_output
from .host.progress import NodeProgress

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase
    from .common.racing import Raced


class CarlosAutoLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosAutoLora",
            display_name="Auto LoRA (CARLoS)",
            category="CARLoS",
            description="Finds the LoRAs that do what a sentence says, chooses their weights and applies them to model and CLIP.",
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Model.Input("model", tooltip="From Load Checkpoint."),
                io.Clip.Input("clip", optional=True),
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input(
                    "query",
                    multiline=True,
                    tooltip='What the LoRAs should do, e.g. "pixel art, burning flames". Separate several effects with commas or '
                    '"and". A whole prompt may be connected, too: effects are found in it. "no rain" leaves rain out.',
                ),
                io.String.Input("negative_query", default="", tooltip="What the LoRAs should not do, e.g. heavy brush strokes."),
                io.Combo.Input(
                    "mode",
                    options=list(limits.MODES),
                    default=limits.BEST_ONE,
                    tooltip="best one: one LoRA. top k equal: the best LoRAs, each at its own weight. "
                    "composed: one LoRA for each effect, with weights that suit the query.",
                ),
                io.Int.Input("max_loras", default=2, min=1, max=10, tooltip="How many LoRAs to apply at most."),
                io.Float.Input(
                    "strength_budget",
                    default=2.0,
                    min=0.05,
                    max=20.0,
                    step=0.05,
                    tooltip="The most that all weights may add up to.",
                ),
                io.Combo.Input(
                    "weight",
                    options=[SUGGESTED, ONE],
                    default=SUGGESTED,
                    tooltip="Weight of a LoRA when used alone. suggested: what scale_sweep of LoRA Indexer found, otherwise 1.",
                    **advanced(),
                ),
                io.Combo.Input(
                    "base_model",
                    options=[AUTO, search_widgets.ANY_BASE_MODEL, *FAMILIES],
                    default=AUTO,
                    tooltip="auto: told by the model's shapes. Pony and Illustrious have those of SDXL: their LoRAs are "
                    "preferred if the checkpoint's name says so. Choose them by hand to leave out the others.",
                ),
                io.Combo.Input(
                    "min_confidence",
                    options=list(limits.CONFIDENCES),
                    default="likely",
                    tooltip="How sure a match must be to be applied. any: the best match is applied, however badly it fits.",
                ),
                search_widgets.nsfw_input(optional=False),
                io.Boolean.Input("allow_download", default=False, tooltip="On: may fetch the chosen LoRAs from CivitAI."),
                io.String.Input(
                    "choice", default="", tooltip="The choice of an earlier run, from its report. It is applied as it is."
                ),
                *search_widgets.effect_inputs(optional=False),
                search_widgets.prompts_input(),
                search_widgets.ranking_input(
                    limits.CALIBRATED,
                    "calibrated: by how much better a LoRA fits the query than it fits unrelated effects.",
                    **advanced(),
                ),
                applying.prompt_input(),
                io.Float.Input(
                    "keep_content",
                    default=limits.KEEP_CONTENT,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Between effect and content. 0: weights as large as strength_budget allows. 0.5: together the LoRAs "
                    "change a picture no more than the strongest alone, so that it still shows its prompt. 1: half of that.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="From Load Checkpoint. Only for race_unindexed."),
                io.Boolean.Input(
                    "race_unindexed",
                    default=False,
                    optional=True,
                    tooltip="On: where nothing that was measured fits, LoRAs that nobody measured are raced for the query, as "
                    "Race LoRAs does. It needs clip, vae and a database of your own, and takes minutes.",
                ),
            ],
            outputs=[
                *applying.outputs(),
                io.String.Output(display_name="report"),
                facts_output(),
                applying.prompt_output(),
                picture_output(),
            ],
            **search_aliases(
                "automatic lora", "choose lora", "which lora", "find lora", "lora from prompt", "load lora", "lora stack"
            ),
            **keeps_report(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return matches.fingerprint()

    @classmethod
    def execute(
        cls,
        model: Any,
        database: MetricsDatabase,
        query: str,
        choice: str,
        clip: Any = None,
        prompt: str = "",
        vae: Any = None,
        race_unindexed: bool = False,
        **settings: Any,
    ) -> io.NodeOutput:
        raced: Raced | None = None
        if choice.strip():
            loras, unlike = read_choice(choice, database)
            done = applying.applied(model, clip, loras)
            told = auto_report.of_given(query, done, unlike, database)
        else:
            chosen = auto_choice.selected(model, clip, database, query, cls.hidden, **settings)
            if race_unindexed and not (chosen.selection.picks or chosen.names_only):
                raced = racing.raced_unindexed(cls.hidden, (model, clip, vae), database, query, settings)
            if raced is not None:
                database = raced.database
                chosen = auto_choice.selected(model, clip, database, query, cls.hidden, **settings)
            selection, done, not_applied = auto_choice.apply_best(model, clip, chosen.selection, cls.hidden.unique_id)
            told = auto_report.of_choice(
                query,
                chosen._replace(selection=selection),
                done,
                not_applied,
                database=database,
                raced=raced,
            )
        choice_in_pictures.keep(cls.hidden, query, told.facts["choice"])
        text, facts = report(told.lines, told.facts)
        picture, shown = pictures.drawn(told.listing, text)
        if raced is not None:
            progress = NodeProgress(cls.hidden.unique_id)
            progress.say(f"done: {raced.result.reason}")
            progress.take_picture_off()
        return io.NodeOutput(*done.outputs, text, facts, with_words(prompt, done.trigger_words), picture, ui=shown)


NODES = [CarlosAutoLora]
