"""What Auto LoRA applies for a query: chosen by its settings, fetched where it may be, and put onto the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ...carlos_core.errors import CivitaiNotFound, LoraError
from ...carlos_core.loras.listed import posix
from ...carlos_core.prompts.prompt_set import default_signature_prompts
from ...carlos_core.records import AppliedLora
from ...carlos_core.search import limits
from ...carlos_core.search.limits import ChoiceRules, SearchLimits
from ...carlos_core.search.names_in_queries import without_strangers
from ..host import civitai, folders, lora_folder, runtime
from ..host.progress import NodeProgress, bar
from . import names, next_step, search_widgets, start
from .applying import Applied, NotApplied, applied
from .model_fit import ForModel, for_model

if TYPE_CHECKING:
    from ...carlos_core.loras.matching import Resolved
    from ...carlos_core.measuring.start import Start
    from ...carlos_core.search.selection import Pick, Selection

AUTO = "auto"
SUGGESTED, ONE = "suggested", "1.0"

_TRIES = 5
"""How many choices are tried at most when LoRAs in them cannot be applied."""


class Selected(NamedTuple):
    """What to apply, and how it was chosen."""

    selection: Selection
    rules: ChoiceRules
    """By which."""

    allowed: ForModel
    """Among which LoRAs."""

    gone: list[str]
    """Which files are not what was measured, in words."""

    then: str
    """What to do next where nothing is applied."""

    first: Start | None
    """What can be done now, where the database hardly knows the files."""

    @property
    def names_only(self) -> bool:
        """Whether the query says nothing but names of LoRAs, so that there is no effect to look for."""
        return self.then == next_step.SAY_EFFECT


def selected(
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
) -> Selected:
    """What to apply, by the node's settings."""
    folders.check_choice(ranking, limits.RANKINGS, "ranking")
    rules, by_label = _rules(settings), settings["base_model"] == AUTO
    searcher = runtime.searcher(database, folders.prompt_set(prompts, default_signature_prompts()))
    doubted: set[str] = set()

    def choose(files: dict[str, Resolved]) -> tuple[Selected, set[str]]:
        installed = lora_folder.installed(files)
        allowed = for_model(_limits(database, installed, settings), database, model, clip, installed, hidden, by_label=by_label)
        among, within = searcher.among(installed, allowed.preference), allowed.limits
        first = start.start_of(database, installed, hidden, model, clip)
        is_searched = among.nothing(query, within) is None

        def choice(asked: str) -> Selection:
            return among.choose(asked, negative=negative_query, rules=rules, limits=within, ranking=ranking, on_progress=bar())

        with start.told_before_fetching(first if is_searched else None, database, hidden):
            selection = choice(query)
        if rules.min_confidence != limits.ANY:
            selection = without_strangers(query, selection, choice, lambda: names.in_query(query, database, allowed))
        gone = [files[lora_id].note for lora_id in sorted(doubted & files.keys()) if files[lora_id].name is None]
        picked = {pick.match.lora_id for pick in selection.picks}
        doubted.update(picked)
        then = "" if picked else next_step.after_filters(database, allowed, files, AUTO)
        if selection.is_unfit:
            is_name = names.is_only_name(query, database, allowed)
            then = next_step.SAY_EFFECT if is_name else next_step.after_search(database, allowed, files)
        return Selected(selection, rules, allowed, gone, then, first), picked

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


def apply_best(model: Any, clip: Any, selection: Selection, node_id: str | None) -> tuple[Selection, Applied, list[str]]:
    """The selection, applied to the model, with the next best in place of LoRAs that cannot be applied; why those were left out.

    Raises LoraError if there is no next best.
    """
    left_out: dict[str, str] = {}
    while True:
        try:
            loras = [_with_file(pick, node_id) for pick in selection.picks]
            return selection, applied(model, clip, loras), list(left_out.values())
        except NotApplied as error:
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
            raise NotApplied(gone, error) from error
    lora = AppliedLora(file, pick.weight, lora_folder.trigger_words(file, record), record.lora_id, pick.score)
    try:
        lora_folder.check_content(file, record)
    except LoraError as error:
        raise NotApplied(lora, error) from error
    return lora
