"""Which family of base models a loaded model belongs to."""

from __future__ import annotations

from typing import Any

_FAMILIES = {"SD15": "SD 1.5", "SD20": "SD 2", "SDXL": "SDXL", "SD3": "SD 3", "Flux": "Flux"}
"""ComfyUI's class of a model's configuration -> our name (`loras.FAMILIES`)."""


def model_family(model: Any) -> str | None:
    """Family of a ComfyUI MODEL, one of `loras.FAMILIES`; None for a kind of model that is not among them.

    Pony and Illustrious have SDXL's shapes and are SDXL here: nothing in the model tells them apart.
    """
    names = [base.__name__ for base in type(model.model.model_config).__mro__]
    return next((_FAMILIES[name] for name in names if name in _FAMILIES), None)
