"""Short names for big things: a model's weights and everything attached to it, as one hash.

Hashing all of a model's weights takes longer than making a picture. Two models that differ do so in nearly every tensor, so a few
values of each tensor, with its name, shape and type, tell them apart.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

_SAMPLES = 64
_DEPTH = 6
_COMPUTED = (torch.float16, torch.bfloat16, torch.float32)


class Fingerprint:
    """A running hash of named facts. The order in which they are added matters."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, value: Any) -> None:
        """Add a fact of any kind. A value that cannot be described makes the fingerprint unique: nothing is reused by mistake."""
        self._hash.update(f"{name}\0".encode())
        self._hash.update(_described(value, _DEPTH))

    def add_tensors(self, named: Iterable[tuple[str, Tensor]], types: Mapping[str, torch.dtype] = MappingProxyType({})) -> None:
        """Add tensors by name, shape, type and a few of their values.

        types: name -> type, for tensors that are used in another type than they are kept in; they count as if they were cast.
        """
        for name, tensor in sorted(named, key=lambda item: item[0]):
            self._hash.update(f"{name}\0".encode())
            self._hash.update(_described_tensor(tensor, types.get(name)))

    def hexdigest(self) -> str:
        """16 hex digits."""
        return self._hash.hexdigest()[:16]


def _described(value: Any, depth: int) -> bytes:
    if value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype, torch.device)):
        return f"{type(value).__name__}:{value!r};".encode()
    if isinstance(value, Tensor):
        return _described_tensor(value)
    if depth == 0:
        return _unique()
    for kind, described in _KINDS:
        if isinstance(value, kind):
            return described(value, depth)
    return _object(value, depth)


def _mapping(value: Mapping[Any, Any], depth: int) -> bytes:
    items = sorted(value.items(), key=lambda item: repr(item[0]))
    return b"{" + b"".join(_described(key, depth - 1) + _described(item, depth - 1) for key, item in items) + b"}"


def _sequence(value: Iterable[Any], depth: int) -> bytes:
    return b"[" + b"".join(_described(item, depth - 1) for item in value) + b"]"


def _set(value: Iterable[Any], depth: int) -> bytes:
    return b"(" + b"".join(sorted(_described(item, depth - 1) for item in value)) + b")"


def _object(value: Any, depth: int) -> bytes:
    """Describe functions by their code and what they close over, methods by their object, and other things by their fields."""
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if callable(value) and hasattr(value, "__code__"):
        return name.encode() + value.__code__.co_code + _described((_closure(value), value.__defaults__), depth - 1)
    if hasattr(value, "__func__"):
        return name.encode() + _described(value.__self__, depth - 1)
    if hasattr(value, "__dict__"):
        return f"{type(value).__module__}.{name}".encode() + _described(vars(value), depth - 1)
    return _unique()


def _module(module: torch.nn.Module, depth: int) -> bytes:
    parts = Fingerprint()
    parts.add_tensors(module.state_dict().items())
    plain = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return type(module).__qualname__.encode() + parts.hexdigest().encode() + _described(plain, depth - 1)


_KINDS: tuple[tuple[Any, Callable[[Any, int], bytes]], ...] = (
    (Mapping, _mapping),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
    (torch.nn.Module, _module),
)


def _closure(function: Any) -> list[Any]:
    return [cell.cell_contents for cell in function.__closure__ or ()]


def _described_tensor(tensor: Tensor, used_as: torch.dtype | None = None) -> bytes:
    flat = tensor.detach().reshape(-1)
    if flat.numel() > _SAMPLES:
        flat = flat[torch.linspace(0, flat.numel() - 1, _SAMPLES, dtype=torch.float64).long().to(flat.device)]
    # Only a type that models compute in: 8-bit floats have their meaning only together with their scales.
    if used_as in _COMPUTED and tensor.dtype in _COMPUTED:
        flat = flat.to(used_as)
    values = flat.to("cpu", torch.float64).numpy().tobytes()
    return f"{tuple(tensor.shape)}{flat.dtype}".encode() + values


def _unique() -> bytes:
    return uuid.uuid4().bytes


def model_fingerprint(model: Any, clip: Any, vae: Any, sigmas: Tensor) -> str:
    """16 hex digits for MODEL, CLIP and VAE with everything attached to them.

    Args:
        model: ComfyUI's MODEL.
        clip: ComfyUI's CLIP.
        vae: ComfyUI's VAE.
        sigmas: noise levels of the schedule, which show any change to the model's sampling.
    """
    fingerprint = Fingerprint()
    for name, patcher in (("model", model), ("clip", clip.patcher), ("vae", vae.patcher)):
        fingerprint.add_tensors(_unpatched_weights(patcher), _computing_types(patcher.model))
        fingerprint.add(f"{name} patches", _described_patches(patcher))
        fingerprint.add(f"{name} options", patcher.model_options)
        fingerprint.add(f"{name} object patches", patcher.object_patches)
        if attached := _attached(patcher):
            fingerprint.add(f"{name} attached", attached)
    fingerprint.add("clip layer", clip.layer_idx)
    fingerprint.add("tokenizer", clip.tokenizer_options)
    fingerprint.add("sampling", sigmas)
    return fingerprint.hexdigest()


_ATTACHED = ("injections", "attachments", "additional_models", "hook_patches", "forced_hooks", "weight_wrapper_patches")
_ATTACHED_IN_GROUPS = ("wrappers", "callbacks")


def _attached(patcher: Any) -> dict[str, Any]:
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


def _unpatched_weights(patcher: Any) -> Iterator[tuple[str, Tensor]]:
    """A model's own weights, even while a LoRA is patched into them: ComfyUI keeps a copy of what it changes."""
    kept_buffers = getattr(patcher, "backup_buffers", {})
    for name, tensor in patcher.model.state_dict().items():
        kept = patcher.backup.get(name)
        yield name, kept_buffers.get(name, tensor) if kept is None else kept.weight


def _computing_types(model: torch.nn.Module) -> dict[str, torch.dtype]:
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


def _described_patches(patcher: Any) -> dict[str, Any]:
    """Patches that came with the model, such as a LoRA that the user applied before: weights and strengths."""
    return {
        key: [(strength, getattr(patch, "weights", patch), strength_model) for strength, patch, strength_model, *_ in patches]
        for key, patches in patcher.patches.items()
    }
