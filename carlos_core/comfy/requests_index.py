"""The request "index": LoRA files measured one after another, each row kept as it comes, as the node Index Library does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from ..errors import IndexingError, PromptSetError
from ..loras.fits import misfit_of
from ..measuring.estimate import LibraryProgress
from ..measuring.failures import Failure
from ..measuring.gallery import Gallery
from ..measuring.presets import TRIGGER_RULES
from ..measuring.settings import CHECKPOINTS, PRESET_NAMES, SAMPLINGS, MeasureSettings
from ..prompts.prompt_set import PromptSet, default_index_prompts, load_prompt_set
from ..search.describing import Describer
from ..search.phrase_file import read_phrases
from ..search.renewing import renewed
from ..search.searcher import Searcher
from . import folders
from .encoder import load_comfy_encoder
from .families import class_of_model
from .indexing import Workplace, comfy_indexer
from .loading import load_checkpoint
from .requests_fits import fits
from .run_facts import facts_of, plan_lines, settings_facts

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
    _check(settings)
    target = DatabaseFile.of(load_database(request["database"]))
    prompts = _prompts(settings.prompts)
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
        encoder = _encoder(target.read(), channel)
        at = Workplace(
            target, prompts, encoder, folders.cache_folder(), folders.ListedLoras(), Gallery(*folders.picture_folders())
        )
        shown = _Shown(channel)
        names = [name.replace("\\", "/") for name, _path in files]
        guidances = tuple(request.get("guidances") or ())
        indexer = comfy_indexer(
            loaded, settings, at, guidances, names, shown.titled(lambda: "looking for the steps that suffice: ")
        )
        plan = plan_lines(indexer)
        channel.send("plan", lines=plan, protocol_id=indexer.protocol.protocol_id)
        progress = LibraryProgress(indexer, [name for name, _path in files], shown.titled)
        channel.send_progress(0, 0, f"{len(files)} LoRAs, {progress.known}")
        n_kept = 0
        for result in indexer.index_all(files, progress):
            if isinstance(result, Failure):
                channel.send("failure", **vars(result), is_for_another_model=False)
            else:
                n_kept += 1
                fit = found.get(result.lora.name)
                channel.send("outcome", is_new=result.is_new, has_effect=result.has_effect, **facts_of(result, fit))
        words, notes = _described(target, encoder, shown.titled(str)) if n_kept and request.get("describe", True) else ({}, [])
    return {"settings": settings_facts(indexer), "plan": plan, "described_as": words, "notes": notes}


class _Shown:
    """Progress as events; it counts the pictures that were kept."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._kept = channel, 0

    def titled(self, title: Callable[[], str]) -> OnProgress:
        """A callback whose notes begin with a title."""

        def tell(progress: Progress) -> None:
            self._kept += progress.kept
            note = f"{title()}{progress.note}" if progress.note else ""
            self._channel.send_progress(progress.done, progress.total, note, kept=self._kept)

        return tell


def _check(settings: MeasureSettings) -> None:
    """Raises IndexingError for a value that the nodes' widgets do not offer."""
    samplers = comfy.samplers.KSampler
    for value, choices, noun in (
        (settings.preset, PRESET_NAMES, "preset"),
        (settings.sampler_name, samplers.SAMPLERS, "sampler"),
        (settings.scheduler, samplers.SCHEDULERS, "scheduler"),
        (settings.triggers, TRIGGER_RULES, "trigger rule"),
        (settings.checkpoint, CHECKPOINTS, "choice of checkpoints"),
        (settings.sampling, SAMPLINGS, "sampling"),
    ):
        if value not in choices:
            raise IndexingError(f"There is no {noun} {value!r}.", f"Choose one of {', '.join(choices)}.")


def _prompts(name: str) -> PromptSet:
    """A prompt set by its path, or its name in models/carlos/prompts. Raises PromptSetError."""
    if name == "default":
        return default_index_prompts()
    path = Path(name) if Path(name).suffix == ".json" else folders.prompt_set_file(name)
    if path is None or not path.is_file():
        raise PromptSetError(
            f"There is no prompt set {name}.", "Give the path of a .json file, or a name in models/carlos/prompts."
        )
    return load_prompt_set(path)


def _encoder(database: MetricsDatabase, channel: Channel) -> LazyEncoder:
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
