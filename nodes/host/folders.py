"""The folders of ComfyUI that CARLoS reads and writes, and the choices they make.

Names from a workflow are looked up in the lists of the folders' files; a name that is not listed opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import folder_paths

from ...carlos_core.clip.weights import LocalEncoder, local_encoders
from ...carlos_core.errors import CarlosError, DatabaseError, PromptSetError
from ...carlos_core.foreign import whole_text
from ...carlos_core.prompts.prompt_set import PromptSet, load_prompt_set
from ...carlos_core.search.phrase_file import FILE_NAME as PHRASES
from ...carlos_core.search.phrase_file import read_phrases

FOLDER = "carlos"
DATABASE_SUFFIX = ".parquet"
DEFAULT_PROMPTS = "default"


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


def picture_folders() -> list[Path]:
    """Where pictures of measured LoRAs are looked for; the first is where indexing keeps them."""
    return _sub_folders("pictures")


def cache_folder() -> Path:
    """Where features of finished pictures and of texts are kept, in the user's folder."""
    return Path(folder_paths.get_user_directory()) / "carlos" / "cache"


def database_names() -> list[str]:
    """The database files, by their names in ComfyUI's list."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(DATABASE_SUFFIX)]


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
    return sorted({path.stem for folder in _sub_folders("prompts") for path in folder.glob("*.json")})


def prompt_set(name: str, default: PromptSet) -> PromptSet:
    """The prompt set of a combo's value. Raises PromptSetError for a set that is not listed."""
    if name == DEFAULT_PROMPTS:
        return default
    if name in prompt_set_names():
        for folder in _sub_folders("prompts"):
            if (folder / f"{name}.json").is_file():
                return load_prompt_set(folder / f"{name}.json")
    raise unlisted("prompt set", name, PromptSetError)


def own_phrases() -> tuple[str, ...]:
    """The user's own phrases, of the first `phrases.txt` in the folders of `models/carlos`. Raises PromptSetError."""
    path = _own_phrases_file()
    return () if path is None else read_phrases(path)


def own_phrases_state() -> str:
    """Changes when the file of the user's own phrases does."""
    path = _own_phrases_file()
    if path is None:
        return "none"
    stat = path.stat()
    return f"{path}|{stat.st_mtime_ns}|{stat.st_size}"


def _own_phrases_file() -> Path | None:
    files = (Path(root) / PHRASES for root in folder_paths.get_folder_paths(FOLDER))
    return next((path for path in files if path.is_file()), None)


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


def _sub_folders(name: str) -> list[Path]:
    return [Path(root) / name for root in folder_paths.get_folder_paths(FOLDER)]
