"""Short names for big things: a model's weights and everything attached to it, as one hash.

Hashing all of a model's weights takes longer than making a picture. Two models that differ do so in nearly every tensor, so a few
values of each tensor, with its name, shape and type, tell them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .description import Description, tensors_bytes
from .patcher_state import attached, computing_types, own_modules, own_weights, patches_of, unpacking_types


class Fingerprint:
    """A running hash of named facts. The order in which they are added matters."""

    def __init__(self, known: Mapping[int, str] = MappingProxyType({})) -> None:
        """known: id of a module -> its name, for modules whose tensors are added by themselves."""
        self._hash = hashlib.sha256()
        self._description = Description(known)

    def add(self, name: str, value: Any) -> None:
        """Add a fact of any kind. A value that cannot be described makes the fingerprint unique: nothing is reused by mistake."""
        self._hash.update(f"{name}\0".encode())
        self._hash.update(self._description.of(value))

    def add_tensors(self, named: Iterable[tuple[str, Tensor]], types: Mapping[str, torch.dtype] = MappingProxyType({})) -> None:
        """Add tensors by name, shape, type and a few of their values.

        types: name -> type, for tensors that are used in another type than they are kept in; they count as if they were cast.
        """
        for part in tensors_bytes(named, types):
            self._hash.update(part)

    def hexdigest(self) -> str:
        """16 hex digits."""
        return self._hash.hexdigest()[:16]


def model_fingerprints(model: Any, clip: Any, vae: Any, sigmas: Tensor) -> tuple[str, str]:
    """16 hex digits for MODEL, CLIP and VAE with everything attached to them: for all schedules alike, and for this one.

    Args:
        model: ComfyUI's MODEL.
        clip: ComfyUI's CLIP.
        vae: ComfyUI's VAE.
        sigmas: noise levels of the schedule, which show any change to the model's sampling.
    """
    patchers = {"model": model, "clip": clip.patcher, "vae": vae.patcher}
    parts = {id(part): f"{name} {place}" for name, patcher in patchers.items() for place, part in own_modules(patcher)}
    fingerprint = Fingerprint(parts)
    for name, patcher in patchers.items():
        fingerprint.add_tensors(own_weights(patcher).items(), computing_types(patcher.model))
        fingerprint.add(f"{name} patches", patches_of(patcher))
        fingerprint.add(f"{name} options", patcher.model_options)
        fingerprint.add(f"{name} object patches", patcher.object_patches)
        if further := attached(patcher):
            fingerprint.add(f"{name} attached", further)
        if types := unpacking_types(patcher.model):
            fingerprint.add(f"{name} unpacking", types)
    fingerprint.add("clip layer", clip.layer_idx)
    fingerprint.add("tokenizer", clip.tokenizer_options)
    if hooks := getattr(clip, "apply_hooks_to_conds", None):
        fingerprint.add("hooks of conditionings", hooks)
    of_all = fingerprint.hexdigest()
    fingerprint.add("sampling", sigmas)
    return of_all, fingerprint.hexdigest()
