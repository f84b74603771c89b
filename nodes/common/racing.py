"""A race of the LoRAs that ComfyUI lists, from a node's inputs to its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch

from ... import carlos_core as carlos
from ...carlos_core.comfy.families import class_of_model
from ...carlos_core.comfy.folders import paths_of
from ...carlos_core.comfy.layers import model_key
from ...carlos_core.comfy.workflow import guidances_of
from ...carlos_core.counting import counted, share
from ...carlos_core.errors import DatabaseError, GenerationError, PromptSetError
from ...carlos_core.foreign import printable
from ...carlos_core.loras.library import FileState, survey
from ...carlos_core.loras.listed import is_named, posix
from ...carlos_core.loras.same_file import by_file
from ...carlos_core.measuring.settings import SAMPLINGS, RaceSettings
from ...carlos_core.prompts.prompt_set import default_index_prompts, default_signature_prompts
from ...carlos_core.search.language import knows_other_languages, other_language
from ...carlos_core.search.limits import BEST_ONE, SearchLimits
from ...carlos_core.search.reading import read
from ..host import folders, lora_folder, runtime
from ..host.progress import NodeProgress, Tally, bar
from . import indexing
from .index_progress import told_when_cancelled

if TYPE_CHECKING:
    from torch import Tensor

    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.measuring.indexer import Indexer
    from ...carlos_core.measuring.race_terms import RaceResult, RaceRules

logger = logging.getLogger(__name__)


_failed: set[tuple[FileState, str]] = set()
"""Files that a model could not be raced with in this process: no further query races for them."""


@dataclass(frozen=True, eq=False)
class Entered:
    """Which LoRAs take part in a race, and which do not."""

    names: Sequence[str]
    """Of the files that fit the model, as listed."""

    n_unfit: int
    """Files that are for other models, as their headers say: they cost no picture."""

    model: str
    """ComfyUI's class of the model."""

    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Name as listed -> what is wrong with the file: it makes no LoRA."""


@dataclass(frozen=True, eq=False)
class Raced:
    """A race that is over."""

    result: RaceResult
    rules: RaceRules
    settings: RaceSettings
    entered: Entered
    indexer: Indexer
    database: MetricsDatabase
    """With the rows of the race."""

    files: Mapping[str, str]
    """sha256 -> name as listed, of those that took part."""

    signature: Tensor | None
    """Of the query, [D]; None where nobody took part."""

    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Name -> what is wrong with it."""

    seconds: float = 0.0
    """How long it took, once CLIP had read what was asked."""

    @property
    def quick_evaluations(self) -> int:
        """What it would take to index all that took part by the preset quick."""
        return carlos.Costs.of(self.result.candidates, self.indexer.studio.generator.evaluations_per_image, None).quick

    @property
    def facts(self) -> dict[str, Any]:
        """For a report."""
        facts = carlos.race_facts(self.result, self.settings, self.entered.n_unfit)
        unreadable = [{"file": posix(name), "reason": reason} for name, reason in self.unreadable.items()]
        return {**facts, "failed": [*facts["failed"], *unreadable], "quick_model_evaluations": self.quick_evaluations}


def entered(model: Any, clip: Any, name_filter: str = "") -> Entered:
    """The listed LoRAs that fit a model, each file once. name_filter: as of Index Library."""
    names = [name for name in lora_folder.lora_names() if is_named(name, name_filter)]
    fits = lora_folder.lora_fits(model, clip)
    firsts = [first.name for first, *_links in by_file(survey(paths_of(names)))]
    known = [name for name in firsts if name in fits]
    fitting = [name for name in known if fits[name].fits]
    wanted = set(names)
    broken = by_file(entry for entry in lora_folder.lora_library().entries if not entry.is_usable and entry.name in wanted)
    unreadable = {first.name: first.problem for first, *_links in broken}
    damaged = {name: why for name in known if not fits[name].of and (why := lora_folder.why_no_lora(name, model, clip))}
    return Entered(fitting, len(known) - len(fitting) - len(damaged), class_of_model(model), unreadable | damaged)


def raced(
    hidden: Any,
    who: Entered,
    query: str,
    rules: RaceRules,
    *,
    loaded: tuple[Any, Any, Any],
    database: Any,
    settings: RaceSettings,
    search: Mapping[str, Any],
) -> Raced:
    """Race.

    Args:
        hidden: of the node; it asks for `prompt` and `unique_id`.
        who: takes part.
        query: what is asked.
        rules: when it is over.
        loaded: ComfyUI's MODEL, CLIP and VAE.
        database: a database of the user's own.
        settings: of the pictures.
        search: `prompts` (of the signature), and the limits on what was measured.

    Raises CarlosError for values that the widgets do not offer, an input that is empty, or a database that cannot be written.
    """
    rules.check()
    folders.check_choice(settings.sampling, SAMPLINGS, "sampling")
    folders.check_choice(settings.sampler_name, comfy.samplers.KSampler.SAMPLERS, "sampler")
    folders.check_choice(settings.scheduler, comfy.samplers.KSampler.SCHEDULERS, "scheduler")
    model, clip, vae = loaded
    indexing.check_whole(clip, vae)
    carlos.check_asked(query)
    tally = Tally()
    progress = NodeProgress(hidden.unique_id, tally=tally)
    at = indexing.workplace(database, settings.index_prompts)
    signature_prompts = folders.prompt_set(search["prompts"], default_signature_prompts())
    limits = SearchLimits(**{name: value for name, value in search.items() if name != "prompts"})
    guidances = guidances_of(hidden.prompt, hidden.unique_id)
    if not settings.prompt.strip():
        at.target.check_writable()
    # What is wrong with the question is told before files are read whole, and that nobody takes part before the encoder is
    # fetched.
    files, changed = lora_folder.read_loras(list(who.names))
    unreadable = {**who.unreadable, **changed}
    in_race = f"{counted(len(files), 'LoRA')} in the race, {who.n_unfit} for other models"
    if files:
        progress.say(f"{in_race}; CLIP reads what is asked")
    searcher = runtime.searcher(database, signature_prompts)
    question = carlos.question_of(searcher, query, limits, bar()) if files else None
    of_steps = indexing.progress_of_steps(hidden, tally)
    if files:
        progress.say(f"{in_race}; the first pictures are made")
    began = time.monotonic()
    with told_when_cancelled(hidden.unique_id, tally):
        indexer = carlos.race_indexer(carlos.Loaded(model, clip, vae), settings, at, guidances, files, of_steps)
    if question is None:
        nobody = carlos.RaceResult.of_nobody(query.strip())
        return Raced(nobody, rules, settings, who, indexer, at.target.read(), {}, None, unreadable)
    race = carlos.race_of(indexer, files, question, rules, keeps_rows=not settings.prompt.strip(), began=began)
    with told_when_cancelled(hidden.unique_id, tally, lambda: _so_far(race.result)):
        result = race.run(progress)
    if not settings.prompt.strip():
        carlos.keep_race_pictures(indexer, result)
    listed = {posix(name): name for name in who.names}
    by_content = {lora.sha256: listed.get(lora.name, lora.name) for lora in files}
    signature = torch.from_numpy(question.signature)
    took = time.monotonic() - began
    # Where the file is gone by now, the result's notes say that no row could be kept.
    with suppress(DatabaseError):
        database = at.target.read()
    return Raced(result, rules, settings, who, indexer, database, by_content, signature, unreadable, took)


def raced_unindexed(
    hidden: Any,
    loaded: tuple[Any, Any, Any],
    database: Any,
    query: str,
    settings: Mapping[str, Any],
) -> Raced | None:
    """A race of all LoRAs that fit, by the settings of Auto LoRA; None where no file is new to it, or the query asks for nothing.

    Args:
        hidden: of the node; it asks for `prompt` and `unique_id`.
        loaded: ComfyUI's MODEL, CLIP and VAE.
        database: a database of the user's own.
        query: what is asked.
        settings: the values of Auto LoRA's widgets.

    Raises as `raced`.
    """
    understood = knows_other_languages(str(database.encoder_id)) or other_language(query) is None
    if not (read(query).wishes and understood):
        return None
    for name, output, value in (("clip", "CLIP", loaded[1]), ("vae", "VAE", loaded[2])):
        if value is None:
            raise GenerationError(
                f"race_unindexed makes pictures, and nothing is wired into {name}.",
                f"Wire the {output} of Load Checkpoint into it, or switch race_unindexed off.",
            )
    who = entered(*loaded[:2])
    # Read whole, a copy of what was measured is known by its content; a race would read them, too.
    if names := _unmeasured(who, database):
        lora_folder.read_loras(names)
    unknown = {(state, who.model) for state in survey(paths_of(_unmeasured(who, database)))} - _failed
    if not unknown:
        return None
    NodeProgress(hidden.unique_id).say(f"nothing that was measured fits: {counted(len(who.names), 'LoRA')} are raced")
    rules = carlos.RaceRules(top_k=1 if settings["mode"] == BEST_ONE else settings["max_loras"])
    search = {name: settings[name] for name in ("prompts", "max_strength", "min_consistency")}
    of_pictures = carlos.settings_of_rows(database, model_key(loaded[0]), _prompt_sets())
    done = raced(hidden, who, query, rules, loaded=loaded, database=database, settings=of_pictures, search=search)
    failed = {failure.file for failure in done.result.failed} | {posix(name) for name in done.unreadable}
    _failed.update(each for each in unknown if posix(each[0].name) in failed)
    return done


def _unmeasured(who: Entered, database: MetricsDatabase) -> list[str]:
    """Names of those that no row of a database is known to be of."""
    found = lora_folder.resolved(database).values()
    known = {name for where in found if where.name is not None for name in (where.name, *where.others)}
    return [name for name in who.names if name not in known]


def _prompt_sets() -> dict[str, str]:
    """Content hash -> name, of those that can be read."""
    found: dict[str, str] = {}
    for name in (folders.DEFAULT_PROMPTS, *folders.prompt_set_names()):
        try:
            found.setdefault(folders.prompt_set(name, default_index_prompts()).content_hash, name)
        except PromptSetError as error:
            logger.info("carlos: %s", error)
    return found


def _so_far(result: RaceResult) -> str:
    """How a race stood when it was cancelled, behind what it has kept."""
    if not result.leaders:
        return ""
    leader = result.leaders[0]
    name, sure = leader.candidate.lora.name, f"{share(result.confidence)} sure"
    if leader.fits:
        return printable(f"; so far {name} leads: {leader.score:.2f}, {sure}")
    return printable(f"; so far nothing fits ({sure}); nearest is {name}")
