"""ComfyUI's LoRAs: their names and paths, what each is, and which row of a database is which file."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import folder_paths

from ...carlos_core.comfy import folders
from ...carlos_core.comfy.folders import library_file, paths_of, place_of
from ...carlos_core.comfy.folders import lora_names as lora_names  # noqa: PLC0414
from ...carlos_core.comfy.layers import ModelLayers
from ...carlos_core.comfy.lora_fit import fit_of_file
from ...carlos_core.errors import LoraError
from ...carlos_core.loras.fits import fits_of
from ...carlos_core.loras.library import FileState, LoraLibrary, scan, scan_surveyed, survey
from ...carlos_core.loras.listed import posix
from ...carlos_core.loras.lora_file import LoraFile
from ...carlos_core.loras.matching import Resolved
from ...carlos_core.loras.order_of_use import Uses, saved_workflows, used_in
from ...carlos_core.loras.order_of_use import in_order_of_use as in_order
from ...carlos_core.loras.same_file import by_file
from ...carlos_core.loras.trigger_words import used
from ...carlos_core.records import LayerFit, LoraRecord
from . import server
from .folders import unlisted, workflows_folder
from .progress import bar

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase

T = TypeVar("T")

_SURVEY_SHARE = 0.05
"""Part of the time that may be spent on checking whether LoRA files have changed: on a slow drive this is done less often."""


def lora_path(name: str) -> Path:
    """Path of a listed LoRA, whether it can be read or not. Raises LoraError for any other name."""
    path = place_of(name) if name in lora_names() else None
    if path is None:
        raise unlisted("LoRA", name, LoraError)
    return path


def lora_survey() -> tuple[FileState, ...]:
    """The state of every listed LoRA file.

    They are checked again when the list or one of its folders changes, and otherwise at most 5% of the time.
    """
    names = lora_names()
    changed = folders.lora_folders()
    last, start = _memory.survey, time.monotonic()
    if last is not None and (last.names, last.changed) == (names, changed) and start < last.good_until:
        return last.states
    # A name keeps its path while the file is there; finding paths takes longer than checking the files.
    files = last.files if last is not None and last.names == names else paths_of(names)
    states = survey(files)
    if {state.name for state in states if state.size < 0} - (last.missing if last is not None else set()):
        files = paths_of(names)
        states = survey(files)
    end = time.monotonic()
    _memory.survey = _Survey(names, changed, files, states, end + (end - start) / _SURVEY_SHARE)
    return states


def lora_library() -> LoraLibrary:
    """All listed LoRA files, with what is known without reading them whole. The first time, a bar shows the progress."""
    states = lora_survey()
    if _memory.library is None or _memory.library[0] != states:
        _memory.library = (states, scan_surveyed(states, library_file(), bar(), hash_files=False))
    return _memory.library[1]


def in_order_of_use(names: Iterable[str]) -> list[str]:
    """Listed LoRAs in the order in which measuring them helps soonest: see `loras.order_of_use`."""
    wanted, listed = set(names), lora_names()
    entries = [entry for entry in lora_library().entries if entry.name in wanted]
    saved = saved_workflows(workflows_folder())
    uses = Uses(used_in(server.prompts(), listed), used_in(saved, listed))
    ordered = [entry.name for entry in in_order(entries, uses)]
    return [*ordered, *sorted(wanted - set(ordered))]


def lora_fits(model: Any, clip: Any) -> dict[str, LayerFit]:
    """How many layers of each listed LoRA a MODEL and its CLIP (None: not known) have, by name as listed.

    Looked at once for each layout of files and kind of model, from the files' headers, and kept. The first time, a bar shows the
    progress.
    """
    library, layers = lora_library(), _layers_of(model, clip)
    last = _memory.fits
    if last is None or last.library is not library or last.layers is not layers:
        found = fits_of(library.entries, library_file(), layers.identity, lambda path: fit_of_file(path, layers), bar())
        last = _memory.fits = _Fits(library, layers, found)
    return last.found


def lora_fit(path: Path, model: Any, clip: Any) -> LayerFit | None:
    """How many layers of one LoRA a MODEL and its CLIP have; None for a file that is not there or makes no sense."""
    try:
        return fit_of_file(path, _layers_of(model, clip))
    except LoraError:
        return None


def why_no_lora(name: str, model: Any, clip: Any) -> str:
    """What is wrong with a listed file of which no layer makes sense; empty if nothing is by now."""
    try:
        fit_of_file(lora_path(name), _layers_of(model, clip))
    except LoraError as error:
        return str(error)
    return ""


def _layers_of(model: Any, clip: Any) -> ModelLayers:
    """The layers of a MODEL and a CLIP; those of the last ones are remembered."""
    parts = model.model, None if clip is None else clip.cond_stage_model
    last = _memory.layers
    if last is None or last.model() is not parts[0] or last.clip() is not parts[1]:
        # Held weakly: a model must not be kept in memory for this.
        model_part, clip_part = (weakref.ref(part) if part is not None else _nothing for part in parts)
        last = _memory.layers = _Layers(model_part, clip_part, ModelLayers(model, clip))
    return last.found


def read_lora(path: Path, name: str) -> LoraFile:
    """A LoRA with its hash, which is kept: the file is read whole once. Raises LoraError for a file that is not a LoRA."""
    _memory.library = None
    return folders.read_lora(path, name)


def read_loras(names: list[str]) -> tuple[list[LoraFile], dict[str, str]]:
    """Listed LoRAs with their hashes, which are kept, and what is wrong with the others, by name. A bar shows the progress."""
    _memory.library = None
    files, problems = [], {}
    for entry in scan(paths_of(names), library_file(), bar()).entries:
        try:
            files.append(entry.as_lora_file())
        except LoraError as error:
            problems[entry.name] = str(error)
    return files, problems


def loras_folder() -> Path:
    """Where new LoRAs go: the first folder that ComfyUI lists."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def listed_loras() -> dict[Path, str]:
    """Path of each listed LoRA -> its name in the list."""
    return {path: name for name, path in paths_of(lora_names())}


def refresh_loras() -> None:
    """Make ComfyUI look into the folders again when its list of LoRAs is next asked for."""
    folder_paths.filename_list_cache.pop("loras", None)


def resolved(database: MetricsDatabase) -> dict[str, Resolved]:
    """lora_id -> its file, or why no file can be used, for the rows about which there is something to say."""
    found, disproved = lora_library().resolve(database.identities), _disproved()
    for row in database.identities if disproved else ():
        where = found.get(row.lora_id)
        if where is not None and where.name is not None and (row.sha256 or "", where.name) in disproved:
            shown = posix(where.name)
            found[row.lora_id] = Resolved(None, where.by, (where.name,), f"{shown} is another file than the row's")
    return found


def surely(database: MetricsDatabase, act: Callable[[dict[str, Resolved]], tuple[T, Iterable[str]]]) -> T:
    """Act on the files of rows, and once more if one that was used turns out to hold something else.

    A file that was found by its name or version and was never read whole is read when it is used. If it is another than the
    row's, `resolved` does not give it for the row from then on.

    act: what `resolved` gives -> the result, and the ids of the rows whose files it uses.
    """
    while True:
        files = resolved(database)
        result, used_ids = act(files)
        if _are_right(database, files, set(used_ids)):
            return result


def _are_right(database: MetricsDatabase, files: Mapping[str, Resolved], lora_ids: set[str]) -> bool:
    """Whether the files of some rows hold what was measured, as far as the rows know that; see `surely`."""
    known = lora_ids & files.keys()
    named = ((row, files[row.lora_id].name) for row in database.identities if row.lora_id in known)
    doubtful = [(row.sha256, name) for row, name in named if row.sha256 and name and _is_unread(name)]
    if not doubtful:
        return True
    read = scan(paths_of(sorted({name for _sha256, name in doubtful})), library_file(), bar())
    _memory.library = None
    hashes = {entry.name: entry.sha256 for entry in read.entries}
    wrong = {(sha256, name) for sha256, name in doubtful if hashes.get(name) != sha256.lower()}
    _disproved().update(wrong)
    return not wrong


def _disproved() -> set[tuple[str, str]]:
    """(hash in a row, name of a file) of what was found not to belong together since a LoRA file last changed."""
    states = lora_survey()
    if _memory.disproved is None or _memory.disproved[0] != states:
        _memory.disproved = (states, set())
    return _memory.disproved[1]


def check_content(name: str, row: LoraRecord) -> None:
    """Raises LoraError for a listed LoRA whose content is not what the row was measured on, as far as the row knows that."""
    if row.sha256 is None:
        return
    entry = lora_library().entry(name)
    known = entry.sha256 if entry is not None else None
    if (known or read_lora(lora_path(name), name).sha256) != row.sha256.lower():
        shown = posix(name)
        raise LoraError(f"{shown} is another file than the one that was measured.", "Index it, or put the measured file back.")


def _is_unread(name: str) -> bool:
    entry = lora_library().entry(name)
    return entry is not None and entry.sha256 is None


def copies(files: Mapping[str, Resolved]) -> list[list[str]]:
    """Names of the files that hold the content of one row, for the rows whose content is in several files.

    Names of one file, through links, count once. files: what `resolved` gave.
    """
    library = lora_library()
    found = []
    for where in files.values():
        if where.by == "hash" and where.name is not None and where.others:
            entries = (library.entry(name) for name in (where.name, *where.others))
            found.append([first.name for first, *_links in by_file(entry for entry in entries if entry is not None)])
    return [names for names in found if len(names) > 1]


def installed(files: Mapping[str, Resolved]) -> dict[str, str]:
    """lora_id -> name in ComfyUI's list, for the rows whose file is installed. files: what `resolved` gave."""
    return {lora_id: where.name for lora_id, where in files.items() if where.name is not None}


def trigger_words(file: str, row: LoraRecord | None) -> tuple[str, ...]:
    """The trigger words in the row, or the file's own if the row does not say, as the published rows do not."""
    if row is not None and row.metadata.trigger_words is not None:
        return used(row.metadata.trigger_words)
    entry = lora_library().entry(file)
    return () if entry is None else used(entry.metadata.trigger_words or ())


class ListedLoras(folders.ListedLoras):
    """The LoRAs that ComfyUI lists, for an indexing run, which changes what is known of them."""

    def read(self, path: Path, name: str) -> LoraFile:
        return read_lora(path, name)


@dataclass(frozen=True)
class _Survey:
    names: list[str]
    changed: dict[str, float]
    files: list[tuple[str, Path]]
    states: tuple[FileState, ...]
    good_until: float

    @property
    def missing(self) -> set[str]:
        return {state.name for state in self.states if state.size < 0}


@dataclass(frozen=True, eq=False)
class _Layers:
    model: Callable[[], Any]
    clip: Callable[[], Any]
    found: ModelLayers


@dataclass(frozen=True, eq=False)
class _Fits:
    library: LoraLibrary
    layers: ModelLayers
    found: dict[str, LayerFit]


def _nothing() -> None:
    """In place of a reference to a text encoder."""


@dataclass
class _Memory:
    """What this process knows of the LoRA files."""

    survey: _Survey | None = None
    library: tuple[tuple[FileState, ...], LoraLibrary] | None = None
    layers: _Layers | None = None
    fits: _Fits | None = None
    disproved: tuple[tuple[FileState, ...], set[tuple[str, str]]] | None = None


_memory = _Memory()
