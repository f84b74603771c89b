"""The folders of ComfyUI that CARLoS reads and writes, and the choices they make.

Names from a workflow are looked up in the lists that the folders give; a name that is not listed opens nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.utils
import folder_paths

from ...carlos_core.clip.weights import LocalEncoder, local_encoders
from ...carlos_core.errors import CarlosError, DatabaseError, LoraError, PromptSetError
from ...carlos_core.foreign import whole_text
from ...carlos_core.loras.library import FileState, LoraLibrary, scan, scan_surveyed, survey
from ...carlos_core.loras.lora_file import LoraFile
from ...carlos_core.prompts.prompt_set import PromptSet, load_prompt_set

FOLDER = "carlos"
DATABASE_SUFFIX = ".parquet"
DEFAULT_PROMPTS = "default"

_SURVEY_SHARE = 0.05
"""Part of the time that may go into looking whether LoRA files have changed: on a slow drive that is done less often."""


def register_folders() -> None:
    """Make `models/carlos` known. Entries of extra_model_paths.yaml were read before packs load and are kept."""
    folder_paths.add_model_folder_path(FOLDER, str(own_folder()), is_default=True)
    roots, suffixes = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (roots, {*suffixes, DATABASE_SUFFIX})


def own_folder() -> Path:
    """ComfyUI's own `models/carlos`, where new files go."""
    return Path(folder_paths.models_dir) / FOLDER


def encoder_folders() -> list[Path]:
    """Where CLIP weights are looked for; the first is where they are fetched to."""
    return _sub_folders("encoders")


def cache_folder() -> Path:
    """Where features of finished pictures and of texts are kept, in the user's folder."""
    return Path(folder_paths.get_user_directory()) / "carlos" / "cache"


def database_names() -> list[str]:
    """The database files, as they are listed."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(DATABASE_SUFFIX)]


def database_path(name: str) -> Path:
    """Path of a listed database. Raises DatabaseError for any other name."""
    return _listed_path(FOLDER, name, database_names(), "database", DatabaseError)


def new_database_path(create_as: str) -> Path:
    """Where the database `create_as` is or is to be. Raises DatabaseError unless it is a plain file name."""
    name = create_as.strip().removesuffix(DATABASE_SUFFIX)
    is_plain = name == Path(name).name == whole_text(name) and not name.startswith(".")
    if not name or not is_plain or any(char in name for char in '\\/:*?"<>|\0'):
        raise DatabaseError(f"{create_as!r} is no name for a database.", "Use a plain name without folders, such as my_loras.")
    listed = f"{name}{DATABASE_SUFFIX}"
    return database_path(listed) if listed in database_names() else own_folder() / listed


def encoders() -> Mapping[str, LocalEncoder]:
    """The local encoders by name."""
    return local_encoders(encoder_folders())


def prompt_set_names() -> list[str]:
    """The user's prompt sets."""
    return sorted({path.stem for folder in _sub_folders("prompts") for path in folder.glob("*.json")})


def prompt_set(name: str, default: PromptSet) -> PromptSet:
    """The prompt set of a combo's value. Raises PromptSetError for a set that is not listed."""
    if name == DEFAULT_PROMPTS:
        return default
    if name in prompt_set_names():
        for folder in _sub_folders("prompts"):
            if (folder / f"{name}.json").is_file():
                return load_prompt_set(folder / f"{name}.json")
    raise _unlisted("prompt set", name, PromptSetError)


def lora_names() -> list[str]:
    """ComfyUI's list of LoRAs."""
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """Path of a listed LoRA, whether it can be read or not. Raises LoraError for any other name."""
    path = _place_of(name) if name in lora_names() else None
    if path is None:
        raise _unlisted("LoRA", name, LoraError)
    return path


def lora_survey() -> tuple[FileState, ...]:
    """The state of every listed LoRA file; it is looked at again when the list changes and, at most, 5% of the time."""
    names = lora_names()
    last, start = _memory.survey, time.monotonic()
    if last is not None and last.names == names and start < last.good_until:
        return last.states
    # A name stays with its path while the file is there; finding paths takes longer than looking at them.
    files = last.files if last is not None and last.names == names else _paths_of(names)
    states = survey(files)
    if {state.name for state in states if state.size < 0} - (last.missing if last is not None else set()):
        files = _paths_of(names)
        states = survey(files)
    end = time.monotonic()
    _memory.survey = _Survey(names, files, states, end + (end - start) / _SURVEY_SHARE)
    return states


def lora_library() -> LoraLibrary:
    """All listed LoRA files, known as far as that goes without reading them whole. The first time, a bar shows the progress."""
    states = lora_survey()
    if _memory.library is None or _memory.library[0] != states:
        bar = comfy.utils.ProgressBar(1)
        _memory.library = (states, scan_surveyed(states, library_file(), bar.update_absolute, hash_files=False))
    return _memory.library[1]


def read_lora(path: Path, name: str) -> LoraFile:
    """A LoRA with its hash, which is kept: the file is read whole once. Raises LoraError for a file that is none."""
    _memory.library = None
    return scan([(name, path)], library_file()).entries[0].as_lora_file()


def lora_at_hand(name: str) -> LoraFile | None:
    """The LoRA that is listed under a row's `file_name` ("/" between folders); None if there is none."""
    listed = next((listed for listed in lora_names() if listed.replace("\\", "/") == name), None)
    try:
        return None if listed is None else read_lora(lora_path(listed), listed)
    except LoraError:
        return None


def library_file() -> Path:
    """What is known of the LoRA files, in the user's folder."""
    return Path(folder_paths.get_user_directory()) / "carlos" / "loras.sqlite"


def loras_folder() -> Path:
    """Where new LoRAs go: the first folder that ComfyUI lists."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def listed_loras() -> dict[Path, str]:
    """Path of each listed LoRA -> its name in the list."""
    return {path: name for name, path in _paths_of(lora_names())}


def refresh_loras() -> None:
    """Make ComfyUI look into the folders again when its list of LoRAs is next asked for."""
    folder_paths.filename_list_cache.pop("loras", None)


def civitai_key_file() -> Path:
    """Where the user may put the key for CivitAI."""
    return Path(folder_paths.get_user_directory()) / "carlos" / "civitai_key.txt"


def check_choice(value: str, choices: Iterable[str], noun: str) -> None:
    """Combo values arrive unchecked: raises CarlosError for one that the combo does not offer."""
    if value not in choices:
        raise _unlisted(noun, value, CarlosError)


def _listed_path(folder: str, name: str, names: list[str], noun: str, kind: type[CarlosError]) -> Path:
    path = folder_paths.get_full_path(folder, name) if name in names else None
    if path is None:
        raise _unlisted(noun, name, kind)
    return Path(path)


def _unlisted(noun: str, name: str, kind: type[CarlosError]) -> CarlosError:
    return kind(f"{name!r} is not in the list of {noun}s.", f"Choose a {noun} from the list (press R to refresh it).")


def _sub_folders(name: str) -> list[Path]:
    return [Path(root) / name for root in folder_paths.get_folder_paths(FOLDER)]


def _paths_of(names: list[str]) -> list[tuple[str, Path]]:
    """(name, path) of listed LoRAs; those that are gone since they were listed are left out."""
    paths = ((name, _place_of(name)) for name in names)
    return [(name, path) for name, path in paths if path is not None]


def _place_of(name: str) -> Path | None:
    """Where a listed LoRA is; None if there is nothing. ComfyUI also lists links that lead nowhere, without a path."""
    path = folder_paths.get_full_path("loras", name)
    places = [path] if path is not None else [os.path.join(root, name) for root in folder_paths.get_folder_paths("loras")]
    return next((Path(place) for place in places if os.path.lexists(place)), None)


@dataclass(frozen=True)
class _Survey:
    names: list[str]
    files: list[tuple[str, Path]]
    states: tuple[FileState, ...]
    good_until: float

    @property
    def missing(self) -> set[str]:
        return {state.name for state in self.states if state.size < 0}


@dataclass
class _Memory:
    """What this process knows of the LoRA files."""

    survey: _Survey | None = None
    library: tuple[tuple[FileState, ...], LoraLibrary] | None = None


_memory = _Memory()
