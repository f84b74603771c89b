"""Nodes that measure LoRAs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui

from .. import carlos_core as carlos
from ..carlos_core.comfy.families import class_of_model
from ..carlos_core.comfy.folders import paths_of
from ..carlos_core.counting import counted
from ..carlos_core.errors import CarlosError, IndexingError
from ..carlos_core.foreign import printable
from ..carlos_core.loras.library import survey
from ..carlos_core.loras.listed import is_named, posix
from ..carlos_core.loras.same_file import by_file, listed_shortly
from ..carlos_core.measuring import run_facts
from ..carlos_core.measuring.failures import log_failures
from ..carlos_core.measuring.labels import labelled, notice, stacked
from .common import descriptions, index_report, indexing
from .common.index_progress import library_progress, told_when_cancelled
from .common.index_report import LibraryRun, Noted
from .common.model_fit import misfit_of
from .common.report import database_facts, database_line, report
from .common.schema import advanced, search_aliases
from .common.sockets import CarlosDb, facts_output
from .host import civitai, lora_folder, server
from .host.progress import NodeProgress, Tally

if TYPE_CHECKING:
    from ..carlos_core.civitai.lora import CivitaiLora
    from ..carlos_core.measuring.failures import Failure
    from ..carlos_core.measuring.indexer import Indexer
    from ..carlos_core.measuring.outcome import Outcome
    from ..carlos_core.records import LayerFit

CIVITAI = "CivitAI"

_MOST_SHEETS = 32
"""So many contact sheets of a run are shown, and no more are read or kept: each is 13 MB."""

_NONE_MEASURED = "No pictures to show: none of the LoRAs could be measured. The report says why."


def _outputs() -> list[io.Output]:
    return [
        CarlosDb.Output(display_name="database"),
        io.String.Output(display_name="report"),
        io.Image.Output(
            display_name="contact_sheet",
            tooltip=f"Without the LoRA above, with it below; its name over them. Of at most {_MOST_SHEETS} LoRAs.",
        ),
        facts_output(),
    ]


class CarlosLoraIndexer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLoraIndexer",
            display_name="LoRA Indexer (CARLoS)",
            category="CARLoS",
            description="Measures what a LoRA does: compares pictures with and without it through CLIP, and saves the result.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            inputs=[
                *indexing.model_inputs(),
                io.Combo.Input(
                    "lora_name",
                    options=[CIVITAI, *lora_folder.lora_names()],
                    default=next(iter(lora_folder.lora_names()), CIVITAI),
                    tooltip="The LoRA to measure.",
                ),
                io.String.Input(
                    "civitai_model_id",
                    default="",
                    tooltip="For lora_name = CivitAI: the id of the model, for its newest version.",
                ),
                io.String.Input(
                    "civitai_version_id",
                    default="",
                    tooltip="For lora_name = CivitAI: the id of the version. It is fetched into models/loras.",
                ),
                *indexing.settings_inputs("standard"),
                io.String.Input(
                    "civitai_file",
                    default="",
                    optional=True,
                    tooltip="For lora_name = CivitAI: which of the version's files, by its name, a part of it, or its id. "
                    "Empty: the main one.",
                    **advanced(),
                ),
            ],
            outputs=_outputs(),
            **search_aliases("index lora", "measure lora", "analyze lora", "test lora", "lora strength", "civitai"),
        )

    @classmethod
    def execute(
        cls, lora_name: str, civitai_model_id: str, civitai_version_id: str, civitai_file: str = "", **settings: Any
    ) -> io.NodeOutput:
        tally = Tally()
        with told_when_cancelled(cls.hidden.unique_id, tally):
            indexer, outcome = cls._indexed(lora_name, civitai_model_id, civitai_version_id, civitai_file, tally, settings)
            words, remarks = descriptions.renewed(indexer.target, NodeProgress(cls.hidden.unique_id))
        fit = lora_folder.lora_fit(outcome.lora.path, settings["model"], settings["clip"])
        database, said = indexer.target.read(), words.get(outcome.row.lora_id)
        facts = {
            **run_facts.facts_of(outcome, fit),
            "described_as": said,
            "settings": run_facts.settings_facts(indexer),
            "database": database_facts(database),
        }
        NodeProgress(cls.hidden.unique_id).say(index_report.lora_in_short(outcome))
        details = [*remarks, *run_facts.plan_lines(indexer), database_line(database)]
        text, facts_said = report(index_report.lora_lines(outcome, said, details), facts)
        return io.NodeOutput(database, text, _sheets([outcome]), facts_said, ui=ui.PreviewText(text))

    @classmethod
    def _indexed(
        cls, lora_name: str, model_id: str, version_id: str, file: str, tally: Tally, settings: dict[str, Any]
    ) -> tuple[Indexer, Outcome]:
        progress = NodeProgress(cls.hidden.unique_id, tally=tally)
        if lora_name == CIVITAI:
            if not (model_id.strip() or version_id.strip()):
                raise IndexingError(
                    "No LoRA is chosen: lora_name is CivitAI, and no id is given.",
                    "Choose a LoRA of yours in lora_name, or give civitai_model_id or civitai_version_id.",
                )
            indexer = indexing.indexer_of(cls.hidden, None, tally, **settings)
            wanted = civitai.wanted(model_id, version_id, progress, file=file)
            return indexer, _of_version(indexer, wanted, progress)
        lora = lora_folder.read_lora(lora_folder.lora_path(lora_name), lora_name)
        known = lora_folder.lora_fit(lora.path, settings["model"], settings["clip"])
        # Where nothing fits, no picture is needed to say so.
        fitting = [posix(lora_name)] if known is None or known.layers or not known.of else []
        indexer = indexing.indexer_of(cls.hidden, fitting, tally, **settings)
        return indexer, indexing.index(indexer, lora, progress)


class CarlosIndexLibrary(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosIndexLibrary",
            display_name="Index Library (CARLoS)",
            category="CARLoS",
            description="Measures all LoRAs in models/loras, or a selection, one after another. Skips those that it knows.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            inputs=[
                *indexing.model_inputs(),
                io.String.Input(
                    "name_filter",
                    default="",
                    tooltip='Parts of the names, or patterns such as "styles/*", with commas between them. Empty: all LoRAs.',
                ),
                *indexing.settings_inputs("quick"),
                io.Boolean.Input(
                    "give_way",
                    default=False,
                    optional=True,
                    tooltip="Stops after a LoRA that was measured when another workflow waits in the queue. Run again to go on: "
                    "what is saved is not measured again.",
                ),
            ],
            outputs=_outputs(),
            **search_aliases("index all loras", "measure all loras", "scan loras", "lora folder", "batch index"),
        )

    @classmethod
    def execute(cls, name_filter: str, give_way: bool = False, **settings: Any) -> io.NodeOutput:
        names = [name for name in lora_folder.lora_names() if is_named(name, name_filter)]
        if not names:
            raise IndexingError(
                f"No LoRA's name fits {name_filter!r}.",
                "Write parts of names with commas between them, or empty name_filter to take all of models/loras.",
            )
        places = dict(paths_of(names))
        same = {first.name: others for first, *others in by_file(survey(places.items()))}
        fits = _fits_of(settings["model"], settings["clip"])
        gone, misfits = _gone(names, places), _unfit(list(same), fits, class_of_model(settings["model"]))
        left_out = gone | misfits
        log_failures(left_out.values())
        ordered = lora_folder.in_order_of_use(name for name in same if name not in left_out)
        files = [(name, places[name]) for name in ordered]
        tally = Tally(loras=0)
        with told_when_cancelled(cls.hidden.unique_id, tally):
            indexer, results = _index_all(cls.hidden, files, settings, tally, give_way=give_way)
            is_any = any(isinstance(result, carlos.Outcome) for result in results)
            words, remarks = descriptions.renewed(indexer.target, NodeProgress(cls.hidden.unique_id)) if is_any else ({}, [])
        outcomes = [result for result in results if isinstance(result, carlos.Outcome)]
        failed = [*(result for result in results if not isinstance(result, carlos.Outcome)), *gone.values()]
        links = {posix(name): [other.name for other in others] for name, others in same.items() if others}
        noted = [*_linked(links), *index_report.noted(outcomes, fits)]
        left = [posix(name) for name, _path in files[len(results) :]]
        run = LibraryRun(outcomes, list(misfits.values()), failed, noted, words, left)
        database = indexer.target.read()
        # Scripts find what is for other models among the failures, as ever.
        failures = [*failed, *misfits.values()]
        facts = {
            "indexed": [run_facts.facts_of(outcome, fits.get(outcome.lora.name)) for outcome in run.new],
            "described_as": {outcome.lora.name: words.get(outcome.row.lora_id) for outcome in outcomes},
            "skipped": [outcome.lora.name for outcome in outcomes if not outcome.is_new],
            "failed": [vars(failure) for failure in failures],
            "for_other_models": [failure.file for failure in run.misfits],
            "failed_alike": [vars(group) for group in carlos.alike(failures)],
            "noted": [vars(note) for note in noted],
            "not_found": index_report.not_found_facts(outcomes),
            "left": left,
            "settings": run_facts.settings_facts(indexer),
            "database": database_facts(database),
        }
        NodeProgress(cls.hidden.unique_id).say(run.on_node)
        details = [*remarks, *run_facts.plan_lines(indexer), database_line(database)]
        text, facts_said = report(index_report.library_lines(run, details), facts)
        return io.NodeOutput(database, text, _sheets(outcomes), facts_said, ui=ui.PreviewText(text))


def _index_all(
    hidden: Any, files: list[tuple[str, Path]], settings: dict[str, Any], tally: Tally, *, give_way: bool
) -> tuple[Indexer, list[Outcome | Failure]]:
    """What came of each LoRA. An error that would meet all of them is raised at once; it says how many were saved before.

    give_way: the run ends after a LoRA that was measured if another workflow waits. What is known already takes no time.
    """
    results: list[Outcome | Failure] = []
    indexer = indexing.indexer_of(hidden, [posix(name) for name, _ in files], tally, **settings)
    progress_of = library_progress(hidden.unique_id, indexer, [name for name, _ in files], tally)
    n_new = n_sheets = 0
    try:
        for result in indexer.index_all(files, progress_of):
            kept = result
            if isinstance(result, carlos.Outcome):
                n_new += result.is_new
                n_sheets += result.sheet is not None
                if n_sheets > _MOST_SHEETS:
                    kept = replace(result, sheet=None)
            results.append(kept)
            tally.loras = n_new
            if give_way and isinstance(result, carlos.Outcome) and result.is_new and server.others_wait():
                break
    except CarlosError as error:
        if not n_new:
            raise
        saved = f"Saved so far: {counted(n_new, 'row')}; run again to go on."
        raise type(error)(error.what, f"{error.hint} {saved}".strip()) from error
    return indexer, results


def _of_version(indexer: Indexer, wanted: CivitaiLora, progress: NodeProgress) -> Outcome:
    """Fetch a LoRA into ComfyUI's first folder of LoRAs and measure it, unless the database has it. Raises CarlosError."""
    known = indexer.known_version(wanted)
    if known is not None:
        return known
    path, name = civitai.fetched(wanted, progress)
    return indexing.index(indexer, lora_folder.read_lora(path, name), progress)


def _linked(links: Mapping[str, list[str]]) -> Iterator[Noted]:
    """What to say of files that are listed under several names. links: name -> the other names."""
    for name, others in links.items():
        yield Noted(name, f"is also listed as {listed_shortly(others)}: one file, looked at once")


def _gone(names: list[str], places: Mapping[str, Path]) -> dict[str, Failure]:
    """The LoRAs that were deleted since ComfyUI listed them."""
    reason = "The LoRA is not there. Check that it was not moved or deleted."
    return {name: carlos.Failure(printable(posix(name)), reason) for name in names if name not in places}


def _fits_of(model: Any, clip: Any) -> dict[str, LayerFit]:
    """How many layers of each LoRA fit the model, by name with "/" between folders."""
    return {posix(name): fit for name, fit in lora_folder.lora_fits(model, clip).items()}


def _unfit(names: list[str], fits: Mapping[str, LayerFit], model: str) -> dict[str, Failure]:
    """The LoRAs that are for other models, as their headers say: they are not read whole only to find that out."""
    found = ((name, fits.get(posix(name))) for name in names)
    # A file of no layers makes no sense, and measuring it says why.
    return {name: _misfit(name, fit, model) for name, fit in found if fit is not None and fit.of and not fit.fits}


def _misfit(name: str, fit: LayerFit, model: str) -> Failure:
    return carlos.Failure(printable(posix(name)), misfit_of("LoRA", fit, model))


def _sheets(outcomes: Sequence[Outcome]) -> torch.Tensor:
    """The contact sheets of what was measured just now, each below its LoRA's name. If there are none, those of what was measured
    before; if there are none of these either, a picture that says so. [N, H, W, 3]."""
    for wanted in (True, False):
        found = ((outcome, outcome.pairs()) for outcome in outcomes if outcome.is_new is wanted)
        there = ((outcome, sheet) for outcome, sheet in found if sheet is not None)
        # No more is read than is shown.
        if shown := list(islice(there, _MOST_SHEETS)):
            return stacked([labelled(sheet, outcome.lora.name or outcome.row.name) for outcome, sheet in shown])
    return outcomes[0].contact_sheet if outcomes else notice(_NONE_MEASURED)


NODES = [CarlosLoraIndexer, CarlosIndexLibrary]
