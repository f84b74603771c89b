"""What ComfyUI's model patchers hold: a model's own weights whatever is patched into them now, and what is attached to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def is_patcher(value: Any) -> bool:
    """Whether a value is one of ComfyUI's model patchers, or of a pack's that was made from them."""
    return any(kind.__name__ == "ModelPatcher" for kind in type(value).__mro__)


def is_within(name: str, places: Iterable[str]) -> bool:
    """Whether a name with dots is that of one of these places, or of something inside of one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def own_weights(patcher: Any) -> dict[str, Tensor]:
    """A model's own weights by key, even while LoRAs and other objects are patched into it: ComfyUI keeps what it replaces."""
    weights = dict(patcher.model.state_dict())
    for place, original in patcher.object_patches_backup.items():
        for key in [key for key in weights if key.startswith(f"{place}.")]:
            del weights[key]
        if isinstance(original, torch.nn.Module):
            weights.update(original.state_dict(prefix=f"{place}."))
    # A layer's scales first: what else is kept of the layer comes over them.
    for key, weight in sorted(_kept(patcher), key=lambda item: not _is_assembled(item[1])):
        if key in weights:
            weights.update(_as_saved(patcher.model, key, weight))
    return {key: tensor for key, weight in weights.items() if (tensor := _real(patcher.model, key, weight)) is not None}


def _kept(patcher: Any) -> Iterator[tuple[str, Tensor]]:
    """Copies of the weights that patches have changed."""
    # Hooks patch what a LoRA may have patched before, so that the other copies are the older ones.
    for key, (weight, _device) in getattr(patcher, "hook_backup", {}).items():
        yield key, weight
    for key, kept in patcher.backup.items():
        yield key, kept.weight
    yield from getattr(patcher, "backup_buffers", {}).items()


def _is_assembled(weight: Tensor) -> bool:
    """Whether a weight is made of several tensors, such as packed values and their scale."""
    return hasattr(weight, "__tensor_flatten__")


def _as_saved(model: torch.nn.Module, key: str, weight: Tensor) -> dict[str, Tensor]:
    """A weight as the state dict of its layer has it, which alone knows under which names it saves the parts."""
    owner, _, name = key.rpartition(".")
    layer = model.get_submodule(owner)
    parameters: dict[str, Any] = layer._parameters
    if not _is_assembled(weight) or name not in parameters:
        return {key: weight}
    present = parameters[name]
    parameters[name] = weight
    try:
        return dict(layer.state_dict(prefix=f"{owner}."))
    finally:
        parameters[name] = present


def _real(model: torch.nn.Module, key: str, weight: Tensor) -> Tensor | None:
    """A weight that has values, if the model has it.

    The state dict of a GGUF model holds shapes alone, for ComfyUI to count bytes with, and room for unpacking as one more key.
    """
    return _at(model, key) if weight.is_meta else weight


def computing_types(model: torch.nn.Module) -> dict[str, torch.dtype]:
    """The types that ComfyUI computes in, by name of the weight, for the weights where it notes them.

    Without dynamic VRAM the weights have these types from the start. With it they are kept as they are in the file and are cast
    when they are used, some of them for good. It is the same model before and after, and must have the same fingerprint.
    """
    note = "_comfy_model_dtype"
    return {
        f"{module_name}.{key.removesuffix(note)}".lstrip("."): dtype
        for module_name, module in model.named_modules()
        for key, dtype in vars(module).items()
        if key.endswith(note) and dtype is not None
    }


def unpacking_types(model: torch.nn.Module) -> dict[str, tuple[Any, Any]]:
    """The types in which GGUF's loader was told to unpack weights and to patch them, by layer: empty where nobody chose any."""
    fields = ("dequant_dtype", "patch_dtype")
    named = ((name, tuple(getattr(module, field, None) for field in fields)) for name, module in model.named_modules())
    return {name: (unpacked, patched) for name, (unpacked, patched) in named if (unpacked, patched) != (None, None)}


def patches_of(patcher: Any) -> dict[str, Any]:
    """Patches that came with the model, such as a LoRA that the user applied before: weights and strengths."""
    return {
        key: [(strength, getattr(patch, "weights", patch), strength_model) for strength, patch, strength_model, *_ in patches]
        for key, patches in patcher.patches.items()
    }


_ATTACHED = ("injections", "attachments", "additional_models", "hook_patches", "forced_hooks", "weight_wrapper_patches")
_ATTACHED_IN_GROUPS = ("wrappers", "callbacks")


def attached(patcher: Any) -> dict[str, Any]:
    """What else changes a model's pictures: LoRAs in bypass mode (injections), hooks, wrappers, further models.

    Empty for a model as a loader gives it, which keeps the fingerprint that it always had.
    """
    found = {name: value for name in _ATTACHED if (value := getattr(patcher, name, None))}
    for name in _ATTACHED_IN_GROUPS:
        groups = {kind: group for kind, of_kind in getattr(patcher, name, {}).items() if (group := _full(of_kind))}
        if groups:
            found[name] = groups
    return found


def _full(of_kind: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: entries for key, entries in of_kind.items() if entries}


def own_modules(patcher: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """The parts of a model by name, but what an object patch has put there: it is described by what it holds."""
    replaced = patcher.object_patches_backup
    for name, module in patcher.model.named_modules():
        if not is_within(name, replaced):
            yield name, module
    for place, original in replaced.items():
        if isinstance(original, torch.nn.Module):
            yield from original.named_modules(prefix=place)


def _at(model: torch.nn.Module, place: str) -> Any:
    owner, _, name = place.rpartition(".")
    try:
        return getattr(model.get_submodule(owner), name)
    except AttributeError:
        return None
