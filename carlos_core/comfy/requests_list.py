"""The request "list": what ComfyUI lists and where its folders are. No model is loaded, nor torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
from comfyui_version import __version__ as comfyui_version

from . import folders

if TYPE_CHECKING:
    from .service import Channel


def answer(_channel: Channel, _request: Mapping[str, Any]) -> dict[str, Any]:
    """The lists and folders that the command line uses."""
    folders.register_folders()
    databases = ((name, folder_paths.get_full_path(folders.FOLDER, name)) for name in folders.database_names())
    return {
        "version": comfyui_version,
        "python": sys.version.split()[0],
        "encoders": list(map(str, folders.encoder_folders())),
        "pictures": list(map(str, folders.picture_folders())),
        "cache": str(folders.cache_folder()),
        "library_file": str(folders.library_file()),
        "own_folder": str(folders.own_folder()),
        "databases": [(name, path) for name, path in databases if path is not None],
        "checkpoints": folder_paths.get_filename_list("checkpoints"),
        "loras": [(name, str(path.absolute())) for name, path in folders.paths_of(folders.lora_names())],
        "lora_folders": [str(Path(folder).absolute()) for folder in folder_paths.get_folder_paths("loras")],
        "has_pack": any(_has_pack(Path(root)) for root in folder_paths.get_folder_paths("custom_nodes")),
    }


def _has_pack(custom_nodes: Path) -> bool:
    """Whether CARLoS is among ComfyUI's packs."""
    return custom_nodes.is_dir() and any((pack / "carlos_core" / "comfy").is_dir() for pack in custom_nodes.iterdir())
