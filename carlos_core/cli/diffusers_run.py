"""`carlos index --diffusers MODEL`: LoRAs measured in this process, without ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PromptSetError
from .index_run import Measure

if TYPE_CHECKING:
    from ..diffusers.model import DiffusersModel
    from ..prompts.prompt_set import PromptSet
    from .places import Places


def measuring_with_diffusers(model: str | DiffusersModel, config: str | None, places: Places) -> Measure:
    """Measuring by a model of diffusers. model, config: as `measuring.headless.diffusers_model` takes them."""

    def measure(request: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> None:
        from ..clip import signature_file
        from ..clip.signatures import SignatureCache
        from ..database.database import MetricsDatabase, load_database
        from ..database.target import DatabaseFile
        from ..measuring.gallery import Gallery
        from ..measuring.headless import check_installed, diffusers_model
        from ..measuring.indexer import AnyFolder
        from ..measuring.run_facts import LOOKING_FOR_STEPS, plan_lines, settings_facts
        from ..measuring.settings import MeasureSettings
        from ..measuring.told_run import ToldProgress, tell_run
        from ..measuring.workplace import Workplace
        from ..search.describing import Describer
        from ..search.renewing import renewed
        from ..search.searcher import Searcher

        settings = MeasureSettings(**request["settings"])
        settings.check()
        target = DatabaseFile.of(load_database(request["database"]))
        prompts = _prompts(settings.prompts)
        # What takes a second before what may take gigabytes.
        check_installed()
        encoder = places.encoder(target.read())
        headless, loaded = diffusers_model(model, config)
        at = Workplace(target, prompts, encoder, places.cache, AnyFolder(), Gallery(*places.pictures))
        teller = _Teller(tell)
        shown = ToldProgress(teller)
        files = [(name, Path(path)) for name, path in request["loras"]]
        names = [name.replace("\\", "/") for name, _path in files]
        looking = shown.titled(lambda: LOOKING_FOR_STEPS)
        indexer = headless.diffusers_indexer(loaded, settings, at, tuple(request.get("guidances") or ()), names, looking)
        n_kept = tell_run(indexer, files, teller, shown, {})

        def describer_of(database: MetricsDatabase) -> Describer:
            signatures = SignatureCache(places.cache / signature_file.FOLDER)
            return Describer(Searcher(database, encoder=encoder, signatures=signatures))

        described = n_kept and request.get("describe", True)
        words, notes = renewed(target, describer_of, shown.titled(str)) if described else ({}, [])
        facts = {"settings": settings_facts(indexer), "plan": plan_lines(indexer), "described_as": words, "notes": notes}
        tell({"event": "result", **facts})

    return measure


class _Teller:
    """Hands events on."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._tell = tell

    def send(self, event: str, **facts: Any) -> None:
        self._tell({"event": event, **facts})

    def send_progress(self, done: int, total: int, note: str, *, kept: int = 0) -> None:
        self.send("progress", done=done, total=total, note=note, kept=kept)


def _prompts(name: str) -> PromptSet:
    from ..prompts.prompt_set import default_index_prompts, load_prompt_set

    if name == "default":
        return default_index_prompts()
    if not Path(name).is_file():
        raise PromptSetError(f"There is no prompt set {name}.", "Give the path of a .json file.")
    return load_prompt_set(Path(name))
