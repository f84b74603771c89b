"""The request "race": the LoRAs that fit a query best among files that nobody has measured, as the node Race LoRAs does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..clip import signature_file
from ..clip.signatures import SignatureCache
from ..database.database import load_database
from ..database.target import DatabaseFile
from ..errors import LoraError
from ..loras.library import scan
from ..loras.listed import posix
from ..measuring.gallery import Gallery
from ..measuring.race_terms import RaceRules
from ..measuring.run_facts import LOOKING_FOR_STEPS, plan_lines, settings_facts
from ..measuring.settings import RaceSettings
from ..measuring.told_run import ToldProgress
from ..measuring.workplace import Workplace
from ..prompts.prompt_set import default_signature_prompts
from ..search.limits import SearchLimits
from ..search.searcher import Searcher
from . import folders
from .layers import ModelLayers
from .loading import load_checkpoint
from .lora_fit import fit_of_file
from .racing import check_asked, keep_race_pictures, question_of, race_facts, race_indexer, race_of
from .requests_fits import fits
from .requests_index import check_settings, encoder_of, prompt_set_of

if TYPE_CHECKING:
    from ..loras.lora_file import LoraFile
    from .indexing import Loaded
    from .service import Channel


def answer(channel: Channel, request: Mapping[str, Any]) -> dict[str, Any]:
    """Race the files of a request. Files that are for another model, or no LoRAs, are told as events "failure".

    The request holds "query", "checkpoint" (a name), "settings" (`RaceSettings`), "rules" (`RaceRules`), "limits" (on what was
    measured), "prompts" (of the signature), "database" (a path), "loras" (name and path of each) and "guidances".
    """
    folders.register_folders()
    settings, rules = RaceSettings(**request["settings"]), RaceRules(**request["rules"])
    rules.check()
    check_asked(request["query"])
    check_settings(settings.measuring, is_race=True)
    target = DatabaseFile.of(load_database(request["database"]))
    target.check_writable()
    prompts = prompt_set_of(settings.index_prompts)
    signature_prompts = default_signature_prompts() if request["prompts"] == "default" else prompt_set_of(request["prompts"])
    # ComfyUI runs its nodes in inference mode.
    with torch.inference_mode():
        loaded = load_checkpoint(request["checkpoint"])
        files = [(name, Path(path)) for name, path in request["loras"]]
        found = fits(loaded, files, channel)
        doubtful = [(name, path) for name, path in files if name in found and not found[name].of]
        n_unfit = sum(not fit.fits for fit in found.values()) - _tell_damaged(doubtful, loaded, channel)
        loras = _read([(name, path) for name, path in files if name not in found or found[name].fits], channel)
        encoder = encoder_of(target.read(), channel)
        signatures = SignatureCache(folders.cache_folder() / signature_file.FOLDER)
        searcher = Searcher(target.read(), encoder=encoder, prompts=signature_prompts, signatures=signatures)
        shown = ToldProgress(channel)
        question = question_of(searcher, request["query"], SearchLimits(**request["limits"]), shown.titled(str))
        at = Workplace(
            target, prompts, encoder, folders.cache_folder(), folders.ListedLoras(), Gallery(*folders.picture_folders())
        )
        guidances = tuple(request.get("guidances") or ())
        steps = shown.titled(lambda: LOOKING_FOR_STEPS)
        began = time.monotonic()
        indexer = race_indexer(loaded, settings, at, guidances, loras, steps)
        channel.send("plan", lines=plan_lines(indexer)[1:], protocol_id=indexer.protocol.protocol_id)
        race = race_of(indexer, loras, question, rules, keeps_rows=not settings.prompt.strip(), began=began)
        result = race.run(shown.titled(str))
        if not settings.prompt.strip():
            keep_race_pictures(indexer, result)
    return {**race_facts(result, settings, n_unfit), "settings": settings_facts(indexer)}


def _tell_damaged(files: list[tuple[str, Path]], loaded: Loaded, channel: Channel) -> int:
    """Tell of files whose layers make no sense. Returns how many there are. files: those that are known to have no layer."""
    if not files:
        return 0
    layers, n_damaged = ModelLayers(loaded.model, loaded.clip), 0
    for name, path in files:
        try:
            fit_of_file(path, layers)
        except LoraError as error:
            channel.send("failure", file=posix(name), reason=str(error), is_for_another_model=False)
            n_damaged += 1
    return n_damaged


def _read(files: list[tuple[str, Path]], channel: Channel) -> list[LoraFile]:
    """LoRAs with their hashes; what cannot be read is told."""
    loras = []
    for entry in scan(files, folders.library_file(), ToldProgress(channel).titled(lambda: "reading files whole, once")).entries:
        try:
            loras.append(entry.as_lora_file())
        except LoraError as error:
            channel.send("failure", file=posix(entry.name), reason=str(error), is_for_another_model=False)
    return loras
