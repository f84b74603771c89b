"""The node that does everything between a checkpoint loader and a sampler: finds LoRAs, fetches, weighs and applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from ..carlos_core.loras.family import FAMILIES, families_alike
from ..carlos_core.prompts.prompt_set import default_signature_prompts
from ..carlos_core.search import ranking as retrieval
from ..carlos_core.search import selection as choosing
from ..carlos_core.search import weights as composition
from . import apply_loras as apply
from . import refresh_metadata as civitai
from .common import choice_in_pictures
from .common import search as found
from .common.choice import Locked, read_choice
from .common.report import number, report, table
from .common.sockets import CarlosDb
from .host import folders
from .host import runtime as encoding

if TYPE_CHECKING:
    from ..carlos_core.records import Matches
    from ..carlos_core.search.selection import Selection

AUTO = "auto"
SUGGESTED, ONE = "suggested", "1.0"


class CarlosAutoLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosAutoLora",
            display_name="Auto LoRA (CARLoS)",
            category="CARLoS",
            description="Finds the LoRAs that do what a sentence says, weighs them and applies them to model and CLIP.",
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Model.Input("model", tooltip="From Load Checkpoint."),
                io.Clip.Input("clip", optional=True),
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input(
                    "query",
                    multiline=True,
                    tooltip='What the LoRAs should do, e.g. "snowfall, pencil sketch". Several effects: with commas or "and".',
                ),
                io.String.Input("negative_query", default="", tooltip="But not this, e.g. heavy brush strokes."),
                io.Combo.Input(
                    "mode",
                    options=list(composition.MODES),
                    default=composition.BEST_ONE,
                    tooltip="best one: one LoRA. top k equal: the best ones alike. composed: one for each effect, weighed.",
                ),
                io.Int.Input("max_loras", default=2, min=1, max=10, tooltip="How many LoRAs to apply at most."),
                io.Float.Input(
                    "strength_budget", default=2.0, min=0.05, max=20.0, step=0.05, tooltip="What all weights may add up to."
                ),
                io.Combo.Input(
                    "weight",
                    options=[SUGGESTED, ONE],
                    default=SUGGESTED,
                    tooltip="Weight of a LoRA alone. suggested: what a scale sweep of LoRA Indexer found, else 1.",
                ),
                io.Combo.Input(
                    "base_model",
                    options=[AUTO, found.ANY_BASE_MODEL, *FAMILIES],
                    default=AUTO,
                    tooltip="auto: from the model's shapes. Pony and Illustrious have SDXL's: choose them by hand.",
                ),
                io.Combo.Input(
                    "min_confidence",
                    options=list(choosing.CONFIDENCES),
                    default="likely",
                    tooltip="Below this nothing is applied. any: the best, however little it fits.",
                ),
                found.nsfw_input(optional=False),
                io.Boolean.Input("allow_download", default=False, tooltip="May fetch the chosen LoRAs from CivitAI."),
                io.String.Input(
                    "choice", default="", tooltip="The choice of an earlier run, from its report: it is applied as it is."
                ),
                *found.effect_inputs(optional=False),
                found.prompts_input(),
                io.Combo.Input(
                    "ranking",
                    options=list(retrieval.RANKINGS),
                    default=retrieval.CALIBRATED,
                    optional=True,
                    tooltip="calibrated: by how far a LoRA stands out of what it has in common with any sentence.",
                ),
            ],
            outputs=[*apply.outputs(), io.String.Output(display_name="report")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return found.fingerprint()

    @classmethod
    def execute(cls, model, database, query: str, choice: str, clip=None, **settings: Any) -> io.NodeOutput:
        if choice.strip():
            locked = read_choice(choice, database)
            lines = [f"A choice made before is applied as it is ({len(locked)} LoRAs); the query is not looked at."]
            reason = "chosen before"
        else:
            selection = _selection(model, database, query, **settings)
            locked = _with_files(selection, cls.hidden.unique_id)
            lines, reason = _lines(selection, locked), selection.reason
        loras = [(lora.file, lora.weight, lora.trigger_words) for lora in locked]
        model, clip, words, stack, warnings = apply.applied(model, clip, loras)
        facts = [lora.facts() for lora in locked]
        choice_in_pictures.keep(cls.hidden, query, facts)
        text = report([*lines, *warnings], {"query": query.strip(), "choice": facts, "reason": reason, "notes": warnings})
        return io.NodeOutput(model, clip, words, stack, text, ui=ui.PreviewText(text))


def _selection(
    model: Any,
    database: Any,
    query: str,
    *,
    negative_query: str,
    mode: str,
    max_loras: int,
    strength_budget: float,
    weight: str,
    base_model: str,
    min_confidence: str,
    max_nsfw_level: int,
    allow_download: bool,
    max_strength: float,
    min_consistency: float,
    prompts: str,
    ranking: str = retrieval.CALIBRATED,
) -> Selection:
    from ..carlos_core.search.queries import but_not

    folders.check_choice(weight, (SUGGESTED, ONE), "weight")
    folders.check_choice(mode, composition.MODES, "mode")
    folders.check_choice(min_confidence, choosing.CONFIDENCES, "confidence")
    folders.check_choice(ranking, retrieval.RANKINGS, "ranking")
    families = _families(model, base_model)
    signature_prompts = folders.prompt_set(prompts, default_signature_prompts())
    needs_background = ranking == retrieval.CALIBRATED or min_confidence != choosing.ANY
    background = encoding.background(database, signature_prompts) if needs_background else None
    installed = found.installed(found.resolved(database))
    versions = dict(zip(database.column("lora_id"), database.column("version_id"), strict=True))
    at_reach = {lora_id for lora_id, version in versions.items() if allow_download and version is not None} | set(installed)
    out_of_reach = versions.keys() - at_reach

    def search(text: str) -> Matches:
        signature = encoding.signature(database, signature_prompts, text)
        if negative_query.strip():
            signature = but_not(signature, encoding.signature(database, signature_prompts, negative_query))
        return retrieval.find_matches(
            database,
            text,
            signature,
            top_k=choosing.CANDIDATES,
            max_strength=max_strength,
            min_consistency=min_consistency,
            base_model=families,
            installed=installed,
            max_nsfw_level=max_nsfw_level,
            exclude=out_of_reach,
            ranking=ranking,
            background=background,
        )

    return choosing.choose(
        query,
        search,
        mode=mode,
        max_loras=max_loras,
        strength_budget=strength_budget,
        min_confidence=min_confidence,
        max_strength=max_strength,
        takes_suggested=weight == SUGGESTED,
    )


def _families(model: Any, base_model: str) -> frozenset[str] | str | None:
    """What LoRAs must fit: what the model's shapes tell, or what the user says. None for anything."""
    from ..carlos_core.comfy.families import model_family

    if base_model != AUTO:
        return found.base_model_of(base_model)
    family = model_family(model)
    return None if family is None else families_alike(family)


def _with_files(selection: Selection, node_id: str | None) -> list[Locked]:
    """What was selected, with what is not at hand fetched."""
    chosen = []
    for pick in selection.picks:
        row = pick.match.row
        file = pick.match.file
        if file is None:
            file = civitai.fetch_version(row["model_id"], row["version_id"], node_id)
        chosen.append(Locked(pick.match.lora_id, file, pick.weight, pick.score, apply.trigger_words(file, row)))
    return chosen


def _lines(selection: Selection, chosen: list[Locked]) -> list[str]:
    if not chosen:
        return [selection.reason]
    header = ("LoRA", "weight", "score", "confidence", "strength", "for", "file")
    cells = [
        (
            pick.match.name,
            number(pick.weight, 2),
            number(pick.score),
            pick.match.confidence.word if pick.match.confidence else "-",
            number(pick.match.vector.strength, 2),
            pick.part,
            lora.posix,
        )
        for pick, lora in zip(selection.picks, chosen, strict=True)
    ]
    return [f"LoRAs for {selection.query!r}: {selection.reason}".strip(": "), *table(header, cells)]


NODES = [CarlosAutoLora]
