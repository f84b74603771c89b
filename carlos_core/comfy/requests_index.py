"""The request "index": LoRA files measured one after another, each row kept as it comes, as the node Index Library does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch

from ..clip import signature_file
from ..clip.lazy_encoder import LazyEncoder
from ..clip.signatures import SignatureCache
from ..database.database import MetricsDatabase, load_database
from ..database.target import DatabaseFile
from ..errors import PromptSetError
from ..loras.fits import misfit_of
from ..loras.listed import posix
from ..measuring.gallery import Gallery
from ..measuring.run_facts import LOOKING_FOR_STEPS, plan_lines, settings_facts
from ..measuring.settings import PRESET_NAMES, MeasureSettings, check_choice
from ..measuring.told_run import ToldProgress, tell_run
from ..measuring.workplace import Workplace
from ..prompts.prompt_set import PromptSet, default_index_prompts, load_prompt_set
from ..records import RACE
from ..search.describing import Describer
from ..search.phrase_file import read_phrases
from ..search.renewing import renewed
from ..search.searcher import Searcher
from . import folders
from .encoder import load_comfy_encoder
from .families import class_of_model
from .indexing import comfy_indexer
from .loading import load_checkpoint
from .requests_fits import fits

if TYPE_CHECKING:
    from ..progress import OnProgress, Progress
    from .service import Channel


def answer(channel: Channel, request: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the files of a request. Each is told as an event "outcome" or "failure" as soon as it is kept.

    The request holds "checkpoint" (a name), "settings" (`MeasureSettings`), "database" (a path), "loras" (name and path of each),
    "guidances" (the scales of guidance that the checkpoint is used with, if they are known) and "describe".
    """
    folders.register_folders()
    settings = MeasureSettings(**request["settings"])
    check_settings(settings)
    target = DatabaseFile.of(load_database(request["database"]))
    prompts = prompt_set_of(settings.prompts)
    # ComfyUI runs its nodes in inference mode.
    with torch.inference_mode():
        loaded = load_checkpoint(request["checkpoint"])
        files = [(name, Path(path)) for name, path in request["loras"]]
        found = fits(loaded, files, channel)
        misfits = {name for name, fit in found.items() if fit.of and not fit.fits}
        for name in [name for name, _path in files if name in misfits]:
            reason = misfit_of("LoRA", found[name], class_of_model(loaded.model))
            channel.send("failure", file=name, reason=reason, is_for_another_model=True)
        files = [(name, path) for name, path in files if name not in misfits]
        encoder = encoder_of(target.read(), channel)
        at = Workplace(
            target, prompts, encoder, folders.cache_folder(), folders.ListedLoras(), Gallery(*folders.picture_folders())
        )
        shown = ToldProgress(channel)
        names = [posix(name) for name, _path in files]
        guidances = tuple(request.get("guidances") or ())
        indexer = comfy_indexer(loaded, settings, at, guidances, names, shown.titled(lambda: LOOKING_FOR_STEPS))
        n_kept = tell_run(indexer, files, channel, shown, found)
        words, notes = _described(target, encoder, shown.titled(str)) if n_kept and request.get("describe", True) else ({}, [])
    return {"settings": settings_facts(indexer), "plan": plan_lines(indexer), "described_as": words, "notes": notes}


def check_settings(settings: MeasureSettings, *, is_race: bool = False) -> None:
    """Raises IndexingError for a value that the nodes' widgets do not offer. is_race: of a race, which has its own preset."""
    settings.check((RACE,) if is_race else PRESET_NAMES)
    check_choice(settings.sampler_name, comfy.samplers.KSampler.SAMPLERS, "sampler")
    check_choice(settings.scheduler, comfy.samplers.KSampler.SCHEDULERS, "scheduler")


def prompt_set_of(name: str) -> PromptSet:
    """A prompt set by its path, or its name in models/carlos/prompts. Raises PromptSetError."""
    if name == "default":
        return default_index_prompts()
    path = Path(name) if Path(name).suffix == ".json" else folders.prompt_set_file(name)
    if path is None or not path.is_file():
        raise PromptSetError(
            f"There is no prompt set {name}.", "Give the path of a .json file, or a name in models/carlos/prompts."
        )
    return load_prompt_set(path)


def encoder_of(database: MetricsDatabase, channel: Channel) -> LazyEncoder:
    """The encoder of a database, loaded when it is needed."""

    def tell(progress: Progress) -> None:
        channel.send_progress(progress.done, progress.total, "fetching CLIP weights, once")

    load = partial(load_comfy_encoder, folders=folders.encoder_folders(), on_progress=tell)
    return LazyEncoder(database.check_encoder(), database.dimension, load)


def _described(target: DatabaseFile, encoder: LazyEncoder, on_progress: OnProgress) -> tuple[dict[str, str], list[str]]:
    """What each LoRA does, in words, kept with the rows."""

    def describer_of(database: MetricsDatabase) -> Describer:
        signatures = SignatureCache(folders.cache_folder() / signature_file.FOLDER)
        path = folders.own_phrases_file()
        searcher = Searcher(database, encoder=encoder, signatures=signatures)
        return Describer(searcher, () if path is None else read_phrases(path))

    return renewed(target, describer_of, on_progress)
