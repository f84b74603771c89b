"""The folders of ComfyUI that CARLoS reads and writes, and the choices they make.

Names from a workflow are looked up in the lists of the folders' files; a name that is not listed opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import folder_paths

from ...carlos_core.clip.weights import LocalEncoder, local_encoders
from ...carlos_core.comfy.folders import (
    DATABASE_SUFFIX,
    FOLDER,
    own_folder,
    own_phrases_file,
    prompt_set_file,
    sub_folders,
)
from ...carlos_core.comfy.folders import cache_folder as cache_folder  # noqa: PLC0414
from ...carlos_core.comfy.folders import database_names as database_names  # noqa: PLC0414
from ...carlos_core.comfy.folders import encoder_folders as encoder_folders  # noqa: PLC0414
from ...carlos_core.comfy.folders import picture_folders as picture_folders  # noqa: PLC0414
from ...carlos_core.comfy.folders import register_folders as register_folders  # noqa: PLC0414
from ...carlos_core.errors import CarlosError, DatabaseError, PromptSetError
from ...carlos_core.foreign import whole_text
from ...carlos_core.prompts.prompt_set import PromptSet, load_prompt_set
from ...carlos_core.search.phrase_file import read_phrases

DEFAULT_PROMPTS = "default"


def database_path(name: str) -> Path:
    """Path of a listed database. Raises DatabaseError for any other name."""
    return _listed_path(FOLDER, name, database_names(), "database", DatabaseError)


def new_database_path(create_as: str) -> Path:
    """Where the database `create_as` is or is to be. Raises DatabaseError unless it is a plain file name."""
    name = create_as.strip().removesuffix(DATABASE_SUFFIX)
    is_plain = name == Path(name).name == whole_text(name) and not name.startswith(".")
    if not name or not is_plain or any(char in name for char in '\\/:*?"<>|\0'):
        raise DatabaseError(f"{create_as!r} is not a name for a database.", "Use a plain name without folders, such as my_loras.")
    listed = f"{name}{DATABASE_SUFFIX}"
    return database_path(listed) if listed in database_names() else own_folder() / listed


def encoders() -> Mapping[str, LocalEncoder]:
    """The local encoders by name."""
    return local_encoders(encoder_folders())


def prompt_set_names() -> list[str]:
    """The user's prompt sets."""
    return sorted({path.stem for folder in sub_folders("prompts") for path in folder.glob("*.json")})


def prompt_set(name: str, default: PromptSet) -> PromptSet:
    """The prompt set of a combo's value. Raises PromptSetError for a set that is not listed."""
    if name == DEFAULT_PROMPTS:
        return default
    path = prompt_set_file(name)
    if path is not None:
        return load_prompt_set(path)
    raise unlisted("prompt set", name, PromptSetError)


def own_phrases() -> tuple[str, ...]:
    """The user's own phrases, of the first `phrases.txt` in the folders of `models/carlos`. Raises PromptSetError."""
    path = own_phrases_file()
    return () if path is None else read_phrases(path)


def own_phrases_state() -> str:
    """Changes when the file of the user's own phrases does."""
    path = own_phrases_file()
    if path is None:
        return "none"
    stat = path.stat()
    return f"{path}|{stat.st_mtime_ns}|{stat.st_size}"


def workflows_folder() -> Path:
    """Where the frontend keeps the workflows that the user has saved."""
    return Path(folder_paths.get_user_directory()) / "default" / "workflows"


def civitai_key_file() -> Path:
    """Where the user may put the key for CivitAI."""
    return Path(folder_paths.get_user_directory()) / "carlos" / "civitai_key.txt"


def check_choice(value: str, choices: Iterable[str], noun: str) -> None:
    """Raises CarlosError for a value that its combo does not offer: ComfyUI may pass combo values unchecked."""
    if value not in choices:
        raise unlisted(noun, value, CarlosError)


def _listed_path(folder: str, name: str, names: list[str], noun: str, kind: type[CarlosError]) -> Path:
    path = folder_paths.get_full_path(folder, name) if name in names else None
    if path is None:
        raise unlisted(noun, name, kind)
    return Path(path)


def unlisted(noun: str, name: str, kind: type[CarlosError]) -> CarlosError:
    return kind(f"{name!r} is not in the list of {noun}s.", f"Choose a {noun} from the list (press R to refresh it).")
