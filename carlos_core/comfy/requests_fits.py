"""The request "fits": how many layers of LoRA files a checkpoint has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..loras.fits import fits_of
from ..loras.library import scan
from . import folders
from .families import class_of_model, model_family
from .indexing import Loaded
from .layers import ModelLayers, model_key
from .loading import load_checkpoint
from .lora_fit import fit_of_file

if TYPE_CHECKING:
    from ..progress import Progress
    from ..records import LayerFit
    from .service import Channel


def answer(channel: Channel, request: Mapping[str, Any]) -> dict[str, Any]:
    """For each file (name, path): its layers that fit and how many it has; null for one that cannot be read."""
    folders.register_folders()
    loaded = load_checkpoint(request["checkpoint"])
    names = [(name, Path(path)) for name, path in request["loras"]]
    found = fits(loaded, names, channel)
    return {
        "class": class_of_model(loaded.model),
        "family": model_family(loaded.model),
        "model_key": model_key(loaded.model),
        "fits": [(name, None if (fit := found.get(name)) is None else vars(fit) | {"fits": fit.fits}) for name, _path in names],
    }


def fits(loaded: Loaded, files: Iterable[tuple[str, Path]], channel: Channel) -> dict[str, LayerFit]:
    """How many layers of LoRA files a model has, by name; files that cannot be read are left out."""
    layers = ModelLayers(loaded.model, loaded.clip)

    def tell(progress: Progress) -> None:
        channel.send_progress(progress.done, progress.total, "")

    entries = scan(files, folders.library_file(), tell, hash_files=False).entries
    return fits_of(entries, folders.library_file(), layers.identity, lambda path: fit_of_file(path, layers), tell)
