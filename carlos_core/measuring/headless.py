"""The door to diffusers, which need not be installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GenerationError

if TYPE_CHECKING:
    from ..diffusers.model import DiffusersModel

PACKAGES = ("diffusers", "transformers", "peft", "accelerate")
"""Of the extra `headless`."""


def diffusers_model(
    source: str | Path | DiffusersModel | None = None, config: str | Path | None = None
) -> tuple[Any, DiffusersModel]:
    """The module `diffusers.indexing`, and a model.

    source, config: as `diffusers.loading.load_model` takes them, or a model that was loaded; default is SDXL base 1.0.
    Raises GenerationError where a package is not installed, or there is no such model.
    """
    check_installed()
    loading = import_module("..diffusers.loading", __package__)
    if source is None or isinstance(source, (str, Path)):
        model: DiffusersModel = loading.load_model(source or loading.SDXL_BASE, config=config)
    else:
        model = source
    return import_module("..diffusers.indexing", __package__), model


def check_installed() -> None:
    """Raises GenerationError where a package is not installed."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise GenerationError(
            f"There is no text-to-image model to measure with: {', '.join(lacking)} "
            f"{'is' if len(lacking) == 1 else 'are'} not installed.",
            "Run pip install 'carlos-loras[headless]', pass generator=..., or use the LoRA Indexer node in ComfyUI.",
        )
