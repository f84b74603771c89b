"""ComfyUI's folders: where CARLoS keeps its files in them, and the LoRAs that ComfyUI lists."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..errors import LoraError
from ..loras.library import scan
from ..loras.listed import posix
from ..loras.lora_file import LoraFile
from ..search.phrase_file import FILE_NAME as PHRASES

FOLDER = "carlos"
DATABASE_SUFFIX = ".parquet"


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
    return sub_folders("encoders")


def picture_folders() -> list[Path]:
    """Where pictures of measured LoRAs are looked for; the first is where indexing keeps them."""
    return sub_folders("pictures")


def cache_folder() -> Path:
    """Where features of finished pictures and of texts are kept, in the user's folder."""
    return Path(folder_paths.get_user_directory()) / "carlos" / "cache"


def library_file() -> Path:
    """What is known of the LoRA files, in the user's folder."""
    return Path(folder_paths.get_user_directory()) / "carlos" / "loras.sqlite"


def database_names() -> list[str]:
    """The database files, by their names in ComfyUI's list."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(DATABASE_SUFFIX)]


def sub_folders(name: str) -> list[Path]:
    """The folders of a name in those of `models/carlos`."""
    return [Path(root) / name for root in folder_paths.get_folder_paths(FOLDER)]


def prompt_set_file(name: str) -> Path | None:
    """The file of one of the user's prompt sets; None if there is none of this name."""
    files = (path for folder in sub_folders("prompts") for path in sorted(folder.glob("*.json")) if path.stem == name)
    return next(files, None)


def own_phrases_file() -> Path | None:
    """The file of the user's own phrases: the first `phrases.txt` in the folders of `models/carlos`; None if there is none."""
    files = (Path(root) / PHRASES for root in folder_paths.get_folder_paths(FOLDER))
    return next((path for path in files if path.is_file()), None)


def lora_names() -> list[str]:
    """ComfyUI's list of LoRAs."""
    return folder_paths.get_filename_list("loras")


def lora_folders() -> dict[str, float]:
    """The folders of `lora_names`, each with the time of its last change, as ComfyUI saw them when it last looked.

    A file that is added, removed, renamed or put in the place of another one changes the time of its folder.
    """
    _names, folders, _when = folder_paths.filename_list_cache.get("loras", ([], {}, 0.0))
    return folders


def paths_of(names: list[str]) -> list[tuple[str, Path]]:
    """(name, path) of listed LoRAs; those that were removed since they were listed are left out."""
    paths = ((name, place_of(name)) for name in names)
    return [(name, path) for name, path in paths if path is not None]


def place_of(name: str) -> Path | None:
    """Where a listed LoRA is; None if nothing is there. ComfyUI also lists links that lead nowhere, without a path."""
    path = folder_paths.get_full_path("loras", name)
    places = [path] if path is not None else [os.path.join(root, name) for root in folder_paths.get_folder_paths("loras")]
    return next((Path(place) for place in places if os.path.lexists(place)), None)


def read_lora(path: Path, name: str) -> LoraFile:
    """A LoRA with its hash, which is kept: the file is read whole once. Raises LoraError for a file that is not a LoRA."""
    return scan([(name, path)], library_file()).entries[0].as_lora_file()


class ListedLoras:
    """The LoRAs that ComfyUI lists, for an indexing run."""

    def read(self, path: Path, name: str) -> LoraFile:
        return read_lora(path, name)

    def at_hand(self, name: str) -> LoraFile | None:
        """The LoRA that is listed under a row's `file_name` ("/" between folders); None if there is no such LoRA."""
        listed = next((listed for listed in lora_names() if posix(listed) == name), None)
        path = None if listed is None else place_of(listed)
        try:
            return None if listed is None or path is None else self.read(path, listed)
        except LoraError:
            return None
