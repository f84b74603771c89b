"""A checkpoint of ComfyUI's list, loaded as its node Load Checkpoint does."""

from __future__ import annotations

from importlib import import_module

import folder_paths

from ..errors import GenerationError
from ..loras.listed import posix
from . import as_library
from .indexing import Loaded

_NAMED = 8


def load_checkpoint(name: str) -> Loaded:
    """MODEL, CLIP and VAE of a checkpoint, by its name in ComfyUI's list or by the end of it that only one has.

    Raises GenerationError for another name, a file that cannot be read, and one without text encoder or VAE.
    """
    names = folder_paths.get_filename_list("checkpoints")
    alike = [each for each in names if name in (posix(each), _short(each), _short(each).rpartition(".")[0])]
    found = [name] if name in names else alike
    if len(found) != 1:
        known = ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
        raise GenerationError(f"There is no checkpoint {name}.", f"ComfyUI lists: {known or 'none'}.")
    path = folder_paths.get_full_path("checkpoints", found[0])
    as_library.prepare_memory()
    embeddings = folder_paths.get_folder_paths("embeddings")
    load = import_module("comfy.sd").load_checkpoint_guess_config
    try:
        model, clip, vae = load(path, output_vae=True, output_clip=True, embedding_directory=embeddings)[:3]
    # Readers of checkpoints raise all kinds of errors over a bad file.
    except (RuntimeError, ValueError, TypeError, KeyError, OSError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise GenerationError(
            f"{found[0]} cannot be loaded ({reason}).", "Check that ComfyUI's Load Checkpoint loads it."
        ) from error
    for part, what in ((clip, "text encoder"), (getattr(vae, "first_stage_model", vae), "VAE")):
        if part is None:
            raise GenerationError(f"The checkpoint {found[0]} has no {what}.", "Choose a whole checkpoint.")
    return Loaded(model, clip, vae)


def _short(name: str) -> str:
    return posix(name).rpartition("/")[2]
