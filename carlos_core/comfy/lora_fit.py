"""Which of a LoRA's tensors fit a model: by name and by shape, as ComfyUI itself would apply them."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import LoraError, UnreadableLoraError
from ..foreign import printable
from ..records import LayerFit
from .layers import ModelLayers, Shape

_NONSENSE = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
"""What ComfyUI's readers raise over tensors that make no sense."""

_FEW_VALUES = 8
"""Tensors of so many integers at most are read from a header's file too: sizes that a weight is to be brought to."""


class _ReadKeys(dict[str, Tensor]):
    """A LoRA's tensors that remembers which of them were taken: ComfyUI only logs those that do not fit."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.taken.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            self.taken.add(key)
        return super().get(key, default)


class FittingPatches:
    """What of a LoRA ComfyUI can add to a model's weights.

    patches: key -> patch, those that fit. matched, of_other_shape, total: tensors of the file that fit, that have the name of a
    layer but not its shape, and that there are.
    """

    def __init__(self, tensors: Mapping[str, Tensor], file_name: str, layers: ModelLayers) -> None:
        """Raises LoraError, naming the file, for tensors that make no sense together."""
        self.patches: dict[Any, Any] = {}
        self._fitting: set[str] = set()
        self._named: set[str] = set()
        self._stems: dict[str, bool] = {}
        self._known: dict[Any, bool] = {}
        self._layers = layers
        layer = ""
        try:
            self._read = read = _ReadKeys(comfy.lora_convert.convert_lora(dict(tensors)))
            with _shapes_only():
                for layer in _layers_named(read, layers.key_map):
                    self._take(read, layer)
        except KeyError as error:
            raise LoraError(f"{file_name} is incomplete: it has no {error.args[0]}.", "Download it again.") from error
        except _NONSENSE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise LoraError(f"The tensors of {file_name} make no sense ({layer}: {reason}).", "Download it again.") from error
        self.matched, self.of_other_shape, self.total = len(self._fitting), len(self._named - self._fitting), len(read)

    @property
    def layers(self) -> LayerFit:
        """The same counts by layer of the file, those that the model lacks among them."""
        n_fitting, n_named = sum(self._stems.values()), len(self._stems)
        return LayerFit(n_fitting, n_named + len(_other_layers(self._read, self._named)), n_named - n_fitting)

    @property
    def n_broken(self) -> int:
        """How many of the tensors that fit hold a value that is not finite."""
        return sum(not _is_finite(dict.__getitem__(self._read, name)) for name in self._fitting)

    def _take(self, read: _ReadKeys, layer: str) -> None:
        """Take in one layer of the file. One at a time, so that it is known which tensors are whose."""
        shapes = self._layers.shapes
        read.taken = set()
        loaded = comfy.lora.load_lora(read, {layer: self._layers.key_map[layer]}, log_missing=False)
        patches = {key: patch for key, patch in loaded.items() if _weight_key(key) in shapes}
        if not patches:
            return
        self._named |= read.taken
        good = {key: patch for key, patch in patches.items() if self._fits(patch, key, shapes[_weight_key(key)])}
        self.patches.update(good)
        self._stems[layer] = bool(good)
        if good:
            bad = {id(tensor) for key, patch in patches.items() if key not in good for tensor in _tensors(patch)}
            self._fitting |= {key for key in read.taken if id(dict.__getitem__(read, key)) not in bad}

    def _fits(self, patch: Any, target: Any, shape: Shape) -> bool:
        """Whether a patch fits a weight. Most layers are like many others, and are looked at once."""
        form = (_form(patch), repr(target[1:]) if isinstance(target, tuple) else "", shape)
        if form not in self._known:
            self._known[form] = _changes(patch, target, shape)
        return self._known[form]


def fit_of_file(path: Path, layers: ModelLayers) -> LayerFit:
    """How many of a LoRA file's layers fit, told from its header: no weights are read. Raises LoraError if it cannot be read."""
    return FittingPatches(_without_values(path), path.name, layers).layers


def _without_values(path: Path) -> dict[str, Tensor]:
    """A LoRA file's tensors with their shapes alone; single values (alpha) are 1, and a few integers (sizes) are read."""
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                shape = part.get_shape()
                if prod(shape) == 1:
                    tensors[name] = torch.ones(shape)
                elif prod(shape) <= _FEW_VALUES and part.get_dtype() in ("I32", "I64"):
                    tensors[name] = file.get_tensor(name)
                else:
                    tensors[name] = torch.empty(shape, device="meta")
    except (SafetensorError, OSError) as error:
        what = printable(f"The LoRA {path.name} cannot be loaded ({error}).")
        raise UnreadableLoraError(what, "Check that the file is whole.") from error
    return tensors


def _layers_named(read: _ReadKeys, key_map: Mapping[str, Any]) -> list[str]:
    """The layers of the key map that the file may have something for, in the key map's order: those that a tensor's name begins
    with. How the name goes on is ComfyUI's business."""
    names = sorted(read)
    places = ((layer, bisect_left(names, layer)) for layer in key_map)
    return [layer for layer, place in places if place < len(names) and names[place].startswith(layer)]


def _beginnings(name: str) -> Iterator[str]:
    """What may be the name of a tensor's layer, longest first: of "a.b_c.d" "a.b_c", "a.b" and "a"."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:end])
        if "_" in parts[end - 1]:
            yield ".".join([*parts[: end - 1], parts[end - 1].rpartition("_")[0]])


def _other_layers(read: _ReadKeys, named: set[str]) -> set[str]:
    """The file's layers that the model lacks: what ComfyUI would take for one if the model had it; each other tensor alone."""
    found: set[str] = set()
    rest = {name: None for name in read if name not in named}
    while rest:
        name = next(iter(rest))
        for layer in _beginnings(name):
            read.taken = set()
            # A layer that is not whole is a layer all the same: what ComfyUI has looked at before it stopped is its own.
            with suppress(*_NONSENSE):
                comfy.lora.load_lora(read, {layer: f"{layer}.weight"}, log_missing=False)
            if name in read.taken:
                break
        else:
            layer, read.taken = name, {name}
        found.add(layer)
        for taken in read.taken:
            rest.pop(taken, None)
    return found


def _changes(patch: Any, target: Any, shape: Shape) -> bool:
    """Whether ComfyUI's own code changes a weight when it applies a patch to it. Computes shapes only; within `_shapes_only`."""
    before = torch.empty(shape, device="meta")
    offset, function = (*target[1:], None)[:2] if isinstance(target, tuple) else (None, None)
    try:
        after = comfy.lora.calculate_weight([(1.0, _shape_of(patch), 1.0, offset, function)], before, "")
    except ArithmeticError:
        # Of rank 0: no model could take it.
        raise
    except _NONSENSE:
        return False
    # A patch that enlarges the weight writes the old values into a new one first.
    return bool(after._version > (0 if after is before else 1))


def _form(patch: Any) -> Any:
    """What of a patch decides whether it fits: its kind and the shapes of its tensors."""
    if isinstance(patch, Tensor):
        return tuple(patch.shape)
    if isinstance(patch, tuple):
        return tuple(map(_form, patch))
    if hasattr(patch, "weights"):
        return type(patch).__name__, _form(tuple(patch.weights))
    return None if isinstance(patch, float) else repr(patch)


def _shape_of(patch: Any) -> Any:
    """A patch with its tensors' shapes alone. Scalars (alpha) are 0: what depends on their values is not looked at."""
    if isinstance(patch, Tensor):
        return torch.empty(tuple(patch.shape), device="meta")
    if isinstance(patch, float):
        return 0.0
    if isinstance(patch, tuple):
        return tuple(map(_shape_of, patch))
    if hasattr(patch, "weights"):
        return type(patch)(set(), _shape_of(tuple(patch.weights)))
    return patch


def _is_finite(tensor: Tensor) -> bool:
    # torch does not look into numbers of one byte.
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all())


def _tensors(patch: Any) -> Iterator[Tensor]:
    if isinstance(patch, Tensor):
        yield patch
    elif isinstance(patch, tuple) or hasattr(patch, "weights"):
        for part in getattr(patch, "weights", patch):
            yield from _tensors(part)


def _weight_key(target: Any) -> str:
    """Key of the weight that a patch is for: ComfyUI's key map also has parts of weights, (key, (dim, start, length))."""
    return target if isinstance(target, str) else target[0]


@contextmanager
def _shapes_only() -> Iterator[None]:
    """Makes torch count how often a tensor is written to, as it does not in inference mode; and keeps ComfyUI from logging a line
    for each layer of another shape, which the counts say in one sentence."""
    thread = threading.get_ident()
    root = logging.getLogger()

    def from_other_threads(record: logging.LogRecord) -> bool:
        return record.thread != thread

    root.addFilter(from_other_threads)
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        root.removeFilter(from_other_threads)
