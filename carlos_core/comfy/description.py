"""Any value as bytes: equal for things made alike, in this process and the next; different wherever a picture could differ.

A function counts by its code and what it closes over, a module by its tensors, another object by its fields. What cannot be
described that way is unlike everything, itself included, so that nothing is reused by mistake.
"""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tensor_samples import sampled_bytes
from .patcher_state import attached, computing_types, is_patcher, is_within, own_weights, patches_of, unpacking_types

_MOST_LEVELS = 60
_MOST_VALUES = 500_000
_PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device)

_COMPILED = "torch._dynamo.eval_frame.OptimizedModule"
"""What torch.compile makes of a module: another way to compute the same."""

_OF_A_RUN = {
    "comfy.hooks.HookKeyframe": ("start_t",),
    "comfy.hooks.HookKeyframeGroup": (
        "_current_keyframe",
        "_current_used_steps",
        "_current_index",
        "_current_strength",
        "_curr_t",
    ),
    "comfy.hooks.TransformerOptionsHook": ("_skip_adding",),
    "comfy.weight_adapter.bypass.BypassInjectionManager": ("adapters",),
}
"""Class -> fields that say how far a run is, or what other fields say, too."""

_OF_LOADING = ("comfy_cast_weights", "prev_comfy_cast_weights", "comfy_patched_weights", "comfy_force_cast_weights", "seed_key")
_OF_LOADING_ENDS = ("_comfy_model_dtype", "_lowvram_function", "weight_function", "bias_function")
"""Fields in which ComfyUI notes, on modules, how and where they are loaded."""


class Description:
    """Describes values. known: id of a module -> its name, for parts of the models themselves, whose weights count elsewhere."""

    def __init__(self, known: Mapping[int, str] = MappingProxyType({})) -> None:
        self._known = known
        self._path: list[int] = []
        self._identities: dict[int, tuple[Any, int]] = {}
        self._n_values = 0

    def of(self, value: Any) -> bytes:
        """A value in bytes."""
        if value is None or isinstance(value, _PLAIN):
            return f"{type(value).__name__}:{value!r};".encode()
        if isinstance(value, Tensor):
            return tensor_bytes(value)
        self._n_values += 1
        if len(self._path) >= _MOST_LEVELS or self._n_values > _MOST_VALUES:
            return _unique()
        if id(value) in self._path:
            return f"{len(self._path) - self._path.index(id(value))} levels up;".encode()
        described = next((described for kind, described in _KINDS if isinstance(value, kind)), Description._object)
        self._path.append(id(value))
        try:
            return described(self, value)
        finally:
            self._path.pop()

    def _mapping(self, value: Mapping[Any, Any]) -> bytes:
        if all(isinstance(key, (*_PLAIN, tuple, Enum, type(None))) for key in value):
            described = [self.of(key) + self.of(value[key]) for key in sorted(value, key=repr)]
        else:
            # By what is known of the keys, as their names differ in every process.
            described = sorted(self.of(key) + self.of(item) for key, item in value.items())
        return b"{" + b"".join(described) + b"}" + self._further(value)

    def _sequence(self, value: Iterable[Any]) -> bytes:
        return b"[" + b"".join(self.of(item) for item in value) + b"]" + self._further(value)

    def _set(self, value: Iterable[Any]) -> bytes:
        return b"(" + b"".join(sorted(self.of(item) for item in value)) + b")" + self._further(value)

    def _further(self, value: Any) -> bytes:
        """Fields of a container of a class of its own."""
        return self.of(fields) if (fields := getattr(value, "__dict__", None)) else b""

    def _module(self, module: torch.nn.Module) -> bytes:
        if id(module) in self._known:
            return f"the {self._known[id(module)]};".encode()
        if f"{type(module).__module__}.{type(module).__qualname__}" == _COMPILED:
            return b"compiled " + self.of(module._orig_mod)
        parts = dict(module.named_modules())
        known = {name: part for name, part in parts.items() if id(part) in self._known}
        parts = {name: part for name, part in parts.items() if name and not is_within(name, known)}
        saved = module.state_dict()
        described = type(module).__qualname__.encode()
        described += digest_of((name, tensor) for name, tensor in saved.items() if not is_within(name, known))
        described += self.of(_settings(module))
        # What a module without parts, as of a sampling node, does not have: its description is an old one.
        unsaved = {name: buffer for name, buffer in module.named_buffers() if name not in saved and not is_within(name, known)}
        hooks = [[*part._forward_pre_hooks.values(), *part._forward_hooks.values()] for part in (module, *parts.values())]
        kinds = {name: (type(part).__qualname__, _settings(part)) for name, part in parts.items()}
        if unsaved or known or kinds or any(hooks):
            described += self.of([unsaved, known, kinds, hooks])
        return described

    def _patcher(self, patcher: Any) -> bytes:
        """Another model, or this one in another state."""
        if id(patcher.model) in self._known:
            model = self._known[id(patcher.model)].encode()
        else:
            model = type(patcher.model).__qualname__.encode()
            model += digest_of(own_weights(patcher).items(), computing_types(patcher.model))
        facts = [patches_of(patcher), patcher.model_options, patcher.object_patches, attached(patcher)]
        return b"model " + model + self.of([*facts, unpacking_types(patcher.model)])

    def _function(self, value: FunctionType) -> bytes:
        described = _name(value).encode() + self.of(value.__code__) + self.of([_closure(value), value.__defaults__])
        named = {name: value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__}
        plain = {name: constant for name, constant in named.items() if isinstance(constant, _PLAIN)}
        further = {key: fact for key, fact in vars(value).items() if key != "__wrapped__"}
        return described + self.of([value.__kwdefaults__, plain, further])

    def _code(self, code: CodeType) -> bytes:
        return code.co_code + self.of([code.co_consts, code.co_names, code.co_varnames, code.co_freevars])

    def _method(self, value: MethodType) -> bytes:
        return _name(value).encode() + self.of(value.__func__) + self.of(value.__self__)

    def _partial(self, value: functools.partial[Any]) -> bytes:
        return b"partial" + self.of([value.func, value.args, value.keywords])

    def _builtin(self, value: BuiltinFunctionType) -> bytes:
        is_bound = not (value.__self__ is None or isinstance(value.__self__, (ModuleType, type)))
        return _unique() if is_bound else f"builtin {_name(value)}".encode()

    def _class(self, value: type) -> bytes:
        """A class by its name; one that a function made may be another every time."""
        return _unique() if "<locals>" in value.__qualname__ else f"class {_name(value)}".encode()

    def _array(self, value: np.ndarray[Any, Any]) -> bytes:
        return _unique() if value.dtype.hasobject else f"array {value.dtype}{value.shape}".encode() + value.tobytes()

    def _literal(self, value: Any) -> bytes:
        return f"{_name(type(value))}:{value!r};".encode()

    def _object(self, value: Any) -> bytes:
        if is_patcher(value):
            return self._patcher(value)
        kind = type(value)
        path = f"{kind.__module__}.{kind.__qualname__}"
        if path == "comfy.weight_adapter.bypass.BypassForwardHook":
            return self._bypass(value)
        if kind.__basicsize__ != _Bare.__basicsize__ or not hasattr(value, "__dict__"):
            # Part of it is not in its fields.
            return _unique()
        fields = {name: fact for name, fact in vars(value).items() if name not in _OF_A_RUN.get(path, ())}
        described = f"{kind.__module__}.{_name(value)}".encode() + self.of(fields)
        return described if fields else described + self._identity(value)

    def _identity(self, value: Any) -> bytes:
        """A number for a thing that says nothing but that it is the same one in two places; none for the first, or if all are
        equal."""
        hashed: object = type(value).__hash__
        if hashed is not object.__hash__:
            return b""
        _, number = self._identities.setdefault(id(value), (value, len(self._identities)))
        return f"#{number}".encode() if number else b""

    def _bypass(self, hook: Any) -> bytes:
        """A LoRA on one layer, in bypass mode. Its weights take the layer's type when it is first used, for good."""
        weight = getattr(hook.module, "weight", None)
        used_as = getattr(hook.module, "weight_comfy_model_dtype", None) or getattr(weight, "dtype", None)
        fields = dict(vars(hook.adapter))
        weights = fields.pop("weights", None)
        parts = weights if isinstance(weights, (list, tuple)) else [weights]
        described = b"".join(tensor_bytes(part, used_as) if isinstance(part, Tensor) else self.of(part) for part in parts)
        name = _name(type(hook.adapter)).encode()
        return b"bypass" + self.of([hook.module, hook.multiplier]) + name + described + self.of(fields)


class _Bare:
    """What an object without anything beside its fields measures."""


_KINDS: tuple[tuple[Any, Callable[[Description, Any], bytes]], ...] = (
    (Mapping, Description._mapping),
    (Enum, Description._literal),
    ((list, tuple), Description._sequence),
    ((set, frozenset), Description._set),
    (torch.nn.Module, Description._module),
    (FunctionType, Description._function),
    (MethodType, Description._method),
    (functools.partial, Description._partial),
    (BuiltinFunctionType, Description._builtin),
    (CodeType, Description._code),
    (type, Description._class),
    (np.ndarray, Description._array),
    ((PurePath, np.generic, complex, type(Ellipsis)), Description._literal),
)


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _settings(module: torch.nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _OF_LOADING and not name.endswith(_OF_LOADING_ENDS)
    }


def _closure(function: FunctionType) -> list[Any]:
    return [_content(cell) for cell in function.__closure__ or ()]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "nothing yet"


def digest_of(named: Iterable[tuple[str, Tensor]], types: Mapping[str, torch.dtype] = MappingProxyType({})) -> bytes:
    """16 hex digits for tensors; see `tensors_bytes`."""
    found = hashlib.sha256()
    for part in tensors_bytes(named, types):
        found.update(part)
    return found.hexdigest()[:16].encode()


def tensors_bytes(named: Iterable[tuple[str, Tensor]], types: Mapping[str, torch.dtype]) -> Iterator[bytes]:
    """Tensors by name, each in bytes. types: name -> type that a tensor is used in; it counts as if it were cast."""
    for name, tensor in sorted(named, key=lambda item: item[0]):
        yield f"{name}\0".encode()
        yield tensor_bytes(tensor, types.get(name))


def tensor_bytes(tensor: Tensor, used_as: torch.dtype | None = None) -> bytes:
    """A tensor by its shape, type and a few of its values, as they are stored: nothing is unpacked."""
    if hasattr(tensor, "__tensor_flatten__"):
        return _assembled(tensor)
    # GGUF: another packing may take as many bytes. What is patched onto the tensor is no part of it.
    form = _form(tensor) if hasattr(tensor, "tensor_type") else b""
    with torch._C.DisableTorchFunctionSubclass():
        try:
            return form + sampled_bytes(tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor), used_as)
        except (RuntimeError, TypeError):
            # No values (meta), or none that can be read.
            return _unique()


def _assembled(tensor: Any) -> bytes:
    """A tensor that is made of several, such as packed values and their scale."""
    names, context = tensor.__tensor_flatten__()
    described = Description().of([tuple(tensor.shape), tensor.dtype, context])
    return described + b"".join(tensors_bytes(((name, getattr(tensor, name)) for name in names), {}))


def _form(tensor: Any) -> bytes:
    packing = tensor.tensor_type
    return f"{getattr(packing, 'name', packing)} of {tuple(tensor.tensor_shape)}".encode()


def _unique() -> bytes:
    return uuid.uuid4().bytes
