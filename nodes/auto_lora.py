"""The node that does everything between a checkpoint loader and a sampler: finds LoRAs, fetches, weighs and applies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..carlos_core.counting import counted
from ..carlos_core.drawing import theme
from ..carlos_core.drawing.listing import Listing, Row, Said
from ..carlos_core.errors import CivitaiNotFound, LoraError
from ..carlos_core.loras.family import FAMILIES
from ..carlos_core.loras.trigger_words import with_words
from ..carlos_core.prompts.prompt_set import default_signature_prompts
from ..carlos_core.records import AppliedLora
from ..carlos_core.search import limits
from ..carlos_core.search.limits import ChoiceRules, SearchLimits
from . import apply_loras as apply
from .common import choice_in_pictures, descriptions, matches, names, pictures, preferred, reading, search_widgets, weak_loras
from .common.choice import facts_of, posix, read_choice
from .common.model_fit import ForModel, for_model
from .common.report import database_facts, database_line, number, report, table
from .common.schema import advanced, keeps_report, search_aliases
from .common.sockets import CarlosDb, facts_output, picture_output
from .host import civitai, folders, lora_folder, runtime
from .host.progress import NodeProgress, bar

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase
    from ..carlos_core.loras.matching import Resolved
    from ..carlos_core.search.selection import Pick, Selection

_TRIES = 5
"""How many choices are tried at most when LoRAs in them cannot be applied."""

AUTO = "auto"
SUGGESTED, ONE = "suggested", "1.0"


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
                apply.prompt_input(),
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
            ],
            outputs=[
                *apply.outputs(),
                io.String.Output(display_name="report"),
                facts_output(),
                apply.prompt_output(),
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
        **settings: Any,
    ) -> io.NodeOutput:
        if choice.strip():
            loras, unlike = read_choice(choice, database)
            applied = apply.applied(model, clip, loras)
            lines = [f"A choice made before is applied as it is ({counted(len(loras), 'LoRA')}); the query is not looked at."]
            reason, notes, left_out, preference = "chosen before", [*unlike, *applied.warnings], {}, {}
            understanding, filters, filtered, keeping = None, [], [], None
            listing = _chosen_before(applied.loras, [*lines, *notes], database)
        else:
            selection, allowed, gone = _selection(model, clip, database, query, cls.hidden, **settings)
            selection, applied, not_applied = _applied(model, clip, selection, cls.hidden.unique_id)
            words = descriptions.of_matches(database, [pick.match for pick in selection.picks])
            lines, reason = _lines(selection, applied.loras, words), selection.reason
            chosen = [pick.match for pick in selection.picks]
            made_for = preferred.notes_of(allowed.preference, chosen, database)
            preference = preferred.facts_of(allowed.preference, chosen)
            of_query = [*selection.notes, *names.notes_of(query, database, allowed, is_lost=not selection.picks)]
            weighed = [(pick.match, pick.weight) for pick in selection.picks]
            weak = weak_loras.notes_of(database, weighed, weak_loras.EMPHASISE)
            notes = [*of_query, *weak, *made_for, *allowed.notes, *gone, *not_applied, *applied.warnings]
            left_out = allowed.facts
            understanding, keeping = selection.understanding, selection.keeping
            filters = allowed.limits.filters(database, allowed.installed)
            # Where nothing was found, the reason may have them already.
            said_of_filters = limits.told(filters, len(database))
            filtered = [said_of_filters] if said_of_filters and said_of_filters not in reason else []
            kept = () if selection.keeping is None else selection.keeping.notes
            listing = _listing(selection, [*kept, *weak, *gone, *not_applied, *applied.warnings], database)
        facts = [facts_of(lora) for lora in applied.loras]
        choice_in_pictures.keep(cls.hidden, query, facts)
        said = {
            "query": query.strip(),
            "choice": facts,
            "reason": reason,
            "notes": notes,
            "left_out": left_out,
            **preference,
            "reading": reading.facts_of(understanding),
            "filters": [each._asdict() for each in filters],
            "database": database_facts(database),
            "keep_content": keeping.facts if keeping is not None else None,
        }
        read = reading.lines(understanding, database, lists_effects=False)
        text, facts_said = report([*lines, *read, *notes, *filtered, database_line(database)], said)
        with_prompt = with_words(prompt, applied.trigger_words)
        picture, shown = pictures.drawn(listing, text)
        return io.NodeOutput(*applied.outputs, text, facts_said, with_prompt, picture, ui=shown)


def _selection(
    model: Any,
    clip: Any,
    database: Any,
    query: str,
    hidden: Any,
    *,
    negative_query: str,
    prompts: str,
    ranking: str = limits.CALIBRATED,
    **settings: Any,
) -> tuple[Selection, ForModel, list[str]]:
    """What to apply, by the node's settings, among which LoRAs it was chosen, and which files are not what was measured."""
    folders.check_choice(ranking, limits.RANKINGS, "ranking")
    rules, by_label = _rules(settings), settings["base_model"] == AUTO
    searcher = runtime.searcher(database, folders.prompt_set(prompts, default_signature_prompts()))
    doubted: set[str] = set()

    def choose(files: dict[str, Resolved]) -> tuple[tuple[Selection, ForModel, list[str]], set[str]]:
        installed = lora_folder.installed(files)
        allowed = for_model(_limits(database, installed, settings), database, model, clip, installed, hidden, by_label=by_label)
        selection = searcher.among(installed, allowed.preference).choose(
            query, negative=negative_query, rules=rules, limits=allowed.limits, ranking=ranking, on_progress=bar()
        )
        gone = [files[lora_id].note for lora_id in sorted(doubted & files.keys()) if files[lora_id].name is None]
        picked = {pick.match.lora_id for pick in selection.picks}
        doubted.update(picked)
        return (selection, allowed, gone), picked

    return lora_folder.surely(database, choose)


def _rules(settings: dict[str, Any]) -> ChoiceRules:
    folders.check_choice(settings["weight"], (SUGGESTED, ONE), "weight")
    folders.check_choice(settings["mode"], limits.MODES, "mode")
    folders.check_choice(settings["min_confidence"], limits.CONFIDENCES, "confidence")
    return ChoiceRules(
        settings["mode"],
        settings["max_loras"],
        settings["strength_budget"],
        settings["min_confidence"],
        takes_suggested=settings["weight"] == SUGGESTED,
        keep_content=settings.get("keep_content", limits.KEEP_CONTENT),
    )


def _limits(database: Any, files: dict[str, str], settings: dict[str, Any]) -> SearchLimits:
    """What may be chosen: LoRAs that are installed or, if that is allowed, can be fetched; of a family that the user says."""
    versions = zip(database.column("lora_id"), database.column("version_id"), strict=True)
    may_download = settings["allow_download"]
    out_of_reach = {lora_id for lora_id, version in versions if may_download and lora_id not in files and version is None}
    base_model = settings["base_model"]
    return SearchLimits(
        settings["max_strength"],
        settings["min_consistency"],
        base_model=None if base_model == AUTO else search_widgets.base_model_of(base_model),
        installed_only=not may_download,
        max_nsfw_level=settings["max_nsfw_level"],
        exclude=out_of_reach,
        others_are=("is installed or can be fetched", "are installed or can be fetched"),
    )


def _applied(model: Any, clip: Any, selection: Selection, node_id: str | None) -> tuple[Selection, apply.Applied, list[str]]:
    """The selection, applied to the model, with the next best in place of LoRAs that cannot be applied; why those were left out.

    Raises LoraError if there is no next best.
    """
    left_out: dict[str, str] = {}
    while True:
        try:
            loras = [_with_file(pick, node_id) for pick in selection.picks]
            return selection, apply.applied(model, clip, loras), list(left_out.values())
        except apply.NotApplied as error:
            left_out[error.lora.lora_id] = f"{posix(error.lora.file)} is left out: {error.what}"
            selection = selection.without(left_out.keys())
            if not selection.picks or len(left_out) >= _TRIES:
                raise


def _with_file(pick: Pick, node_id: str | None) -> AppliedLora:
    """A pick to apply, fetched if it is not installed."""
    record, file = pick.match.record, pick.match.file
    if file is None:
        progress = NodeProgress(node_id)
        said = record.metadata
        try:
            wanted = civitai.wanted(said.model_id, said.version_id, progress, file=record.sha256 or "")
            file = civitai.fetched(wanted, progress)[1]
        except CivitaiNotFound as error:
            gone = AppliedLora(record.file_name or record.name, pick.weight, lora_id=record.lora_id)
            raise apply.NotApplied(gone, error) from error
    lora = AppliedLora(file, pick.weight, lora_folder.trigger_words(file, record), record.lora_id, pick.score)
    try:
        lora_folder.check_content(file, record)
    except LoraError as error:
        raise apply.NotApplied(lora, error) from error
    return lora


def _lines(selection: Selection, chosen: list[AppliedLora], words: Mapping[str, str]) -> list[str]:
    if not chosen:
        return [selection.reason]
    header = ("for", "LoRA", "weight", "score", "confidence", "strength", "file", *descriptions.column(words))
    cells = [
        (
            pick.part,
            pick.match.name,
            number(pick.weight, 2),
            number(pick.score),
            pick.match.confidence.word if pick.match.confidence else "-",
            number(pick.match.vector.strength, 2),
            posix(lora.file),
            *descriptions.cell(words, pick.match.lora_id),
        )
        for pick, lora in zip(selection.picks, chosen, strict=True)
    ]
    return [f"LoRAs for {selection.query!r}: {selection.reason}".strip(": "), *table(header, cells)]


def _listing(selection: Selection, doubts: Sequence[str], database: MetricsDatabase) -> Listing:
    """What was chosen, as a picture. doubts: what was left out and why, and what of the LoRAs has no effect."""
    rows, notes = pictures.Rows(database), [Said(line, theme.DOUBTFUL) for line in doubts]
    if not selection.picks:
        return rows.listing(Said("No LoRA is applied", theme.DOUBTFUL), [Said(selection.reason), *notes])
    drawn = []
    weights = pictures.weights([pick.weight for pick in selection.picks])
    for pick, weight in zip(selection.picks, weights, strict=True):
        part = "" if pick.part == selection.query else pick.part
        drawn.append(rows.of_applied(pick.match.record, pick.match.name, weight, pick.match.confidence, part))
    title = Said(f"LoRAs for “{selection.query}”")
    return rows.listing(title, [Said(selection.reason, theme.QUIET), *notes], drawn, len(drawn))


def _chosen_before(loras: Sequence[AppliedLora], notes: Sequence[str], database: MetricsDatabase) -> Listing:
    """A choice made before, as a picture. notes: what the report says of it."""
    rows, drawn = pictures.Rows(database), []
    for lora, weight in zip(loras, pictures.weights([lora.weight for lora in loras]), strict=True):
        record = database.row(lora.lora_id)
        drawn.append(Row(posix(lora.file), (), (weight,)) if record is None else rows.of_applied(record, record.name, weight))
    return rows.listing(Said("LoRAs chosen before"), [Said(line, theme.QUIET) for line in notes], drawn, len(drawn))


NODES = [CarlosAutoLora]
